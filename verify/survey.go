package verify

import (
	"context"

	"assay/internal/clock"
	"assay/internal/fault"
	"assay/policy"
)

// Survey is [Offline] that also gives the facts which it judged, and takes what is
// known of the artifact's flaws; nil: nothing is.
func Survey(ctx context.Context, t Target, src EvidenceSource, o OfflineOptions, flaws FlawSource) (*Report, *policy.Facts, error) {
	if o.Verifier == nil || o.Policy == nil {
		return nil, nil, fault.Newf(fault.Invalid, "verify: want roots or keys, and a policy")
	}
	if err := t.validate(); err != nil {
		return nil, nil, err
	}
	b, err := compileBuilders(o.Builders)
	if err != nil {
		return nil, nil, err
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Scope.ID == "" {
		o.Scope.ID = "offline"
	}
	g := &gathering{target: t, verifier: o.Verifier, builders: b, policy: o.Policy, flaws: flaws}
	now := o.Clock().UTC()
	if err := g.gather(ctx, src, o.Scope, o.Stale, now); err != nil {
		return nil, nil, undecided(err)
	}
	facts, err := canonical(g.facts)
	if err != nil {
		return nil, nil, undecided(err)
	}
	res, err := o.Policy.Evaluate(ctx, g.facts, now)
	if err != nil {
		return nil, nil, undecided(err)
	}
	r := report(t, g.facts, o.Policy, res)
	r.FactsHash, r.DecidedAt, r.ValidUntil = policy.FactsID(facts), now, earliest(res.ValidUntil, g.expires)
	return r, g.facts, nil
}
