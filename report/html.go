package report

import (
	"bytes"
	_ "embed"
	"html/template"
	"net/url"
	"strings"
	"time"
)

//go:embed report.html.tmpl
var page string

var tmpl = template.Must(template.New("report").Funcs(template.FuncMap{
	"day":   func(t time.Time) string { return t.UTC().Format("2 January 2006") },
	"title": func(p Period) string { return strings.ToUpper(string(p[:1])) + string(p[1:]) },
}).Parse(page))

// HTML is the report as one file that loads nothing. On paper each part begins
// where it fits as a whole.
func (r *Report) HTML() ([]byte, error) {
	var b bytes.Buffer
	err := tmpl.Execute(&b, r)
	return b.Bytes(), err
}

// Page is the address of the page behind a section; "" when the site's is not one
// for browsers.
func (r *Report) Page(s *Section) string {
	u, err := url.Parse(r.Site)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || s.Link == "" {
		return ""
	}
	return u.JoinPath("ui", s.Link).String()
}
