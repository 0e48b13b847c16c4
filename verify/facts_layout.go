package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/evidence"
	"assay/internal/fault"
	"assay/policy"
	"assay/verify/layout"
)

// Bounds of what is read for layouts beyond the artifact's own evidence.
const (
	maxLinks        = 256 // of one artifact
	maxLinkDigests  = 256 // that evidence is looked up about
	maxLayoutSteps  = 32  // that enter the facts
	maxFunctionary  = 8   // of a step
	maxLayoutReason = 500
)

// linked is a link from evidence that verified.
type linked struct {
	link     *layout.Link
	evidence policy.Evidence
	depth    int    // steps from the artifact
	shared   int    // products that a later step took in
	at       string // trusted time
}

// CheckLayouts reads the layouts that a policy names, so that one that can never
// be followed is refused before it decides. Errors are fault.Invalid.
func CheckLayouts(p *policy.Policy) error {
	for _, l := range p.Layouts() {
		if _, err := layoutOf(l); err != nil {
			return fmt.Errorf("layouts %s: %w", l.Name, err)
		}
	}
	return nil
}

func layoutOf(l *policy.Layout) (*layout.Metadata, error) {
	m, err := layout.Parse(l.Document)
	switch {
	case err != nil:
		return nil, err
	case m.Layout == nil:
		return nil, fault.Newf(fault.Invalid, "this is a link, and no layout")
	case len(m.Layout.Inspect) > 0:
		return nil, fault.Newf(fault.Invalid, "it has %d inspections: those are commands that its signer has the verifier run, and none is run here", len(m.Layout.Inspect))
	}
	return m, nil
}

// keepLink keeps a link for layouts. One that cannot be read proves nothing.
func (g *gathering) keepLink(c *collected, e *policy.Evidence, depth int, taken map[artifact.Digest]bool) {
	if len(g.policy.Layouts()) == 0 || c.evidence.Key == "" || len(g.links) == maxLinks || !slices.Contains(layout.LinkTypes(), c.predicateType) {
		return // functionaries are keys
	}
	l, err := layout.FromStatement(&attestation.Statement{Type: attestation.StatementV1, PredicateType: c.predicateType, Predicate: c.predicate, Subject: c.subjects})
	if err != nil {
		return
	}
	one := linked{link: l, evidence: *e, depth: depth, at: e.TrustedTime}
	for _, d := range l.Products {
		if slices.ContainsFunc(d.Strong(), func(d artifact.Digest) bool { return taken[d] }) {
			one.shared++
		}
	}
	g.links = append(g.links, one)
}

// enterLayouts holds the links about the artifact, and about what it was made
// of, against the layouts that the policy names.
func (g *gathering) enterLayouts(ctx context.Context, src EvidenceSource, now time.Time) error {
	if len(g.policy.Layouts()) == 0 {
		return nil
	}
	cut, err := g.followLinks(ctx, src)
	if err != nil {
		return err
	}
	for _, l := range g.policy.Layouts() {
		f := policy.LayoutFact{ID: l.ID, Name: l.Name}
		out, until, refused, err := g.follow(l, now)
		switch {
		case err != nil:
			f.Reason = err.Error()
			if refused != "" {
				f.Reason += "; links do not count: " + refused
			}
			if cut {
				f.Reason += fmt.Sprintf("; not all links were looked at: at most %d, about %d artifacts", maxLinks, maxLinkDigests)
			}
			f.Reason = clip(f.Reason, maxLayoutReason)
		default:
			f.Followed, f.Expires = true, out.Expires.Format(time.RFC3339)
			g.expireAt(out.Expires)
			g.expireAt(until)
			for _, s := range out.Steps[:min(len(out.Steps), maxLayoutSteps)] {
				f.Steps = append(f.Steps, policy.LayoutStep{Name: clip(s.Name, 80), Functionaries: s.Functionaries[:min(len(s.Functionaries), maxFunctionary)]})
			}
		}
		g.facts.Layouts = append(g.facts.Layouts, f)
	}
	return nil
}

func (g *gathering) expireAt(at time.Time) {
	if !at.IsZero() && (g.expires.IsZero() || at.Before(g.expires)) {
		g.expires = at
	}
}

// follow verifies one layout with the links that count for its policy.
func (g *gathering) follow(l *policy.Layout, now time.Time) (out *layout.Outcome, until time.Time, refused string, err error) {
	m, err := layoutOf(l)
	if err != nil {
		return nil, until, "", err
	}
	in := layout.Input{Layout: m, Owners: l.Owners, Parameters: l.Parameters, Now: now}
	for i := range g.links {
		one := &g.links[i]
		why, ends := l.Unusable(&one.evidence, now)
		if why != "" {
			refused = why
			continue
		}
		if !ends.IsZero() && (until.IsZero() || ends.Before(until)) {
			until = ends
		}
		in.Attested = append(in.Attested, layout.Attested{Name: one.evidence.ID, Link: one.link, Key: one.evidence.Key})
	}
	if out, err = layout.Verify(in); err != nil {
		return nil, until, refused, err
	}
	if !out.Verified || !out.Has(g.digests) {
		return nil, until, refused, fault.Newf(fault.Unverified, "the artifact is no product of the last step")
	}
	return out, until, refused, nil
}

// followLinks reads the links about what went into the artifact, step by step
// backwards. Of a functionary's several links of one step the first counts, so
// that they are brought into an order: near the artifact first, then those that
// made most of what was taken in, then the newest.
func (g *gathering) followLinks(ctx context.Context, src EvidenceSource) (cut bool, err error) {
	seen := map[string]bool{}
	for i := range g.links {
		seen[g.links[i].evidence.ID] = true
	}
	asked := map[artifact.Digest]bool{}
	for _, d := range g.digests.Strong() {
		asked[d] = true
	}
	from := 0
	for depth := 1; from < len(g.links); depth++ {
		taken := map[artifact.Digest]bool{}
		for _, one := range g.links[from:] {
			for _, m := range one.link.Materials {
				for _, d := range m.Strong() {
					taken[d] = true
				}
			}
		}
		from = len(g.links)
		for _, d := range sortedDigests(taken) {
			switch {
			case asked[d] || d.Algorithm() != artifact.SHA256:
				continue
			case len(asked) > maxLinkDigests || len(g.links) == maxLinks:
				cut = true
				continue
			}
			asked[d] = true
			more, err := g.linksAbout(ctx, src, d, depth, seen, taken)
			if err != nil {
				return cut, err
			}
			cut = cut || more
		}
	}
	slices.SortStableFunc(g.links, func(a, b linked) int {
		switch {
		case a.depth != b.depth:
			return a.depth - b.depth
		case a.shared != b.shared:
			return b.shared - a.shared
		case a.at != b.at:
			return strings.Compare(b.at, a.at)
		}
		return strings.Compare(a.evidence.ID, b.evidence.ID)
	})
	return cut, nil
}

func sortedDigests(set map[artifact.Digest]bool) []artifact.Digest {
	out := make([]artifact.Digest, 0, len(set))
	for d := range set {
		out = append(out, d)
	}
	slices.Sort(out)
	return out
}

// linksAbout reads the links about one artifact that another was made of.
func (g *gathering) linksAbout(ctx context.Context, src EvidenceSource, d artifact.Digest, depth int, seen map[string]bool, taken map[artifact.Digest]bool) (cut bool, err error) {
	items, cut, err := src.Evidence(ctx, d)
	if err != nil {
		return cut, err
	}
	if len(items) > MaxEvidence {
		items, cut = items[:MaxEvidence], true
	}
	for i := range items {
		id := evidence.ID(items[i].Bundle)
		if seen[id] || items[i].Payload != nil {
			continue
		}
		c, err := g.verified(ctx, id, &items[i])
		if err != nil {
			return cut, err
		}
		if c.err != nil || g.never[c.evidence.Key] || !named(c.subjects, d.Set()) || g.delegated(&c) != nil {
			continue
		}
		seen[id] = true
		e := c.evidence
		e.ID = id
		g.keepLink(&c, &e, depth, taken)
		g.expireAt(c.keyExpiry)
	}
	return cut, nil
}
