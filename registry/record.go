package registry

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"assay/event"
	"assay/internal/fault"
	"assay/store"
)

// recorder commits the events that belong to no other transaction: pulls and
// refusals. Whoever adds one waits for it; all that wait at a time share one
// transaction, so that recording costs a pull a share of a commit and not one
// of its own. No goroutine stands by while nothing is queued.
type recorder struct {
	db  *store.DB
	log *slog.Logger
	met *metrics

	mu      sync.Mutex
	queue   []*record
	running bool
	idle    chan struct{} // closed while nothing runs
}

// record is one queued event.
type record struct {
	event event.Event
	done  chan struct{}
	err   error
}

const (
	maxQueuedRecords = 8192 // beyond this requests are refused rather than memory filled
	maxRecordBatch   = 256
	recordTimeout    = 15 * time.Second
)

func newRecorder(db *store.DB, log *slog.Logger, met *metrics) *recorder {
	idle := make(chan struct{})
	close(idle)
	return &recorder{db: db, log: log, met: met, idle: idle}
}

// add queues e and returns at once.
func (rec *recorder) add(e event.Event) *record {
	p := &record{event: e, done: make(chan struct{})}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if len(rec.queue) >= maxQueuedRecords {
		p.err = fault.Newf(fault.Unavailable, "%d audit records wait to be written", len(rec.queue))
		close(p.done)
		rec.met.recorded.WithLabelValues("refused").Inc()
		return p
	}
	rec.queue = append(rec.queue, p)
	if !rec.running {
		rec.running, rec.idle = true, make(chan struct{})
		go rec.run()
	}
	return p
}

// wait returns once the record is committed, or with its error, or with ctx; in
// the last case it is committed all the same.
func (p *record) wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drain waits until nothing is queued.
func (rec *recorder) drain(ctx context.Context) error {
	rec.mu.Lock()
	idle := rec.idle
	rec.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (rec *recorder) run() {
	for {
		rec.mu.Lock()
		n := min(len(rec.queue), maxRecordBatch)
		if n == 0 {
			rec.running, rec.queue = false, nil
			close(rec.idle)
			rec.mu.Unlock()
			return
		}
		batch := rec.queue[:n:n]
		rec.queue = rec.queue[n:]
		rec.mu.Unlock()
		rec.commit(batch)
	}
}

// commit writes a batch; when that fails each record is tried by itself, so
// that one that cannot be written takes no other down.
func (rec *recorder) commit(batch []*record) {
	err := rec.write(batch)
	if err != nil && len(batch) > 1 && fault.KindOf(err) != fault.Unavailable && fault.KindOf(err) != fault.NoSpace {
		for _, p := range batch {
			rec.commit([]*record{p})
		}
		return
	}
	outcome := "committed"
	if err != nil {
		outcome = "failed"
		rec.log.Error("audit records not written", "count", len(batch), "error", err)
	}
	rec.met.recorded.WithLabelValues(outcome).Add(float64(len(batch)))
	for _, p := range batch {
		p.err = err
		close(p.done)
	}
}

func (rec *recorder) write(batch []*record) error {
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	return rec.db.Update(ctx, func(tx *store.Tx) error {
		for _, p := range batch {
			if err := event.Append(ctx, tx, p.event); err != nil {
				return err
			}
		}
		return nil
	})
}
