// Package ui is the HTML face of Assay, under /ui/: pages made at the server out
// of the same queries as the JSON API, with the same rights. Nothing is loaded
// from elsewhere, no script or style stands in a page, and what artifacts, logs
// and people bring in is text wherever it is shown.
package ui

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strings"

	"assay/config"
	"assay/event"
	"assay/identity"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/store"
	"assay/tlog"
)

// root is where the pages live.
const root = "/ui/"

//go:embed assets
var assetFiles embed.FS

// Options are what the UI stands on.
type Options struct {
	DB *store.DB
	// API answers a request for a page's person, with that person's rights.
	API func(w http.ResponseWriter, r *http.Request, p identity.Principal)
	// Verify says who holds a token of audience assay-api.
	Verify func(ctx context.Context, token string) (identity.Principal, error)
	// Check says whether what proved somebody still counts; it is asked at every
	// page. fault.Unauthenticated when it does not.
	Check  func(p identity.Principal) error
	Access *identity.Access
	Logins func() []Login // where people log in; read at every use
	// Checkpoint checks a head of the log by the log's pinned keys; nil: there are none.
	Checkpoint func(signed []byte) (tlog.Checkpoint, error)
	Policies   func() []Policy                          // in force
	Links      []config.Link                            // to other systems
	Watch      Watch                                    // nil: nothing is measured
	OwnRoot    func() string                            // name of the site's own trusted root
	Serving    func() bool                              // false: the server is stopping
	Changes    func(ctx context.Context) (int64, error) // rises when something happened
	PublicURL  string
	Host       string // of the registry, as it stands in references
	Version    string
	Clock      clock.Clock
	Logger     *slog.Logger
}

// UI serves the pages.
type UI struct {
	o       Options
	mux     *http.ServeMux
	secure  bool
	origins *http.CrossOriginProtection
	assets  map[string]asset // by name
}

type asset struct {
	bytes []byte
	media string
	tag   string // of its content; part of its address
}

// New makes the UI.
func New(o Options) (*UI, error) {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	u := &UI{o: o, mux: http.NewServeMux(), secure: strings.HasPrefix(o.PublicURL, "https:"), origins: http.NewCrossOriginProtection(), assets: map[string]asset{}}
	if err := u.readAssets(); err != nil {
		return nil, err
	}
	u.routes()
	return u, nil
}

func (u *UI) readAssets() error {
	return fs.WalkDir(assetFiles, "assets", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := assetFiles.ReadFile(name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		u.assets[path.Base(name)] = asset{b, mime.TypeByExtension(path.Ext(name)), hex.EncodeToString(sum[:6])}
		return nil
	})
}

// page makes one page. What it returns as an error is shown as one.
type page func(c *visit) (*Page, error)

// visit is one request for a page by somebody who is logged in.
type visit struct {
	asker
	r *http.Request
	u *UI
	s *session
}

func (c *visit) query(name string) string { return c.r.URL.Query().Get(name) }

// may says whether the person could do something somewhere, so that a page can
// leave out what would be refused anyway.
func (c *visit) may(act identity.Action) bool {
	return c.u.o.Access.Somewhere(c.who, act) == nil
}

func (u *UI) routes() {
	u.mux.HandleFunc("GET "+root+"assets/{tag}/{name}", u.asset)
	u.mux.HandleFunc("GET "+root+"login", u.loginPage)
	u.mux.HandleFunc("POST "+root+"login", u.loginToken)
	u.mux.HandleFunc("GET "+root+"login/start", u.loginStart)
	u.mux.HandleFunc("GET "+root+"callback", u.callback)
	u.mux.HandleFunc("POST "+root+"logout", u.logout)
	u.mux.HandleFunc("GET "+root+"live", u.live)
	for path, p := range u.pages() {
		u.mux.HandleFunc("GET "+root+path, u.show(p))
	}
	for path, p := range u.forms() {
		u.mux.HandleFunc("POST "+root+path, u.act(p))
	}
	u.mux.HandleFunc("GET "+root, u.show(func(c *visit) (*Page, error) {
		return nil, fault.Newf(fault.NotFound, "there is no such page: %.200q", c.r.URL.Path)
	}))
}

// ServeHTTP serves one request, under headers that hold for every answer.
func (u *UI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	h.Set("Cache-Control", "no-store")
	r.Body = http.MaxBytesReader(w, r.Body, 4<<20)
	u.mux.ServeHTTP(w, r)
}

func (u *UI) asset(w http.ResponseWriter, r *http.Request) {
	a, ok := u.assets[r.PathValue("name")]
	if !ok || a.tag != r.PathValue("tag") {
		http.Error(w, "no such file", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", a.media)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable") // another content has another address
	_, _ = w.Write(a.bytes)
}

// show serves a page to somebody who is logged in.
func (u *UI) show(p page) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s, err := u.session(r)
		if err != nil {
			u.fail(w, r, nil, err)
			return
		}
		u.answer(w, r, s, p)
	}
}

// act does what a form asks, and shows what came of it.
func (u *UI) act(p page) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s, err := u.session(r)
		if err == nil {
			err = u.honest(r, s.secret)
		}
		if err != nil {
			u.fail(w, r, s, err)
			return
		}
		u.answer(w, r, s, p)
	}
}

func (u *UI) answer(w http.ResponseWriter, r *http.Request, s *session, p page) {
	c := &visit{asker: asker{ctx: r.Context(), api: u.o.API, who: s.who, patient: r.URL.Query().Get("format") != ""}, r: r, u: u, s: s}
	shown, err := p(c)
	var to *elsewhere
	if errors.As(err, &to) {
		http.Redirect(w, r, to.url, http.StatusSeeOther)
		return
	}
	if err == nil {
		switch format := c.query("format"); format {
		case "":
			if c.counting {
				w.Header().Set("Refresh", "2")
			}
			u.render(w, r, http.StatusOK, "page", u.newView(r, s, shown))
			return
		case "json":
			err = writeJSON(w, shown)
		case "csv":
			err = writeCSV(w, shown, c.query("table"))
		default:
			err = fault.Newf(fault.Invalid, "format %.20q: want json or csv", format)
		}
	}
	if err != nil {
		u.fail(w, r, s, err)
	}
}

// elsewhere sends the browser to another page.
type elsewhere struct{ url string }

func (e *elsewhere) Error() string { return "see " + e.url }

// fail shows an error: who is not logged in may do so, and come back.
func (u *UI) fail(w http.ResponseWriter, r *http.Request, s *session, err error) {
	status := fault.HTTPStatus(err)
	var p *problem
	if errors.As(err, &p) {
		status = p.status
	}
	if status == http.StatusUnauthorized && s == nil {
		if r.Method == http.MethodGet && r.URL.Query().Get("format") == "" {
			http.Redirect(w, r, root+"login?next="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
			return
		}
	}
	title := map[int]string{
		http.StatusNotFound: "Not found", http.StatusForbidden: "You may not see this", http.StatusUnauthorized: "Log in first", http.StatusBadRequest: "That cannot be asked",
	}[status]
	detail := err.Error()
	if title == "" {
		title = fmt.Sprintf("This did not work (%d)", status)
	}
	if status >= http.StatusInternalServerError {
		trace := event.TraceFrom(r.Context())
		u.o.Logger.ErrorContext(r.Context(), "page failed", "error", err, "path", r.URL.Path, "trace_id", trace)
		if p == nil {
			detail = "Something went wrong inside; the server's log has it under trace " + trace + "."
		}
	}
	if f := r.URL.Query().Get("format"); f != "" {
		http.Error(w, detail, status)
		return
	}
	u.render(w, r, status, "page", u.newView(r, s, &Page{Title: title, Lead: detail}))
}
