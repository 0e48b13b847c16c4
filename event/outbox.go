package event

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"assay/internal/fault"
	"assay/store"
)

// outbox is where the outbox stands.
type outbox struct {
	due    time.Time // of the last head that became due; zero if none did
	newest int64     // the newest batch
	events int64     // events since the last head that became due
	news   int64     // of those, the ones worth publishing a head for
}

func readOutbox(ctx context.Context, tx *store.Tx) (outbox, error) {
	var o outbox
	var batch, due, lastSeq int64
	err := tx.QueryRow(ctx, `SELECT o.batch, o.due, h.last_seq FROM event_outbox o JOIN event_head h ON h.batch = o.batch
		ORDER BY o.batch DESC LIMIT 1`).Scan(&batch, &due, &lastSeq)
	if err != nil && !errors.Is(err, fault.NotFound) {
		return o, err
	}
	o.due = store.Time(due)
	err = tx.QueryRow(ctx, `SELECT COALESCE(MAX(batch), 0), COALESCE(MAX(last_seq), 0) - ?, CAST(COALESCE(SUM(news), 0) AS BIGINT)
		FROM event_head WHERE batch > ?`, lastSeq, batch).Scan(&o.newest, &o.events, &o.news)
	return o, err
}

// maxUnlogged bounds what UnloggedHeads gives at once.
const maxUnlogged = 100

// UnloggedHeads gives the heads that are due for the transparency log and not
// known to be in it, oldest first, at most 100. Since a head commits to all
// before it, publishing the last alone also settles the others.
func (l *Log) UnloggedHeads(ctx context.Context) ([]Head, error) {
	var all []Head
	err := l.db.View(ctx, func(tx *store.Tx) (err error) {
		all, err = heads(ctx, tx, `JOIN event_outbox o ON o.batch = h.batch WHERE o.log_index IS NULL ORDER BY h.batch LIMIT ?`, maxUnlogged)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read unlogged heads: %w", err)
	}
	return all, nil
}

// MarkLogged notes that head stands in the transparency log at logIndex, which
// settles every due head up to it. Repeating it changes nothing. A head that is
// not the log's own is [fault.Tampered].
func (l *Log) MarkLogged(ctx context.Context, head Head, logIndex int64) error {
	err := l.db.Update(ctx, func(tx *store.Tx) error {
		if err := sameHead(ctx, tx, head); err != nil {
			return err
		}
		// A head that was published without having become due counts too.
		if _, err := tx.Exec(ctx, `INSERT INTO event_outbox (batch, due) VALUES (?, ?) ON CONFLICT (batch) DO NOTHING`, head.Batch, tx.Now()); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE event_outbox SET log_index = ?, logged = ? WHERE batch <= ? AND log_index IS NULL`,
			logIndex, tx.Now(), head.Batch)
		return err
	})
	if err != nil {
		return fmt.Errorf("mark head %d as logged: %w", head.Batch, err)
	}
	return nil
}

// Backlog is how long the oldest due head has waited for the transparency log;
// 0 when none waits. Over 60 s is a reason for an alert.
func (l *Log) Backlog(ctx context.Context) (time.Duration, error) {
	var age time.Duration
	err := l.db.View(ctx, func(tx *store.Tx) error {
		var due sql.NullInt64
		if err := tx.QueryRow(ctx, `SELECT MIN(due) FROM event_outbox WHERE log_index IS NULL`).Scan(&due); err != nil {
			return err
		}
		if due.Valid {
			age = max(tx.Now().Sub(store.Time(due.Int64)), 0)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("read the backlog of heads: %w", err)
	}
	return age, nil
}

// Logged gives the first head in the transparency log that covers the event
// seq, and its index there; [fault.NotFound] while there is none.
func (l *Log) Logged(ctx context.Context, seq int64) (head Head, logIndex int64, err error) {
	err = l.db.View(ctx, func(tx *store.Tx) error {
		var batch int64
		err := tx.QueryRow(ctx, `SELECT o.batch, o.log_index FROM event_outbox o JOIN event_head h ON h.batch = o.batch
			WHERE o.log_index IS NOT NULL AND h.last_seq >= ? ORDER BY o.batch LIMIT 1`, seq).Scan(&batch, &logIndex)
		if err != nil {
			return err
		}
		all, err := heads(ctx, tx, `WHERE h.batch = ?`, batch)
		if err == nil {
			head = all[0]
		}
		return err
	})
	if err != nil {
		return Head{}, 0, fmt.Errorf("find the logged head over event %d: %w", seq, err)
	}
	return head, logIndex, nil
}

// Heads gives the heads after a batch, in order, at most limit (0: 1,000).
func (l *Log) Heads(ctx context.Context, afterBatch int64, limit int) ([]Head, error) {
	if limit <= 0 || limit > maxHeads {
		limit = maxHeads
	}
	var all []Head
	err := l.db.View(ctx, func(tx *store.Tx) (err error) {
		all, err = heads(ctx, tx, `WHERE h.batch > ? ORDER BY h.batch LIMIT ?`, afterBatch, limit)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read heads: %w", err)
	}
	return all, nil
}

const maxHeads = 1000

// LastHead is the newest head, or [fault.NotFound] for an empty log.
func (l *Log) LastHead(ctx context.Context) (Head, error) {
	var h Head
	err := l.db.View(ctx, func(tx *store.Tx) (err error) {
		h, err = lastHead(ctx, tx)
		return err
	})
	if err == nil && h.Batch == 0 {
		err = fault.Newf(fault.NotFound, "no event has been sealed yet")
	}
	if err != nil {
		return Head{}, fmt.Errorf("read the last head: %w", err)
	}
	return h, nil
}

// CheckHead says whether this log still leads to a head that was seen or
// published before: [fault.Tampered] when it has another there, or none (it was
// cut short, or an old backup was restored).
func (l *Log) CheckHead(ctx context.Context, head Head) error {
	return l.db.View(ctx, func(tx *store.Tx) error { return sameHead(ctx, tx, head) })
}

func sameHead(ctx context.Context, tx *store.Tx, head Head) error {
	if err := head.Validate(); err != nil {
		return err
	}
	all, err := heads(ctx, tx, `WHERE h.batch = ?`, head.Batch)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fault.Newf(fault.Tampered, "the event log has no batch %d, of which a head with hash %s was seen: it was cut short, or an old backup was restored", head.Batch, head.Hash)
	}
	if all[0] != head {
		return fault.Newf(fault.Tampered, "the event log's head of batch %d has hash %s, one with hash %s was seen: history was rewritten", head.Batch, all[0].Hash, head.Hash)
	}
	return nil
}
