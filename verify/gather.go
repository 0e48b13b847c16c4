package verify

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"assay/evidence"
	"assay/internal/fault"
	"assay/policy"
)

// gather reads the evidence from the source and makes facts of it. The error is
// that something could not be found out (fault.Undecided and the like).
func (g *gathering) gather(ctx context.Context, src EvidenceSource, scope policy.Scope, stale bool, now time.Time) error {
	g.digests = g.target.set()
	g.facts = &policy.Facts{
		Schema: policy.FactsSchema, Subject: g.target.Subject(), Scope: scope,
		Trust: policy.Trust{Roots: g.verifier.RootNames(), Stale: stale},
	}
	g.enterRevocations(now)
	items, truncated, err := src.Evidence(ctx, g.target.Digest)
	if err != nil {
		return err
	}
	if len(items) > MaxEvidence {
		items, truncated = items[:MaxEvidence], true
	}
	g.facts.Truncated = truncated
	seen := map[string]bool{}
	for i := range items {
		id := evidence.ID(items[i].Bundle)
		if seen[id] {
			continue // the same bytes by two ways are one bundle
		}
		seen[id] = true
		if err := g.add(ctx, &items[i]); err != nil {
			return err
		}
	}
	g.compareBuilds()
	if err := g.enterSources(ctx, src); err != nil {
		return err
	}
	if err := g.enterLayouts(ctx, src, now); err != nil {
		return err
	}
	if err := g.linkRunners(ctx, g.runners); err != nil {
		return err
	}
	service, err := g.enterService(ctx, g.services, now)
	if err != nil {
		return err
	}
	if err := g.enterWorkload(ctx, g.workloads); err != nil {
		return err
	}
	if err := g.enterVulnerabilities(ctx, g.flaws, now); err != nil {
		return err
	}
	g.enterWaiting(service)
	if err := g.enterComponents(ctx, now); err != nil {
		return err
	}
	if r, ok := src.(rejectionSource); ok {
		refused, err := r.Rejected(ctx, g.target.Digest)
		if err != nil {
			return err
		}
		for _, one := range refused {
			if !seen[one.ID] {
				seen[one.ID] = true
				g.reject(one.ID, one.Source, one.Code, one.Reason)
			}
		}
	}
	if len(g.facts.Rejected) > maxRejected {
		g.facts.Rejected = g.facts.Rejected[:maxRejected]
	}
	if err := g.enterContract(ctx); err != nil {
		return err
	}
	if err := g.enterExceptions(ctx, g.exceptions, now); err != nil {
		return err
	}
	return ctx.Err()
}

// verdictKey names one verification. Its outcome does not depend on the
// artifact that it is asked for.
type verdictKey struct {
	id       string
	epoch    int64
	verifier *Verifier
	place    string // which foreign roots count; see Verifier.selection
}

// verdicts remembers verifications, bounded in bytes: two generations, of which
// the older is dropped when the newer is full.
type verdicts struct {
	mu       sync.Mutex
	most     int // bytes of one generation
	size     int
	new, old map[verdictKey]collected
}

func newVerdicts(bytes int) *verdicts {
	return &verdicts{most: bytes / 2, new: map[verdictKey]collected{}}
}

func (v *verdicts) get(k verdictKey) (collected, bool) {
	if v == nil {
		return collected{}, false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	c, ok := v.new[k]
	if !ok {
		if c, ok = v.old[k]; ok {
			v.keep(k, c)
		}
	}
	return c, ok
}

func (v *verdicts) put(k verdictKey, c collected) {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keep(k, c)
}

func (v *verdicts) keep(k verdictKey, c collected) {
	cost := 1024 + len(c.predicate) + 256*len(c.subjects)
	if cost > v.most/8 {
		return // a giant would drive all others out
	}
	if v.size+cost > v.most {
		v.old, v.new, v.size = v.new, map[verdictKey]collected{}, 0
	}
	v.new[k] = c
	v.size += cost
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// undecided marks an error as one that leaves the question open, unless it says
// of itself what it is.
func undecided(err error) error {
	if err == nil || fault.KindOf(err) != fault.Internal && !errors.Is(err, context.Canceled) {
		return err
	}
	return fault.Wrap(fault.Undecided, err)
}
