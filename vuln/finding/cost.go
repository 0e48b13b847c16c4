package finding

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
	"assay/store/lane"
)

// costOfScan is what looking a document up takes, while it is taken.
type costOfScan struct {
	*work
	lane.Cost
	fresh      int // components never seen before
	advisories int // records looked at for them

	delay time.Duration

	measure func() lane.Cost
}

// stop ends the measuring, once. What comes behind is the receipt itself.
func (c *costOfScan) stop() {
	if c.measure != nil {
		c.Cost, c.measure = c.measure(), nil
	}
}

// waited is how long the document was in the queue.
func (c *costOfScan) waited(now time.Time) time.Duration {
	c.delay = 0
	if !c.since.IsZero() {
		c.delay = max(0, now.Sub(c.since)-c.Wall)
	}
	return c.delay
}

// record notes what matching an operation cost. One that a crash interrupted
// counts what was done again.
func (a *applying) record(ctx context.Context, opened, closed int, c lane.Cost) error {
	err := a.m.db.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO finding_cost (operation, feed, matched, advisories, opened, closed, cpu, wall) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (operation) DO UPDATE SET matched = excluded.matched, advisories = excluded.advisories, opened = excluded.opened, closed = excluded.closed,
				cpu = finding_cost.cpu + excluded.cpu, wall = finding_cost.wall + excluded.wall`,
			a.op.ID, a.feed, store.Micros(tx.Now()), a.advisories, opened, closed, c.CPU.Microseconds(), c.Wall.Microseconds())
		return err
	})
	if err == nil {
		a.m.met.feedCPU.Add(c.CPU.Seconds())
	}
	return err
}

// metrics have fixed label sets: tiers 1 to 4, and why something was missed.
type metrics struct {
	scans   *prometheus.CounterVec
	cpu     *prometheus.CounterVec
	waited  *prometheus.HistogramVec
	feedCPU prometheus.Counter
	missed  *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{
		scans: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_vuln_scans_total", Help: "Bills of materials that were looked up in the advisories in force, by the tier that they had in the queue.",
		}, []string{"tier"}),
		cpu: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_vuln_scan_cpu_seconds_total", Help: "Processor time of that, in seconds.",
		}, []string{"tier"}),
		waited: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "assay_vuln_scan_wait_seconds", Help: "How long a bill of materials that was read waited until it was looked up.", Buckets: []float64{0.05, 0.2, 0.5, 1, 2, 5, 15, 60, 300, 1800, 7200},
		}, []string{"tier"}),
		feedCPU: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_vuln_feed_cpu_seconds_total", Help: "Processor time of matching what feeds changed against everything stored, in seconds.",
		}),
		missed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_vuln_missed_total", Help: "Matches of component and advisory that a scan should have found and did not, by cause.",
		}, []string{"cause"}),
	}
	for tier := 1; tier <= lane.Tiers; tier++ {
		m.scans.WithLabelValues(strconv.Itoa(tier))
		m.cpu.WithLabelValues(strconv.Itoa(tier))
		m.waited.WithLabelValues(strconv.Itoa(tier))
	}
	for _, c := range Causes() {
		m.missed.WithLabelValues(c)
	}
	return m
}

func (m *metrics) scanned(c *costOfScan) {
	tier := strconv.Itoa(min(max(c.tier, 1), lane.Tiers))
	m.scans.WithLabelValues(tier).Inc()
	m.cpu.WithLabelValues(tier).Add(c.CPU.Seconds())
	if !c.since.IsZero() {
		m.waited.WithLabelValues(tier).Observe(c.delay.Seconds())
	}
}

// Register gives the matcher's metrics to a registry.
func (m *Matcher) Register(reg prometheus.Registerer) error {
	var errs error
	for _, c := range []prometheus.Collector{m.met.scans, m.met.cpu, m.met.waited, m.met.feedCPU, m.met.missed} {
		errs = errors.Join(errs, reg.Register(c))
	}
	return errs
}

// Scan is a document that was looked up, and what that cost.
type Scan struct {
	Subject    artifact.Digest
	Document   int64
	At         time.Time
	Tier       int // that it had in the queue
	Components int
	Fresh      int           // never seen before: only these are looked up
	Advisories int           // looked at for them
	CPU, Wall  time.Duration // of looking up
	ReadCPU    time.Duration // of reading the document
	ReadWall   time.Duration
	Waited     time.Duration // between reading and looking up
}

// Costs is what scans cost, in sums.
type Costs struct {
	Since   time.Time
	Tiers   []TierCost
	Feeds   FeedCost
	Pending []Pending
}

// TierCost is what the scans of a tier cost.
type TierCost struct {
	Tier                                int
	Scans, Components, Fresh            int64
	Advisories                          int64
	CPU, Wall, ReadCPU, ReadWall, Worst time.Duration // Worst: the longest wait
}

// FeedCost is what matching feeds cost.
type FeedCost struct {
	Operations, Advisories, Opened, Closed int64
	CPU, Wall                              time.Duration
}

// Pending is what waits, by tier.
type Pending struct {
	Tier    int
	Reading int64 // bills of materials to be read
	Looking int64 // and to be looked up
}

// Costs gives what was spent since a time.
func (m *Matcher) Costs(ctx context.Context, since time.Time) (out Costs, err error) {
	err = m.db.View(ctx, func(tx *store.Tx) error {
		out = Costs{Since: since}
		from := store.Micros(since)
		rows, err := tx.Query(ctx, `SELECT s.tier, COUNT(*), SUM(s.components), SUM(s.fresh), SUM(s.advisories), SUM(s.cpu), SUM(s.wall), SUM(COALESCE(d.read_cpu, 0)), SUM(COALESCE(d.read_wall, 0)), MAX(s.waited)
			FROM finding_scan s LEFT JOIN sbom_document d ON d.id = s.document WHERE s.scanned >= ? GROUP BY s.tier ORDER BY s.tier`, from)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var t TierCost
			var us [5]int64
			if err := rows.Scan(&t.Tier, &t.Scans, &t.Components, &t.Fresh, &t.Advisories, &us[0], &us[1], &us[2], &us[3], &us[4]); err != nil {
				return err
			}
			t.CPU, t.Wall, t.ReadCPU, t.ReadWall, t.Worst = micros(us[0]), micros(us[1]), micros(us[2]), micros(us[3]), micros(us[4])
			out.Tiers = append(out.Tiers, t)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		rows.Close()
		var cpu, wall int64
		f := &out.Feeds
		if err := tx.QueryRow(ctx, `SELECT COUNT(*), COALESCE(SUM(advisories), 0), COALESCE(SUM(opened), 0), COALESCE(SUM(closed), 0), COALESCE(SUM(cpu), 0), COALESCE(SUM(wall), 0) FROM finding_cost WHERE matched >= ?`, from).
			Scan(&f.Operations, &f.Advisories, &f.Opened, &f.Closed, &cpu, &wall); err != nil {
			return err
		}
		f.CPU, f.Wall = micros(cpu), micros(wall)
		out.Pending, err = pending(ctx, tx)
		return err
	})
	return out, err
}

func micros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

func pending(ctx context.Context, tx *store.Tx) (out []Pending, err error) {
	out = make([]Pending, lane.Tiers)
	for i := range out {
		out[i].Tier = i + 1
	}
	for i, q := range []string{`SELECT tier, COUNT(*) FROM sbom_pending GROUP BY tier`, `SELECT tier, COUNT(*) FROM finding_pending WHERE kind = 'document' GROUP BY tier`} {
		rows, err := tx.Query(ctx, q)
		if err != nil {
			return nil, err
		}
		for rows.Next() {
			var tier int
			var n int64
			if err := rows.Scan(&tier, &n); err != nil {
				rows.Close()
				return nil, err
			}
			p := &out[min(max(tier, 1), lane.Tiers)-1]
			if i == 0 {
				p.Reading += n
			} else {
				p.Looking += n
			}
		}
		if err := rows.Err(); err != nil {
			return nil, err
		}
		rows.Close()
	}
	return out, nil
}

// Scans lists what was looked up since a time, the costliest first.
func (m *Matcher) Scans(ctx context.Context, since time.Time, subject artifact.Digest, limit int) (all []Scan, err error) {
	if limit < 1 || limit > 1000 {
		return nil, fault.Newf(fault.Invalid, "limit %d: want 1 to 1000", limit)
	}
	err = m.db.View(ctx, func(tx *store.Tx) error {
		all = nil
		where, args := `s.scanned >= ?`, []any{store.Micros(since)}
		if subject != "" {
			where, args = where+` AND s.subject = ?`, append(args, string(subject))
		}
		rows, err := tx.Query(ctx, `SELECT s.subject, s.document, s.scanned, s.tier, s.components, s.fresh, s.advisories, s.cpu, s.wall, COALESCE(d.read_cpu, 0), COALESCE(d.read_wall, 0), s.waited
			FROM finding_scan s LEFT JOIN sbom_document d ON d.id = s.document WHERE `+where+` ORDER BY s.cpu + COALESCE(d.read_cpu, 0) DESC, s.document LIMIT ?`, append(args, limit)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var x Scan
			var at int64
			var us [5]int64
			if err := rows.Scan(&x.Subject, &x.Document, &at, &x.Tier, &x.Components, &x.Fresh, &x.Advisories, &us[0], &us[1], &us[2], &us[3], &us[4]); err != nil {
				return err
			}
			x.At, x.CPU, x.Wall, x.ReadCPU, x.ReadWall, x.Waited = store.Time(at), micros(us[0]), micros(us[1]), micros(us[2]), micros(us[3]), micros(us[4])
			all = append(all, x)
		}
		return rows.Err()
	})
	return all, err
}
