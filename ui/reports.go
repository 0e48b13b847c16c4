package ui

import (
	"context"
	"fmt"
	"strings"

	"assay/report"
)

// reportPage is a report about the time before now. What is exported is the page's
// tables; assay report writes the whole as one file.
func reportPage(c *visit) (*Page, error) {
	if err := c.siteWide(); err != nil {
		return nil, err
	}
	period := report.Period(c.r.PathValue("period"))
	r, err := report.Make(c.r.Context(), func(_ context.Context, path string, out any, query ...string) error {
		return c.get(out, path, query...)
	}, period, "", c.u.o.Clock(), c.u.o.Clock())
	if err != nil {
		return nil, err
	}
	name := strings.ToUpper(string(period[:1])) + string(period[1:])
	p := &Page{Title: name + " report", Here: "Reports", Lead: fmt.Sprintf("%s to %s. On paper, or as one file: assay report %s -o html.", r.From.Format("2 January 2006"), r.To.Format("2 January 2006"), period)}
	for _, other := range report.Periods() {
		if other != period {
			p.Crumbs = append(p.Crumbs, Link{string(other), local("reports/" + string(other))})
		}
	}
	for i := range r.Sections {
		s := &r.Sections[i]
		t := &Table{Columns: columns(s.Columns...), Empty: "Nothing."}
		for _, row := range s.Rows {
			cells := make([]Cell, len(row))
			for k, v := range row {
				cells[k] = clipped(v, 120)
			}
			t.Rows = append(t.Rows, cells)
		}
		note := s.Summary
		if s.More > 0 {
			note += fmt.Sprintf(" %d more are not shown.", s.More)
		}
		out := Section{ID: s.ID, Title: s.Title, Note: note, Problem: s.Problem, Table: t, More: Link{"The list behind it", local(s.Link)}}
		if s.Problem != "" && len(s.Rows) == 0 {
			out.Table = nil
		}
		p.Sections = append(p.Sections, out)
	}
	return p, nil
}
