package event

import (
	"context"
	"maps"
	"sync"
	"time"

	"assay/store"
)

// news tells the consumers of one process which kinds of events were sealed
// lately. Each would otherwise ask the database, for each of its kinds, whenever
// anything is sealed, and most of what is sealed are pulls, which hardly any
// consumer wants.
type news struct {
	mu     sync.Mutex
	asked  time.Time // when the last look began; zero: there was none
	since  int64     // what was sealed after it is known
	head   int64
	newest map[Kind]int64 // last number of each kind, of those after since
}

// lookEvery is the least time between two looks: one commit wakes all consumers,
// a little after one another.
const lookEvery = 20 * time.Millisecond

// quiet says whether nothing after at is of one of the kinds, and gives the number
// of the last event and the time of which this is true, which may be just before
// woken. It never says so of what it does not know: of events before the first
// look, or when the look fails.
func (n *news) quiet(ctx context.Context, db *store.DB, woken time.Time, at int64, kinds []Kind) (quiet bool, head int64, asOf time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.asked.After(woken) && time.Since(n.asked) >= lookEvery && n.look(ctx, db) != nil {
		return false, 0, n.asked
	}
	if at < n.since {
		return false, n.head, n.asked
	}
	if kinds == nil {
		return n.head <= at, n.head, n.asked
	}
	for _, k := range kinds {
		if n.newest[k] > at {
			return false, n.head, n.asked
		}
	}
	return true, n.head, n.asked
}

// look reads what was sealed since the last one.
func (n *news) look(ctx context.Context, db *store.DB) error {
	began, first := time.Now(), n.newest == nil
	head, newest := n.head, maps.Clone(n.newest)
	if first {
		newest = map[Kind]int64{}
	}
	err := db.View(ctx, func(tx *store.Tx) (err error) {
		if first {
			head, err = headSeq(ctx, tx)
			return err
		}
		rows, err := tx.Query(ctx, `SELECT kind, MAX(seq) FROM event WHERE seq > ? GROUP BY kind`, n.head)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var kind string
			var seq int64
			if err := rows.Scan(&kind, &seq); err != nil {
				return err
			}
			newest[Kind(kind)], head = seq, max(head, seq)
		}
		return rows.Err()
	})
	if err != nil {
		return err
	}
	if first {
		n.since = head
	}
	n.asked, n.head, n.newest = began, head, newest
	return nil
}
