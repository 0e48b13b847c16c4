package event

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/internal/fault"
	"assay/store"
)

// The rhythm of sealing. A wake-up seals at once unless the seal before was
// less than sealEvery ago; what other processes append is found by polling.
const (
	sealEvery  = 40 * time.Millisecond
	pollEvery  = 40 * time.Millisecond
	maxBatch   = 4096 // events in a batch
	leaseName  = "event.sealer"
	leaseTTL   = 6 * time.Second
	leaseRenew = 2 * time.Second
)

// When a head becomes due for the transparency log.
const (
	publishEvery  = 10 * time.Second
	publishEvents = 10_000
)

// SealerOptions are what a Sealer may be given.
type SealerOptions struct {
	Holder     string                // names this run in the lease; default: random
	Logger     *slog.Logger          // default: nowhere
	Registerer prometheus.Registerer // default: none
	Journal    *Journal              // what it seals beside what the database has; nil: none
}

// Sealer numbers events and seals them in batches. Any number may run on one
// database, in any processes; the one that holds the lease works.
type Sealer struct {
	db      *store.DB
	holder  string
	log     *slog.Logger
	journal *Journal

	latency prometheus.Histogram
	sealed  prometheus.Counter
	leader  prometheus.Gauge

	epoch   int64     // of the lease; 0: not held
	renewed time.Time // by the machine's clock, when the lease was renewed

	// What this holder knows of the outbox, to look no oftener than needed.
	news    bool      // there may be a head worth publishing
	since   int64     // events since the head that last became due
	nextDue time.Time // when the next may become due
	filled  bool      // no row lacks what is derived from its body
}

// NewSealer makes a sealer for the log in db.
func NewSealer(db *store.DB, o SealerOptions) *Sealer {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Holder == "" {
		o.Holder = "sealer-" + rand.Text()
	}
	s := &Sealer{
		db: db, holder: o.Holder, log: o.Logger, journal: o.Journal,
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "assay_event_seal_seconds", Help: "Age of the oldest event of a batch when it was sealed.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 5, 30},
		}),
		sealed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_event_sealed_total", Help: "Events sealed by this process.",
		}),
		leader: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "assay_event_sealer_leader", Help: "1 when this process seals.",
		}),
	}
	register(o.Registerer, o.Logger, s.latency, s.sealed, s.leader)
	return s
}

// register adds collectors; one that is there already is told in the log and
// does not keep events from being sealed.
func register(r prometheus.Registerer, log *slog.Logger, all ...prometheus.Collector) {
	if r == nil {
		return
	}
	for _, c := range all {
		if err := r.Register(c); err != nil {
			log.Warn("register metric", "error", err)
		}
	}
}

// Run seals until ctx ends, and then gives nil. Failures of the database are
// told in the log and tried again; nothing is lost by them.
func (s *Sealer) Run(ctx context.Context) error {
	wake, stop := s.db.Watch(pendingTopic)
	defer stop()
	defer s.release()
	defer s.journal.served(false)
	backoff := time.Duration(0)
	for ctx.Err() == nil {
		begin := time.Now()
		more, err := s.step(ctx)
		s.journal.served(err == nil && s.epoch != 0)
		switch {
		case err == nil:
			backoff = 0
		case ctx.Err() != nil:
			return nil
		default:
			if errors.Is(err, fault.Conflict) {
				s.lose()
			}
			backoff = min(max(2*backoff, 50*time.Millisecond), 2*time.Second)
			s.log.Error("seal events", "error", err, "again_in", backoff)
		}
		if more && err == nil {
			continue
		}
		s.pause(ctx, wake, begin, backoff)
	}
	return nil
}

// pause waits for the next reason to look, at the rhythm above.
func (s *Sealer) pause(ctx context.Context, wake <-chan struct{}, begin time.Time, backoff time.Duration) {
	if backoff == 0 {
		t := time.NewTimer(pollEvery)
		defer t.Stop()
		select {
		case <-wake:
		case <-t.C:
			return
		case <-ctx.Done():
			return
		}
		backoff = sealEvery - time.Since(begin)
	}
	if backoff <= 0 {
		return
	}
	t := time.NewTimer(backoff)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// step renews the lease, seals one batch if there is something to seal, and
// marks a head as due for the log. more tells that another batch waits.
func (s *Sealer) step(ctx context.Context) (more bool, err error) {
	if time.Since(s.renewed) > leaseRenew {
		held, epoch, err := s.db.Lease(ctx, leaseName, s.holder, leaseTTL)
		if err != nil {
			return false, err
		}
		s.renewed = time.Now()
		if !held {
			s.lose()
			return false, s.handOver(ctx)
		}
		if s.epoch == 0 {
			s.news, s.nextDue, s.filled = true, time.Time{}, false // as the holder before left it
		}
		s.epoch = epoch
		s.leader.Set(1)
	}
	if s.epoch == 0 {
		return false, nil
	}
	n, err := s.sealPending(ctx)
	if err != nil {
		return false, err
	}
	if err := s.publish(ctx, int64(n)); err != nil || n >= maxBatch {
		return n >= maxBatch, err
	}
	if !s.filled {
		some, err := s.fill(ctx)
		s.filled = !some && err == nil
		return false, err
	}
	return false, nil
}

func (s *Sealer) lose() {
	s.epoch = 0
	s.leader.Set(0)
}

// release lets the next sealer start at once.
func (s *Sealer) release() {
	if s.epoch == 0 {
		return
	}
	s.lose()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.db.Release(ctx, leaseName, s.holder); err != nil {
		s.log.Warn("release the sealer's lease", "error", err)
	}
}

// handOver leaves what the journal holds to whoever has the lease.
func (s *Sealer) handOver(ctx context.Context) error {
	s.journal.served(false)
	if !s.journal.waiting() {
		return nil
	}
	return s.journal.Flush(ctx)
}

// sealPending seals at most one batch. The cheap look first spares the writer.
func (s *Sealer) sealPending(ctx context.Context) (n int, err error) {
	if !s.journal.waiting() {
		err = s.db.View(ctx, func(tx *store.Tx) error {
			return tx.QueryRow(ctx, `SELECT 1 FROM event_pending LIMIT 1`).Scan(&n)
		})
		if errors.Is(err, fault.NotFound) {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
	}
	var oldest, now time.Time
	update := func() (looked int, err error) {
		err = s.db.Update(ctx, func(tx *store.Tx) error {
			n, looked = 0, 0
			if err := tx.Fence(ctx, leaseName, s.epoch); err != nil {
				return err
			}
			events, seen, err := seal(ctx, tx, maxBatch, s.journal)
			if err != nil {
				return err
			}
			if looked = seen; len(events) > 0 {
				n, oldest, now = len(events), events[0].Time, tx.Now()
			}
			return nil
		})
		return looked, err
	}
	if s.journal == nil {
		_, err = update()
	} else {
		err = s.journal.take(update)
	}
	if err != nil || n == 0 {
		return 0, err
	}
	s.latency.Observe(now.Sub(oldest).Seconds())
	s.sealed.Add(float64(n))
	return n, nil
}

// seal numbers and seals the oldest unsealed events, at most limit of those in the
// database and as many of the journal's. looked is how many of these are done.
func seal(ctx context.Context, tx *store.Tx, limit int, j *Journal) (events []Event, looked int, err error) {
	prev, err := lastHead(ctx, tx)
	if err != nil {
		return nil, 0, err
	}
	waiting, lastOrd, err := pending(ctx, tx, limit)
	if err != nil {
		return nil, 0, err
	}
	// Only now the journal: what follows a record of it, and so is appended after
	// it, is not among those above without it.
	var journaled []Event
	if j != nil {
		if journaled, looked, err = j.oldest(ctx, tx, limit); err != nil {
			return nil, 0, err
		}
	}
	if events = merge(waiting, journaled); len(events) == 0 {
		return nil, looked, nil
	}
	h, news, err := number(prev, events)
	if err != nil {
		return nil, 0, err
	}
	h.Time = tx.Now()
	h.Hash = h.Sum()
	if err := insertEvents(ctx, tx, events); err != nil {
		return nil, 0, err
	}
	if len(waiting) > 0 {
		if err := deletePending(ctx, tx, waiting[len(waiting)-1], lastOrd, len(waiting)); err != nil {
			return nil, 0, err
		}
	}
	if err := insertHead(ctx, tx, h, news); err != nil {
		return nil, 0, err
	}
	tx.Signal(sealedTopic)
	return events, looked, nil
}

// number gives events their numbers, and the head over them without its time.
func number(prev Head, events []Event) (h Head, news int64, err error) {
	t := newTree()
	buf := make([]byte, 0, 1024)
	for i := range events {
		e := &events[i]
		e.Seq = prev.LastSeq + 1 + int64(i)
		if buf, err = e.appendLeaf(buf[:0], e.rawBody()); err != nil {
			return Head{}, 0, err
		}
		if err := t.add(buf); err != nil {
			return Head{}, 0, err
		}
		if e.Kind != LogHeadPublished {
			news++ // publishing a head is no reason to publish another
		}
	}
	root, err := t.root()
	return Head{
		Batch: prev.Batch + 1, FirstSeq: events[0].Seq, LastSeq: events[len(events)-1].Seq, Count: int64(len(events)),
		Root: root, Prev: prev.Hash,
	}, news, err
}

// publish puts the newest head into the outbox when it is time: at once for the
// first news in a while, then every publishEvery or publishEvents. sealed is
// how many events were sealed just now.
func (s *Sealer) publish(ctx context.Context, sealed int64) error {
	s.since += sealed
	s.news = s.news || sealed > 0
	if !s.news || s.since < publishEvents && s.db.Now().Before(s.nextDue) {
		return nil
	}
	return s.db.Update(ctx, func(tx *store.Tx) error {
		if err := tx.Fence(ctx, leaseName, s.epoch); err != nil {
			return err
		}
		state, err := readOutbox(ctx, tx)
		if err != nil {
			return err
		}
		s.news, s.since, s.nextDue = state.news > 0, state.events, state.due.Add(publishEvery)
		if !s.news || s.since < publishEvents && tx.Now().Before(s.nextDue) {
			return nil
		}
		// Should this transaction be lost, the next look finds the same.
		s.since, s.nextDue = 0, time.Time{}
		_, err = tx.Exec(ctx, `INSERT INTO event_outbox (batch, due) VALUES (?, ?) ON CONFLICT (batch) DO NOTHING`, state.newest, tx.Now())
		return err
	})
}
