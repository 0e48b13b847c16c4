package ui

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"assay/internal/fault"
)

type exported struct {
	Title    string            `json:"title"`
	State    any               `json:"state,omitempty"`
	Stats    []exportedStat    `json:"stats,omitempty"`
	Sections []exportedSection `json:"sections"`
}

type exportedStat struct {
	Name  string `json:"name"`
	Value any    `json:"value"` // null: unknown
	Of    string `json:"of,omitempty"`
	Goal  string `json:"goal,omitempty"`
	State any    `json:"state,omitempty"`
}

type exportedSection struct {
	ID      string           `json:"id"`
	Title   string           `json:"title"`
	Problem string           `json:"problem,omitempty"` // why it is not known
	Facts   map[string]any   `json:"facts,omitempty"`
	Line    []map[string]any `json:"line,omitempty"`
	Rows    []map[string]any `json:"rows,omitempty"`
	Next    string           `json:"next,omitempty"`
	Raw     json.RawMessage  `json:"raw,omitempty"`
}

func known(c Cell) any {
	if c.Mark == Unknown && c.Text == "unknown" {
		return nil
	}
	return c.export()
}

func exportPage(p *Page) exported {
	e := exported{Title: p.Title, Sections: []exportedSection{}}
	if !p.State.Zero() {
		e.State = known(p.State)
	}
	for _, s := range p.Stats {
		st := exportedStat{Name: s.Name, Value: known(s.Value), Of: s.Of, Goal: s.Goal}
		if !s.State.Zero() {
			st.State = known(s.State)
		}
		e.Stats = append(e.Stats, st)
	}
	for i := range p.Sections {
		e.Sections = append(e.Sections, exportSection(&p.Sections[i]))
	}
	return e
}

func exportSection(s *Section) exportedSection {
	out := exportedSection{ID: s.ID, Title: s.Title, Problem: s.Problem}
	if len(s.Facts) > 0 {
		out.Facts = map[string]any{}
		for _, f := range s.Facts {
			out.Facts[keyOf(f.Name)] = known(f.Value)
		}
	}
	for _, stop := range s.Line {
		lines := []any{}
		for _, l := range stop.Lines {
			lines = append(lines, known(l))
		}
		out.Line = append(out.Line, map[string]any{"name": stop.Name, "state": known(stop.State), "what": lines})
	}
	if t := s.table(); t != nil {
		out.Next = t.Next
		for _, row := range t.Rows {
			m := map[string]any{}
			for i, c := range row {
				m[t.Columns[i].Key] = known(c)
			}
			out.Rows = append(out.Rows, m)
		}
	}
	if json.Valid([]byte(s.Raw)) {
		out.Raw = json.RawMessage(s.Raw)
	}
	return out
}

// table is the section's, or its chart's.
func (s *Section) table() *Table {
	if s.Table == nil && s.Chart != nil {
		return s.Chart.Table()
	}
	return s.Table
}

func writeJSON(w http.ResponseWriter, p *Page) error {
	b, err := json.MarshalIndent(exportPage(p), "", "  ")
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n')) // the browser may be gone
	return nil
}

// writeCSV gives one table of a page: the named one, or the first.
func writeCSV(w http.ResponseWriter, p *Page, id string) error {
	var t *Table
	for i := range p.Sections {
		s := &p.Sections[i]
		if st := s.table(); st != nil && (id == "" || s.ID == id) {
			t, id = st, s.ID
			break
		}
	}
	if t == nil {
		return fault.Newf(fault.NotFound, "table %.40q: this page has no such table; ?format=json gives all that it shows", id)
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8; header=present")
	w.Header().Set("Content-Disposition", `attachment; filename="`+id+`.csv"`)
	c := csv.NewWriter(w)
	head := make([]string, len(t.Columns))
	for i, col := range t.Columns {
		head[i] = col.Key
	}
	_ = c.Write(head)
	for _, row := range t.Rows {
		line := make([]string, len(row))
		for i, cell := range row {
			if v := known(cell); v != nil {
				line[i] = csvSafe(v)
			}
		}
		_ = c.Write(line)
	}
	c.Flush()
	return nil
}

// csvSafe keeps a spreadsheet from taking text for a formula. Numbers are as they
// are.
func csvSafe(v any) string {
	s, isText := v.(string)
	if !isText {
		return fmt.Sprint(v)
	}
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) && s != "–" {
		return "'" + s
	}
	return s
}
