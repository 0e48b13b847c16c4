package tlog

import "github.com/prometheus/client_golang/prometheus"

// metrics of one log; the label "log" is its name in [Options].
type metrics struct {
	entries, failures, refused prometheus.Counter
	size, cosignatures         prometheus.Gauge
	latency, commit            prometheus.Histogram
}

func newMetrics(r prometheus.Registerer, name string) (*metrics, error) {
	label := prometheus.Labels{"log": name}
	counter := func(n, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "assay_tlog_" + n, Help: help, ConstLabels: label})
	}
	histogram := func(n, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "assay_tlog_" + n, Help: help, ConstLabels: label, Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		})
	}
	m := &metrics{
		entries:      counter("entries_total", "Entries added to the log since the start."),
		failures:     counter("commit_failures_total", "Commits of the log that failed."),
		refused:      counter("refused_total", "Entries refused because too many waited."),
		size:         prometheus.NewGauge(prometheus.GaugeOpts{Name: "assay_tlog_size", Help: "Entries in the signed tree.", ConstLabels: label}),
		cosignatures: prometheus.NewGauge(prometheus.GaugeOpts{Name: "assay_tlog_cosignatures", Help: "Witnesses that cosigned the newest checkpoint.", ConstLabels: label}),
		latency:      histogram("add_seconds", "Time from an entry's arrival to its durable checkpoint."),
		commit:       histogram("commit_seconds", "Time of one commit: tiles, record, checkpoint."),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.entries, m.failures, m.refused, m.size, m.cosignatures, m.latency, m.commit} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
