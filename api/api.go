// Package api is the JSON face of Assay, under /api/v1. Every route stands in
// one table with what it takes, what it gives and what it may be called for;
// the OpenAPI description is made of that table, so that the two cannot part.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"

	"assay/client"
	"assay/config"
	"assay/event"
	"assay/evidence"
	"assay/identity"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/store"
	"assay/tlog"
	"assay/trust"
	"assay/verify"
)

// Options are what the API stands on.
type Options struct {
	DB       *store.DB
	Access   *identity.Access
	Verifier *identity.Verifier
	Evidence *evidence.Store
	Engine   *verify.Engine
	Log      *tlog.Log
	Events   *event.Log
	Root     func() *trust.Root     // the site's own trusted root
	TUFRoot  func() ([]byte, error) // the first root.json
	Resolve  func(ctx context.Context, p identity.Principal, repository, tag string) (Resolved, error)
	Desired  func() *config.Desired          // what is in force
	Reload   func(ctx context.Context) error // after an apply
	Site     []identity.IssuerConfig         // issuers of the configuration file
	Status   func(ctx context.Context) client.Status
	Clock    clock.Clock
	Logger   *slog.Logger
}

// API serves /api/v1.
type API struct {
	o      Options
	mux    *http.ServeMux
	routes []Route
}

// New makes the API.
func New(o Options) *API {
	a := &API{o: o, mux: http.NewServeMux()}
	a.routes = a.table()
	for _, r := range a.routes {
		a.mux.HandleFunc(r.Method+" "+r.Path, r.handle)
	}
	a.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		WriteError(w, r, fault.Newf(fault.NotFound, "no such resource: %s %s; GET /api/v1/openapi.json lists them", r.Method, r.URL.Path))
	})
	return a
}

// Status says what the server is.
func (a *API) Status(ctx context.Context) client.Status { return a.o.Status(ctx) }

// ServeHTTP authenticates and serves one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	h.Set("Cache-Control", "no-store")
	p, err := a.principal(r)
	if err != nil {
		h.Set("WWW-Authenticate", `Bearer realm="assay", error="invalid_token"`)
		WriteError(w, r, err)
		return
	}
	a.mux.ServeHTTP(w, r.WithContext(identity.WithPrincipal(r.Context(), p)))
}

// ServeAdmin serves one request of the admin socket, whose peer is the
// server's own user.
func (a *API) ServeAdmin(w http.ResponseWriter, r *http.Request, peer string) {
	a.mux.ServeHTTP(w, r.WithContext(identity.WithPrincipal(r.Context(), identity.System(peer))))
}

// principal reads the bearer token. A token that does not hold is an error,
// never the anonymous principal; cookies are not looked at.
func (a *API) principal(r *http.Request) (identity.Principal, error) {
	head := r.Header.Get("Authorization")
	if head == "" {
		return identity.Anonymous(), nil
	}
	scheme, raw, _ := strings.Cut(head, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return identity.Anonymous(), fault.Newf(fault.Unauthenticated, "Authorization: want Bearer and a token of audience %s", identity.AudienceAPI)
	}
	p, _, err := a.o.Verifier.Verify(r.Context(), strings.TrimSpace(raw), identity.AudienceAPI)
	return p, err
}

// allow is the one question of every handler.
func (a *API) allow(r *http.Request, act identity.Action, kind, name string) error {
	return a.o.Access.Allow(r.Context(), identity.FromContext(r.Context()), act, identity.Resource{Kind: kind, Name: name})
}

// WriteJSON answers with v.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "the answer cannot be written as JSON", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the client may be gone
}

// WriteError answers with a problem document, RFC 9457. What went wrong inside
// stays inside: of internal failures only the trace is told.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	kind := fault.KindOf(err)
	p := client.Problem{
		Type: "about:blank", Title: kind.Name(), Status: fault.HTTPStatus(err), Detail: err.Error(),
		Trace: event.TraceFrom(r.Context()), Code: trust.Code(err),
	}
	if kind == fault.Internal {
		slog.Default().ErrorContext(r.Context(), "internal error", "error", err, "trace_id", p.Trace, "path", r.URL.Path)
		p.Detail = "internal error; the server's log has it under trace " + p.Trace
	}
	b, merr := json.Marshal(p)
	if merr != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	if p.Status == http.StatusUnauthorized && w.Header().Get("WWW-Authenticate") == "" {
		w.Header().Set("WWW-Authenticate", `Bearer realm="assay"`)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(b, '\n'))
}

// body reads a request's body up to max bytes.
func body(w http.ResponseWriter, r *http.Request, max int64) ([]byte, error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, max))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, fault.Newf(fault.TooLarge, "the request is larger than %d bytes", max)
	}
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "read the request: %w", err)
	}
	if len(b) == 0 {
		return nil, fault.Newf(fault.Invalid, "the request is empty")
	}
	return b, nil
}

// wantJSON refuses what a browser's form could send.
func wantJSON(r *http.Request) error {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/json" {
		return fault.Newf(fault.Invalid, "Content-Type %.80q: want application/json", r.Header.Get("Content-Type"))
	}
	return nil
}
