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
	"net/url"
	"slices"
	"strings"

	"assay/action"
	"assay/alert"
	"assay/artifact"
	"assay/builder/buildlog"
	"assay/builder/runner/baseline"
	"assay/client"
	"assay/config"
	"assay/event"
	"assay/evidence"
	"assay/evidence/contract"
	doors "assay/gate"
	"assay/identity"
	"assay/identity/credential"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/inventory"
	"assay/inventory/supply"
	"assay/policy"
	"assay/policy/exception"
	"assay/registry/collect"
	"assay/registry/gate"
	"assay/registry/integrity"
	"assay/registry/retention"
	"assay/registry/ticket"
	"assay/sbom"
	"assay/slo"
	"assay/source/forge"
	"assay/store"
	"assay/tlog"
	"assay/trust"
	"assay/verify"
	"assay/vuln/risk"
	"assay/webhook"
)

// Options are what the API stands on.
type Options struct {
	DB          *store.DB
	Access      *identity.Access
	Verifier    *identity.Verifier
	Evidence    *evidence.Store
	SBOMs       *sbom.Store
	Ledger      *contract.Ledger
	Supply      *supply.Store
	Integrity   *integrity.Checker
	Runners     *baseline.Store
	Collector   *collect.Collector
	Holds       *retention.Holds
	Retention   *retention.Keeper
	Webhooks    *webhook.Sender
	BuildLogs   *buildlog.Store
	Links       []config.Link // to other systems
	Forges      *forge.Recorder
	Credentials *credential.Store
	Engine      *verify.Engine
	Gate        *gate.Gate
	Doors       *doors.Gate
	Log         func(ctx context.Context) (tlog.Checkpoint, *tlog.Tree, error) // a head of the log and its tree
	Events      *event.Log
	Root        func() *trust.Root     // the site's own trusted root
	TUFRoot     func() ([]byte, error) // the first root.json
	Resolve     func(ctx context.Context, p identity.Principal, repository, tag string) (Resolved, error)
	Desired     func() *config.Desired // what is in force
	// Lies says whether an artifact is a repository's; nil: nobody knows, and what is
	// known of artifacts is for those who may read all of them.
	Lies func(ctx context.Context, tx *store.Tx, repository string, subject artifact.Digest) (bool, error)
	// Placed enters into a scope whose an artifact is; nil: nothing is known of it.
	Placed      func(ctx context.Context, subject policy.Subject, scope policy.Scope) (policy.Scope, error)
	Check       func(*config.Desired) error     // before an apply: could it be put in force?
	Reload      func(ctx context.Context) error // after an apply
	Site        []identity.IssuerConfig         // issuers of the configuration file
	Host        func() string                   // of this registry, as it stands in references
	Status      func(ctx context.Context) client.Status
	Keys        func() []client.Key // the site's own keys, public halves only
	Rotate      func(ctx context.Context, role string, q client.RotateKeyRequest) (client.Key, error)
	Foreign     ForeignTrust // imported roots of trust
	Delegations Delegations  // what was handed to teams and vendors
	Clock       clock.Clock
	Logger      *slog.Logger
	// Revocations is the site's list.
	Revocations     Revocations
	Bundles         Bundles // between sites; nil: none here
	PolicyBundles   PolicyBundles
	Vulnerabilities Vulnerabilities
	Inventory       *inventory.Store
	Admission       AdmissionSite
	Threats         Threats
	Risk            *risk.Scorer
	Exceptions      *exception.Store
	Actions         *action.Store
	Tickets         *ticket.Book
	Indicators      *slo.Store
	Alerts          *alert.Store
	SiteServices    []inventory.Spec // of the configuration file
}

// API serves /api/v1.
type API struct {
	o       Options
	mux     *http.ServeMux
	routes  []Route
	replays chan struct{} // holds one while a replay runs
}

// New makes the API.
func New(o Options) *API {
	a := &API{o: o, mux: http.NewServeMux(), replays: make(chan struct{}, 1)}
	a.routes = slices.Concat(a.table(), a.accessRoutes(), a.auditRoutes(), a.trustRoutes(), a.bundleRoutes(), a.watchRoutes(), a.buildLogRoutes())
	methods := map[string][]string{}
	for _, r := range a.routes {
		a.mux.HandleFunc(r.Method+" "+r.Path, a.strictQuery(r))
		methods[r.Path] = append(methods[r.Path], r.Method)
	}
	for path, known := range methods {
		allow := strings.Join(known, ", ")
		a.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", allow)
			a.problem(w, r, http.StatusMethodNotAllowed, fault.Newf(fault.Invalid, "%.20q is no method of this resource; it has %s", r.Method, allow))
		})
	}
	a.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		a.fail(w, r, fault.Newf(fault.NotFound, "no such resource: %.20q %.200q; GET /api/v1/openapi.json lists them", r.Method, r.URL.Path))
	})
	return a
}

// Routes is the table of what is served, for the description.
func (a *API) Routes() []Route { return a.routes }

// Status says what the server is.
func (a *API) Status(ctx context.Context) client.Status { return a.o.Status(ctx) }

// ServeHTTP authenticates and serves one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	harden(w)
	p, err := a.Principal(r)
	if err != nil {
		if errors.Is(err, fault.Unauthenticated) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="assay", error="invalid_token"`)
		}
		a.fail(w, r, err)
		return
	}
	a.mux.ServeHTTP(w, r.WithContext(identity.WithPrincipal(r.Context(), p)))
}

// ServeAdmin serves one request of the admin socket, whose peer is the
// server's own user.
func (a *API) ServeAdmin(w http.ResponseWriter, r *http.Request, peer string) {
	harden(w)
	a.mux.ServeHTTP(w, r.WithContext(identity.WithPrincipal(r.Context(), identity.System(peer))))
}

// strictQuery refuses parameters that the route does not know, and one that
// stands twice: a misspelt filter would show all, a misspelt dry_run would
// change all.
func (a *API) strictQuery(route Route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			a.fail(w, r, fault.Newf(fault.Invalid, "query: %w", err))
			return
		}
		for name, values := range q {
			if !slices.ContainsFunc(route.Query, func(p Param) bool { return p.Name == name }) {
				a.fail(w, r, fault.Newf(fault.Invalid, "query parameter %.40q is unknown here; GET /api/v1/openapi.json lists them", name))
				return
			}
			if len(values) != 1 {
				a.fail(w, r, fault.Newf(fault.Invalid, "query parameter %.40q stands %d times, want once", name, len(values)))
				return
			}
		}
		route.handle(w, r)
	}
}

// flag reads a query parameter that is true or false; absent is false.
func flag(r *http.Request, name string) (bool, error) {
	switch text := r.URL.Query().Get(name); text {
	case "true":
		return true, nil
	case "", "false":
		return false, nil
	default:
		return false, fault.Newf(fault.Invalid, "%s %.20q: want true or false", name, text)
	}
}

// harden keeps a browser from taking an answer for a page of this site.
func harden(w http.ResponseWriter) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	h.Set("Cache-Control", "no-store")
}

// Principal reads the bearer token. A token that does not hold is an error,
// never the anonymous principal; cookies are not looked at.
func (a *API) Principal(r *http.Request) (identity.Principal, error) {
	values := r.Header.Values("Authorization")
	if keys := r.Header.Values("X-Api-Key"); len(values) == 0 && len(keys) == 1 && strings.HasPrefix(r.URL.Path, "/api/v1/bom") {
		values = []string{"Bearer " + keys[0]} // as clients of Dependency-Track send it
	}
	switch {
	case len(values) == 0:
		return identity.Anonymous(), nil
	case len(values) > 1:
		return identity.Anonymous(), fault.Newf(fault.Unauthenticated, "%d Authorization headers: want one", len(values))
	}
	scheme, raw, _ := strings.Cut(values[0], " ")
	if strings.EqualFold(scheme, "Basic") && strings.HasPrefix(r.URL.Path, flaggerPath) {
		token, err := basicToken(r)
		if err != nil {
			return identity.Anonymous(), err
		}
		scheme, raw = "Bearer", token
	}
	if !strings.EqualFold(scheme, "Bearer") {
		return identity.Anonymous(), fault.Newf(fault.Unauthenticated, "Authorization: want Bearer and a token of audience %s", identity.AudienceAPI)
	}
	raw = strings.TrimSpace(raw)
	if a.o.Credentials != nil && credential.IsSecret(raw) {
		return a.o.Credentials.Verify(r.Context(), raw, identity.AudienceAPI)
	}
	p, _, err := a.o.Verifier.Verify(r.Context(), raw, identity.AudienceAPI)
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

// fail answers with err as a problem document.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	a.problem(w, r, fault.HTTPStatus(err), err)
}

func (a *API) problem(w http.ResponseWriter, r *http.Request, status int, err error) {
	writeProblem(w, r, a.o.Logger, status, err)
}

// WriteError answers with a problem document, RFC 9457. What is wrong with the
// request is told in full. What went wrong inside stays inside: the answer names
// the kind and the trace, the log has the rest. The owner of the admin socket
// is told all.
func WriteError(w http.ResponseWriter, r *http.Request, log *slog.Logger, err error) {
	writeProblem(w, r, log, fault.HTTPStatus(err), err)
}

func writeProblem(w http.ResponseWriter, r *http.Request, log *slog.Logger, status int, err error) {
	kind := fault.KindOf(err)
	p := client.Problem{
		Type: "about:blank", Title: kind.Name(), Status: status, Detail: err.Error(),
		Trace: event.TraceFrom(r.Context()), Code: trust.Code(err),
	}
	if status >= http.StatusInternalServerError {
		if log != nil {
			log.ErrorContext(r.Context(), "request failed", "error", err, "kind", kind.Name(), "trace_id", p.Trace, "path", r.URL.Path)
		}
		if identity.FromContext(r.Context()).Kind != identity.KindSystem {
			p.Detail = insideWords(kind) + "; the server's log has it under trace " + p.Trace
		}
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

// insideWords says of a failure inside what a stranger may know: paths,
// addresses and texts of the database are not among it.
func insideWords(k *fault.Kind) string {
	switch k {
	case fault.Unavailable:
		return "the server cannot do this now; try again later"
	case fault.Undecided:
		return "no decision could be made; try again later"
	case fault.NoSpace:
		return "the server's storage is full"
	case fault.Tampered:
		return "what the server has stored is not what it was"
	}
	return "internal error"
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

// wantMedia refuses a body of a type that the route does not take, and so also
// what a browser's form could send.
func wantMedia(r *http.Request, types ...string) error {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || !slices.Contains(types, media) {
		return fault.Newf(fault.Invalid, "Content-Type %.80q: want %s", r.Header.Get("Content-Type"), strings.Join(types, " or "))
	}
	return nil
}
