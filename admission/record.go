package admission

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"assay/event"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/store"
)

// warning is a text as the API server passes it on: one line, not too long.
func warning(s string) string { return excerpt.Line("assay: "+s, maxWarning, ' ') }

// body is what an event says beside its digest, actor and place.
type body struct {
	Namespace string   `json:"namespace"`
	Object    string   `json:"object"`            // kind and name
	Operation string   `json:"operation"`         // CREATE or UPDATE, with the subresource
	Image     string   `json:"image"`             // as the object had it
	Used      []string `json:"used"`              // by which containers and volumes, at most 16
	Decision  string   `json:"decision,omitzero"` // dec_...
	Basis     string   `json:"basis,omitzero"`
	Mode      string   `json:"mode"`
	Restart   bool     `json:"restart,omitzero"` // it ran already
	Reason    string   `json:"reason,omitzero"`
	Cause     string   `json:"cause,omitzero"` // infrastructure: there was no answer
	Door      string   `json:"door,omitzero"`  // where that is not the webhook
}

// record tells of every image that was asked about, once for each reference.
// deniedOnly leaves the rest to the door that comes after.
func (h *Webhook) record(ctx context.Context, q *Request, verdicts []verdictOn, deniedOnly bool) error {
	if q.DryRun {
		return nil
	}
	lenient := h.lenient(q.Namespace)
	var list []event.Event
	at := map[string]int{}
	for i := range verdicts {
		v := &verdicts[i]
		use := excerpt.Line(string(v.image.Use)+" "+v.image.Name, 120, '.')
		if n, have := at[v.image.Reference]; have {
			b := list[n].Body.(*body)
			if len(b.Used) < 16 {
				b.Used = append(b.Used, use)
			}
			continue
		}
		kind := event.AdmissionAllowed
		switch v.outcome(lenient) {
		case "denied":
			kind = event.AdmissionDenied
		case "warned":
			kind = event.AdmissionWarned
		}
		b := &body{
			Namespace: excerpt.Line(q.Namespace, 63, '.'), Object: excerpt.Line(q.Kind.Kind+" "+q.Name, 300, '.'), Operation: q.Operation, Image: excerpt.Line(v.image.Reference, 300, '.'),
			Used: []string{use}, Mode: string(v.mode()), Restart: v.restart, Door: q.door,
		}
		if q.SubResource != "" {
			b.Operation += " " + excerpt.Line(q.SubResource, 40, '.')
		}
		e := event.Event{Kind: kind, Actor: "k8s:" + excerpt.Line(q.UserInfo.Username, 250, '.'), Cluster: h.o.Cluster, Body: b}
		if h.o.Environment != nil {
			e.Env = h.o.Environment(q.Namespace)
		}
		if a := v.answer; a != nil {
			e.Digest, b.Decision, b.Basis = a.Digest, a.Decision, a.Basis
		}
		if kind != event.AdmissionAllowed {
			b.Reason = excerpt.Text(v.text(q.Namespace), 1000)
			if v.answer == nil && noAnswer(v.err) {
				b.Cause = "infrastructure"
			}
		}
		h.met.images.WithLabelValues(v.outcome(lenient)).Inc()
		at[v.image.Reference] = len(list)
		list = append(list, e)
	}
	if deniedOnly {
		kept := list[:0]
		for _, e := range list {
			if e.Kind == event.AdmissionDenied {
				kept = append(kept, e)
			}
		}
		list = kept
	}
	if len(list) == 0 {
		return nil
	}
	if err := h.o.Record.Record(ctx, list...); err != nil {
		return fault.Newf(fault.Unavailable, "the answer cannot be recorded, so it is none: %w", err)
	}
	return nil
}

// noAnswer says whether an image was refused because nothing could answer, rather
// than by what is known of it.
func noAnswer(err error) bool {
	for _, k := range []*fault.Kind{fault.Undecided, fault.Unavailable, fault.Internal, fault.NoSpace} {
		if errors.Is(err, k) {
			return true
		}
	}
	return errors.Is(err, context.DeadlineExceeded)
}

const (
	maxQueued   = 20_000 // events; beyond it nothing is admitted rather than memory filled
	recordPause = 50 * time.Millisecond
	recordBatch = 512
)

// Events records into an event log: what is queued at a time shares one
// transaction. Close it to have all of it written.
type Events struct {
	db  *store.DB
	log *slog.Logger

	mu     sync.Mutex
	queue  []event.Event
	wake   chan struct{}
	closed chan struct{}
	done   chan struct{}
	once   sync.Once
}

// NewEvents begins to record.
func NewEvents(db *store.DB, log *slog.Logger) *Events {
	r := &Events{db: db, log: log, wake: make(chan struct{}, 1), closed: make(chan struct{}), done: make(chan struct{})}
	go r.run()
	return r
}

// Record queues events; fault.Unavailable when too many wait.
func (r *Events) Record(_ context.Context, list ...event.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue)+len(list) > maxQueued {
		return fault.Newf(fault.Unavailable, "%d events wait to be written", len(r.queue))
	}
	r.queue = append(r.queue, list...)
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return nil
}

// Close writes what is queued and ends.
func (r *Events) Close() error {
	r.once.Do(func() { close(r.closed) })
	<-r.done
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.queue); n > 0 {
		return fault.Newf(fault.Unavailable, "%d events of admission could not be written", n)
	}
	return nil
}

func (r *Events) run() {
	defer close(r.done)
	for {
		last := false
		select {
		case <-r.wake:
		case <-r.closed:
			last = true
		}
		for r.flush() {
		}
		if last {
			return
		}
		// Those that come in a crowd share a commit.
		select {
		case <-time.After(recordPause):
		case <-r.closed:
		}
	}
}

// flush writes a batch, and says whether more waits that can be written.
func (r *Events) flush() bool {
	r.mu.Lock()
	n := min(len(r.queue), recordBatch)
	batch := make([]event.Event, n)
	copy(batch, r.queue[:n])
	r.mu.Unlock()
	if n == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if err := r.db.Update(ctx, func(tx *store.Tx) error {
		again := make([]event.Event, n) // a transaction may be begun anew
		copy(again, batch)
		return event.AppendAll(ctx, tx, again)
	}); err != nil {
		r.log.Error("events of admission wait to be written", "count", n, "error", err)
		time.AfterFunc(time.Second, func() {
			select {
			case r.wake <- struct{}{}:
			default:
			}
		})
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = append(r.queue[:0:0], r.queue[n:]...)
	return len(r.queue) > 0
}
