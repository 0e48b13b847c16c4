package admission

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/telemetry"
)

// metrics have fixed label sets: door is mutate, validate, warn or gatekeeper; outcome is
// allowed, denied, warned or invalid.
type metrics struct {
	reviews *prometheus.CounterVec
	images  *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		reviews: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_admission_reviews_total", Help: "AdmissionReviews and requests of Gatekeeper that were answered, by door and outcome."}, []string{"door", "outcome"}),
		images:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_admission_images_total", Help: "Images of Pods that were decided about, by outcome."}, []string{"outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "assay_admission_seconds", Help: "Time from a review's head to its answer, in seconds.",
			Buckets: []float64{.0005, .001, .0015, .0025, .005, .01, .025, .05, .1, .3, 1, 2.5, 5},
		}, []string{"door"}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.reviews, m.images, m.seconds} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) answered(ctx context.Context, door string, r *Response, took time.Duration) {
	outcome := "allowed"
	switch {
	case !r.Allowed:
		outcome = "denied"
	case len(r.Warnings) > 0:
		outcome = "warned"
	}
	m.reviews.WithLabelValues(door, outcome).Inc()
	telemetry.Observe(ctx, m.seconds.WithLabelValues(door), took.Seconds())
}
