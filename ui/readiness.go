package ui

import (
	"context"
	"fmt"
	"strings"

	"assay/readiness"
)

// checks runs the list of readiness with the rights of who looks.
func (c *visit) checks() []readiness.Result {
	return readiness.Check(c.r.Context(), func(_ context.Context, path string, out any, query ...string) error {
		return c.get(out, path, query...)
	}, c.u.o.Clock(), readiness.Production)
}

func statusCell(s readiness.Status) Cell {
	switch s {
	case readiness.Pass:
		return mark(Good, "pass")
	case readiness.Fail:
		return mark(Bad, "fail")
	case readiness.NotApplicable:
		return mark(Info, "not applicable")
	}
	return mark(Unknown, "unknown")
}

// maturityStat is for the overview.
func (c *visit) maturityStat() Stat {
	m := readiness.Maturity(c.checks())
	s := Stat{Name: "Maturity", Value: Cell{Text: fmt.Sprintf("%d of %d", m.Level, readiness.MostLevel), Value: m.Level}, Of: m.Name, URL: local("readiness")}
	if m.Level == 0 { // nothing stands yet that a level could be told by
		s.Value, s.Of = unknown(m.Missing[0].Title+": "+m.Missing[0].Found), "not known to be begun"
	}
	if m.Next != "" {
		s.State = mark(Info, fmt.Sprintf("%d missing for %q", len(m.Missing), m.Next))
	} else {
		s.State = mark(Good, "all of it")
	}
	return s
}

// readinessPage is the list of what a site must pass before production, and what is
// missing for the next level of maturity.
func readinessPage(c *visit) (*Page, error) {
	if err := c.siteWide(); err != nil {
		return nil, err
	}
	all := c.checks()
	m := readiness.Maturity(all)
	missing := map[string]bool{}
	for _, r := range m.Missing {
		missing[r.ID] = true
	}
	p := &Page{Title: "Readiness", Here: "Readiness", Lead: "By what was tried and what the site answers, not by what its configuration says: assay doctor --stage production.",
		Stats: []Stat{c.maturityStat()}}
	for _, stage := range []readiness.Stage{readiness.PreProduction, readiness.Production} {
		t := &Table{Columns: columns("Check", "State", "Found", "Level#", "Needed next", "To mend it")}
		var of []readiness.Result
		for i := range all {
			r := &all[i]
			if r.Stage != stage {
				continue
			}
			of = append(of, *r)
			next := Cell{Text: "no"}
			if missing[r.ID] {
				next = mark(Warn, "yes")
			}
			mend := orNone("")
			if strings.HasPrefix(r.Mend, "assay ") {
				mend = command(r.Mend, 120)
			} else if r.Mend != "" {
				mend = clipped(r.Mend, 120)
			}
			t.Rows = append(t.Rows, []Cell{text(r.Title), statusCell(r.Status), clipped(r.Found, 160), count(r.Level), next, mend})
		}
		name := "Before production begins"
		if stage == readiness.Production {
			name = "In production, beside the above"
		}
		p.Sections = append(p.Sections, Section{ID: string(stage), Title: name, Note: "All together: " + string(readiness.Worst(of)) + ".", Table: t})
	}
	return p, nil
}
