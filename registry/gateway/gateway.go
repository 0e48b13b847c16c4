// Package gateway puts the registry's gate in front of other registries: what is
// pulled from a repository with an upstream is fetched from there, kept, and let
// through as if system:gateway had pushed it.
//
// A tag is looked up once, and from then on it is a digest. Manifests and the
// evidence about them are brought at once, so that the gate can judge; blobs
// when somebody asks for them, each once, however many ask. What an upstream
// serves under a digest is hashed before it is kept, and what is kept is served
// also while the upstream is down.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"assay/artifact"
	"assay/config"
	"assay/event"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/internal/oci"
	"assay/registry"
	"assay/store"
)

// Bounds on what asking an upstream may cost.
const (
	bringTimeout  = 2 * time.Minute  // for a manifest with its evidence
	askTimeout    = 10 * time.Second // how long a pull of what is here waits for the upstream
	downFor       = 15 * time.Second // how long an upstream that did not answer is left alone
	absentFor     = 30 * time.Second // how long what an upstream has not is not asked for again
	retryAfter    = 30 * time.Second // when a check that failed is made again
	askedWithin   = 7 * 24 * time.Hour
	maxRemembered = 4096
	maxBrings     = 32 // at once
	maxBlobs      = 16 // at once
)

// Migrations are the gateway's tables. gateway_check: what upstreams were asked
// for; due_at is when to ask again, asked_at when a client last made it be
// asked. gateway_tags: the tags that an upstream's repository listed, a line
// each; cut says that there were more.
var Migrations = store.Migrations{Name: "gateway", Steps: []string{`
CREATE TABLE gateway_check (
	repository TEXT   NOT NULL,
	reference  TEXT   NOT NULL,
	digest     TEXT   NOT NULL,
	checked_at BIGINT NOT NULL,
	due_at     BIGINT NOT NULL,
	asked_at   BIGINT NOT NULL,
	PRIMARY KEY (repository, reference)
);
CREATE INDEX gateway_check_due ON gateway_check (due_at);
`, `
CREATE TABLE gateway_tags (
	repository TEXT   NOT NULL PRIMARY KEY,
	tags       TEXT   NOT NULL,
	cut        BIGINT NOT NULL,
	checked_at BIGINT NOT NULL,
	due_at     BIGINT NOT NULL
);
`}}

// Options of a [Gateway]. DB is required.
type Options struct {
	DB     *store.DB
	Secret func(place string) ([]byte, error) // nil: config.Secret
	Clock  clock.Clock                        // nil: clock.System
	Logger *slog.Logger                       // nil: discard

	Registerer prometheus.Registerer // nil: no metrics
}

// Gateway is a registry.Upstream. It is safe for concurrent use. Until
// [Gateway.Set] no repository has an upstream.
type Gateway struct {
	o      Options
	met    *metrics
	state  atomic.Pointer[state]
	flight singleflight.Group
	brings chan struct{}
	blobs  chan struct{}

	mu     sync.Mutex
	down   map[string]time.Time // host: until when it is left alone
	absent map[string]time.Time // repository and reference: until when

	noticed chan place
	queued  map[place]bool // what is in noticed
}

// state is what documents say, and the clients made by it.
type state struct {
	repositories *config.Repositories
	met          *metrics // nil: of nobody

	mu      sync.Mutex
	clients map[config.UpstreamSpec]*oci.Client
}

// New makes a gateway.
func New(o Options) (*Gateway, error) {
	if o.Secret == nil {
		o.Secret = config.Secret
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	met, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	g := &Gateway{
		o: o, met: met, brings: make(chan struct{}, maxBrings), blobs: make(chan struct{}, maxBlobs),
		down: map[string]time.Time{}, absent: map[string]time.Time{},
		noticed: make(chan place, maxNoticed), queued: map[place]bool{},
	}
	g.state.Store(&state{met: met})
	return g, nil
}

// Set puts other documents in force. Credentials and certificates are read again
// when they are next used.
func (g *Gateway) Set(r *config.Repositories) {
	g.state.Store(&state{repositories: r, met: g.met})
}

// Of implements registry.Upstream.
func (g *Gateway) Of(repository string) (string, bool) {
	s := g.state.Load().repositories.For(repository)
	if _, ok := s.UpstreamName(repository); !ok {
		return "", false
	}
	return s.Upstream.Host(), true
}

// source is a repository at its upstream.
type source struct {
	repository string             // here
	at         artifact.Reference // there: host and repository
	spec       config.UpstreamSpec
	client     *oci.Client
}

func (g *Gateway) source(repository string) (*source, error) {
	st := g.state.Load()
	s := st.repositories.For(repository)
	name, ok := s.UpstreamName(repository)
	if !ok {
		return nil, fault.Newf(fault.NotFound, "repository %s has no upstream", repository)
	}
	c, err := st.client(s.Upstream, g.o.Secret)
	if err != nil {
		return nil, err
	}
	return &source{repository, artifact.Reference{Host: s.Upstream.Host(), Repository: name}, s.Upstream, c}, nil
}

func (st *state) client(u config.UpstreamSpec, secret func(string) ([]byte, error)) (*oci.Client, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if c := st.clients[u]; c != nil {
		return c, nil
	}
	b, err := secret(u.Credentials)
	if err != nil {
		return nil, err
	}
	keys, err := oci.HostKeychain(u.Host(), b)
	if err != nil {
		return nil, err
	}
	t, err := oci.NewTransport(oci.Guard{CABundle: u.CABundle, AllowPrivate: u.AllowPrivate})
	if err != nil {
		return nil, err
	}
	if st.met != nil {
		t = metered{t, st.met}
	}
	o := oci.Options{Keychain: keys, Transport: t, UserAgent: "assay-gateway"}
	if u.Plain() {
		o.Insecure = []string{u.Host()}
	}
	if st.clients == nil {
		st.clients = map[config.UpstreamSpec]*oci.Client{}
	}
	st.clients[u] = oci.New(o)
	return st.clients[u], nil
}

// Manifest implements registry.Upstream.
func (g *Gateway) Manifest(ctx context.Context, in registry.Intake, repository, tag string, d artifact.Digest) (string, error) {
	reference, have := tag, d
	if tag == "" {
		reference = string(d)
		here, err := in.Has(ctx, repository, d)
		if err != nil {
			return "", err
		}
		if !here {
			have = ""
		}
	} else {
		var err error
		if have, _, err = in.Points(ctx, repository, tag); err != nil {
			return "", err
		}
	}
	now := g.o.Clock()
	if have == "" {
		if g.remembers(g.absent, repository+" "+reference, now) {
			g.met.lookup(outAbsent)
			return "", fault.Newf(fault.NotFound, "%s is not at the upstream of %s", reference, repository)
		}
		err := g.ask(ctx, in, repository, tag, d, have, bringTimeout, true)
		g.met.first(err)
		return "", err
	}
	c, known, err := g.check(ctx, repository, reference)
	if err != nil || known && now.Before(c.due) || !known && tag == "" {
		if err == nil {
			g.met.lookup(outKept)
		}
		return "", err
	}
	host, _ := g.Of(repository)
	err = errDown
	if !g.remembers(g.down, host, now) {
		err = g.ask(ctx, in, repository, tag, d, have, askTimeout, true)
	}
	switch {
	case err == nil:
		g.met.lookup(outRevalidated)
		return "", nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	}
	g.met.lookup(outStale)
	switch {
	case errors.Is(err, fault.NotFound):
		return fmt.Sprintf("the upstream %s no longer has %s; what is kept here is served", host, reference), nil
	case errors.Is(err, errKept):
		return fmt.Sprintf("%s: the upstream %s names other content now, which the gate refuses; what was let in before is served", reference, host), nil
	}
	since := "an earlier time"
	if known {
		since = c.checked.UTC().Format(time.RFC3339)
	}
	g.o.Logger.WarnContext(ctx, "the upstream could not be asked; what is kept is served", "repository", repository, "reference", reference, "upstream", host, "error", err)
	return fmt.Sprintf("the upstream %s could not be asked about %s; what is kept here is of %s", host, reference, since), nil
}

var (
	errDown = fault.Newf(fault.Unavailable, "the upstream did not answer a moment ago")
	errKept = errors.New("the gate refuses what the upstream has now")
)

// Lookup asks the upstream of a repository where a tag points, due or not, as
// when somebody said that it has moved.
func (g *Gateway) Lookup(ctx context.Context, in registry.Intake, repository, tag string) error {
	if !registry.ValidName(repository) || !registry.ValidTag(tag) {
		return fault.Newf(fault.Invalid, "%.200q:%.200q: want a repository and a tag", repository, tag)
	}
	have, _, err := in.Points(ctx, repository, tag)
	if err != nil {
		return err
	}
	g.forget(repository + " " + tag)
	if have == "" { // a new tag
		g.forget(repository + " ")
		if err := g.dueTags(ctx, repository); err != nil {
			return err
		}
	}
	return g.ask(ctx, in, repository, tag, "", have, bringTimeout, false)
}

// ask has one bring for all who want the same, and waits for it.
func (g *Gateway) ask(ctx context.Context, in registry.Intake, repository, tag string, d, have artifact.Digest, wait time.Duration, client bool) error {
	src, err := g.source(repository)
	if err != nil {
		return err
	}
	done := g.flight.DoChan("manifest "+repository+" "+tag+" "+string(d), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bringTimeout)
		defer cancel()
		select {
		case g.brings <- struct{}{}:
			defer func() { <-g.brings }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		b := &bringing{g: g, source: src, in: in}
		err := b.bring(ctx, tag, d, have)
		g.settle(ctx, b, tag, d, err, client)
		return nil, err
	})
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fault.Wrap(fault.Unavailable, ctx.Err())
		}
		return ctx.Err()
	}
}

// settle remembers what came of a bring.
func (g *Gateway) settle(ctx context.Context, b *bringing, tag string, d artifact.Digest, err error, client bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	reference := tag
	if tag == "" {
		reference = string(d)
	}
	now, pause := g.o.Clock(), b.spec.Every()
	switch kind := fault.KindOf(err); {
	case err == nil, errors.Is(err, errKept):
		_, held, perr := b.in.Points(ctx, b.repository, reference)
		if b.incomplete || held || perr != nil { // what waits for evidence is looked at soon
			pause = min(pause, retryAfter)
		}
	case kind == fault.NotFound && client: // a notice may come before what it tells of
		g.remember(g.absent, b.repository+" "+reference, now.Add(absentFor))
	case kind == fault.NotFound:
	case kind == fault.Tampered:
		g.mismatch(ctx, b, reference, d, err)
		pause = min(pause, retryAfter)
	default:
		pause = min(pause, retryAfter)
		if kind == fault.Unavailable && !b.reached {
			g.remember(g.down, b.at.Host, now.Add(downFor))
		}
	}
	failed := err != nil && !errors.Is(err, errKept)
	if err := g.note(ctx, b.repository, reference, b.digest, pause, failed, client); err != nil {
		g.o.Logger.ErrorContext(ctx, "that the upstream was asked could not be noted", "repository", b.repository, "reference", reference, "error", err)
	}
}

type mismatchBody struct {
	Repository string `json:"repository"`
	Upstream   string `json:"upstream"`
	Reference  string `json:"reference"`
	Found      string `json:"found"`
}

// mismatch puts on record that an upstream served what it should not have.
func (g *Gateway) mismatch(ctx context.Context, b *bringing, reference string, d artifact.Digest, failure error) {
	found := failure.Error()
	if len(found) > 500 {
		found = found[:500]
	}
	if b.asked != "" {
		d = b.asked
	}
	g.o.Logger.ErrorContext(ctx, "an upstream serves content that is not what its digest says", "repository", b.repository, "upstream", b.at.Host, "reference", reference, "error", failure)
	err := g.o.DB.Update(ctx, func(tx *store.Tx) error {
		return event.Append(ctx, tx, event.Event{
			Kind: event.UpstreamMismatch, Digest: d, Actor: registry.GatewayPrincipal().Actor(),
			Body: mismatchBody{b.repository, b.at.Host + "/" + b.at.Repository, reference, found},
		})
	})
	if err != nil {
		g.o.Logger.ErrorContext(ctx, "audit record not written", "kind", string(event.UpstreamMismatch), "error", err)
	}
}

func (g *Gateway) remembers(m map[string]time.Time, key string, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	until, ok := m[key]
	if ok && !now.Before(until) {
		delete(m, key)
		ok = false
	}
	return ok
}

func (g *Gateway) remember(m map[string]time.Time, key string, until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(m) >= maxRemembered {
		clear(m)
	}
	m[key] = until
}

func (g *Gateway) forget(key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.absent, key)
}

var _ registry.Upstream = (*Gateway)(nil)
