package event

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/store"
)

const (
	consumeBatch   = 256                    // events given at once
	followEvery    = time.Second            // how often a cursor goes past events of which none is wanted
	consumePoll    = 200 * time.Millisecond // what other processes seal is found by polling
	consumeBackoff = 30 * time.Second       // longest wait after a failure
)

// Consume gives every sealed event, in order, in batches, to fn, and returns
// nil when ctx ends. name is the durable cursor: a new one starts with the
// oldest event kept, a known one where it stood. With kinds, fn is given only
// events of those: most events are pulls, which most consumers pass over, and
// what they pass over then costs them nothing.
//
// The cursor moves in the transaction that fn writes in, so what fn does with
// tx happens exactly once for each event, whatever crashes when; what it does
// elsewhere may happen again and must be idempotent by the event's ID. fn may
// run more than once, as in [store.DB.Update]. Several processes may consume
// under one name: each batch goes to one of them.
//
// When fn fails its batch comes again, after a growing wait up to 30 s, and the
// failure is told in the log and the metrics: an event is never skipped.
func (l *Log) Consume(ctx context.Context, name string, fn func(ctx context.Context, tx *store.Tx, batch []Event) error, kinds ...Kind) error {
	return l.ConsumeWanted(ctx, name, fn, func() []Kind { return kinds })
}

// ConsumeWanted is [Log.Consume] for who wants other kinds at other times: wanted
// is asked before each batch. nil is all kinds, an empty list none.
func (l *Log) ConsumeWanted(ctx context.Context, name string, fn func(ctx context.Context, tx *store.Tx, batch []Event) error, wanted func() []Kind) error {
	if name == "" {
		return fault.Newf(fault.Internal, "consume events: the cursor wants a name")
	}
	wake, stop := l.db.Watch(sealedTopic)
	defer stop()
	backoff, followed := time.Duration(0), time.Time{}
	at := int64(-1) // where the cursor stands at least; -1: it is to be asked
	woken := time.Now()
	for ctx.Err() == nil {
		kinds := wanted()
		due := time.Since(followed) >= followEvery
		if at >= 0 {
			quiet, head, asOf := l.news.quiet(ctx, l.db, woken, at, kinds)
			if quiet && !asOf.After(woken) {
				_ = l.pause(ctx, nil, lookEvery) // what woke it may be newer than the last look
				continue
			}
			if quiet && (!due || head <= at) {
				woken = l.pause(ctx, wake, 0)
				continue
			}
		}
		if due {
			followed = time.Now()
		}
		n, to, err := l.consumeOnce(ctx, name, fn, kinds, due)
		at = to
		if ctx.Err() != nil {
			return nil
		}
		switch {
		case err == nil && n > 0:
			backoff = 0
			continue
		case err == nil:
			backoff = 0
		default:
			backoff = min(max(2*backoff, 100*time.Millisecond), consumeBackoff)
			l.faults.WithLabelValues(name).Inc()
			l.log.Error("consume events", "consumer", name, "error", err, "again_in", backoff)
		}
		woken = l.pause(ctx, wake, backoff)
	}
	return nil
}

// pause waits for news and gives the time as of which they are wanted: now, or
// where it was only time to look, a little earlier, so that consumers share looks.
func (l *Log) pause(ctx context.Context, wake <-chan struct{}, backoff time.Duration) time.Time {
	wait := consumePoll
	if backoff > 0 {
		wake, wait = nil, backoff // new events do not help
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-wake:
	case <-t.C:
		return time.Now().Add(-consumePoll / 2)
	case <-ctx.Done():
	}
	return time.Now()
}

// consumeOnce gives fn one batch, if there is one, and says where the cursor
// stands then; -1: that is not known. The cheap look first spares the writer.
func (l *Log) consumeOnce(ctx context.Context, name string, fn func(context.Context, *store.Tx, []Event) error, kinds []Kind, follow bool) (n int, at int64, err error) {
	found, move := false, false
	err = l.db.View(ctx, func(tx *store.Tx) error {
		found, move = false, false
		at, _, err = cursor(ctx, tx, name)
		if err != nil {
			return err
		}
		head, err := headSeq(ctx, tx)
		if err != nil || head <= at {
			return err
		}
		if found, err = wanted(ctx, tx, at, kinds); err != nil {
			return err
		}
		// A cursor that stands still keeps old events from being dropped, and who
		// wants more kinds from now on would be given old ones.
		move = !found && follow
		return nil
	})
	if err != nil {
		return 0, -1, err
	}
	if !found && !move {
		return 0, at, nil
	}
	var newest, now time.Time
	err = l.db.Update(ctx, func(tx *store.Tx) error {
		var from int64
		var isNew bool
		from, isNew, err = cursor(ctx, tx, name)
		if err != nil {
			return err
		}
		n, at = 0, from
		to, err := headSeq(ctx, tx)
		if err != nil || to <= from {
			return err
		}
		q, args := `SELECT seq, `+contentColumns+` FROM event WHERE seq > ? AND seq <= ?`, []any{from, to}
		if len(kinds) > 0 {
			q += ` AND kind IN (?` + strings.Repeat(", ?", len(kinds)-1) + `)`
			for _, k := range kinds {
				args = append(args, string(k))
			}
		}
		var batch []Event
		if kinds == nil || len(kinds) > 0 {
			rows, err := tx.Query(ctx, q+` ORDER BY seq LIMIT ?`, append(args, consumeBatch)...)
			if err != nil {
				return err
			}
			if batch, err = scanEvents(rows, nil); err != nil {
				return err
			}
		}
		if n = len(batch); n > 0 {
			if err := fn(ctx, tx, batch); err != nil {
				return err
			}
			newest, now = batch[n-1].Time, tx.Now()
		}
		if n == consumeBatch { // there may be more below the head
			to = batch[n-1].Seq
		}
		at = to
		return moveCursor(ctx, tx, name, from, to, isNew)
	})
	if err != nil {
		return 0, -1, err
	}
	if n > 0 {
		l.lag.WithLabelValues(name).Set(now.Sub(newest).Seconds())
	}
	return n, at, nil
}

// headSeq is the number of the last sealed event; 0: there is none.
func headSeq(ctx context.Context, tx *store.Tx) (seq int64, err error) {
	err = tx.QueryRow(ctx, `SELECT COALESCE(MAX(seq), 0) FROM event`).Scan(&seq)
	return seq, err
}

// wanted says whether an event behind at is of one of the kinds, if there are
// any: a step into an index for each.
func wanted(ctx context.Context, tx *store.Tx, at int64, kinds []Kind) (bool, error) {
	if kinds == nil {
		return true, nil
	}
	for _, k := range kinds {
		var one int64
		err := tx.QueryRow(ctx, `SELECT 1 FROM event WHERE kind = ? AND seq > ? LIMIT 1`, string(k), at).Scan(&one)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, fault.NotFound) {
			return false, err
		}
	}
	return false, nil
}

// cursor is the last event that a consumer has done; isNew when it has none.
func cursor(ctx context.Context, tx *store.Tx, name string) (at int64, isNew bool, err error) {
	err = tx.QueryRow(ctx, `SELECT seq FROM event_cursor WHERE name = ?`, name).Scan(&at)
	if errors.Is(err, fault.NotFound) {
		return 0, true, nil
	}
	return at, false, err
}

func moveCursor(ctx context.Context, tx *store.Tx, name string, from, to int64, isNew bool) error {
	if isNew {
		_, err := tx.Exec(ctx, `INSERT INTO event_cursor (name, seq, changed) VALUES (?, ?, ?)`, name, to, tx.Now())
		return err
	}
	n, err := tx.Exec(ctx, `UPDATE event_cursor SET seq = ?, changed = ? WHERE name = ? AND seq = ?`, to, tx.Now(), name, from)
	if err == nil && n != 1 {
		err = fault.Newf(fault.Conflict, "cursor %s moved away from %d", name, from)
	}
	return err
}

// Cursors tells how far each consumer has come: its name and the last event
// that it has done.
func (l *Log) Cursors(ctx context.Context) (map[string]int64, error) {
	all := map[string]int64{}
	err := l.db.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(ctx, `SELECT name, seq FROM event_cursor`)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var name string
			var seq int64
			if err := rows.Scan(&name, &seq); err != nil {
				return err
			}
			all[name] = seq
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read cursors: %w", err)
	}
	return all, nil
}

// Forget drops a consumer's cursor, so that a consumer which is no more does
// not keep old events from being dropped.
func (l *Log) Forget(ctx context.Context, name string) error {
	return l.db.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM event_cursor WHERE name = ?`, name)
		return err
	})
}
