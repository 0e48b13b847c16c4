package risk

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/inventory"
	"assay/vuln"
	"assay/vuln/feed"
)

// Answer is a list of artifacts, the riskiest first, with what all add up to.
type Answer struct {
	Artifacts  []Artifact // at most as many as were asked for, and [MostListed]
	Count      int        // of all
	Risk       float64    // of all
	Findings   int        // of all
	Production int        // of all, how many run in production and have a finding
	Upgrades   []Upgrade  // that take most away, where they were asked for
	At         time.Time  // as of when
}

// Artifacts ranks all artifacts with a scanned bill of materials, or those of a
// service. [fault.NotFound]: the catalogue has no such service.
func (s *Scorer) Artifacts(ctx context.Context, service string, most int) (*Answer, error) {
	return s.answer(ctx, service, most, 0)
}

// Service is the risk of a service: that of its artifacts, and what takes most of
// it away.
func (s *Scorer) Service(ctx context.Context, name string, most int) (*Answer, error) {
	return s.answer(ctx, name, most, 10)
}

// FixFirst are the upgrades that take most risk away, of all artifacts, of a
// service's, or of one.
func (s *Scorer) FixFirst(ctx context.Context, service string, subject artifact.Digest, most int) (*Answer, error) {
	if subject == "" {
		return s.answer(ctx, service, 0, most)
	}
	m, err := s.make(ctx, subject, nil)
	if err != nil {
		return nil, err
	}
	out := m.answer(0)
	out.Upgrades, err = s.upgrades(ctx, m.components, most)
	return out, err
}

// Subject is the risk of one artifact, finding by finding. An artifact without a
// scanned bill of materials is [fault.NotFound]: nothing is known of it, which is
// not no risk.
func (s *Scorer) Subject(ctx context.Context, subject artifact.Digest) (Artifact, []Finding, error) {
	m, err := s.make(ctx, subject, nil)
	if err != nil {
		return Artifact{}, nil, err
	}
	sum := m.sums[subject]
	if sum == nil {
		return Artifact{}, nil, fault.Newf(fault.NotFound, "%s has no bill of materials whose components were looked up: its risk is not known", subject)
	}
	slices.SortFunc(m.findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(b.Risk, a.Risk), strings.Compare(a.Name+a.Component, b.Name+b.Component))
	})
	return Artifact{subject, sum.place, sum.risk, sum.worst, sum.findings}, m.findings, nil
}

// Parts are the factors of the place where an artifact stands.
func (p *Place) Parts() []Part { return p.parts() }

// Services adds up the risk of each service of the catalogue; what belongs to
// none is under "".
func (s *Scorer) Services(ctx context.Context) (map[string]*Answer, error) {
	v, err := s.look(ctx, "")
	if err != nil {
		return nil, err
	}
	return v.services, nil
}

func (m *model) services(book *inventory.Catalogue) map[string]*Answer {
	out := map[string]*Answer{}
	for _, v := range book.Services() {
		out[v.Name] = &Answer{}
	}
	for _, x := range m.sums {
		names := x.place.Services
		if len(names) == 0 {
			names = []string{""}
		}
		for _, n := range names {
			a := out[n]
			if a == nil {
				a = &Answer{}
				out[n] = a
			}
			a.Count, a.Risk, a.Findings = a.Count+1, a.Risk+x.risk, a.Findings+x.findings
		}
	}
	return out
}

func (s *Scorer) answer(ctx context.Context, service string, most, upgrades int) (*Answer, error) {
	if service != "" && s.o.Inventory.Catalogue().Service(service) == nil {
		return nil, fault.Newf(fault.NotFound, "there is no service %.80q; assay inventory services list names them", service)
	}
	v, err := s.look(ctx, service)
	if err != nil {
		return nil, err
	}
	out := *v.answer
	out.Artifacts = out.Artifacts[:min(most, len(out.Artifacts))]
	if upgrades > 0 {
		out.Upgrades, err = s.first(ctx, v, upgrades)
	}
	return &out, err
}

func (m *model) answer(most int) *Answer {
	all := m.artifacts()
	out := &Answer{Count: len(all)}
	for i := range all {
		out.Risk += all[i].Risk
		out.Findings += all[i].Findings
		if p := all[i].Place.Running; p != nil && p.Production && all[i].Findings > 0 {
			out.Production++
		}
	}
	out.Artifacts = slices.Clone(all[:min(most, len(all))])
	return out
}

// upgrades ranks components by what another version of each takes away.
func (s *Scorer) upgrades(ctx context.Context, components map[int64]*component, most int) ([]Upgrade, error) {
	type ranked struct {
		c    *component
		risk float64
	}
	var all []ranked
	for _, c := range components {
		r := ranked{c: c}
		for _, f := range c.flaws {
			if f.fixed != "" {
				r.risk += f.taken
			}
		}
		if r.risk > 0 {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(b.risk, a.risk), strings.Compare(a.c.Key, b.c.Key))
	})
	out := []Upgrade{}
	for _, r := range all[:min(most, len(all))] {
		u, err := s.upgrade(ctx, r.c)
		if err != nil {
			return nil, err
		}
		out = append(out, u)
	}
	slices.SortStableFunc(out, func(a, b Upgrade) int { return cmp.Compare(b.Risk, a.Risk) })
	return out, nil
}

// maxSteps bounds how often a version that mends is itself found affected and a
// later one is looked for.
const maxSteps = 16

// upgrade finds the smallest version that mends what can be mended: the latest of
// the versions that mend one flaw each, and on from there while that one is
// affected by something that has a later fix.
func (s *Scorer) upgrade(ctx context.Context, c *component) (Upgrade, error) {
	u := Upgrade{Component: c.Key, Ecosystem: c.Ecosystem, From: c.Version, Artifacts: c.artifacts, Direct: c.direct, Services: slices.Sorted(maps.Keys(c.services)), pkg: c.Package}
	for _, f := range c.flaws {
		u.To = laterOf(c.Ecosystem, u.To, f.fixed)
	}
	records, err := s.o.Feeds.ByPackage(ctx, vuln.Package{Ecosystem: c.Ecosystem, Name: c.Package})
	if err != nil {
		return u, err
	}
	still := map[string]bool{}
	for range maxSteps {
		clear(still)
		next := u.To
		for i := range records {
			v := verdict(&records[i], c, u.To)
			if v.Status != vuln.IsAffected {
				continue
			}
			still[records[i].ID] = true
			next = laterOf(c.Ecosystem, next, v.Fixed)
		}
		if next == u.To {
			break
		}
		u.To = next
	}
	names, _, err := s.flaws.Of(ctx, slices.Sorted(maps.Keys(still)))
	if err != nil {
		return u, err
	}
	left := map[string]bool{}
	for _, f := range names {
		left[f.Name] = true
	}
	slices.SortFunc(c.flaws, func(a, b *flawAt) int {
		return cmp.Or(cmp.Compare(b.taken, a.taken), strings.Compare(a.Name, b.Name))
	})
	for _, f := range c.flaws {
		switch {
		case f.fixed == "" || left[f.Name]:
			left[f.Name] = true
		default:
			u.Risk += f.taken
			u.Flaws = append(u.Flaws, f.Name)
		}
	}
	u.Left = slices.Sorted(maps.Keys(left))
	return u, nil
}

func verdict(r *feed.Record, c *component, version string) vuln.Verdict {
	worst := vuln.Verdict{}
	if r.IsWithdrawn() {
		return worst
	}
	for i := range r.Affected {
		a := &r.Affected[i]
		if k := a.Key(); k.Ecosystem != c.Ecosystem || k.Name != c.Package {
			continue
		}
		if v := a.Affects(version); v.Status == vuln.IsAffected {
			return v
		}
	}
	return worst
}
