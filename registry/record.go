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
// refusals. All that are queued at a time share one transaction, so that
// recording costs a pull a share of a commit and not one of its own. Whoever
// waits for a record commits, in her turn, all that are queued; the others are
// committed within [recordPause]. No goroutine stands by while nothing is queued.
type recorder struct {
	db  *store.DB
	log *slog.Logger
	met *metrics

	mu      sync.Mutex
	queue   []*record
	running bool
	failing bool          // the last commit failed
	turn    chan struct{} // holds a value while a batch is taken and committed

	journal *event.Journal // nil: into the database

	busy func() int // requests that are being served; nil: nobody knows
}

// record is one queued event.
type record struct {
	rec   *recorder
	event event.Event
	done  chan struct{}
	err   error
}

const (
	maxQueuedRecords = 8192 // beyond this requests are refused rather than memory filled
	maxRecordBatch   = 256
	recordTimeout    = 15 * time.Second
	recordPause      = 50 * time.Millisecond

	// gather waits while more than so many requests are being served for each
	// record that is queued, in steps, at most for all of them.
	gatherFor   = 2
	gatherStep  = 250 * time.Microsecond
	gatherSteps = 6
)

func newRecorder(db *store.DB, log *slog.Logger, met *metrics) *recorder {
	return &recorder{db: db, log: log, met: met, turn: make(chan struct{}, 1)}
}

// add queues e and returns at once.
func (rec *recorder) add(e event.Event) *record {
	p := &record{rec: rec, event: e, done: make(chan struct{})}
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
		rec.running = true
		go rec.run()
	}
	return p
}

// wait returns once the record is committed, or with its error, or with ctx; in
// the last case it is committed all the same.
func (p *record) wait(ctx context.Context) error {
	for {
		select {
		case <-p.done:
			return p.err
		case <-ctx.Done():
			return ctx.Err()
		case p.rec.turn <- struct{}{}:
		}
		// Whoever waits commits what is queued, for all: to wake somebody else to do
		// it would take longer than many a commit.
		if !p.settled() {
			p.rec.gather()
			p.rec.batch()
		}
		<-p.rec.turn
	}
}

// gather waits a little for those whose records belong into the same commit, in
// the caller's turn. While other requests are being served the processors have
// work, and a commit for each pull would take it from them: the wait costs one
// who is alone nothing, and the many less than the commits that it saves.
func (rec *recorder) gather() {
	if rec.busy == nil {
		return
	}
	for range gatherSteps {
		rec.mu.Lock()
		queued := len(rec.queue)
		rec.mu.Unlock()
		if rec.busy() < gatherFor*queued || queued >= maxRecordBatch {
			return
		}
		time.Sleep(gatherStep)
	}
}

// settled says whether the record is committed or refused.
func (p *record) settled() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// keep is wait for records that may lag behind what they record: it returns at
// once as long as records get written. Once one could not be, it waits, and so
// passes on whether this one can.
func (p *record) keep(ctx context.Context) error {
	p.rec.mu.Lock()
	failing := p.rec.failing
	p.rec.mu.Unlock()
	if failing {
		return p.wait(ctx)
	}
	select {
	case <-p.done:
		return p.err // the queue was full
	default:
		return nil
	}
}

// failed says whether the record could not be written.
func (p *record) failed() bool {
	select {
	case <-p.done:
		return p.err != nil
	default:
		return false
	}
}

// drain commits until nothing is queued.
func (rec *recorder) drain(ctx context.Context) error {
	for {
		select {
		case rec.turn <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		empty := rec.batch()
		<-rec.turn
		if empty {
			return nil
		}
	}
}

// run commits what nobody waits for, until nothing is queued.
func (rec *recorder) run() {
	pause := time.NewTimer(recordPause)
	defer pause.Stop()
	for {
		// A full batch need not wait for more.
		rec.mu.Lock()
		full := len(rec.queue) >= maxRecordBatch
		rec.mu.Unlock()
		if !full {
			pause.Reset(recordPause)
			<-pause.C
		}
		rec.turn <- struct{}{}
		rec.batch()
		rec.mu.Lock()
		end := len(rec.queue) == 0
		if end {
			rec.running, rec.queue = false, nil
		}
		rec.mu.Unlock()
		<-rec.turn
		if end {
			return
		}
	}
}

// batch commits the records at the head of the queue, in the caller's turn. empty
// says that there were none.
func (rec *recorder) batch() (empty bool) {
	rec.mu.Lock()
	n := min(len(rec.queue), maxRecordBatch)
	if n == 0 {
		rec.mu.Unlock()
		return true
	}
	batch := rec.queue[:n:n]
	rec.queue = rec.queue[n:]
	rec.mu.Unlock()
	rec.commit(batch)
	return false
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
	rec.mu.Lock()
	rec.failing = err != nil
	rec.mu.Unlock()
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
	if rec.journal != nil {
		list := make([]event.Event, len(batch))
		for i, p := range batch {
			list[i] = p.event
		}
		return rec.journal.Append(ctx, list)
	}
	return rec.db.Update(ctx, func(tx *store.Tx) error {
		list := make([]event.Event, len(batch)) // anew for each run of this function
		for i, p := range batch {
			list[i] = p.event
		}
		return event.AppendAll(ctx, tx, list)
	})
}
