package ui

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"time"

	"assay/identity"
)

//go:embed templates
var templateFiles embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"hex":  func(c *Chart) string { return c.ID },
	"join": func(a, b string) string { return a + b },
}).ParseFS(templateFiles, "templates/*.html"))

// view is what the templates see.
type view struct {
	*Page
	Nav     []navGroup
	User    string
	Kind    string
	Ends    time.Time
	CSRF    string
	Search  string
	Self    string // this page's path
	JSONURL string
	CSVURL  string // "&table=" and the table's name follow
	Version string
	CSS, JS string
	Icon    string
	Now     time.Time
}

type navGroup struct {
	Name  string
	Items []navItem
}

type navItem struct {
	Name, URL, Key string
	Here           bool
}

// navigation is what the person may look into.
func (u *UI) navigation(s *session, here string) (out []navGroup) {
	if s == nil {
		return nil
	}
	may := func(act identity.Action) bool { return u.o.Access.Somewhere(s.who, act) == nil }
	add := func(name string, items ...navItem) {
		g := navGroup{Name: name}
		for _, i := range items {
			if i.URL != "" {
				i.Here = i.Name == here
				g.Items = append(g.Items, i)
			}
		}
		if len(g.Items) > 0 {
			out = append(out, g)
		}
	}
	when := func(act identity.Action, name, path, key string) navItem {
		if !may(act) {
			return navItem{}
		}
		return navItem{Name: name, URL: root + path, Key: key}
	}
	const evidence, verify, audit = identity.ActReadEvidence, identity.ActVerify, identity.ActReadAudit
	add("Watch",
		when(evidence, "Overview", "", "o"), when(evidence, "On call", "oncall", "n"), when(evidence, "Objectives", "slo", "s"), when(evidence, "Alerts", "alerts", "l"), when(evidence, "Readiness", "readiness", ""), when(evidence, "Reports", "reports/weekly", ""))
	add("Artifacts",
		when(verify, "Artifacts", "artifacts", "a"), when(verify, "Registry", "registry", "r"), when(evidence, "Components", "components", "c"),
		when(evidence, "Vulnerabilities", "vulnerabilities", "v"), when(evidence, "Workloads", "workloads", "w"), when(evidence, "Services", "services", ""))
	add("Rules",
		when(verify, "Policies", "policies", "p"), when(evidence, "Statements", "vex", ""), when(evidence, "Exceptions", "exceptions", "e"), when(evidence, "Actions", "actions", ""))
	add("Supply side",
		when(evidence, "Inventory", "inventory", "i"), when(evidence, "Builds", "builds", "b"), when(evidence, "Feeds", "feeds", "f"))
	add("Trust",
		navItem{Name: "Keys and roots", URL: root + "trust", Key: "k"}, when(identity.ActReadLog, "Log", "log", "t"), when(audit, "Audit trail", "audit", "u"))
	add("Help", navItem{Name: "Runbooks", URL: root + "runbooks", Key: "h"})
	return out
}

func (u *UI) newView(r *http.Request, s *session, p *Page) view {
	v := view{Page: p, Version: u.o.Version, CSS: u.assetURL("app.css"), JS: u.assetURL("app.js"), Icon: u.assetURL("icon.svg"), Now: u.o.Clock().UTC(), Self: r.URL.Path}
	if s != nil {
		v.User, v.Kind, v.Ends, v.CSRF = s.who.Name, string(s.who.Kind), s.expires, s.csrf()
		if v.User == "" {
			v.User = s.who.Subject
		}
		v.Nav = u.navigation(s, p.Here)
	}
	q := url.Values{}
	for k, values := range r.URL.Query() {
		if k != "format" && k != "table" {
			q[k] = values
		}
	}
	if r.URL.Path == root+"search" {
		v.Search = r.URL.Query().Get("q")
	}
	q.Set("format", "json")
	v.JSONURL = r.URL.Path + "?" + q.Encode()
	q.Set("format", "csv")
	v.CSVURL = r.URL.Path + "?" + q.Encode()
	return v
}

func (u *UI) assetURL(name string) string {
	return root + "assets/" + u.assets[name].tag + "/" + name
}

// render writes a page whole, or an error instead, never half of one.
func (u *UI) render(w http.ResponseWriter, r *http.Request, status int, name string, v any) {
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, name, v); err != nil {
		u.o.Logger.ErrorContext(r.Context(), "page not rendered", "error", err, "path", r.URL.Path)
		http.Error(w, "this page could not be made; the server's log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// How often it is looked whether something happened, and how long a browser
// listens before it asks anew: less than the server gives a request.
const (
	livePoll  = time.Second
	liveFor   = 50 * time.Second
	liveRetry = 2000 // milliseconds
)

// live tells a browser that something happened, and not what: the page asks for
// itself again, with its own rights (Server-sent events, HTML Living Standard 9.2).
func (u *UI) live(w http.ResponseWriter, r *http.Request) {
	s, err := u.session(r)
	if err != nil {
		http.Error(w, "log in first", http.StatusUnauthorized)
		return
	}
	c := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	fmt.Fprintf(w, "retry: %d\n\n", liveRetry)
	last := int64(-1)
	tick := time.NewTicker(livePoll)
	defer tick.Stop()
	end := time.NewTimer(liveFor)
	defer end.Stop()
	for u.o.Serving() && u.o.Check(s.who) == nil {
		now, err := u.o.Changes(r.Context())
		if err != nil {
			return
		}
		if last >= 0 && now != last {
			fmt.Fprintf(w, "event: change\ndata: %d\n\n", now)
		}
		last = now
		if c.Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-end.C:
			return
		case <-r.Context().Done():
			return
		}
	}
}
