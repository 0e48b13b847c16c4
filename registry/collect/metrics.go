package collect

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"assay/internal/fault"
)

// metrics have fixed label sets.
type metrics struct {
	runs    *prometheus.CounterVec
	deleted *prometheus.CounterVec
	freed   prometheus.Counter
	waiting prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_collect_runs_total", Help: "Garbage collections, by outcome.",
		}, []string{"outcome"}),
		deleted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_collect_deleted_total", Help: "What garbage collection deleted: blobs, manifests, upload rows, upload sessions.",
		}, []string{"what"}),
		freed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_collect_freed_bytes_total", Help: "Bytes of the blobs that garbage collection deleted.",
		}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "assay_collect_waiting_bytes", Help: "Bytes of blobs that nothing needs and that are in their grace, at the last collection of this process.",
		}),
	}
	for _, o := range []string{"done", "failed"} {
		m.runs.WithLabelValues(o)
	}
	for _, w := range []string{"blobs", "manifests", "uploads", "sessions"} {
		m.deleted.WithLabelValues(w)
	}
	if reg == nil {
		return m, nil
	}
	var errs error
	for _, c := range []prometheus.Collector{m.runs, m.deleted, m.freed, m.waiting} {
		errs = errors.Join(errs, reg.Register(c))
	}
	return m, errs
}

func (m *metrics) done(r *Report, err error) {
	outcome := "done"
	if err != nil && fault.KindOf(err) != fault.Conflict {
		outcome = "failed"
	}
	m.runs.WithLabelValues(outcome).Inc()
	m.deleted.WithLabelValues("blobs").Add(float64(r.Deleted))
	m.deleted.WithLabelValues("manifests").Add(float64(r.Manifests))
	m.deleted.WithLabelValues("uploads").Add(float64(r.Uploads))
	m.deleted.WithLabelValues("sessions").Add(float64(r.Sessions))
	m.freed.Add(float64(r.Freed))
	m.waiting.Set(float64(r.WaitBytes))
}
