package slo

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/store"
)

// Options of a [Store]. DB is required; what is nil is not looked at, and counts
// as unknown where an indicator rests on it.
type Options struct {
	DB     *store.DB
	Events *event.Log
	Clock  clock.Clock
	Logger *slog.Logger
	// Objectives are those in force; nil: [Defaults].
	Objectives func() *Objectives
	// Locate says whose an event's subject is, and where.
	Locate func(ctx context.Context, tx *store.Tx, e *event.Event) (Place, error)
	// Running is what runs now, each digest once for each place.
	Running func(ctx context.Context, tx *store.Tx) ([]Running, error)
	// Signed says what is known of a pushed digest's signatures.
	Signed func(ctx context.Context, tx *store.Tx, digest artifact.Digest, repository string) (Verdict, error)
	// Health is this process's counters and the site's log and feeds.
	Health func(ctx context.Context) (Health, error)
	// Holder names this process, for the lease of the site's looks.
	Holder string
	// Retention is how long roll-ups are kept.
	Retention Retention
}

// Retention is how long roll-ups are kept. Zero members are 35 days, 2 days and
// 400 days.
type Retention struct {
	Minutes      time.Duration // of the whole site
	MinutesParts time.Duration // of its parts
	Hours        time.Duration
}

// Store keeps what was counted. It is safe for many goroutines.
type Store struct {
	o    Options
	last Health // what the last look of this process found; Run's alone
	lost int64
}

// New makes a store over a database that was migrated with [Migrations].
func New(o Options) *Store {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Holder == "" {
		o.Holder = "one"
	}
	o.Retention.Minutes = cmp.Or(o.Retention.Minutes, 35*24*time.Hour)
	o.Retention.MinutesParts = cmp.Or(o.Retention.MinutesParts, 48*time.Hour)
	o.Retention.Hours = cmp.Or(o.Retention.Hours, 400*24*time.Hour)
	return &Store{o: o}
}

func (s *Store) now() time.Time { return s.o.Clock().UTC() }

// Query says which numbers are asked for.
type Query struct {
	IDs    []ID          // none: all
	At     time.Time     // end of the window; zero: now
	Window time.Duration // zero: 30 days
	// By is a dimension to part the numbers by; "" gives none.
	By string
	// Dimension and Value choose one part of the site, in place of the whole.
	Dimension, Value string
	// Teams limits By team, and Dimension, to those that the asker may see; nil: all.
	Limit int // parts; zero: 50
}

// DefaultWindow is that of a [Query] which names none.
const DefaultWindow = 30 * 24 * time.Hour

// Indicators gives the values of indicators, in the order of [Definitions].
func (s *Store) Indicators(ctx context.Context, q Query) (out []Indicator, err error) {
	if err := q.complete(s.now()); err != nil {
		return nil, err
	}
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		out = nil
		for i := range definitions {
			d := definitions[i]
			if len(q.IDs) > 0 && !slices.Contains(q.IDs, d.ID) {
				continue
			}
			one := Indicator{Definition: d, From: q.At.Add(-q.Window), To: q.At, Window: q.Window}
			c, err := s.window(ctx, tx, seriesKey{d.ID, q.Dimension, q.Value}, q.At, q.Window)
			if err != nil {
				return err
			}
			one.Value, one.Numerator, one.Denominator, one.Bad, one.Unknown, one.Known = c.shown(d)
			if q.By != "" {
				if one.By, err = s.parts(ctx, tx, d, &q); err != nil {
					return err
				}
			}
			out = append(out, one)
		}
		return nil
	})
	return out, err
}

func (q *Query) complete(now time.Time) error {
	if q.At.IsZero() {
		q.At = now
	}
	if q.Window == 0 {
		q.Window = DefaultWindow
	}
	if q.Window < time.Minute || q.Window > 400*24*time.Hour {
		return fault.Newf(fault.Invalid, "window %s: want 1m to 400 days", q.Window)
	}
	if q.Limit <= 0 {
		q.Limit = 50
	}
	for _, id := range q.IDs {
		if _, ok := DefinitionOf(id); !ok {
			return fault.Newf(fault.Invalid, "no indicator is %.60q: docs/slo.md lists them", string(id))
		}
	}
	known := slices.Concat([]string{""}, Dimensions(), []string{"type", "cause", "depth", "feed"})
	for _, d := range []string{q.By, q.Dimension} {
		if !slices.Contains(known, d) {
			return fault.Newf(fault.Invalid, "dimension %.60q: want one of team, service, environment, cluster, release, kind, type, cause, depth, feed", d)
		}
	}
	return nil
}

// window is what was counted in a window that ends at a time; the minute that
// goes on is part of it.
func (s *Store) window(ctx context.Context, tx *store.Tx, k seriesKey, at time.Time, window time.Duration) (c counts, err error) {
	var id int64
	err = tx.QueryRow(ctx, `SELECT id FROM slo_series WHERE sli = ? AND dimension = ? AND value = ?`, string(k.id), k.dimension, k.value).Scan(&id)
	if errors.Is(err, fault.NotFound) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	to := (at.Unix()/minute + 1) * minute
	return sum(ctx, tx, id, to-int64(window/time.Second), to)
}

func (s *Store) parts(ctx context.Context, tx *store.Tx, d Definition, q *Query) (out []Part, err error) {
	rows, err := tx.Query(ctx, `SELECT id, value FROM slo_series WHERE sli = ? AND dimension = ?`, string(d.ID), q.By)
	if err != nil {
		return nil, err
	}
	type series struct {
		id    int64
		value string
	}
	var all []series
	for rows.Next() {
		var x series
		if err := rows.Scan(&x.id, &x.value); err != nil {
			rows.Close()
			return nil, err
		}
		all = append(all, x)
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return nil, err
	}
	to := (q.At.Unix()/minute + 1) * minute
	for _, x := range all {
		c, err := sum(ctx, tx, x.id, to-int64(q.Window/time.Second), to)
		if err != nil {
			return nil, err
		}
		if c.empty() {
			continue
		}
		p := Part{Dimension: q.By, Value: x.value}
		p.Number, p.Numerator, p.Denominator, p.Bad, p.Unknown, p.Known = c.shown(d)
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Part) int {
		return cmp.Or(cmp.Compare(b.Bad+b.Unknown, a.Bad+a.Unknown), cmp.Compare(b.Numerator, a.Numerator), cmp.Compare(a.Value, b.Value))
	})
	return out[:min(len(out), q.Limit)], nil
}

// shown are the numbers of an indicator as people read them. Of what is looked at
// again and again they are means over the looks: two digests that ran for an hour
// are two, and not a hundred and twenty.
func (c counts) shown(d Definition) (value, numerator, denominator, bad, unknown float64, known bool) {
	value, numerator, denominator, known = c.value(d.Unit)
	bad, unknown = float64(c.bad), float64(c.unknown)
	if d.Unit == Level {
		denominator = float64(c.good) + bad + unknown
	}
	if d.State && d.ID != LogHealth && c.n > 0 { // of the log's health the looks themselves are counted
		n := float64(c.n)
		numerator, denominator, bad, unknown = numerator/n, denominator/n, bad/n, unknown/n
	}
	return value, numerator, denominator, bad, unknown, known
}

// value is the number that counts make.
func (c counts) value(u Unit) (value, numerator, denominator float64, known bool) {
	all := float64(c.good + c.bad + c.unknown)
	sum := float64(c.sum) / 1000
	switch u {
	case Count:
		return float64(c.bad), float64(c.bad), all, !c.empty()
	case Level:
		if c.n == 0 {
			return 0, sum, 0, false
		}
		return sum / float64(c.n), sum, float64(c.n), true
	case Seconds, Score:
		if told := float64(c.good + c.bad); told > 0 {
			return sum / told, sum, all, true
		}
		return 0, 0, all, false
	}
	if all == 0 {
		return 0, 0, 0, false
	}
	return float64(c.good) / all, float64(c.good), all, true
}

// SeriesQuery says which part of a series is asked for.
type SeriesQuery struct {
	Dimension, Value string // "": the whole site
	From, To         time.Time
	Step             time.Duration // whole minutes or hours; zero: about 120 points
}

// MaxPoints is how many points a series has at most.
const MaxPoints = 1_500

// Series gives an indicator over time, for a chart. Steps in which nothing was
// counted are there, not known.
func (s *Store) Series(ctx context.Context, id ID, q SeriesQuery) (out []Point, err error) {
	d, ok := DefinitionOf(id)
	if !ok {
		return nil, fault.Newf(fault.NotFound, "no indicator is %.60q: docs/slo.md lists them", string(id))
	}
	if q.To.IsZero() {
		q.To = s.now()
	}
	if q.From.IsZero() {
		q.From = q.To.Add(-DefaultWindow)
	}
	span := q.To.Sub(q.From)
	if q.Step == 0 {
		q.Step = max(time.Minute, (span / 120).Truncate(time.Minute))
		if q.Step > time.Hour {
			q.Step = max(time.Hour, q.Step.Truncate(time.Hour))
		}
	}
	if span <= 0 || q.Step < time.Minute || q.Step%time.Minute != 0 || span/q.Step > MaxPoints {
		return nil, fault.Newf(fault.Invalid, "from %s to %s in steps of %s: want a span of at most %d steps of whole minutes", q.From.Format(time.RFC3339), q.To.Format(time.RFC3339), q.Step, MaxPoints)
	}
	step := int64(q.Step / time.Second)
	base := minute
	if step%hour == 0 {
		base = hour
	}
	from, to := q.From.Unix()/step*step, q.To.Unix()/step*step+step
	cells := map[int64]*counts{}
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		clear(cells)
		rows, err := tx.Query(ctx, `SELECT r.start, r.good, r.bad, r.unknown, r.sum, r.n FROM slo_rollup r JOIN slo_series t ON t.id = r.series
			WHERE t.sli = ? AND t.dimension = ? AND t.value = ? AND r.step = ? AND r.start >= ? AND r.start < ?`, string(id), q.Dimension, q.Value, base, from, to)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var at int64
			var c counts
			if err := rows.Scan(&at, &c.good, &c.bad, &c.unknown, &c.sum, &c.n); err != nil {
				return err
			}
			at = at / step * step
			if cells[at] == nil {
				cells[at] = &counts{}
			}
			cells[at].add(c)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	for at := from; at < to; at += step {
		p := Point{Start: time.Unix(at, 0).UTC()}
		if c := cells[at]; c != nil {
			p.Value, p.Numerator, p.Denominator, p.Bad, p.Unknown, p.Known = c.shown(d)
		}
		out = append(out, p)
	}
	return out, nil
}

// Items gives the artifacts behind an indicator's number, those of which bad is
// known first, the newest first.
func (s *Store) Items(ctx context.Context, id ID, limit int) (out []Item, err error) {
	if _, ok := DefinitionOf(id); !ok {
		return nil, fault.Newf(fault.NotFound, "no indicator is %.60q: docs/slo.md lists them", string(id))
	}
	if limit <= 0 || limit > MaxItems {
		limit = MaxItems
	}
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(ctx, `SELECT digest, reason, unknown, team, service, environment, cluster, release, kind, event, since, seen
			FROM slo_item WHERE sli = ? ORDER BY unknown, since DESC, digest, key LIMIT ?`, string(id), limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			x := Item{Indicator: id}
			var unknown, since, seen int64
			p := &x.Place
			if err := rows.Scan(&x.Digest, &x.Reason, &unknown, &p.Team, &p.Service, &p.Environment, &p.Cluster, &p.Release, &p.Kind, &x.Event, &since, &seen); err != nil {
				return err
			}
			x.Unknown, x.Since, x.Seen = unknown != 0, store.Time(since), store.Time(seen)
			out = append(out, x)
		}
		return rows.Err()
	})
	return out, err
}
