package forge

import (
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/source"
	"assay/store"
)

type metrics struct {
	pushes *prometheus.CounterVec
	merge  prometheus.Histogram
}

func newMetrics() *metrics {
	return &metrics{
		pushes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_source_pushes_total", Help: "Pushes to protected branches that were judged, by whether what they brought was reviewed."}, []string{"review"}),
		merge: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "assay_source_merge_seconds", Help: "From a change's opening to its merge.",
			Buckets: []float64{600, 3600, 4 * 3600, 24 * 3600, 3 * 24 * 3600, 7 * 24 * 3600, 30 * 24 * 3600}}),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	for _, v := range []string{"reviewed", "unreviewed"} {
		m.pushes.WithLabelValues(v)
	}
	if r == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{m.pushes, m.merge} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) settled(rec *Record) {
	word := "unreviewed"
	if rec.Reviewed {
		word = "reviewed"
	}
	m.pushes.WithLabelValues(word).Inc()
	if c := rec.Change; c != nil && !c.OpenedAt.IsZero() && c.MergedAt.After(c.OpenedAt) {
		m.merge.Observe(c.MergedAt.Sub(c.OpenedAt).Seconds())
	}
}

// Metrics are the merge figures of one source over a time.
type Metrics struct {
	Source     string
	Repository string // URI, git+https://…
	Ref        string
	Pushes     int // judged
	Reviewed   int
	Forced     int
	Merges     int              // changes that were merged
	Median     time.Duration    // from opening to merge, of these
	Protection *source.Controls // as last found; nil: not looked at
}

// Metrics counts what was pushed and merged since a time, for each source.
func (r *Recorder) Metrics(ctx context.Context, since time.Time) (out []Metrics, err error) {
	err = r.o.DB.View(ctx, func(tx *store.Tx) error {
		out = nil
		for _, s := range r.o.Sources() {
			m := Metrics{Source: s.Name, Repository: s.URI(), Ref: s.Ref()}
			if err := tx.QueryRow(ctx, `SELECT COUNT(*), COALESCE(SUM(CASE WHEN reviewed = 1 THEN 1 ELSE 0 END), 0), COALESCE(SUM(CASE WHEN forced = 1 THEN 1 ELSE 0 END), 0)
				FROM source_push WHERE source = ? AND at >= ? AND due = 0`, s.Name, store.Micros(since)).Scan(&m.Pushes, &m.Reviewed, &m.Forced); err != nil {
				return err
			}
			times, err := mergeTimes(ctx, tx, s, since)
			if err != nil {
				return err
			}
			if m.Merges = len(times); m.Merges > 0 {
				slices.Sort(times)
				m.Median = times[len(times)/2]
			}
			if m.Protection, err = protection(ctx, tx, s); err != nil {
				return err
			}
			out = append(out, m)
		}
		return nil
	})
	return out, err
}

func mergeTimes(ctx context.Context, tx *store.Tx, s *Source, since time.Time) (out []time.Duration, err error) {
	rows, err := tx.Query(ctx, `SELECT opened, merged_at FROM source_change WHERE source = ? AND branch = ? AND merged = 1 AND opened > 0 AND merged_at >= ? ORDER BY merged_at DESC LIMIT 10000`, s.Name, s.Branch, store.Micros(since))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var opened, merged int64
		if err := rows.Scan(&opened, &merged); err != nil {
			return nil, err
		}
		out = append(out, store.Time(merged).Sub(store.Time(opened)))
	}
	return out, rows.Err()
}
