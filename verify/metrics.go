package verify

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/policy"
	"assay/telemetry"
)

// metrics have fixed label sets: verdict is allow, deny or undecided.
type metrics struct {
	decisions *prometheus.CounterVec
	extended  prometheus.Counter
	seconds   prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_verify_decisions_total", Help: "Questions that were answered, by verdict; undecided: no answer was found."}, []string{"verdict"}),
		extended:  prometheus.NewCounter(prometheus.CounterOpts{Name: "assay_verify_extended_total", Help: "Decisions that still held and were extended."}),
		seconds:   prometheus.NewHistogram(prometheus.HistogramOpts{Name: "assay_verify_seconds", Help: "Time from a question to its stored answer.", Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10}}),
	}
	for _, v := range []string{"allow", "deny", "undecided"} {
		m.decisions.WithLabelValues(v)
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.decisions, m.extended, m.seconds} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) decided(ctx context.Context, d *Decision, err error, took time.Duration) {
	verdict := "undecided"
	if err == nil {
		verdict = string(policy.Deny)
		if d.Allowed() {
			verdict = string(policy.Allow)
		}
	}
	m.decisions.WithLabelValues(verdict).Inc()
	telemetry.Observe(ctx, m.seconds, took.Seconds())
}
