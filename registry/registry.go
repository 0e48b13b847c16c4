// Package registry serves the OCI Distribution 1.1 protocol over a [blob.Store]
// and the database: /v2/ and, for the Docker token flow, /token.
//
// Every request passes the same doors in the same order: who asks
// ([Authenticator], own scoped tokens), may they ([identity.Access.Allow]), can
// they see it ([Visibility]), and, where a tag moves, may it move ([Gate],
// inside the transaction that moves it). What happened is appended as an event
// in that transaction. An acknowledgement follows the fsync of the bytes and
// the commit of the rows.
//
// Bytes live in the blob store, manifests included; rows say which repository
// holds what, so a blob that is stored is not for that reason visible.
package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/artifact"
	"assay/blob"
	"assay/event"
	"assay/identity"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/internal/resident"
	"assay/store"
	"assay/telemetry"
)

// Authenticator proves who asks from the request's Authorization header, which
// is there when it is called: Basic, where the password is a token of audience
// assay-registry, or Bearer with such a token. Errors are
// fault.Unauthenticated. The registry's own scoped tokens never reach it.
type Authenticator interface {
	Authenticate(r *http.Request) (identity.Principal, error)
}

// Ingester takes in evidence that was pushed: a manifest with a subject, or one
// tagged sha256-<hex>, .sig, .att or .sbom. It is called after the push has
// committed, before it is answered, and again later until it succeeds, also
// after a restart: it must be idempotent. Its errors do not fail the push.
type Ingester interface {
	Referrer(ctx context.Context, subject artifact.Digest, repository string, manifest artifact.Digest, artifactType string) error
}

// Limits bound what a request may cost. A zero field means its default.
type Limits struct {
	MaxManifest   int64         // bytes of a manifest; 4 MiB
	MaxBlob       int64         // bytes of a blob; 64 GiB
	MaxReferences int           // descriptors in one manifest; 8,192
	PageSize      int           // entries in one answer of a list; 1,000
	Uploads       int           // request bodies of blobs written at once, half of them of one principal; 64
	UploadWait    time.Duration // how long a body waits for its turn before 429; 10 s
	Sessions      int           // uploads of one principal that were begun within the hour and not ended; 1,024
	UploadYoung   time.Duration // how long a blob without manifest is its uploader's to see; 24 h
	IdleTimeout   time.Duration // longest pause within a body, either way; 60 s
	BodyRate      int           // bytes a second that a body must bring on average, BodyGrace aside; 1,024
	BodyGrace     time.Duration // how long a body may keep the server waiting before that; 30 s
	TokenTTL      time.Duration // life of a scoped token, at most 5 min; 5 min
	ExchangeTTL   time.Duration // life of an exchanged token, at most 1 h; 15 min
	IngestTimeout time.Duration // how long a push waits for the Ingester; 10 s
}

const (
	maxTokenTTL    = 5 * time.Minute
	maxExchangeTTL = time.Hour
	maxRefreshTTL  = 366 * 24 * time.Hour // as long as the longest-lived robot's token
)

func (l Limits) withDefaults() Limits {
	defInt64(&l.MaxManifest, 4<<20)
	defInt64(&l.MaxBlob, 64<<30)
	defInt(&l.MaxReferences, 8_192)
	defInt(&l.PageSize, 1_000)
	defInt(&l.Uploads, 64)
	defInt(&l.Sessions, 1024)
	defDuration(&l.UploadWait, 10*time.Second)
	defDuration(&l.UploadYoung, 24*time.Hour)
	defDuration(&l.IdleTimeout, time.Minute)
	defInt(&l.BodyRate, 1<<10)
	defDuration(&l.BodyGrace, 30*time.Second)
	defDuration(&l.TokenTTL, maxTokenTTL)
	l.TokenTTL = min(l.TokenTTL, maxTokenTTL)
	defDuration(&l.ExchangeTTL, 15*time.Minute)
	l.ExchangeTTL = min(l.ExchangeTTL, maxExchangeTTL)
	defDuration(&l.IngestTimeout, 10*time.Second)
	return l
}

func defInt(v *int, d int) {
	if *v <= 0 {
		*v = d
	}
}

func defInt64(v *int64, d int64) {
	if *v <= 0 {
		*v = d
	}
}

func defDuration(v *time.Duration, d time.Duration) {
	if *v <= 0 {
		*v = d
	}
}

// Options of a [Registry]. DB, Blobs and Access are required.
type Options struct {
	DB     *store.DB
	Blobs  blob.Store
	Access *identity.Access

	// Auth proves external credentials; nil: only anonymous requests and own
	// scoped tokens, which then are anonymous too.
	Auth Authenticator
	// Credentials is asked at every request that shows a token of this registry
	// whether what bought it still holds; nil: nothing is ever revoked.
	Credentials Credentials
	// PublicURL is where clients reach this server, for example
	// https://registry.example. Tokens are asked for there and nowhere else,
	// whatever a request's Host header says. Empty: no token service is
	// announced and clients are asked for Basic.
	PublicURL string
	// TokenKey is the HMAC key of scoped tokens and of upload URLs, at least 32
	// bytes; all replicas share it. nil: a random one for this process, so that
	// tokens and uploads under way do not outlive it.
	TokenKey []byte

	// StrictAudit makes each manifest pull wait until its record is committed.
	// Otherwise records follow within 50 ms, and pulls are refused only while
	// records cannot be written.
	StrictAudit bool
	// Journal takes the records of pulls and refusals; nil: the database does.
	Journal *event.Journal
	// Redirect is how long the addresses live at which clients fetch large blobs
	// from the object store itself, where there is one; at most 1h. 0, or without
	// StrictAudit: everything passes through here.
	Redirect time.Duration

	Gate       Gate       // nil: Open
	Keeper     Keeper     // nil: nothing is on hold
	Visibility Visibility // nil: every manifest of the repository
	Evidence   Ingester   // nil: referrers are stored and not ingested
	Upstream   Upstream   // nil: no repository is a gateway's

	Clock      clock.Clock           // nil: clock.System
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: no metrics
	Limits     Limits
}

// Registry is the HTTP handler. It answers /v2/ and /token.
type Registry struct {
	db       *store.DB
	blobs    blob.Store
	access   *identity.Access
	auth     Authenticator
	gate     Gate
	keeper   Keeper
	vis      Visibility
	ingest   Ingester
	upstream Upstream
	now      clock.Clock
	log      *slog.Logger
	limits   Limits
	tokens   *tokenService
	ids      secrets // HMAC keys of upload ids
	uploads  *uploadSlots
	begun    *sessions
	rec      *recorder
	refused  *refusedLogins
	issued   *issuedTokens
	pulls    *pullWindow
	met      *metrics
	bufs     *resident.Pool

	serving  atomic.Int64 // requests under way
	holdings *holdings
	tags     *tagMemory

	strictAudit bool
	redirect    time.Duration // 0: none
	credentials Credentials
}

// New makes a registry. The database must have been migrated with [Migrations]
// and event.Migrations. Errors are of kind fault.Invalid and name the option.
func New(o Options) (*Registry, error) {
	switch {
	case o.DB == nil:
		return nil, fault.Newf(fault.Invalid, "registry: Options.DB is required")
	case o.Blobs == nil:
		return nil, fault.Newf(fault.Invalid, "registry: Options.Blobs is required")
	case o.Access == nil:
		return nil, fault.Newf(fault.Invalid, "registry: Options.Access is required")
	}
	if o.TokenKey == nil {
		o.TokenKey = make([]byte, 32)
		rand.Read(o.TokenKey) // never errs (crypto/rand, Go 1.24)
	}
	if len(o.TokenKey) < 32 {
		return nil, fault.Newf(fault.Invalid, "registry: Options.TokenKey has %d bytes, want at least 32", len(o.TokenKey))
	}
	if o.Gate == nil {
		o.Gate = Open{}
	}
	if o.Keeper == nil {
		o.Keeper = free{}
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	limits := o.Limits.withDefaults()
	met, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	tokens, err := newTokenService(o.PublicURL, o.TokenKey, limits.TokenTTL, o.Clock)
	if err != nil {
		return nil, err
	}
	rec := newRecorder(o.DB, o.Logger, met)
	rec.journal = o.Journal
	reg := &Registry{
		db: o.DB, blobs: o.Blobs, access: o.Access, auth: o.Auth,
		gate: o.Gate, keeper: o.Keeper, vis: o.Visibility, ingest: o.Evidence, upstream: o.Upstream,
		now: o.Clock, log: o.Logger, limits: limits,
		tokens:   tokens,
		uploads:  newUploadSlots(limits.Uploads),
		begun:    newSessions(limits.Sessions),
		rec:      rec,
		refused:  newRefusedLogins(rec, o.Logger),
		issued:   newIssuedTokens(rec),
		pulls:    newPullWindow(),
		holdings: newHoldings(),
		tags:     newTagMemory(o.DB),
		bufs:     newSendBuffers(),
		met:      met,

		strictAudit: o.StrictAudit,
		redirect:    o.Redirect,
		credentials: o.Credentials,
	}
	rec.busy = func() int { return int(reg.serving.Load()) }
	return reg, reg.SetTokenKeys(o.TokenKey)
}

// Close tells the refused logins that were only counted so far, and waits until
// every event that was queued is committed, or ctx ends.
func (r *Registry) Close(ctx context.Context) error {
	return errors.Join(r.refused.flush(ctx), r.issued.flush(ctx), r.rec.drain(ctx))
}

// ServeHTTP answers /v2/… and /token. Cookies are never read, and no answer
// depends on the Host header.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.serving.Add(1)
	defer r.serving.Add(-1)
	start := time.Now()
	rw, rt := newResponse(w, r.limits.IdleTimeout, r.bufs), route{op: opUnknown}
	defer func() { r.met.observe(req.Context(), rt.op, rw, time.Since(start)) }()
	h := rw.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	h.Set("Docker-Distribution-API-Version", "registry/2.0")

	var err error
	rt, err = parseRoute(req.Method, req.URL.Path)
	ctx, span := telemetry.StartOf(req.Context(), "registry.", string(rt.op))
	if span.On() {
		req = req.WithContext(ctx)
		span.Text(telemetry.Repository, rt.name)
	}
	if err == nil {
		err = r.serve(rw, req, rt, start)
	}
	if err != nil {
		r.fail(rw, req, rt, err)
	}
	if span.On() {
		span.Text(telemetry.ManifestDigest, h.Get("Docker-Content-Digest"))
		span.Int(telemetry.HTTPStatus, int64(rw.status))
		span.End(err)
	}
}

// serve runs one request. What it returns has not been answered yet.
func (r *Registry) serve(w *response, req *http.Request, rt route, start time.Time) error {
	if rt.op == opToken {
		return r.serveToken(w, req)
	}
	c, err := r.authenticate(req)
	if err != nil {
		return err
	}
	q := &request{Request: req, route: rt, caller: c, w: w, start: start}
	if rt.op.action() == "push" {
		if host, ok := r.upstreamOf(rt.name); ok {
			return r.refuseGatewayPush(q, host)
		}
	}
	switch rt.op {
	case opPing:
		return r.ping(q)
	case opManifestGet, opManifestHead:
		return r.getManifest(q)
	case opManifestPut:
		return r.putManifest(q)
	case opManifestDelete:
		return r.deleteManifest(q)
	case opBlobGet, opBlobHead:
		return r.getBlob(q)
	case opBlobDelete:
		return r.deleteBlob(q)
	case opUploadStart:
		return r.startUpload(q)
	case opUploadPatch:
		return r.patchUpload(q)
	case opUploadPut:
		return r.putUpload(q)
	case opUploadStatus:
		return r.uploadStatus(q)
	case opUploadCancel:
		return r.cancelUpload(q)
	case opTags:
		return r.listTags(q)
	case opReferrers:
		return r.listReferrers(q)
	case opCatalog:
		return r.listCatalog(q)
	}
	return failf(codeUnsupported, fault.NotFound, "%s is not served here", req.URL.Path)
}

// request is one HTTP request on its way through the doors.
type request struct {
	*http.Request
	route  route
	caller caller
	w      *response
	start  time.Time
	within *within // a deletion by this process itself; nil: a client's request
}

// ping answers GET /v2/. Without credentials it answers 401 even where
// anonymous pulls are allowed: clients learn here where to get a token.
func (r *Registry) ping(q *request) error {
	if q.caller.bare {
		return failf(codeUnauthorized, fault.Unauthenticated, "log in first: docker login, crane auth login, or a bearer token of audience %s", identity.AudienceRegistry)
	}
	q.w.Header().Set("Content-Type", "application/json")
	_, err := q.w.Write([]byte("{}"))
	return err
}

// hostOf is the host of an absolute URL, lower case.
func hostOf(u *url.URL) string { return strings.ToLower(u.Host) }
