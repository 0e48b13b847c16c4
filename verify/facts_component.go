package verify

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/policy"
	"assay/sbom"
)

// Bounds of what the facts hold of components.
const (
	maxYoungest   = 50
	maxLicenses   = 100
	maxNoWord     = 10    // components that nobody dates, or gives a licence
	maxDifferent  = 5_000 // expressions that are told apart
	maxExpression = 300   // bytes; a longer one is cut and is then none
)

// ComponentSource knows what artifacts are made of; sbom.Store is one.
type ComponentSource interface {
	// Held gives what there is of documents and overlays about a subject.
	Held(ctx context.Context, subject artifact.Digest) (sbom.Held, error)
	// EachHeld gives its components one by one.
	EachHeld(ctx context.Context, subject artifact.Digest, ask sbom.HeldAsk, fn func(*sbom.HeldComponent) error) error
}

// enterComponents enters ages and licences of components, where the policy asks.
func (g *gathering) enterComponents(ctx context.Context, now time.Time) error {
	asks := g.policy.Components()
	if g.components == nil || len(asks) == 0 {
		return nil
	}
	held, err := g.components.Held(ctx, g.target.Digest)
	if err != nil {
		return err
	}
	for _, ask := range asks {
		f, err := g.componentsFact(ctx, ask, &held, now)
		if err != nil {
			return err
		}
		g.facts.Components = append(g.facts.Components, *f)
	}
	return nil
}

func (g *gathering) componentsFact(ctx context.Context, ask *policy.Components, held *sbom.Held, now time.Time) (*policy.ComponentsFact, error) {
	f := &policy.ComponentsFact{ID: ask.ID, State: "done", SBOMs: held.Documents[:min(len(held.Documents), 16)]}
	if len(held.Documents) == 0 {
		f.State = "no_sbom"
	}
	for _, r := range held.Incomplete[:min(len(held.Incomplete), maxReasons)] {
		f.Incomplete = append(f.Incomplete, clip(r, 200))
	}
	t := &componentTally{ask: ask, f: f, counts: map[string]bool{}, overlays: map[string]bool{}, parsed: map[string]licenseParts{}, seen: map[string]bool{}, licenses: map[string]*policy.ComponentLicense{}}
	var overlays []string
	for i := range g.facts.Attestations {
		a := &g.facts.Attestations[i]
		over := a.PredicateType == attestation.PredicateSBOMOverlay
		if !over && !sbom.IsPredicate(a.PredicateType) {
			continue
		}
		is, until := ask.Counts(&a.Evidence, now)
		if is {
			t.counts[a.ID] = true
			g.expireAt(until)
		}
		switch {
		case !over && !slices.Contains(held.Read, a.ID), over && is && !slices.Contains(held.Overlays, a.ID):
			f.State = "pending"
		case over && is && len(overlays) < sbom.MaxOverlays:
			overlays = append(overlays, a.ID)
			t.overlays[a.ID] = true
		}
	}
	if len(held.Documents) == 0 {
		return f, nil
	}
	err := g.components.EachHeld(ctx, g.target.Digest, sbom.HeldAsk{Overlays: overlays, First: ask.Ages && ask.FirstSeen}, func(c *sbom.HeldComponent) error {
		f.Components++
		if ask.Ages {
			t.age(c)
		}
		if ask.Licenses {
			t.license(c)
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	t.finish()
	return f, nil
}

// componentTally counts components into a fact.
type componentTally struct {
	ask      *policy.Components
	f        *policy.ComponentsFact
	counts   map[string]bool // attestations whose signers' word counts
	overlays map[string]bool // those of them that are overlays
	parsed   map[string]licenseParts
	seen     map[string]bool // parts of the component at hand
	ages     []policy.ComponentAge
	licenses map[string]*policy.ComponentLicense
	worst    *policy.ComponentLicense // one that is not taken; others are counted there when there are too many
}

// age enters since when a component is there: the latest of the days that overlays
// tell, to its end; else since when this site knows it.
func (t *componentTally) age(c *sbom.HeldComponent) {
	a := policy.ComponentAge{Component: clip(c.Key, 240)}
	for _, d := range c.Dates {
		day, err := time.Parse(time.DateOnly, d.Value)
		if err != nil || !t.counts[d.Attestation] {
			continue
		}
		if since := day.AddDate(0, 0, 1).Format(time.RFC3339); since > a.Since {
			a.Since, a.Source, a.Attestation = since, "published", d.Attestation
		}
	}
	if a.Since == "" && t.ask.FirstSeen && !c.First.IsZero() {
		a.Since, a.Source = c.First.UTC().Truncate(time.Second).Add(time.Second).Format(time.RFC3339), "first_seen"
	}
	if a.Since == "" {
		if t.f.Undated++; len(t.f.NoDate) < maxNoWord {
			t.f.NoDate = append(t.f.NoDate, a.Component)
		}
		return
	}
	t.f.Dated++
	if t.ages = append(t.ages, a); len(t.ages) >= 40*maxYoungest {
		t.young()
	}
}

// young keeps the youngest.
func (t *componentTally) young() {
	slices.SortFunc(t.ages, func(a, b policy.ComponentAge) int {
		return cmp.Or(strings.Compare(b.Since, a.Since), strings.Compare(a.Component, b.Component))
	})
	t.ages = t.ages[:min(len(t.ages), maxYoungest)]
}

// licenseParts is an expression that was read: most components share a few.
type licenseParts struct {
	parts []string
	known []bool
	whole bool // all of them are known
}

func (t *componentTally) parts(text string) licenseParts {
	if p, is := t.parsed[text]; is {
		return p
	}
	var p licenseParts
	p.parts, p.known = sbom.LicenseParts(text)
	p.whole = !slices.Contains(p.known, false)
	for i, part := range p.parts {
		p.known[i] = p.known[i] && len(part) <= maxExpression
		p.parts[i] = clip(part, maxExpression)
	}
	if len(t.parsed) < maxDifferent {
		t.parsed[text] = p
	}
	return p
}

// license enters under what a component stands: all that anybody says must hold,
// and it is known when somebody says it whose word counts. What a document says in
// words that are no licence, an overlay may say better.
func (t *componentTally) license(c *sbom.HeldComponent) {
	told, better := false, false
	for _, l := range c.Licenses {
		told = told || t.ask.Any || t.counts[l.Attestation]
		better = better || t.overlays[l.Attestation] && t.parts(l.Value).whole
	}
	clear(t.seen)
	for _, l := range c.Licenses {
		p := t.parts(l.Value)
		for i, part := range p.parts {
			if (p.known[i] || !better) && !t.seen[part] {
				t.seen[part] = true
				t.expression(part, p.known[i], c.Key)
			}
		}
	}
	if told {
		return
	}
	if t.f.Unlicensed++; len(t.f.NoLicense) < maxNoWord {
		t.f.NoLicense = append(t.f.NoLicense, clip(c.Key, 240))
	}
}

func (t *componentTally) expression(text string, known bool, component string) {
	at := t.licenses[text]
	if at == nil {
		rank := t.ask.Rank(text, known)
		switch {
		case len(t.licenses) < maxDifferent || rank == 0 && t.worst == nil:
			at = &policy.ComponentLicense{License: text, Known: known, First: clip(component, 240)}
			t.licenses[text] = at
			if rank == 0 && t.worst == nil {
				t.worst = at
			}
		case rank == 2:
			return // it denies nothing
		case rank == 0:
			at = t.worst
		default:
			const others = "(and others)"
			if at = t.licenses[others]; at == nil {
				at = &policy.ComponentLicense{License: others, First: clip(component, 240)}
				t.licenses[others] = at
			}
		}
	}
	at.Components++
}

func (t *componentTally) finish() {
	t.young()
	t.f.Youngest = t.ages
	for _, l := range t.licenses {
		t.f.Licenses = append(t.f.Licenses, *l)
	}
	slices.SortFunc(t.f.Licenses, func(a, b policy.ComponentLicense) int {
		return cmp.Or(cmp.Compare(t.ask.Rank(a.License, a.Known), t.ask.Rank(b.License, b.Known)), -cmp.Compare(a.Components, b.Components), strings.Compare(a.License, b.License))
	})
	t.f.Licenses = t.f.Licenses[:min(len(t.f.Licenses), maxLicenses)]
}

// shortenComponents cuts the lists of components in half; what decides stands at
// their beginning. false: there is nothing to cut.
func shortenComponents(f *policy.Facts) bool {
	cut := false
	for i := range f.Components {
		c := &f.Components[i]
		if n := len(c.Youngest); n > 4 {
			c.Youngest, cut = c.Youngest[:n/2], true
		}
		if n := len(c.Licenses); n > 4 {
			c.Licenses, cut = c.Licenses[:n/2], true
		}
	}
	return cut
}
