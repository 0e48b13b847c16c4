package event

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strings"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"

	"assay/internal/fault"
	"assay/store"
)

// Sealed is a batch with those of its events that were asked for, for somebody
// who has no database: each event with the proof that the head's root holds it.
type Sealed struct {
	Head     Head
	LogIndex int64 // of the head in the transparency log; -1: not known to be in it
	Events   []Proven
}

// Proven is an event with its place in its batch.
type Proven struct {
	Event Event
	Index int64  // within the batch, from 0
	Proof []Hash // RFC 6962, section 2.1.1, from the leaf up
}

// Span says which batches belong to the events between two times: from the
// first that may hold one, to the first that stands in the transparency log and
// covers them all, or to the end while there is none. Zero times mean the
// beginning and the end. An empty log is [fault.NotFound].
func (l *Log) Span(ctx context.Context, from, to time.Time) (first, last int64, err error) {
	err = l.db.View(ctx, func(tx *store.Tx) error {
		newest, err := lastHead(ctx, tx)
		if err != nil {
			return err
		}
		if newest.Batch == 0 {
			return fault.Newf(fault.NotFound, "no event has been sealed yet")
		}
		// A head is never older than its events, and at most some seconds younger.
		one := func(q string, args ...any) (n int64, err error) {
			err = tx.QueryRow(ctx, q, args...).Scan(&n)
			return n, err
		}
		first = 1
		if !from.IsZero() {
			if first, err = one(`SELECT COALESCE(MIN(batch), ?) FROM event_head WHERE time >= ?`, newest.Batch, from); err != nil {
				return err
			}
		}
		last = newest.Batch
		if !to.IsZero() {
			if last, err = one(`SELECT COALESCE(MIN(batch), ?) FROM event_head WHERE time >= ?`, newest.Batch, to.Add(sealLag)); err != nil {
				return err
			}
		}
		last, err = one(`SELECT COALESCE(MIN(batch), ?) FROM event_outbox WHERE log_index IS NOT NULL AND batch >= ?`, newest.Batch, last)
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("choose batches: %w", err)
	}
	return first, max(first, last), nil
}

// sealLag is how long an event may wait for its seal before an export between
// two times could miss it: a site whose sealer stands longer has alerts.
const sealLag = time.Minute

// Export gives the batches after a number up to another, in order, with the
// events in them that f chooses; its Limit, order and AfterSeq are not looked
// at. It gives at most maxBatches batches, and stops early after maxEvents
// events; an empty answer is the end.
func (l *Log) Export(ctx context.Context, f Filter, after, last int64, maxBatches, maxEvents int) ([]Sealed, error) {
	var out []Sealed
	err := l.db.View(ctx, func(tx *store.Tx) error {
		out = nil
		hs, err := heads(ctx, tx, `WHERE h.batch > ? AND h.batch <= ? ORDER BY h.batch LIMIT ?`, after, last, maxBatches)
		if err != nil || len(hs) == 0 {
			return err
		}
		logged, err := logIndexes(ctx, tx, hs[0].Batch, hs[len(hs)-1].Batch)
		if err != nil {
			return err
		}
		wanted, err := f.chosen(ctx, tx, hs[0].FirstSeq, hs[len(hs)-1].LastSeq)
		if err != nil {
			return err
		}
		total := 0
		for _, h := range hs {
			s := Sealed{Head: h, LogIndex: -1}
			if i, ok := logged[h.Batch]; ok {
				s.LogIndex = i
			}
			if s.Events, err = prove(ctx, tx, h, wanted); err != nil {
				return err
			}
			out = append(out, s)
			if total += len(s.Events); total >= maxEvents {
				break
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("export events: %w", err)
	}
	return out, nil
}

func logIndexes(ctx context.Context, tx *store.Tx, from, to int64) (map[int64]int64, error) {
	rows, err := tx.Query(ctx, `SELECT batch, log_index FROM event_outbox WHERE batch >= ? AND batch <= ? AND log_index IS NOT NULL`, from, to)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	out := map[int64]int64{}
	for rows.Next() {
		var batch, index int64
		if err := rows.Scan(&batch, &index); err != nil {
			return nil, err
		}
		out[batch] = index
	}
	return out, rows.Err()
}

// chosen gives the numbers of the events in a range that f chooses; nil is all.
func (f Filter) chosen(ctx context.Context, tx *store.Tx, first, last int64) (map[int64]bool, error) {
	f.AfterSeq, f.Newest, f.Limit = 0, false, 1
	where, args, err := f.where(byBody)
	if err != nil {
		return nil, err
	}
	// The rest of the statement is "[ WHERE conditions] ORDER BY seq LIMIT ?".
	where, args = strings.TrimSuffix(where, " ORDER BY seq LIMIT ?"), args[:len(args)-1]
	if where == "" {
		return nil, nil
	}
	rows, err := tx.Query(ctx, `SELECT seq FROM event`+where+` AND seq >= ? AND seq <= ?`, append(args, first, last)...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	out := map[int64]bool{}
	for rows.Next() {
		var seq int64
		if err := rows.Scan(&seq); err != nil {
			return nil, err
		}
		out[seq] = true
	}
	return out, rows.Err()
}

// prove reads one batch and proves those of its events that are wanted.
func prove(ctx context.Context, tx *store.Tx, h Head, wanted map[int64]bool) ([]Proven, error) {
	if wanted != nil {
		some := false
		for seq := h.FirstSeq; seq <= h.LastSeq && !some; seq++ {
			some = wanted[seq]
		}
		if !some {
			return nil, nil
		}
	}
	rows, err := tx.Query(ctx, `SELECT seq, `+contentColumns+` FROM event WHERE seq >= ? AND seq <= ? ORDER BY seq`, h.FirstSeq, h.LastSeq)
	if err != nil {
		return nil, err
	}
	events, err := scanEvents(rows, nil)
	if err != nil || len(events) == 0 {
		return nil, err // dropped by retention
	}
	if int64(len(events)) != h.Count {
		return nil, fault.Newf(fault.Tampered, "batch %d has %d events, its head says %d", h.Batch, len(events), h.Count)
	}
	t := paths{memo: map[[2]int]Hash{}}
	for _, e := range events {
		leaf, err := e.Leaf()
		if err != nil {
			return nil, fault.Newf(fault.Tampered, "event %d of batch %d: %w", e.Seq, h.Batch, err)
		}
		t.leaves = append(t.leaves, Hash(rfc6962.DefaultHasher.HashLeaf(leaf)))
	}
	if root := t.root(0, len(t.leaves)); root != h.Root {
		return nil, fault.Newf(fault.Tampered, "batch %d: its events give the root %s, its head says %s: an event was changed or moved", h.Batch, root, h.Root)
	}
	var out []Proven
	for i, e := range events {
		if wanted == nil || wanted[e.Seq] {
			out = append(out, Proven{e, int64(i), t.path(i, 0, len(t.leaves))})
		}
	}
	return out, nil
}

// paths computes audit paths of one tree.
type paths struct {
	leaves []Hash
	memo   map[[2]int]Hash
}

// split is the largest power of two below n (RFC 6962, section 2.1).
func split(n int) int { return 1 << (bits.Len(uint(n-1)) - 1) }

func (t *paths) root(from, n int) Hash {
	if n == 1 {
		return t.leaves[from]
	}
	key := [2]int{from, n}
	if h, ok := t.memo[key]; ok {
		return h
	}
	k := split(n)
	l, r := t.root(from, k), t.root(from+k, n-k)
	h := Hash(rfc6962.DefaultHasher.HashChildren(l[:], r[:]))
	t.memo[key] = h
	return h
}

func (t *paths) path(m, from, n int) []Hash {
	if n <= 1 {
		return nil
	}
	if k := split(n); m < k {
		return append(t.path(m, from, k), t.root(from+k, n-k))
	} else {
		return append(t.path(m-k, from+k, n-k), t.root(from, k))
	}
}

// errProof says that a proof does not hold.
var errProof = errors.New("the proof does not lead to the head's root")

// Verify says whether the head's batch holds the event at its place.
func (p Proven) Verify(h Head) error {
	if p.Index < 0 || p.Index >= h.Count || p.Event.Seq != h.FirstSeq+p.Index || h.Count > math.MaxInt32 {
		return fault.Newf(fault.Tampered, "event %d does not stand at place %d of batch %d", p.Event.Seq, p.Index, h.Batch)
	}
	leaf, err := p.Event.Leaf()
	if err != nil {
		return err
	}
	sum := Hash(rfc6962.DefaultHasher.HashLeaf(leaf))
	at, last, rest := p.Index, h.Count-1, p.Proof
	for ; last > 0; at, last = at>>1, last>>1 {
		if at&1 == 0 && at == last {
			continue // no sibling at this level
		}
		if len(rest) == 0 {
			return fault.Wrap(fault.Tampered, fmt.Errorf("event %d of batch %d: %w", p.Event.Seq, h.Batch, errProof))
		}
		if at&1 == 1 {
			sum = Hash(rfc6962.DefaultHasher.HashChildren(rest[0][:], sum[:]))
		} else {
			sum = Hash(rfc6962.DefaultHasher.HashChildren(sum[:], rest[0][:]))
		}
		rest = rest[1:]
	}
	if len(rest) != 0 || sum != h.Root {
		return fault.Wrap(fault.Tampered, fmt.Errorf("event %d of batch %d: %w", p.Event.Seq, h.Batch, errProof))
	}
	return nil
}

// Settle waits until all that was committed before now is sealed, or until
// within has passed: who asks right after a change is to see it. A sealer that
// stands keeps nobody from reading.
func (l *Log) Settle(ctx context.Context, within time.Duration) error {
	began := time.Now()
	var until time.Time
	for {
		waiting := false
		if err := l.db.View(ctx, func(tx *store.Tx) error {
			if until.IsZero() {
				until = tx.Now()
			}
			var oldest int64
			err := tx.QueryRow(ctx, `SELECT time FROM event_pending WHERE time <= ? ORDER BY time LIMIT 1`, until).Scan(&oldest)
			if errors.Is(err, fault.NotFound) {
				waiting = false
				return nil
			}
			waiting = err == nil
			return err
		}); err != nil {
			return fmt.Errorf("wait for the seal: %w", err)
		}
		if !waiting || time.Since(began) >= within {
			return nil
		}
		t := time.NewTimer(10 * time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}
