package risk

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"assay/artifact"
	"assay/inventory"
	"assay/store"
	"assay/vuln"
	"assay/vuln/feed"
	"assay/vuln/finding"
)

// Options are what a scorer asks of the site.
type Options struct {
	DB        *store.DB
	Feeds     *feed.Store
	Findings  *finding.Matcher
	Inventory *inventory.Store
	// Stored is what the registry knows of digests, of all or of one and what it
	// takes to know it; nil: there is no registry.
	Stored func(ctx context.Context, tx *store.Tx, digest artifact.Digest) (map[artifact.Digest]*Stored, error)
	// Ledgers is what evidence digests owe, of all or of one; nil: none owes any.
	Ledgers func(ctx context.Context, tx *store.Tx, digest artifact.Digest) (map[artifact.Digest]Ledger, error)
	// Excused says whether a flaw of an artifact's component does not count, by a
	// statement that is trusted; nil: all count.
	Excused func(ctx context.Context) (func(subject artifact.Digest, flaw, component string) bool, error)
	// Reach says whether the code of a flaw is reached in an artifact: reachable,
	// not_reachable or ""; nil: nothing is known.
	Reach func(ctx context.Context) (func(subject artifact.Digest, flaw, component string) string, error)
}

// Scorer gives scores. It is safe for many goroutines.
type Scorer struct {
	o     Options
	flaws *finding.Flaws
	views views
}

// New makes a scorer.
func New(o Options) *Scorer {
	return &Scorer{o: o, flaws: o.Findings.NewFlaws(), views: views{kept: map[string]*view{}, quick: quick}}
}

// Finding is a flaw in a component of an artifact, with its score.
type Finding struct {
	finding.Flaw
	Component string
	Version   string
	Status    string
	Fixed     string
	Direct    string
	Risk      float64
	Parts     []Part
}

// Artifact is one with the sum of its findings' scores.
type Artifact struct {
	Digest   artifact.Digest
	Place    Place
	Risk     float64
	Worst    float64 // of its findings
	Findings int
}

// Upgrade is what takes risk away: another version of a component.
type Upgrade struct {
	Component string // key of what is there
	Ecosystem string
	From, To  string
	Risk      float64  // that it takes away
	Flaws     []string // that it mends, the worst first
	Left      []string // flaws that remain: nothing mends them yet, or To has them itself
	Artifacts int      // that hold it
	Direct    int      // of them, by themselves
	Services  []string // to which they belong, at most 20
	pkg       string
}

// component is one that advisories say something about.
type component struct {
	finding.Match
	flaws     []*flawAt
	artifacts int
	direct    int
	services  map[string]bool
}

// flawAt is a flaw of a component, whoever holds it.
type flawAt struct {
	finding.Flaw
	status string
	fixed  string
	base   float64 // severity and exploitation
	taken  float64 // risk that mending it takes away
}

// sum is an artifact's, while it is made.
type sum struct {
	place    Place
	factor   float64 // of the place
	risk     float64
	worst    float64
	findings int
	once     map[int64]bool // components counted, where it has several documents
}

// model is all that has a score.
type model struct {
	components map[int64]*component
	sums       map[artifact.Digest]*sum
	findings   []Finding // of the one artifact that was asked for
	epss       bool
}

// make reads what is open and adds it up; of one artifact with each finding.
func (s *Scorer) make(ctx context.Context, subject artifact.Digest, keep func(*Place) bool) (*model, error) {
	m := &model{components: map[int64]*component{}, sums: map[artifact.Digest]*sum{}}
	var matches []finding.Match
	if err := s.o.DB.View(ctx, func(tx *store.Tx) error {
		matches = matches[:0]
		return finding.EachMatch(ctx, tx, subject, func(f finding.Match) error {
			matches = append(matches, f)
			return nil
		})
	}); err != nil {
		return nil, err
	}
	if err := s.join(ctx, m, matches); err != nil {
		return nil, err
	}
	excused, reach := func(artifact.Digest, string, string) bool { return false }, func(artifact.Digest, string, string) string { return "" }
	var err error
	if s.o.Excused != nil {
		if excused, err = s.o.Excused(ctx); err != nil {
			return nil, err
		}
	}
	if s.o.Reach != nil {
		if reach, err = s.o.Reach(ctx); err != nil {
			return nil, err
		}
	}
	return m, s.o.DB.View(ctx, func(tx *store.Tx) error {
		w, err := s.world(ctx, tx, subject)
		if err != nil {
			return err
		}
		of, err := finding.Documents(ctx, tx, subject)
		if err != nil {
			return err
		}
		m.begin(w, of, keep)
		return finding.EachHolding(ctx, tx, subject, func(h finding.Holding) {
			if d, is := of[h.Document]; is && m.sums[d] != nil {
				m.add(d, h, subject != "", excused, reach)
			}
		})
	})
}

// begin makes the sums of all artifacts that are kept, also of those without a
// finding.
func (m *model) begin(w *world, of map[int64]artifact.Digest, keep func(*Place) bool) {
	clear(m.sums)
	m.findings = nil
	for _, c := range m.components {
		c.artifacts, c.direct, c.services = 0, 0, map[string]bool{}
		for _, f := range c.flaws {
			f.taken = 0
		}
	}
	for _, d := range of {
		if have, is := m.sums[d]; is {
			if have != nil && have.once == nil {
				have.once = map[int64]bool{}
			}
			continue
		}
		place := w.of(d)
		if keep != nil && !keep(&place) {
			m.sums[d] = nil
			continue
		}
		m.sums[d] = &sum{place: place, factor: product(place.parts())}
	}
	maps.DeleteFunc(m.sums, func(_ artifact.Digest, s *sum) bool { return s == nil })
}

// join makes of the records of each component its flaws: those that are about one
// flaw are one.
func (s *Scorer) join(ctx context.Context, m *model, matches []finding.Match) error {
	ids := map[string]bool{}
	for i := range matches {
		ids[matches[i].Advisory] = true
	}
	flaws, epss, err := s.flaws.Of(ctx, slices.Sorted(maps.Keys(ids)))
	if err != nil {
		return err
	}
	m.epss = epss
	for i := range matches {
		f := &matches[i]
		c := m.components[f.Component]
		if c == nil {
			c = &component{Match: *f}
			m.components[f.Component] = c
		}
		flaw := flaws[f.Advisory]
		at := slices.IndexFunc(c.flaws, func(o *flawAt) bool { return o.Name == flaw.Name })
		if at < 0 {
			c.flaws = append(c.flaws, &flawAt{Flaw: flaw, status: f.Status, fixed: f.Fixed, base: 100 * product(ofFlaw(flaw, epss))})
			continue
		}
		have := c.flaws[at]
		if f.Status == "affected" {
			have.status = f.Status
		}
		have.fixed = laterOf(c.Ecosystem, have.fixed, f.Fixed)
	}
	return nil
}

// laterOf is the later of two versions, where one mends what both are about.
func laterOf(ecosystem, a, b string) string {
	if a == "" || b == "" {
		return cmp.Or(a, b)
	}
	if later, known := vuln.Later(ecosystem, a, b); known && later {
		return b
	}
	return a
}

// add counts one component of one document.
func (m *model) add(d artifact.Digest, h finding.Holding, detail bool, excused func(artifact.Digest, string, string) bool, reach func(artifact.Digest, string, string) string) {
	c, s := m.components[h.Component], m.sums[d]
	if c == nil {
		return
	}
	if s.once != nil {
		if s.once[h.Component] {
			return
		}
		s.once[h.Component] = true
	}
	counted := false
	for _, f := range c.flaws {
		if excused(d, f.Name, c.Key) {
			continue
		}
		counted = true
		reached := reach(d, f.Name, c.Key)
		risk := f.base * useFactor(h.Direct, f.status, reached) * s.factor
		s.risk += risk
		s.worst = max(s.worst, risk)
		s.findings++
		f.taken += risk
		if detail {
			m.findings = append(m.findings, Finding{Flaw: f.Flaw, Component: c.Key, Version: c.Version, Status: f.status, Fixed: f.fixed, Direct: h.Direct, Risk: risk,
				Parts: slices.Concat(ofFlaw(f.Flaw, m.epss), ofUse(h.Direct, f.status, reached), s.place.parts())})
		}
	}
	if !counted {
		return
	}
	c.artifacts++
	if h.Direct == "direct" {
		c.direct++
	}
	for _, name := range s.place.Services {
		if len(c.services) < 20 {
			c.services[name] = true
		}
	}
}

// artifacts are all that have a sum, the riskiest first.
func (m *model) artifacts() []Artifact {
	all := make([]Artifact, 0, len(m.sums))
	for d, s := range m.sums {
		all = append(all, Artifact{d, s.place, s.risk, s.worst, s.findings})
	}
	slices.SortFunc(all, func(a, b Artifact) int {
		return cmp.Or(cmp.Compare(b.Risk, a.Risk), strings.Compare(string(a.Digest), string(b.Digest)))
	})
	return all
}
