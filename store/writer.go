package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"assay/internal/fault"
)

// The bounds of one group commit. The count bounds what a failed commit has to
// repeat; the time bounds how long the first of a group waits for the last.
const (
	maxGroup     = 256
	maxGroupTime = 10 * time.Millisecond
	maxLinger    = 500 * time.Microsecond
	slowUpdate   = time.Second      // told in the log when it is over
	stuckUpdate  = 10 * time.Second // told in the log while it runs
)

// writer runs all updates of a SQLite file, one after another, and commits
// many at once.
//
// It owns the connection and gives each waiting caller a turn: the caller runs
// its function in its own goroutine, inside a savepoint, so that a panic or
// runtime.Goexit (a test's FailNow) is the caller's alone. Every caller,
// whether its function succeeded or failed, hears of it after the commit, for
// what it saw (a row that a neighbour wrote just now) is true only then.
type writer struct {
	db    *DB
	open  func(context.Context) (*session, error)
	sess  *session // nil after it failed, until it is opened again
	queue chan *job
	quit  chan struct{}
	done  chan struct{}
	once  sync.Once

	lastGroup  int           // size of the group before
	lastCommit time.Duration // how long its commit took
}

// job is one caller's update.
type job struct {
	state atomic.Int32
	turn  chan *Tx    // writer to caller: run now
	ran   chan error  // caller to writer: what the function gave
	ack   chan result // writer to caller: the outcome
	tx    *Tx         // of the last turn
	err   error       // of the last turn
}

type result struct {
	tx  *Tx
	err error
}

const (
	waiting int32 = iota
	taken         // the writer has started it
	gone          // its caller has given up
)

// errUnwound stands for a function that panicked or ended its goroutine; its
// caller waits for nothing.
var errUnwound = fault.Newf(fault.Internal, "the update did not return")

func newWriter(db *DB, first *session, open func(context.Context) (*session, error)) *writer {
	w := &writer{
		db: db, open: open, sess: first,
		queue: make(chan *job, 4*maxGroup), quit: make(chan struct{}), done: make(chan struct{}),
	}
	go w.loop()
	return w
}

// update queues fn and runs it when its turn comes.
func (w *writer) update(ctx context.Context, fn func(*Tx) error) error {
	j := &job{turn: make(chan *Tx, 1), ran: make(chan error, 1), ack: make(chan result, 1)}
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-w.quit:
		return errClosed
	default:
	}
	select {
	case w.queue <- j:
	case <-ctx.Done():
		return ctx.Err()
	case <-w.quit:
		return errClosed
	}
	cancel := ctx.Done()
	for {
		select {
		case tx := <-j.turn:
			j.run(tx, fn)
		case r := <-j.ack:
			if r.err == nil {
				r.tx.committed()
			}
			return r.err
		case <-cancel:
			if j.state.CompareAndSwap(waiting, gone) {
				return ctx.Err()
			}
			cancel = nil // started: its outcome is awaited
		case <-w.done:
			// The loop has ended; an answer may still have come first.
			select {
			case r := <-j.ack:
				if r.err == nil {
					r.tx.committed()
				}
				return r.err
			default:
				return errClosed
			}
		}
	}
}

// run is a turn, in the caller's goroutine.
func (j *job) run(tx *Tx, fn func(*Tx) error) {
	err := errUnwound
	defer func() { j.ran <- tx.finish(err) }()
	err = fn(tx)
}

// loop forms groups until close.
func (w *writer) loop() {
	defer close(w.done)
	for {
		select {
		case j := <-w.queue:
			w.group(j)
		case <-w.quit:
			return
		}
	}
}

// group runs first and those who wait behind it, up to the bounds, and commits
// them together.
func (w *writer) group(first *job) {
	if err := w.begin(); err != nil {
		w.answer(first, err)
		return
	}
	start := time.Now()
	var ran []*job
	for j := first; j != nil; j = w.next(len(ran), start) {
		if !j.state.CompareAndSwap(waiting, taken) {
			continue
		}
		intact := w.turn(j)
		ran = append(ran, j)
		if !intact {
			w.lost(ran)
			return
		}
	}
	w.commit(ran, start)
}

// next gives the next job of a group, or nil when the group is complete. Those
// who were acknowledged together tend to come back together: a short wait, far
// below the price of a commit, keeps them from being split in two groups.
func (w *writer) next(n int, start time.Time) *job {
	if n >= maxGroup || time.Since(start) > maxGroupTime {
		return nil
	}
	select {
	case j := <-w.queue:
		return j
	default:
	}
	linger := min(w.lastCommit/4, maxLinger) - time.Since(start)
	if n >= w.lastGroup || linger <= 0 {
		return nil
	}
	t := time.NewTimer(linger)
	defer t.Stop()
	select {
	case j := <-w.queue:
		return j
	case <-t.C:
		return nil
	case <-w.quit:
		return nil
	}
}

// begin starts a transaction, opening the connection again if it was lost.
func (w *writer) begin() error {
	if w.sess == nil {
		s, err := w.open(context.Background())
		if err != nil {
			return err
		}
		w.sess = s
	}
	err := w.sess.run(stBeginImmediate)
	if err != nil {
		w.drop()
	}
	return err
}

// turn lets one caller run inside a savepoint. It tells whether the
// transaction around it still stands: SQLite ends it by itself on a full disk
// and on some I/O errors.
func (w *writer) turn(j *job) (intact bool) {
	start := time.Now()
	if j.err = w.sess.run(stSave); j.err != nil {
		return false
	}
	j.tx = newTx(w.db, w.sess, false)
	stuck := time.AfterFunc(stuckUpdate, func() {
		w.db.log.Error("an update has run for long and keeps every other writer waiting; does it call Update itself?", "since", start)
	})
	j.turn <- j.tx
	j.err = <-j.ran
	stuck.Stop()
	if d := time.Since(start); d > slowUpdate {
		w.db.log.Warn("slow update: it kept every other writer waiting", "duration", d)
	}
	if j.err == nil {
		if j.err = w.sess.run(stRelease); j.err == nil {
			return true
		}
	}
	return w.sess.run(stRollbackTo) == nil && w.sess.run(stRelease) == nil
}

// commit ends the transaction of those who ran and tells them.
func (w *writer) commit(ran []*job, start time.Time) {
	if len(ran) == 0 {
		w.rollback()
		return
	}
	begin := time.Now()
	w.changing(ran)
	err := w.sess.run(stCommit)
	w.changing(ran)
	if err == nil {
		now := time.Now()
		w.lastGroup, w.lastCommit = len(ran), now.Sub(begin)
		w.db.metrics.group(len(ran), w.lastCommit)
		for _, j := range ran {
			w.answer(j, j.err)
		}
		return
	}
	w.rollback()
	if len(ran) == 1 {
		w.answer(ran[0], err)
		return
	}
	// One of them may be the cause (a deferred constraint, more bytes than the
	// disk holds): each gets a transaction of its own.
	w.db.log.Warn("group commit failed; running each update alone", "updates", len(ran), "error", err)
	w.alone(ran)
}

// lost handles a transaction that ended under the last of ran: that one has
// its error, and those before it run again.
func (w *writer) lost(ran []*job) {
	w.rollback()
	last := len(ran) - 1
	w.answer(ran[last], ran[last].err)
	w.alone(ran[:last])
}

func (w *writer) alone(jobs []*job) {
	for _, j := range jobs {
		if errors.Is(j.err, errUnwound) {
			continue
		}
		if err := w.begin(); err != nil {
			w.answer(j, err)
			continue
		}
		if intact := w.turn(j); !intact {
			w.rollback()
			w.answer(j, j.err)
			continue
		}
		w.commit([]*job{j}, time.Now())
	}
}

// answer ends a job.
func (w *writer) answer(j *job, err error) {
	if err == nil && j.tx == nil {
		err = fault.Newf(fault.Internal, "the update was not run")
	}
	j.ack <- result{tx: j.tx, err: err}
}

// rollback leaves the connection without a transaction, or drops it.
func (w *writer) rollback() {
	if err := w.sess.run(stRollback); err != nil {
		// SQLite has often rolled back by itself, and then says that there is
		// no transaction. A fresh one tells a sound connection from a broken.
		if err := w.sess.run(stBegin); err != nil {
			w.drop()
			return
		}
		if err := w.sess.run(stRollback); err != nil {
			w.drop()
		}
	}
}

func (w *writer) drop() {
	if err := w.sess.close(); err != nil {
		w.db.log.Warn("close the writer's connection", "error", err)
	}
	w.sess = nil
}

func (w *writer) close() error {
	w.once.Do(func() { close(w.quit) })
	<-w.done
	for {
		select {
		case j := <-w.queue:
			w.answer(j, errClosed)
			continue
		default:
		}
		break
	}
	if w.sess == nil {
		return nil
	}
	err := w.sess.close()
	w.sess = nil
	if err != nil {
		return fmt.Errorf("close the writer: %w", err)
	}
	return nil
}
