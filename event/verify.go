package event

import (
	"context"
	"errors"
	"fmt"
	"math"

	"assay/internal/fault"
	"assay/store"
)

// VerifyChain checks the sealed events from one number to another, both
// included and widened to whole batches; 0 means the first or the last. It
// recomputes every leaf, root and head, and finds a changed, missing, added or
// reordered event and a changed, missing or reordered head: [fault.Tampered],
// naming the batch, what was expected and what was found. Events that retention
// dropped are missed only if no [EventsDropped] event, itself in the chain,
// accounts for them.
//
// One who rewrites the whole chain consistently, or cuts its end off, is found
// by [Log.CheckHead] with a head that was published.
func (l *Log) VerifyChain(ctx context.Context, from, to int64) error {
	if to <= 0 {
		to = math.MaxInt64
	}
	if from > to {
		return fault.Newf(fault.Invalid, "verify events %d to %d: want the lower number first", from, to)
	}
	v := verifier{log: l, to: to}
	if err := v.start(ctx, from); err != nil {
		return fmt.Errorf("verify events: %w", err)
	}
	for done := false; !done; {
		// Heads and events never change, so each batch may have a snapshot of
		// its own, and none is held for long.
		err := l.db.View(ctx, func(tx *store.Tx) (err error) {
			done, err = v.batch(ctx, tx)
			return err
		})
		if err != nil {
			return fmt.Errorf("verify events: %w", err)
		}
	}
	return nil
}

// verifier walks the chain, head by head.
type verifier struct {
	log     *Log
	to      int64
	prev    Head  // the head before the next
	dropped int64 // last event that retention accounts for
}

// start finds the batch of the event from, and what retention has dropped.
func (v *verifier) start(ctx context.Context, from int64) error {
	var err error
	if v.dropped, err = v.log.droppedThrough(ctx); err != nil {
		return err
	}
	if from <= 1 {
		return nil
	}
	return v.log.db.View(ctx, func(tx *store.Tx) error {
		before, err := heads(ctx, tx, `WHERE h.last_seq < ? ORDER BY h.batch DESC LIMIT 1`, from)
		if err == nil && len(before) == 1 {
			v.prev = before[0]
			err = v.prev.Validate()
		}
		return err
	})
}

// batch verifies the next head and its events; done at the end of the range.
func (v *verifier) batch(ctx context.Context, tx *store.Tx) (done bool, err error) {
	if v.prev.LastSeq >= v.to {
		return true, nil
	}
	next, err := heads(ctx, tx, `WHERE h.batch > ? ORDER BY h.batch LIMIT 1`, v.prev.Batch)
	if err != nil {
		return false, err
	}
	if len(next) == 0 {
		return true, v.end(ctx, tx)
	}
	h := next[0]
	switch {
	case h.Batch != v.prev.Batch+1:
		return false, fault.Newf(fault.Tampered, "after batch %d comes batch %d: the heads between are missing", v.prev.Batch, h.Batch)
	case h.FirstSeq != v.prev.LastSeq+1:
		return false, fault.Newf(fault.Tampered, "batch %d starts with event %d, want %d", h.Batch, h.FirstSeq, v.prev.LastSeq+1)
	case h.Prev != v.prev.Hash:
		return false, fault.Newf(fault.Tampered, "batch %d: its head follows a head with hash %s, but that of batch %d is %s", h.Batch, h.Prev, v.prev.Batch, v.prev.Hash)
	}
	if err := h.Validate(); err != nil {
		return false, fault.Wrap(fault.Tampered, err)
	}
	if err := v.events(ctx, tx, h); err != nil {
		return false, err
	}
	v.prev = h
	return false, nil
}

// end looks for events beyond the last head.
func (v *verifier) end(ctx context.Context, tx *store.Tx) error {
	var stray int64
	err := tx.QueryRow(ctx, `SELECT seq FROM event WHERE seq > ? ORDER BY seq LIMIT 1`, v.prev.LastSeq).Scan(&stray)
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	if err == nil {
		err = fault.Newf(fault.Tampered, "event %d lies beyond the last head, which ends with event %d: it was added by hand, or heads are missing", stray, v.prev.LastSeq)
	}
	return err
}

// events recomputes the root of one batch.
func (v *verifier) events(ctx context.Context, tx *store.Tx, h Head) error {
	rows, err := tx.Query(ctx, `SELECT seq, `+contentColumns+` FROM event WHERE seq >= ? AND seq <= ? ORDER BY seq`, h.FirstSeq, h.LastSeq)
	if err != nil {
		return err
	}
	events, err := scanEvents(rows, nil)
	if err != nil {
		return err
	}
	if len(events) == 0 && h.LastSeq <= v.dropped {
		return nil
	}
	want := h.FirstSeq
	t := newTree()
	var buf []byte
	for _, e := range events {
		if e.Seq != want {
			break
		}
		want++
		if buf, err = e.appendLeaf(buf[:0], e.rawBody()); err != nil {
			return fault.Newf(fault.Tampered, "event %d of batch %d: %w", e.Seq, h.Batch, err)
		}
		if err := t.add(buf); err != nil {
			return err
		}
	}
	if want <= h.LastSeq {
		return fault.Newf(fault.Tampered, "batch %d (events %d to %d): event %d is missing", h.Batch, h.FirstSeq, h.LastSeq, want)
	}
	root, err := t.root()
	if err != nil {
		return err
	}
	if root != h.Root {
		return fault.Newf(fault.Tampered, "batch %d (events %d to %d): its events give the root %s, its head says %s: an event was changed or moved", h.Batch, h.FirstSeq, h.LastSeq, root, h.Root)
	}
	return nil
}
