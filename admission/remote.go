package admission

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"assay/event"
	"assay/internal/clock"
	"assay/internal/fault"
)

// Server is what a [Remote] asks. Errors say that there is no answer; what the
// server says of an image, a refusal too, is a Reply.
type Server interface {
	Judge(ctx context.Context, q Question) (*Reply, error)
	// Bundle gives the newest bundle of the cluster; nil: version is the newest.
	Bundle(ctx context.Context, version int64) ([]byte, error)
	// Record hands events on.
	Record(ctx context.Context, events []event.Event) error
}

// Reply is an answer as it crosses the network: the answer, or the kind and the
// words of the refusal to give one.
type Reply struct {
	Answer  *Answer `json:"answer,omitempty"`
	Fault   string  `json:"fault,omitempty"`
	Message string  `json:"message,omitempty"`
}

// ReplyOf wraps what a Judge said.
func ReplyOf(a *Answer, err error) *Reply {
	r := &Reply{Answer: a}
	if err != nil {
		r.Fault, r.Message = fault.KindOf(err).Name(), err.Error()
	}
	return r
}

// kinds are the faults that a reply may name; all others are fault.Undecided.
var replyKinds = []*fault.Kind{fault.Invalid, fault.Denied, fault.NotFound, fault.Tampered, fault.Unverified, fault.Unavailable}

func (r *Reply) result() (*Answer, error) {
	if r.Fault == "" {
		if r.Answer == nil {
			return nil, fault.Newf(fault.Undecided, "the server gave no answer")
		}
		return r.Answer, nil
	}
	for _, k := range replyKinds {
		if k.Name() == r.Fault {
			return r.Answer, fault.Newf(k, "%s", r.Message)
		}
	}
	return r.Answer, fault.Newf(fault.Undecided, "%s", r.Message)
}

// RemoteOptions of a [Remote]. Server, Authority and Cluster are required.
type RemoteOptions struct {
	Server    Server
	Authority []byte // certificate that bundles are signed under, PEM
	Cluster   string
	// Load and Save keep the last bundle over restarts; nil: it is not kept.
	Load   func() ([]byte, error)
	Save   func([]byte) error
	Clock  clock.Clock
	Logger *slog.Logger
}

// Remote judges in a process of its own: it asks the server, remembers answers
// for a second, and goes on with the last bundle while the server does not
// answer.
type Remote struct {
	o       RemoteOptions
	bundle  atomic.Pointer[offline]
	flights singleflight.Group

	mu    sync.Mutex
	known map[string]remembered
	queue []event.Event
	down  time.Time // until when the server is not waited for
}

type remembered struct {
	reply *Reply
	until time.Time
}

const (
	rememberFor    = time.Second // a revocation reaches new admissions within it
	maxRemembered  = 50_000
	bundleEvery    = 10 * time.Second
	askWithin      = 2 * time.Second // of the server, before the bundle is asked
	downFor        = 2 * time.Second // after it did not answer, others do not wait
	maxForwarded   = 500
	maxUnforwarded = 100_000
)

// NewRemote makes a Judge, with the bundle that was kept, where there is one.
func NewRemote(o RemoteOptions) (*Remote, error) {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Remote{o: o, known: map[string]remembered{}}
	if o.Load == nil {
		return r, nil
	}
	raw, err := o.Load()
	if err != nil || raw == nil {
		return r, err
	}
	b, err := openOffline(raw, o.Authority, o.Cluster, 0)
	if err != nil {
		return nil, err
	}
	r.bundle.Store(b)
	return r, nil
}

// Judge asks the server, and the bundle when it does not answer in time.
func (r *Remote) Judge(ctx context.Context, q Question) (*Answer, error) {
	k := q.Reference.String() + " " + q.Place.ScopeID("") + "\x00" + q.Pull.key()
	now := r.o.Clock()
	r.mu.Lock()
	hit, ok := r.known[k]
	down := now.Before(r.down)
	r.mu.Unlock()
	if ok && now.Before(hit.until) {
		return hit.reply.result()
	}
	if down {
		return r.offline(q, errors.New("it did not a moment ago"))
	}
	ch := r.flights.DoChan(k, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askWithin)
		defer cancel()
		return r.o.Server.Judge(ctx, q)
	})
	select {
	case res := <-ch:
		if res.Err != nil {
			r.mu.Lock()
			r.down = r.o.Clock().Add(downFor)
			r.mu.Unlock()
			return r.offline(q, res.Err)
		}
		reply := res.Val.(*Reply)
		// What could not be decided there is not decided by what is older here.
		r.mu.Lock()
		if len(r.known) >= maxRemembered {
			clear(r.known)
		}
		r.known[k] = remembered{reply, r.o.Clock().Add(rememberFor)}
		r.mu.Unlock()
		return reply.result()
	case <-ctx.Done():
		return r.offline(q, context.Cause(ctx))
	}
}

func (r *Remote) offline(q Question, why error) (*Answer, error) {
	b := r.bundle.Load()
	if b == nil {
		return nil, fault.Newf(fault.Undecided, "the server does not answer, and there is no bundle to go on with: %v", why)
	}
	if !slices.ContainsFunc(b.Hosts, func(h string) bool { return strings.EqualFold(h, q.Reference.Host) }) {
		q.Reference.Repository = q.Reference.Host + "/" + q.Reference.Repository // as scopes name it
		if !b.scoped(q.Reference.Repository) {
			return nil, fault.Newf(fault.Denied, "it is of registry %s; want an image of %s", q.Reference.Host, b.Hosts[0])
		}
	}
	return b.judge(q, r.o.Clock())
}

// Run fetches bundles and hands events on, until ctx ends; then it tries once
// more to hand on what waits.
func (r *Remote) Run(ctx context.Context) {
	tick := time.NewTicker(bundleEvery)
	defer tick.Stop()
	forward := time.NewTicker(time.Second)
	defer forward.Stop()
	r.fetch(ctx)
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			r.forward(last)
			return
		case <-tick.C:
			r.fetch(ctx)
		case <-forward.C:
			r.forward(ctx)
		}
	}
}

// Ready says whether there is a bundle: without one an outage would refuse all.
func (r *Remote) Ready() error {
	if r.bundle.Load() == nil {
		return fault.Newf(fault.Unavailable, "no bundle was fetched yet")
	}
	return nil
}

func (r *Remote) fetch(ctx context.Context) {
	var seen int64
	if b := r.bundle.Load(); b != nil {
		seen = b.Version
	}
	raw, err := r.o.Server.Bundle(ctx, seen)
	if err != nil {
		if ctx.Err() == nil {
			r.o.Logger.Warn("no newer bundle: the server does not answer", "version", seen, "error", err)
		}
		return
	}
	if raw == nil {
		return
	}
	b, err := openOffline(raw, r.o.Authority, r.o.Cluster, seen)
	if err != nil {
		r.o.Logger.Error("a bundle was refused; the last one stays", "version", seen, "error", err)
		return
	}
	if r.o.Save != nil {
		if err := r.o.Save(raw); err != nil {
			r.o.Logger.Warn("the bundle could not be kept for the next start", "error", err)
		}
	}
	r.bundle.Store(b)
}

// Record queues events for the server; it is a [Recorder]. While the server does
// not answer they also stand in this process's log, and the oldest go when too
// many wait: an outage of the trail must not become one of the cluster.
func (r *Remote) Record(_ context.Context, list ...event.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = append(r.queue, list...)
	if over := len(r.queue) - maxUnforwarded; over > 0 {
		for _, e := range r.queue[:over] {
			r.o.Logger.Warn("an event of admission could not be handed on", "kind", e.Kind, "digest", e.Digest, "actor", e.Actor, "body", e.Body)
		}
		r.queue = append([]event.Event{}, r.queue[over:]...)
	}
	return nil
}

func (r *Remote) forward(ctx context.Context) {
	for ctx.Err() == nil {
		r.mu.Lock()
		n := min(len(r.queue), maxForwarded)
		batch := slices.Clone(r.queue[:n])
		r.mu.Unlock()
		if n == 0 {
			return
		}
		if err := r.o.Server.Record(ctx, batch); err != nil {
			r.o.Logger.Warn("events of admission wait to be handed on", "count", n, "error", err)
			return
		}
		r.mu.Lock()
		r.queue = append([]event.Event{}, r.queue[min(n, len(r.queue)):]...)
		r.mu.Unlock()
	}
}
