package slo

import (
	"context"
	"errors"

	"assay/internal/fault"
	"assay/store"
)

const (
	// many is from how many values on those of a dimension are read at once.
	many = 16
	// restFor is how long a value was not counted before another may take its place.
	restFor = 24 * hour
)

// seriesBook gives the numbers of series during one write. A site has more releases
// than are counted apart, and they come and go: the many of one look cost one
// question for each dimension, and not one for each release.
type seriesBook struct {
	s     *Store
	known map[seriesKey]int64
	used  map[int64]bool     // by this write: none of these goes to the others
	full  map[seriesKey]bool // dimensions without room
}

// openSeries finds those that there are.
func (s *Store) openSeries(ctx context.Context, tx *store.Tx, keys map[seriesKey]bool) (*seriesBook, error) {
	b := &seriesBook{s: s, known: map[seriesKey]int64{}, used: map[int64]bool{}, full: map[seriesKey]bool{}}
	of := map[seriesKey][]seriesKey{}
	for k := range keys {
		all := seriesKey{k.id, k.dimension, ""}
		of[all] = append(of[all], k)
	}
	for all, list := range of {
		values, err := read(ctx, tx, all, list)
		if err != nil {
			return nil, err
		}
		for _, k := range list {
			if id, ok := values[k.value]; ok {
				b.known[k], b.used[id] = id, true
			}
		}
	}
	return b, nil
}

// series gives one, and makes it while there is room.
func (b *seriesBook) series(ctx context.Context, tx *store.Tx, k seriesKey) (id int64, err error) {
	if id, ok := b.known[k]; ok {
		return id, nil
	}
	if k.dimension != "" && k.value != Other {
		all := seriesKey{k.id, k.dimension, ""}
		if !b.full[all] {
			room, err := b.room(ctx, tx, k)
			if err != nil {
				return 0, err
			}
			b.full[all] = !room
		}
		if b.full[all] {
			return b.series(ctx, tx, seriesKey{k.id, k.dimension, Other})
		}
	}
	if k.value == Other {
		values, err := read(ctx, tx, k, []seriesKey{k})
		if id, ok := values[Other]; ok || err != nil {
			b.known[k] = id
			return id, err
		}
	}
	if id, err = newSeries(ctx, tx, k); err == nil {
		b.known[k], b.used[id] = id, true
	}
	return id, err
}

// read gives the numbers of some series of a dimension, or of all that it has.
func read(ctx context.Context, tx *store.Tx, all seriesKey, of []seriesKey) (map[string]int64, error) {
	out := map[string]int64{}
	if len(of) < many {
		for _, k := range of {
			var id int64
			err := tx.QueryRow(ctx, `SELECT id FROM slo_series WHERE sli = ? AND dimension = ? AND value = ?`, string(k.id), k.dimension, k.value).Scan(&id)
			if err == nil {
				out[k.value] = id
			} else if !errors.Is(err, fault.NotFound) {
				return nil, err
			}
		}
		return out, nil
	}
	rows, err := tx.Query(ctx, `SELECT value, id FROM slo_series WHERE sli = ? AND dimension = ?`, string(all.id), all.dimension)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var value string
		var id int64
		if err := rows.Scan(&value, &id); err != nil {
			return nil, err
		}
		out[value] = id
	}
	return out, rows.Err()
}

func newSeries(ctx context.Context, tx *store.Tx, k seriesKey) (id int64, err error) {
	if err := tx.QueryRow(ctx, `SELECT COALESCE(MAX(id), 0) + 1 FROM slo_series`).Scan(&id); err != nil {
		return 0, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO slo_series (id, sli, dimension, value) VALUES (?, ?, ?, ?)`, id, string(k.id), k.dimension, k.value)
	return id, err
}

// room says whether one more value of a dimension is counted apart. Where there are
// as many as may be, the one that was not counted for the longest time, and for a
// day at least, goes to the others: its history stays in their sum.
func (b *seriesBook) room(ctx context.Context, tx *store.Tx, k seriesKey) (bool, error) {
	var n int64
	if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM slo_series WHERE sli = ? AND dimension = ? AND value <> ?`, string(k.id), k.dimension, Other).Scan(&n); err != nil || n < MaxValues {
		return err == nil, err
	}
	oldest, err := b.oldest(ctx, tx, k)
	if err != nil || oldest == 0 {
		return false, err
	}
	other, err := b.series(ctx, tx, seriesKey{k.id, k.dimension, Other})
	if err != nil {
		return false, err
	}
	for _, q := range []struct {
		text string
		args []any
	}{
		{`INSERT INTO slo_rollup (series, step, start, good, bad, unknown, sum, n) SELECT ?, step, start, good, bad, unknown, sum, n FROM slo_rollup WHERE series = ?
			ON CONFLICT (series, step, start) DO UPDATE SET good = slo_rollup.good + excluded.good, bad = slo_rollup.bad + excluded.bad, unknown = slo_rollup.unknown + excluded.unknown,
			sum = slo_rollup.sum + excluded.sum, n = CASE WHEN slo_rollup.n > excluded.n THEN slo_rollup.n ELSE excluded.n END`, []any{other, oldest}},
		{`DELETE FROM slo_rollup WHERE series = ?`, []any{oldest}},
		{`DELETE FROM slo_series WHERE id = ?`, []any{oldest}},
	} {
		if _, err := tx.Exec(ctx, q.text, q.args...); err != nil {
			return false, err
		}
	}
	return true, nil
}

// oldest is the series of a dimension that rests for the longest time, 0 where none
// rests for long.
func (b *seriesBook) oldest(ctx context.Context, tx *store.Tx, k seriesKey) (oldest int64, err error) {
	rows, err := tx.Query(ctx, `SELECT s.id, COALESCE((SELECT MAX(r.start) FROM slo_rollup r WHERE r.series = s.id AND r.step = ?), 0)
		FROM slo_series s WHERE s.sli = ? AND s.dimension = ? AND s.value <> ?`, hour, string(k.id), k.dimension, Other)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	last := b.s.now().Unix() - restFor
	for rows.Next() {
		var id, at int64
		if err := rows.Scan(&id, &at); err != nil {
			return 0, err
		}
		if at < last && !b.used[id] {
			oldest, last = id, at
		}
	}
	return oldest, rows.Err()
}
