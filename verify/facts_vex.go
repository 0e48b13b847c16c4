package verify

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/evidence"
	"assay/internal/fault"
	"assay/policy"
	"assay/sbom"
	"assay/store"
	"assay/vuln/finding"
	"assay/vuln/vex"
)

// Bounds of attested statements about flaws.
const (
	maxComponentVEX = 32 // documents about components of the artifact
	maxAttested     = 8  // signers whose words stand at one finding, the most cautious of them
)

// statedVEX is a document by a signer whom the policy names.
type statedVEX struct {
	fact  policy.VEXFact
	party string
	doc   *vex.Attested
}

// ComponentItem is evidence about a component of an artifact, unverified.
type ComponentItem struct {
	Component artifact.Digest
	Item      Item
}

// componentVEXSource is a FlawSource that has statements which were attested about
// an artifact's components, by their digests.
type componentVEXSource interface {
	ComponentVEX(ctx context.Context, subject artifact.Digest, limit int) ([]ComponentItem, error)
}

// keepVEX keeps a statement about flaws whose signer the policy names. One that
// cannot be read is an error, since it was meant to count.
func (g *gathering) keepVEX(c *collected, e policy.Evidence, component artifact.Digest) error {
	if !slices.Contains(vex.Predicates, c.predicateType) || !g.policy.CountsVEX(&e) {
		return nil
	}
	d, err := vex.Read(c.predicate)
	if err != nil {
		return err
	}
	if d.Format != "openvex" {
		return fault.Newf(fault.Invalid, "a statement of type %s holds a document of form %s", c.predicateType, d.Format)
	}
	one := statedVEX{fact: policy.VEXFact{Evidence: e, Component: string(component)}, party: e.Party()}
	if component != "" {
		one.doc = vex.NewAttestedOf(e.ID, d)
	} else {
		about := vex.Subject{Digest: g.target.Digest}
		if g.facts.Subject.Registry == "" { // names of repositories are the own registry's
			about.Repository = g.facts.Subject.Repository
		}
		one.doc = vex.NewAttested(e.ID, d, about)
	}
	g.stated = append(g.stated, one)
	return nil
}

// enterVEX enters what attested statements say of findings that the site itself
// says nothing about. Whether a rule of the policy counts their signer is judged
// with it: facts hold what any of its rules may ask.
func (g *gathering) enterVEX(ctx context.Context, src FlawSource, f *policy.Vulnerabilities, found []finding.Finding, all []policy.Vulnerability, now time.Time) error {
	if f.VEXOf = g.policy.VEXOf(); f.VEXOf == "" || len(all) == 0 {
		return nil
	}
	if err := g.componentVEX(ctx, src); err != nil {
		return err
	}
	used := map[string]bool{}
	for i := range all {
		if found[i].Stated != nil || all[i].Malicious {
			continue
		}
		all[i].Attested = g.attested(vex.Flaw{Names: found[i].Names, Component: found[i].Component}, now)
		for _, a := range all[i].Attested {
			used[a.Attestation] = true
		}
	}
	for i := range g.stated {
		if e := g.stated[i].fact; used[e.ID] {
			used[e.ID] = false // once, however many ways lead to it
			f.VEX = append(f.VEX, e)
		}
	}
	slices.SortFunc(f.VEX, func(a, b policy.VEXFact) int { return strings.Compare(a.ID, b.ID) })
	return nil
}

// componentVEX reads what was attested about the artifact's components.
func (g *gathering) componentVEX(ctx context.Context, src FlawSource) error {
	from, ok := src.(componentVEXSource)
	if !ok {
		return nil
	}
	items, err := from.ComponentVEX(ctx, g.target.Digest, maxComponentVEX)
	if err != nil {
		return err
	}
	for _, it := range items {
		id := evidence.ID(it.Item.Bundle)
		if slices.ContainsFunc(g.stated, func(s statedVEX) bool { return s.fact.ID == id }) {
			continue
		}
		c, err := g.verified(ctx, id, &it.Item)
		if err != nil {
			return err
		}
		if c.err != nil || g.never[c.evidence.Key] || it.Item.Payload != nil || !named(c.subjects, it.Component.Set()) || g.delegated(&c) != nil {
			continue
		}
		e := c.evidence
		e.ID, e.Source, e.Repository = id, clip(it.Item.Source, 120), it.Item.Repository
		if g.keepVEX(&c, e, it.Component) != nil {
			continue // it is about a component, and no part of the artifact's own evidence
		}
		g.expireAt(c.keyExpiry)
	}
	return nil
}

// attested is what the documents say of one flaw: of each signer the newest, the
// most cautious first.
func (g *gathering) attested(flaw vex.Flaw, now time.Time) []policy.AttestedVEX {
	type word struct {
		from *statedVEX
		says policy.AttestedVEX
		rank int
	}
	newest := map[string]word{}
	for i := range g.stated {
		s := &g.stated[i]
		said := s.doc.Of(flaw, now)
		if said == nil {
			continue
		}
		one := word{s, policy.AttestedVEX{Attestation: s.fact.ID, Status: string(said.Status), Justification: said.Justification}, said.Status.Caution()}
		if !said.Until.IsZero() {
			one.says.Until = said.Until.UTC().Format(time.RFC3339)
		}
		was, there := newest[s.party]
		if !there || cmp.Or(newer(&s.fact.Evidence, &was.from.fact.Evidence), cmp.Compare(one.rank, was.rank), strings.Compare(s.fact.ID, was.from.fact.ID)) > 0 {
			newest[s.party] = one
		}
	}
	var out []word
	for _, w := range newest {
		out = append(out, w)
	}
	slices.SortFunc(out, func(a, b word) int {
		return cmp.Or(-cmp.Compare(a.rank, b.rank), strings.Compare(a.says.Attestation, b.says.Attestation))
	})
	var says []policy.AttestedVEX
	for _, w := range out[:min(len(out), maxAttested)] {
		says = append(says, w.says)
	}
	return says
}

// newer compares by trusted time, and within its second by the place in the one log.
func newer(a, b *policy.Evidence) int {
	if c := strings.Compare(a.TrustedTime, b.TrustedTime); c != 0 || a.LogIndex == nil || b.LogIndex == nil || a.LogID != b.LogID {
		return c
	}
	return cmp.Compare(*a.LogIndex, *b.LogIndex)
}

// attestedOfGroup leaves out what many findings do not share, and a rule does not
// ask.
func attestedOfGroup(all []policy.AttestedVEX) []policy.AttestedVEX {
	var out []policy.AttestedVEX
	for _, a := range all {
		a.Justification = ""
		out = append(out, a)
	}
	return out
}

// StirHolders has the decisions made again about what holds a component, since
// something was said about it.
func (e *Engine) StirHolders(ctx context.Context, tx *store.Tx, component artifact.Digest) error {
	_, err := tx.Exec(ctx, `UPDATE current_decision SET stirred = stirred + 1 WHERE digest IN (`+sbom.Holders+`)`, string(component))
	return err
}
