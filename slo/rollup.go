package slo

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"assay/internal/excerpt"
	"assay/store"
)

// The limits.
const (
	MaxValues = 500   // values of one dimension of one indicator that are counted apart
	MaxItems  = 1_000 // artifacts behind one indicator
	maxText   = 200   // bytes of a value
)

// Other is the value under which what is beyond [MaxValues] is counted together.
const Other = "(other)"

const (
	minute = int64(60)
	hour   = int64(3600)
)

// Sample is what is counted at a moment.
type Sample struct {
	Indicator          ID
	At                 time.Time
	Place              Place
	Good, Bad, Unknown int64
	Sum                float64           // in the indicator's unit, of those that are Seconds, Level or Score
	Extra              map[string]string // dimensions of the indicator's own
	// Only counts it for its extra dimensions alone: the site and the place have it
	// from another sample.
	Only bool
}

type seriesKey struct {
	id               ID
	dimension, value string
}

type cell struct {
	key   seriesKey
	start int64 // minute
}

type counts struct{ good, bad, unknown, sum, n int64 }

func (c *counts) add(o counts) {
	c.good += o.good
	c.bad += o.bad
	c.unknown += o.unknown
	c.sum += o.sum
	c.n += o.n
}

func (c counts) empty() bool { return c.good == 0 && c.bad == 0 && c.unknown == 0 && c.n == 0 }

// Add counts samples, in the transaction of what they come from. Those of one
// moment of a state are one look. With parts, they are counted for the parts of
// the site too.
func (s *Store) Add(ctx context.Context, tx *store.Tx, samples []Sample, parts bool) error {
	sums := map[cell]*counts{}
	for i := range samples {
		x := &samples[i]
		at := x.At.Unix() / minute * minute
		c := counts{x.Good, x.Bad, x.Unknown, int64(math.Round(x.Sum * 1000)), 0}
		add := func(dimension, value string) {
			k := cell{seriesKey{x.Indicator, dimension, value}, at}
			if sums[k] == nil {
				sums[k] = &counts{n: 1}
			}
			sums[k].add(c)
		}
		if !x.Only {
			add("", "")
		}
		if !parts {
			continue
		}
		if !x.Only {
			for _, d := range x.Place.dimensions() {
				if d[1] != "" {
					add(d[0], clip(d[1]))
				}
			}
		}
		for k, v := range x.Extra {
			add(k, clip(v))
		}
	}
	return s.write(ctx, tx, sums)
}

// write adds what was counted to the series. Values that share one, because there
// are too many, are one look together.
func (s *Store) write(ctx context.Context, tx *store.Tx, sums map[cell]*counts) error {
	keys := map[seriesKey]bool{}
	for k := range sums {
		keys[k.key] = true
	}
	book, err := s.openSeries(ctx, tx, keys)
	if err != nil {
		return err
	}
	type row struct{ series, start int64 }
	rows := map[row]*counts{}
	for _, k := range slices.SortedFunc(maps.Keys(sums), func(a, b cell) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.key.id, b.key.id), cmp.Compare(a.key.dimension, b.key.dimension), cmp.Compare(a.key.value, b.key.value))
	}) {
		id, err := book.series(ctx, tx, k.key)
		if err != nil {
			return err
		}
		r := row{id, k.start}
		if rows[r] == nil {
			rows[r] = &counts{n: 1}
		}
		rows[r].add(*sums[k])
		rows[r].n = 1
	}
	for _, r := range slices.SortedFunc(maps.Keys(rows), func(a, b row) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.series, b.series))
	}) {
		c := rows[r]
		for _, step := range []int64{minute, hour} {
			if _, err := tx.Exec(ctx, `INSERT INTO slo_rollup (series, step, start, good, bad, unknown, sum, n) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
				ON CONFLICT (series, step, start) DO UPDATE SET good = slo_rollup.good + excluded.good, bad = slo_rollup.bad + excluded.bad,
				unknown = slo_rollup.unknown + excluded.unknown, sum = slo_rollup.sum + excluded.sum, n = slo_rollup.n + excluded.n`,
				r.series, step, r.start/step*step, c.good, c.bad, c.unknown, c.sum, c.n); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Place) dimensions() [6][2]string {
	return [6][2]string{{ByTeam, p.Team}, {ByService, p.Service}, {ByEnvironment, p.Environment}, {ByCluster, p.Cluster}, {ByRelease, p.Release}, {ByKind, p.Kind}}
}

// sum is what was counted of a series from a time on, until another (Unix
// seconds; whole minutes).
func sum(ctx context.Context, tx *store.Tx, series, from, to int64) (c counts, err error) {
	if to-from >= 24*hour {
		from = from / hour * hour // minutes of long ago are not kept
	}
	first, last := (from+hour-1)/hour*hour, to/hour*hour // whole hours within
	type span struct{ step, from, to int64 }
	spans := []span{{minute, from, to}}
	if first < last {
		spans = []span{{minute, from, first}, {hour, first, last}, {minute, last, to}}
	}
	for _, p := range spans {
		if p.from >= p.to {
			continue
		}
		var part counts
		if err := tx.QueryRow(ctx, `SELECT COALESCE(SUM(good), 0), COALESCE(SUM(bad), 0), COALESCE(SUM(unknown), 0), COALESCE(SUM(sum), 0), COALESCE(SUM(n), 0)
			FROM slo_rollup WHERE series = ? AND step = ? AND start >= ? AND start < ?`, series, p.step, p.from, p.to).Scan(&part.good, &part.bad, &part.unknown, &part.sum, &part.n); err != nil {
			return c, err
		}
		c.add(part)
	}
	return c, nil
}

// clip keeps a value short and plain.
func clip(v string) string {
	v = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, v)
	return excerpt.Text(v, maxText)
}
