package gate

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"assay/admission"
	"assay/artifact"
	"assay/client"
	"assay/event"
	"assay/internal/fault"
	"assay/policy"
	"assay/store"
)

// The verdicts about a build and about a function.
const (
	Allow     = "allow"
	Deny      = "deny"
	Undecided = "undecided"
	// SlowLane: denied where it was to run, and allowed in the restricted namespace.
	SlowLane = "slow-lane"
)

// CheckImages are the references of a check, and what else of it is wrong.
func CheckImages(q *client.CheckQuestion) ([]artifact.Reference, error) {
	switch {
	case len(q.Images) == 0 || len(q.Images) > maxImages:
		return nil, fault.Newf(fault.Invalid, "images: want one to %d", maxImages)
	case q.SlowLane != "" && q.SlowLane == q.Namespace:
		return nil, fault.Newf(fault.Invalid, "slow_lane %s is the namespace itself: want another, restricted one", q.SlowLane)
	}
	for _, f := range []struct{ name, text string }{{"environment", q.Environment}, {"cluster", q.Cluster}, {"namespace", q.Namespace}, {"slow_lane", q.SlowLane}} {
		if f.text != "" && !nameRE.MatchString(f.text) {
			return nil, fault.Newf(fault.Invalid, "%s %.80q: want letters, digits, . _ and -, at most 253", f.name, f.text)
		}
	}
	return references("images", q.Images)
}

// Check judges what a build made for a place. With a slow lane, what is denied there
// is judged for that namespace, by the policies of its scope: what is revoked or
// under quarantine has none.
func (g *Gate) Check(ctx context.Context, actor string, q *client.CheckQuestion, refs []artifact.Reference) (*client.CheckAnswer, error) {
	a := &client.CheckAnswer{Namespace: q.Namespace}
	place := admission.Place{Cluster: q.Cluster, Namespace: q.Namespace, Environment: q.Environment, Claimed: true}
	a.Verdict, a.Images = g.judgeAll(ctx, refs, place)
	if a.Verdict == Deny && q.SlowLane != "" {
		place.Namespace = q.SlowLane
		lane := ""
		// The same bytes: a tag may move between two questions.
		lane, a.Lane = g.judgeAll(ctx, pinned(refs, a.Images), place)
		if lane == Allow {
			a.Verdict, a.Namespace = SlowLane, q.SlowLane
		}
	}
	g.answers.WithLabelValues("check", a.Verdict).Inc()
	return a, g.o.DB.Update(ctx, func(tx *store.Tx) error {
		e := event.Event{Kind: event.BuildChecked, Actor: actor, Env: q.Environment, Cluster: q.Cluster, Digest: a.Images[0].Digest, Body: map[string]string{
			"verdict": a.Verdict, "images": strings.Join(checked(a.Images), " "), "namespace": q.Namespace, "slow_lane": q.SlowLane, "reason": a.Why(1000),
		}}
		return event.Append(ctx, tx, e)
	})
}

func checked(all []client.CheckedImage) (out []string) {
	for _, one := range all {
		out = append(out, one.Image)
	}
	return out
}

func pinned(refs []artifact.Reference, all []client.CheckedImage) (out []artifact.Reference) {
	for i, r := range refs {
		if all[i].Digest != "" {
			r.Tag, r.Digest = "", all[i].Digest
		}
		out = append(out, r)
	}
	return out
}

// judgeAll asks about each image; the verdict is the worst. A deny that is only
// warned of, by a policy in another mode than enforce, lets them go on.
func (g *Gate) judgeAll(ctx context.Context, refs []artifact.Reference, place admission.Place) (verdict string, out []client.CheckedImage) {
	rank := []string{Allow, Undecided, Deny}
	verdict = Allow
	for _, ref := range refs {
		one := g.judgeOne(ctx, ref, place)
		if slices.Index(rank, one.Verdict) > slices.Index(rank, verdict) {
			verdict = one.Verdict
		}
		out = append(out, one)
	}
	return verdict, out
}

func (g *Gate) judgeOne(ctx context.Context, ref artifact.Reference, place admission.Place) client.CheckedImage {
	one := client.CheckedImage{Image: ref.String(), Digest: ref.Digest, Verdict: Undecided, Reasons: []client.CheckReason{}}
	a, err := g.o.Judge.Judge(ctx, admission.Question{Reference: ref, Place: place})
	switch {
	case err != nil && fault.KindOf(err) == fault.Denied:
		one.Verdict = Deny
		one.Reasons = append(one.Reasons, client.CheckReason{Check: "registry", Found: err.Error()})
		return one
	case err != nil:
		g.o.Logger.WarnContext(ctx, "no answer about a build", "image", ref.String(), "error", err)
		one.Reasons = append(one.Reasons, client.CheckReason{Check: "decision", Found: "could not be decided: " + fault.KindOf(err).Error()})
		return one
	}
	one.Digest, one.Decision, one.Policy, one.Verdict = a.Digest, a.Decision, a.Policy, Allow
	switch {
	case a.Blocked != "":
		one.Verdict, one.Blocked = Deny, true
		one.Reasons = append(one.Reasons, client.CheckReason{Check: "blocked", Found: a.Blocked})
	case a.Refuses():
		one.Verdict = Deny
	case !a.Allowed():
		one.Warned = true
	}
	for _, f := range a.Failed {
		one.Reasons = append(one.Reasons, client.CheckReason{Check: f.Name, Expected: f.Expected, Found: cmp.Or(f.Found, string(policy.Fail)), Mend: f.Mend})
	}
	return one
}
