package assess

import (
	"context"
	"slices"
	"strings"

	"assay/artifact"
	"assay/policy"
	"assay/verify"
)

// signed is what somebody whose signature verified signed of an artifact.
type signed struct {
	Signer
	kind kind
}

// held is what registries hold about a digest.
type held struct {
	items     verify.Items
	truncated bool
}

func (h held) Evidence(context.Context, artifact.Digest) ([]verify.Item, bool, error) {
	return h.items, h.truncated, nil
}

// look looks at one artifact. The error is that nothing can be said of it.
func (r *Run) look(ctx context.Context, s *subject, out *Digest) error {
	if s.digest == "" || len(s.places) == 0 {
		return nil
	}
	var h held
	for _, p := range s.places {
		// Silence of one place may hide what forbids: then nothing is known.
		items, cut, err := verify.Registry{Client: r.o.Client, Repository: dialed(p)}.Evidence(ctx, s.digest)
		if err != nil {
			return err
		}
		h.items, h.truncated = append(h.items, items...), h.truncated || cut
	}
	at := dialed(s.places[0]).WithDigest(s.digest)
	t := verify.ReferenceTarget(s.places[0].WithDigest(s.digest), "", false)
	claims := read(h.items, s.digest)
	if !claimed(claims, provenance) || !claimed(claims, bom) {
		// What says nothing about an image may just not have it.
		m, err := r.o.Client.Manifest(ctx, at)
		if err != nil {
			return err
		}
		if err := r.unsigned(ctx, at, m, claims); err != nil {
			return err
		}
	}
	facts, res, err := r.judge(ctx, t, h, nil)
	if err != nil {
		return err
	}
	proven := sift(facts, claims, out)
	out.answers(h.truncated)
	flaws, err := r.flaws(ctx, at, claims, proven, out)
	if err != nil {
		return err
	}
	if flaws != nil && r.o.Policy.WantsVulnerabilities() {
		// Asked again with what is known of its flaws.
		if facts, res, err = r.judge(ctx, t, h, flaws); err != nil {
			return err
		}
	}
	return r.conclude(ctx, facts, res, out)
}

// claimed says whether anything of a kind is claimed.
func claimed(claims map[string]*claim, k kind) bool {
	for _, c := range claims {
		if c.kind == k {
			return true
		}
	}
	return false
}

// judge verifies what is held, and asks the policy.
func (r *Run) judge(ctx context.Context, t verify.Target, h held, flaws verify.FlawSource) (*policy.Facts, policy.Result, error) {
	if r.o.Verifier == nil {
		f := &policy.Facts{Schema: policy.FactsSchema, Subject: t.Subject(), Scope: r.o.Scope, Truncated: h.truncated}
		f.Normalize()
		res, err := r.o.Policy.Evaluate(ctx, f, r.o.Clock().UTC())
		return f, res, err
	}
	rep, facts, err := verify.Survey(ctx, t, h, verify.OfflineOptions{Verifier: r.o.Verifier, Policy: r.o.Policy, Scope: r.o.Scope, Clock: r.o.Clock}, flaws)
	if err != nil {
		return nil, policy.Result{}, err
	}
	return facts, policy.Result{Verdict: rep.Verdict, Checks: rep.Checks}, nil
}

// sift parts what verified from what is claimed, and gives the ids of the first.
func sift(f *policy.Facts, claims map[string]*claim, out *Digest) map[string]bool {
	proven := map[string]bool{}
	add := func(e *policy.Evidence, k kind) {
		proven[e.ID] = true
		s := signed{kind: k, Signer: Signer{Identity: text("key "+e.Key, 120), Root: text(e.Root, 120)}}
		if e.Identity != nil {
			s.Identity, s.Issuer = text(e.Identity.Subject, 300), text(e.Identity.Issuer, 200)
		}
		if !slices.Contains(out.signers, s) {
			out.signers = append(out.signers, s)
		}
		name := s.Identity
		if s.Issuer != "" {
			name += " (issuer " + s.Issuer + ")"
		}
		out.Signers = note(out.Signers, name, 20)
	}
	for i := range f.Signatures {
		add(&f.Signatures[i].Evidence, signature)
	}
	for i := range f.Attestations {
		add(&f.Attestations[i].Evidence, kindOf(f.Attestations[i].PredicateType))
	}
	slices.Sort(out.Signers)
	for _, one := range f.Rejected {
		if c := claims[one.ID]; c != nil && c.code != codeUnread {
			c.code, c.reason = one.Code, one.Reason
		}
	}
	for id, c := range claims {
		if !proven[id] {
			out.claims = append(out.claims, *c)
		}
	}
	slices.SortFunc(out.claims, func(a, b claim) int { return strings.Compare(a.id, b.id) })
	return proven
}

// unread says whether the registry lists evidence that it does not give.
func (d *Digest) unread() bool {
	return slices.ContainsFunc(d.claims, func(c claim) bool { return c.code == codeUnread })
}

// answers says what there is: what verified counts, what is claimed is told apart, and
// no is said only when all was read.
func (d *Digest) answers(truncated bool) {
	for k, a := range map[kind]*Answer{signature: &d.Signed, provenance: &d.Provenance, bom: &d.SBOM} {
		*a = No
		if truncated || d.unread() {
			*a = Unknown
		}
		for i := range d.claims {
			if d.claims[i].kind == k {
				*a = Claimed
			}
		}
		for i := range d.signers {
			if d.signers[i].kind == k {
				*a = Yes
			}
		}
	}
}
