package assess

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"strings"
	"time"
)

//go:embed assess.html.tmpl
var page string

var tmpl = template.Must(template.New("assess").Funcs(template.FuncMap{
	"stamp": func(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 UTC") },
	"join":  func(s []string) string { return strings.Join(s, ", ") },
	"share": func(n, of int) string {
		if of == 0 {
			return "none"
		}
		return fmt.Sprintf("%d of %d (%d %%)", n, of, n*100/of)
	},
	"most": func(n int, d []Digest) []Digest { return d[:min(n, len(d))] },
	"more": func(n int, d []Digest) int { return max(0, len(d)-n) },
	"short": func(s any) string {
		d := fmt.Sprint(s)
		if i := strings.IndexByte(d, ':'); i > 0 && len(d) > i+13 {
			return d[:i+13] + "…"
		}
		return d
	},
}).Parse(page))

// Row is a line of a summary's table.
type Row struct {
	Name string
	T    Tally
}

// Rows are the summary's tallies with their names.
func (s Summary) Rows() []Row {
	return []Row{{"Signed", s.Signed}, {"Provenance", s.Provenance}, {"Bill of materials", s.SBOM}, {"Malicious component", s.Malicious}, {"Known exploited flaw", s.Exploited}}
}

// HTML is the report as one file that loads nothing: no script, no picture, no font.
func (r *Report) HTML() ([]byte, error) {
	var b bytes.Buffer
	err := tmpl.Execute(&b, r)
	return b.Bytes(), err
}
