package slo

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"assay/internal/excerpt"
	"assay/internal/fault"
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
	cells := slices.SortedFunc(maps.Keys(sums), func(a, b cell) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.key.id, b.key.id), cmp.Compare(a.key.dimension, b.key.dimension), cmp.Compare(a.key.value, b.key.value))
	})
	known := map[seriesKey]int64{}
	for _, k := range cells {
		id, ok := known[k.key]
		if !ok {
			var err error
			if id, err = s.series(ctx, tx, k.key); err != nil {
				return err
			}
			known[k.key] = id
		}
		for _, step := range []int64{minute, hour} {
			c := sums[k]
			if _, err := tx.Exec(ctx, `INSERT INTO slo_rollup (series, step, start, good, bad, unknown, sum, n) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
				ON CONFLICT (series, step, start) DO UPDATE SET good = slo_rollup.good + excluded.good, bad = slo_rollup.bad + excluded.bad,
				unknown = slo_rollup.unknown + excluded.unknown, sum = slo_rollup.sum + excluded.sum, n = slo_rollup.n + excluded.n`,
				id, step, k.start/step*step, c.good, c.bad, c.unknown, c.sum, c.n); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Place) dimensions() [6][2]string {
	return [6][2]string{{ByTeam, p.Team}, {ByService, p.Service}, {ByEnvironment, p.Environment}, {ByCluster, p.Cluster}, {ByRelease, p.Release}, {ByKind, p.Kind}}
}

// series is the number of what is counted; a new one is made, while there is room.
func (s *Store) series(ctx context.Context, tx *store.Tx, k seriesKey) (id int64, err error) {
	err = tx.QueryRow(ctx, `SELECT id FROM slo_series WHERE sli = ? AND dimension = ? AND value = ?`, string(k.id), k.dimension, k.value).Scan(&id)
	if !errors.Is(err, fault.NotFound) {
		return id, err
	}
	if k.dimension != "" && k.value != Other {
		var n int64
		if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM slo_series WHERE sli = ? AND dimension = ?`, string(k.id), k.dimension).Scan(&n); err != nil {
			return 0, err
		}
		if n >= MaxValues {
			k.value = Other
			return s.series(ctx, tx, k)
		}
	}
	if err := tx.QueryRow(ctx, `SELECT COALESCE(MAX(id), 0) + 1 FROM slo_series`).Scan(&id); err != nil {
		return 0, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO slo_series (id, sli, dimension, value) VALUES (?, ?, ?, ?)`, id, string(k.id), k.dimension, k.value)
	return id, err
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
