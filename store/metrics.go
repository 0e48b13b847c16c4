package store

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/internal/fault"
)

// metrics of one store; nil counts nothing.
type metrics struct {
	updates *prometheus.CounterVec
	seconds prometheus.Histogram
	commits prometheus.Histogram
	groups  prometheus.Histogram
	retries prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	if r == nil {
		return nil, nil
	}
	m := &metrics{
		updates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_store_updates_total", Help: "Read-write transactions by outcome (ok or the kind of failure).",
		}, []string{"outcome"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "assay_store_update_seconds", Help: "Time from Update's call to its return.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		commits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "assay_store_commit_seconds", Help: "Time of one SQLite COMMIT, fsync included.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2, 14),
		}),
		groups: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "assay_store_group_size", Help: "Updates that one SQLite COMMIT made durable.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 9),
		}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_store_retries_total", Help: "PostgreSQL transactions run again after a lost race.",
		}),
	}
	for _, c := range []prometheus.Collector{m.updates, m.seconds, m.commits, m.groups, m.retries} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) update(d time.Duration, err error) {
	if m == nil {
		return
	}
	outcome := "ok"
	if err != nil {
		outcome = fault.KindOf(err).Name()
	}
	m.updates.WithLabelValues(outcome).Inc()
	m.seconds.Observe(d.Seconds())
}

func (m *metrics) group(n int, commit time.Duration) {
	if m != nil {
		m.groups.Observe(float64(n))
		m.commits.Observe(commit.Seconds())
	}
}

func (m *metrics) retry() {
	if m != nil {
		m.retries.Inc()
	}
}
