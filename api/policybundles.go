package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"assay/client"
	"assay/config"
	"assay/event"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/policy"
	"assay/policy/bundle"
	"assay/store"
	"assay/verify/replay"
)

// PolicyBundles is what the server knows of bundles of policies.
type PolicyBundles interface {
	// Verify holds a bundle to the signers whom the site trusts. Errors are
	// fault.Unverified.
	Verify(ctx context.Context, b *bundle.Bundle, c bundle.Claim, signatures []byte) (*bundle.Signed, error)
	// MayBeUnsigned says whether the site lets unsigned bundles in when asked to.
	MayBeUnsigned() bool
}

func (a *API) policyBundleRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/policy-bundles", Summary: "Bundles of policies in force, and what became of those that are followed", Action: identity.ActReadAudit,
			Out: client.List[client.PolicyBundle]{}, Status: 200, handle: a.policyBundles},
		{Method: "POST", Path: "/api/v1/policy-bundles", Summary: "Put a signed bundle of policies in force, or show what that would change", Action: identity.ActApply,
			In: client.PolicyBundleActivate{}, Out: client.PolicyBundleActivated{}, Status: 200, handle: a.activatePolicyBundle},
		{Method: "GET", Path: "/api/v1/policy-bundles/{name}/history", Summary: "When which version of a bundle was in force", Action: identity.ActReadAudit,
			Query: []Param{{"limit", "at most 1000"}}, Out: client.List[client.PolicyBundle]{}, Status: 200, handle: a.policyBundleHistory},
		{Method: "DELETE", Path: "/api/v1/policy-bundles/{name}", Summary: "Take a bundle and its policies out of force", Action: identity.ActApply,
			Query: []Param{{"reason", "on record"}}, Out: client.PolicyBundleActivated{}, Status: 200, handle: a.removePolicyBundle},
	}
}

// guardBundles keeps everybody but a bundle from its policies: what is in force
// under a signature must be what was signed. Pruning leaves them alone.
func guardBundles(ctx context.Context, tx *store.Tx, owner string, plan []config.Change) error {
	owners, err := bundle.Owners(ctx, tx)
	if err != nil {
		return err
	}
	for i, c := range plan {
		of, owned := owners[c.Name]
		if c.Kind != config.KindPolicy || !owned || of == owner {
			continue
		}
		switch c.Action {
		case "deleted":
			plan[i].Action, plan[i].Diff = "unmanaged", ""
		case "created", "updated":
			return fault.Newf(fault.Conflict, "policy %s comes from bundle %s: change it there, and put a new version of the bundle in force; or take it out of force (assay policy bundle remove %s)", c.Name, of, of)
		}
	}
	return nil
}

func (a *API) policyBundles(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActReadAudit, identity.ResourceAudit, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.PolicyBundle]{Items: []client.PolicyBundle{}}
	err := a.o.DB.View(r.Context(), func(tx *store.Tx) error {
		active, err := bundle.Active(r.Context(), tx)
		if err != nil {
			return err
		}
		followed, err := bundle.FollowedAll(r.Context(), tx)
		if err != nil {
			return err
		}
		for _, one := range active {
			p := wireBundle(one)
			if i := slices.IndexFunc(followed, func(f bundle.Followed) bool { return f.Name == one.Name }); i >= 0 {
				p.Problem, p.CheckedAt = followed[i].Problem, followed[i].CheckedAt
				followed = slices.Delete(followed, i, i+1)
			}
			out.Items = append(out.Items, p)
		}
		for _, f := range followed { // nothing of it was ever good
			out.Items = append(out.Items, client.PolicyBundle{Name: f.Name, Origin: f.Origin, Problem: f.Problem, CheckedAt: f.CheckedAt, Policies: []string{}, Signers: []string{}})
		}
		return nil
	})
	a.answer(w, r, http.StatusOK, out, err)
}

func wireBundle(a bundle.Activation) client.PolicyBundle {
	return client.PolicyBundle{
		Name: a.Name, Seq: a.Seq, Version: a.Version, Digest: a.Digest, Policies: a.Policies, Signers: a.Signers, Origin: a.Origin,
		Actor: a.Actor, Reason: a.Reason, ActivatedAt: a.ActivatedAt, ReplacedAt: a.ReplacedAt,
	}
}

func (a *API) policyBundleHistory(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActReadAudit, identity.ResourceAudit, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	n, err := limit(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.PolicyBundle]{Items: []client.PolicyBundle{}}
	err = a.o.DB.View(r.Context(), func(tx *store.Tx) error {
		all, err := bundle.History(r.Context(), tx, r.PathValue("name"), n)
		for _, one := range all {
			out.Items = append(out.Items, wireBundle(one))
		}
		return err
	})
	a.answer(w, r, http.StatusOK, out, err)
}

func (a *API) activatePolicyBundle(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActApply, identity.ResourceConfig, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	var q client.PolicyBundleActivate
	err := wantMedia(r, "application/json")
	var b []byte
	if err == nil {
		b, err = body(w, r, 2*(bundle.MaxArchive+bundle.MaxSignatures))
	}
	if err == nil {
		err = strictjson.Unmarshal(b, &q, strictjson.RejectUnknown(), strictjson.WithMaxBytes(2*(bundle.MaxArchive+bundle.MaxSignatures)))
	}
	var out *client.PolicyBundleActivated
	if err == nil {
		out, err = a.ActivateBundle(r.Context(), q)
	}
	a.answer(w, r, http.StatusOK, out, err)
}

// ActivateBundle puts a bundle of policies in force: all of its policies, or, when
// one of them could not be, none, and what was in force stays.
func (a *API) ActivateBundle(ctx context.Context, q client.PolicyBundleActivate) (*client.PolicyBundleActivated, error) {
	if len(q.Reason) > 1000 || len(q.Origin) > 1000 {
		return nil, fault.Newf(fault.Invalid, "reason and origin: want at most 1,000 bytes")
	}
	b, c, err := a.bundleOf(ctx, &q)
	if err != nil {
		return nil, err
	}
	out := &client.PolicyBundleActivated{Name: c.Name, Version: c.Version, Digest: b.Digest(), Signers: []string{}, Changes: []client.Change{}, DryRun: q.DryRun}
	signed, err := a.o.PolicyBundles.Verify(ctx, b, c, q.Signatures)
	switch {
	case err == nil:
		out.Signers = signed.Signers
	case !q.Unsigned:
		return nil, err
	case !a.o.PolicyBundles.MayBeUnsigned():
		return nil, fault.Newf(fault.Denied, "this site takes no bundle without a signature that counts (trust.policies.unsigned): %w", err)
	case len(q.Signatures) > 0:
		return nil, fmt.Errorf("the bundle has signatures, and they do not count: %w", err) // unsigned is not badly signed
	}
	docs, err := b.Documents(c.Name)
	if err != nil {
		return nil, err
	}
	text, err := bundle.YAML(docs)
	if err != nil {
		return nil, err
	}
	wanted, err := config.ParseDocuments(text)
	if err != nil {
		return nil, err
	}
	archive, err := b.Archive()
	if err != nil {
		return nil, err
	}
	if q.ReplayDays != 0 {
		stop, err := a.replayBundle(ctx, &q, c.Name, wanted, out)
		if err != nil || stop {
			return out, err
		}
	}
	act := bundle.Activation{Name: c.Name, Version: c.Version, Digest: b.Digest(), Signers: out.Signers, Origin: q.Origin, Actor: identity.FromContext(ctx).Actor(), Reason: q.Reason}
	for _, d := range docs {
		act.Policies = append(act.Policies, d.Metadata.Name)
	}
	var before int64
	answer, err := a.applyBundle(ctx, &q, act, wanted, &before, archive)
	if err != nil {
		return nil, err
	}
	out.From, out.Changes, out.Activated = before, answer.Changes, !q.DryRun
	return out, nil
}

// bundleOf reads what is asked for, or what was in force before.
func (a *API) bundleOf(ctx context.Context, q *client.PolicyBundleActivate) (b *bundle.Bundle, c bundle.Claim, err error) {
	if len(q.Archive) == 0 {
		if err := (bundle.Claim{Name: q.Name, Version: q.Version}).Validate(); err != nil {
			return nil, c, fmt.Errorf("want an archive, or name and version of what was in force before: %w", err)
		}
		var kept bundle.Activation
		if err := a.o.DB.View(ctx, func(tx *store.Tx) (err error) {
			kept, q.Archive, q.Signatures, err = bundle.Kept(ctx, tx, q.Name, q.Version)
			return err
		}); err != nil {
			return nil, c, err
		}
		q.Origin = kept.Origin
		q.Unsigned = q.Unsigned || len(kept.Signers) == 0
	}
	if b, err = bundle.Read(q.Archive); err != nil {
		return nil, c, err
	}
	c, err = b.Claim(bundle.Claim{Name: q.Name, Version: q.Version}, q.Signatures)
	return b, c, err
}

// replayBundle judges recorded decisions by the policies as they would be.
func (a *API) replayBundle(ctx context.Context, q *client.PolicyBundleActivate, name string, wanted []config.Document, out *client.PolicyBundleActivated) (stop bool, err error) {
	back, err := replayDays(q.ReplayDays)
	if err != nil {
		return false, err
	}
	report, err := a.replayWanted(ctx, name, wanted, replay.Options{Since: a.o.Clock().Add(-back)})
	if err != nil {
		return false, err
	}
	if out.Replay, err = json.Marshal(report); err != nil {
		return false, err
	}
	if why := report.Stops(q.Accept); why != nil && !q.DryRun {
		out.Why = why.Error()
		return true, nil
	}
	return false, nil
}

// replayWanted judges what was recorded by the policies as they would be with a
// bundle's in the place of those that it gave before.
func (a *API) replayWanted(ctx context.Context, name string, wanted []config.Document, o replay.Options) (*replay.Comparison, error) {
	var gone []string
	if err := a.o.DB.View(ctx, func(tx *store.Tx) error {
		owners, err := bundle.Owners(ctx, tx)
		for p, of := range owners {
			if of == name {
				gone = append(gone, p)
			}
		}
		return err
	}); err != nil {
		return nil, err
	}
	var given []*policy.Policy
	for _, d := range wanted {
		given = append(given, d.Policy)
	}
	set, err := a.o.Desired().Policies.Without(gone...).With(given...)
	if err != nil {
		return nil, err
	}
	done, err := a.replaying(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return replay.Run(ctx, a.o.Engine, set, o)
}

// BundleEffect checks a bundle as [API.ActivateBundle] does, puts nothing in force,
// and says what it would do to the decisions that stand, and who signed it.
func (a *API) BundleEffect(ctx context.Context, q client.PolicyBundleActivate) (*replay.Comparison, []string, error) {
	q.DryRun, q.ReplayDays = true, 0
	out, err := a.ActivateBundle(ctx, q)
	if err != nil {
		return nil, nil, err
	}
	b, c, err := a.bundleOf(ctx, &q)
	if err != nil {
		return nil, nil, err
	}
	docs, err := b.Documents(c.Name)
	if err != nil {
		return nil, nil, err
	}
	text, err := bundle.YAML(docs)
	if err != nil {
		return nil, nil, err
	}
	wanted, err := config.ParseDocuments(text)
	if err != nil {
		return nil, nil, err
	}
	report, err := a.replayWanted(ctx, c.Name, wanted, replay.Options{Since: a.o.Clock(), List: 100_000})
	return report, out.Signers, err
}

// applyBundle carries out, in one transaction: policies, record and event.
func (a *API) applyBundle(ctx context.Context, q *client.PolicyBundleActivate, act bundle.Activation, wanted []config.Document, before *int64, archive []byte) (*client.ApplyAnswer, error) {
	var rollback bool
	check := func(tx *store.Tx) error {
		*before = 0
		active, err := bundle.Active(ctx, tx)
		if err != nil {
			return err
		}
		for _, one := range active {
			if one.Name == act.Name {
				*before = one.Version
			}
		}
		highest, digest, err := bundle.Highest(ctx, tx, act.Name)
		if err != nil {
			return err
		}
		rollback = act.Version < highest
		switch {
		case rollback && !q.Rollback:
			return fault.Newf(fault.Conflict, "bundle %s, version %d: version %d was in force here already; going back wants --rollback, and a reason", act.Name, act.Version, highest)
		case act.Version == highest && digest != act.Digest:
			return fault.Newf(fault.Conflict, "bundle %s, version %d: another content (%s) was in force under this version; a change wants a new one", act.Name, act.Version, digest.Short())
		case rollback && len(q.Reason) < 3:
			return fault.Newf(fault.Invalid, "bundle %s: going back to version %d wants a reason, on record", act.Name, act.Version)
		}
		return nil
	}
	if err := a.o.DB.View(ctx, check); err != nil {
		return nil, err
	}
	return a.applyFor(ctx, act.Name, q.DryRun, func(stored []config.Document) ([]config.Document, []config.Change, error) {
		return wanted, bundlePlan(stored, wanted, a.ownedBy(ctx, act.Name)), nil
	}, func(tx *store.Tx) error {
		if err := check(tx); err != nil {
			return err
		}
		if err := a.bundleOwnsAll(ctx, tx, act); err != nil {
			return err
		}
		if err := bundle.Record(ctx, tx, &act, archive, q.Signatures); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{
			Kind: event.PolicyBundleChanged, Actor: act.Actor, TraceID: event.TraceFrom(ctx),
			Body: map[string]any{"name": act.Name, "version": act.Version, "from": *before, "digest": act.Digest, "signers": clipAll(act.Signers), "origin": act.Origin, "reason": act.Reason, "rollback": rollback},
		})
	})
}

// ownedBy lists the policies that the bundle of a name brought.
func (a *API) ownedBy(ctx context.Context, name string) (out []string) {
	_ = a.o.DB.View(ctx, func(tx *store.Tx) error {
		owners, err := bundle.Owners(ctx, tx)
		for p, of := range owners {
			if of == name {
				out = append(out, p)
			}
		}
		return err
	})
	return out
}

// bundleOwnsAll refuses a bundle that would take the place of another's policy.
// One that was applied by itself becomes the bundle's: the plan shows that.
func (a *API) bundleOwnsAll(ctx context.Context, tx *store.Tx, act bundle.Activation) error {
	owners, err := bundle.Owners(ctx, tx)
	if err != nil {
		return err
	}
	for _, p := range act.Policies {
		if of, owned := owners[p]; owned && of != act.Name {
			return fault.Newf(fault.Conflict, "policy %s comes from bundle %s already", p, of)
		}
	}
	return nil
}

// bundlePlan is the plan of a bundle's policies: those of the version before that
// are in it no more go.
func bundlePlan(stored, wanted []config.Document, owned []string) []config.Change {
	var mine []config.Document
	for _, d := range stored {
		if d.Policy != nil && (slices.Contains(owned, d.Name) || slices.ContainsFunc(wanted, func(w config.Document) bool { return w.Name == d.Name })) {
			mine = append(mine, d)
		}
	}
	plan := config.Plan(mine, wanted, true)
	slices.SortStableFunc(plan, func(x, y config.Change) int { return strings.Compare(x.Name, y.Name) })
	return plan
}

func (a *API) removePolicyBundle(w http.ResponseWriter, r *http.Request) {
	out, err := a.removeBundle(r)
	a.answer(w, r, http.StatusOK, out, err)
}

func (a *API) removeBundle(r *http.Request) (*client.PolicyBundleActivated, error) {
	if err := a.allow(r, identity.ActApply, identity.ResourceConfig, ""); err != nil {
		return nil, err
	}
	ctx, name, reason := r.Context(), r.PathValue("name"), r.URL.Query().Get("reason")
	if n := len(reason); n < 3 || n > 1000 {
		return nil, fault.Newf(fault.Invalid, "reason: want 3 to 1,000 bytes")
	}
	out := &client.PolicyBundleActivated{Name: name, Signers: []string{}}
	owned := a.ownedBy(ctx, name)
	answer, err := a.applyFor(ctx, name, false, func(stored []config.Document) ([]config.Document, []config.Change, error) {
		var plan []config.Change
		for _, c := range config.Plan(stored, nil, false) {
			if c.Kind == config.KindPolicy && slices.Contains(owned, c.Name) {
				c.Action = "deleted"
				plan = append(plan, c)
			}
		}
		return nil, plan, nil
	}, func(tx *store.Tx) error {
		active, err := bundle.Active(ctx, tx)
		if err != nil {
			return err
		}
		for _, one := range active {
			if one.Name == name {
				out.From, out.Digest = one.Version, one.Digest
			}
		}
		if err := bundle.Retire(ctx, tx, name); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{
			Kind: event.PolicyBundleChanged, Actor: identity.FromContext(ctx).Actor(), TraceID: event.TraceFrom(ctx),
			Body: map[string]any{"name": name, "version": 0, "from": out.From, "digest": out.Digest, "reason": reason},
		})
	})
	if err != nil {
		return nil, err
	}
	out.Changes = answer.Changes
	return out, nil
}
