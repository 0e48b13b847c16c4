package event

import (
	"context"
	"time"

	"assay/internal/fault"
	"assay/store"
)

// FollowOptions say how [Log.Follow] goes through the log.
type FollowOptions struct {
	Holder string        // of this process, for the lease
	Batch  int           // events given at once; 0: 256
	New    bool          // a new cursor begins at the end of the log, not with the oldest event kept
	Within time.Duration // for one call of send; 0: 20 s
}

const (
	followLease   = time.Minute
	followBackoff = time.Minute // longest wait after a failure
	followIdle    = 500 * time.Millisecond
)

// Follow gives every sealed event, in order, in batches, to send, outside of any
// transaction: it is for who tells other systems, which may take long. The cursor
// moves after send has returned without an error, so that each event is sent at
// least once; after a crash, or an error, the same batch is sent again. One
// process of a site follows under a name. As with [Log.Consume], a cursor that
// stands still keeps events from being dropped.
func (l *Log) Follow(ctx context.Context, name string, send func(ctx context.Context, batch []Event) error, o FollowOptions) error {
	if o.Batch <= 0 {
		o.Batch = consumeBatch
	}
	if o.Within <= 0 {
		o.Within = 20 * time.Second
	}
	wake, stop := l.db.Watch(sealedTopic)
	defer stop()
	defer func() { // so that another process need not wait for its end
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := l.db.Release(end, "follow/"+name, o.Holder); err != nil {
			l.log.Debug("a lease ends by itself", "consumer", name, "error", err)
		}
	}()
	backoff := time.Duration(0)
	for ctx.Err() == nil {
		held, _, err := l.db.Lease(ctx, "follow/"+name, o.Holder, followLease)
		n := 0
		if err == nil && held {
			n, err = l.followOnce(ctx, name, send, o)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			backoff = min(max(2*backoff, 200*time.Millisecond), followBackoff)
			l.faults.WithLabelValues(name).Inc()
			l.log.Warn("events could not be sent on; they are sent again", "consumer", name, "error", err, "again_in", backoff.String())
			l.pauseFor(ctx, nil, backoff)
			continue
		case n > 0:
			backoff = 0
			continue
		}
		backoff = 0
		wait := followIdle
		if !held {
			wait = followLease / 4
		}
		l.pauseFor(ctx, wake, wait)
	}
	return nil
}

func (l *Log) pauseFor(ctx context.Context, wake <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-wake:
	case <-t.C:
	case <-ctx.Done():
	}
}

// followOnce sends one batch, if there is one, and moves the cursor.
func (l *Log) followOnce(ctx context.Context, name string, send func(context.Context, []Event) error, o FollowOptions) (n int, err error) {
	var at int64
	var isNew bool
	var batch []Event
	err = l.db.View(ctx, func(tx *store.Tx) error {
		if at, isNew, err = cursor(ctx, tx, name); err != nil {
			return err
		}
		if isNew && o.New {
			return nil
		}
		rows, err := tx.Query(ctx, `SELECT seq, `+contentColumns+` FROM event WHERE seq > ? ORDER BY seq LIMIT ?`, at, o.Batch)
		if err != nil {
			return err
		}
		batch, err = scanEvents(rows, nil)
		return err
	})
	if err != nil {
		return 0, err
	}
	to := at
	switch {
	case isNew && o.New:
		if err := l.db.View(ctx, func(tx *store.Tx) error { to, err = headSeq(ctx, tx); return err }); err != nil {
			return 0, err
		}
	case len(batch) == 0:
		return 0, nil
	default:
		within, cancel := context.WithTimeout(ctx, o.Within)
		defer cancel()
		if err := send(within, batch); err != nil {
			return 0, err
		}
		to = batch[len(batch)-1].Seq
	}
	if err := l.db.Update(ctx, func(tx *store.Tx) error { return moveCursor(ctx, tx, name, at, to, isNew) }); err != nil {
		return 0, err
	}
	if len(batch) > 0 {
		l.lag.WithLabelValues(name).Set(l.db.Now().Sub(batch[len(batch)-1].Time).Seconds())
	}
	return len(batch), nil
}

// Backlogged tells how many sealed events a cursor has not passed yet.
func (l *Log) Backlogged(ctx context.Context, name string) (n int64, err error) {
	if name == "" {
		return 0, fault.Newf(fault.Internal, "backlog: the cursor wants a name")
	}
	err = l.db.View(ctx, func(tx *store.Tx) error {
		at, _, err := cursor(ctx, tx, name)
		if err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT COUNT(*) FROM event WHERE seq > ?`, at).Scan(&n)
	})
	return n, err
}
