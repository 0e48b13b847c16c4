package event

import (
	"context"
	"errors"
	"fmt"
	"time"

	"assay/internal/fault"
	"assay/store"
)

// dropAtOnce bounds the events of one step, which keeps every writer waiting.
const dropAtOnce = 5000

// dropBody is the body of an EventsDropped event.
type dropBody struct {
	LastBatch int64 `json:"last_batch"`
	LastSeq   int64 `json:"last_seq"`
	Hash      Hash  `json:"hash"`
	Count     int64 `json:"count"`
}

// DropBefore drops the events of every batch that was sealed before a time, is
// covered by a head in the transparency log, and has been passed by every
// consumer. It tells how many events it dropped. Heads stay, so the chain still
// verifies, and each step leaves an [EventsDropped] event in it.
func (l *Log) DropBefore(ctx context.Context, before time.Time) (dropped int64, err error) {
	for {
		var n int64
		err := l.db.Update(ctx, func(tx *store.Tx) (err error) {
			n, err = dropStep(ctx, tx, before)
			return err
		})
		if err != nil {
			return dropped, fmt.Errorf("drop events before %s: %w", before.UTC().Format(time.RFC3339), err)
		}
		if n == 0 {
			return dropped, nil
		}
		dropped += n
	}
}

// Droppable tells how many events were sealed before a time, at most as many as
// [Log.DropBefore] would drop: it leaves those that the transparency log does not
// cover yet, or a consumer has not passed.
func (l *Log) Droppable(ctx context.Context, before time.Time) (n int64, err error) {
	err = l.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, `SELECT COUNT(*) FROM event WHERE seq <= (SELECT COALESCE(MAX(h.last_seq), 0) FROM event_head h WHERE h.time < ?)`, before).Scan(&n)
	})
	return n, err
}

// DroppedThrough is the last event that retention has dropped, as a dropping
// event that verifies accounts for it; 0: none.
func (l *Log) DroppedThrough(ctx context.Context) (int64, error) { return l.droppedThrough(ctx) }

func dropStep(ctx context.Context, tx *store.Tx, before time.Time) (int64, error) {
	var first int64
	err := tx.QueryRow(ctx, `SELECT seq FROM event ORDER BY seq LIMIT 1`).Scan(&first)
	if errors.Is(err, fault.NotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	// At least the one batch that holds the first event, and more up to the
	// bound; each restricted by age, by the log, and by the slowest consumer.
	all, err := heads(ctx, tx, `WHERE h.last_seq >= ? AND h.time < ?
		AND h.batch <= (SELECT COALESCE(MAX(o.batch), 0) FROM event_outbox o WHERE o.log_index IS NOT NULL)
		AND h.last_seq <= (SELECT COALESCE(MIN(c.seq), h.last_seq) FROM event_cursor c)
		AND (h.last_seq < ? OR h.first_seq <= ?)
		ORDER BY h.batch DESC LIMIT 1`, first, before, first+dropAtOnce, first)
	if err != nil || len(all) == 0 {
		return 0, err
	}
	n, err := tx.Exec(ctx, `DELETE FROM event WHERE seq <= ?`, all[0].LastSeq)
	if err != nil {
		return 0, err
	}
	return n, Append(ctx, tx, Event{Kind: EventsDropped, Actor: "system:retention", Body: dropBody{
		LastBatch: all[0].Batch, LastSeq: all[0].LastSeq, Hash: all[0].Hash, Count: n,
	}})
}

// droppedThrough is the last event that retention accounts for, from the newest
// EventsDropped event whose own batch verifies, or from one that is about to be
// sealed.
func (l *Log) droppedThrough(ctx context.Context) (through int64, err error) {
	err = l.db.View(ctx, func(tx *store.Tx) error {
		for _, q := range [...]string{
			`SELECT 0, ` + contentColumns + ` FROM event_pending WHERE kind = ? ORDER BY time DESC, ord DESC LIMIT 1`,
			`SELECT seq, ` + contentColumns + ` FROM event WHERE kind = ? ORDER BY seq DESC LIMIT 1`,
		} {
			rows, err := tx.Query(ctx, q, EventsDropped)
			if err != nil {
				return err
			}
			found, err := scanEvents(rows, nil)
			if err != nil {
				return err
			}
			if len(found) == 0 {
				continue
			}
			var body dropBody
			if err := found[0].Decode(&body); err != nil {
				return fault.Wrap(fault.Tampered, err)
			}
			if err := accounts(ctx, tx, found[0], body); err != nil {
				return err
			}
			through = body.LastSeq
			return nil
		}
		return nil
	})
	return through, err
}

// accounts checks that an EventsDropped event may be believed: its own batch
// verifies, and it names a head of this chain.
func accounts(ctx context.Context, tx *store.Tx, e Event, body dropBody) error {
	if e.Seq > 0 {
		own, err := heads(ctx, tx, `WHERE h.last_seq >= ? ORDER BY h.batch LIMIT 1`, e.Seq)
		if err != nil {
			return err
		}
		if len(own) == 0 || own[0].FirstSeq > e.Seq {
			return fault.Newf(fault.Tampered, "event %d, which accounts for dropped events, is under no head", e.Seq)
		}
		if err := own[0].Validate(); err != nil {
			return fault.Wrap(fault.Tampered, err)
		}
		v := verifier{}
		if err := v.events(ctx, tx, own[0]); err != nil {
			return err
		}
	}
	named, err := heads(ctx, tx, `WHERE h.batch = ?`, body.LastBatch)
	if err != nil {
		return err
	}
	if len(named) == 0 || named[0].Hash != body.Hash || named[0].LastSeq != body.LastSeq {
		return fault.Newf(fault.Tampered, "events up to %d were dropped under the head %s of batch %d, which the chain does not have", body.LastSeq, body.Hash, body.LastBatch)
	}
	return nil
}
