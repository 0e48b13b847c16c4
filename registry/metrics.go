package registry

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/telemetry"
)

// metrics of the registry. Labels come from closed sets only: operations, status
// classes, directions.
type metrics struct {
	requests  *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	bytes     *prometheus.CounterVec
	uploading prometheus.Gauge
	recorded  *prometheus.CounterVec
	ingested  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_registry_requests_total", Help: "Requests answered, by operation and status class.",
		}, []string{"operation", "class"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "assay_registry_request_seconds", Help: "Time from request to answer, bodies included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600},
		}, []string{"operation"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_registry_body_bytes_total", Help: "Bytes of bodies, by direction.",
		}, []string{"direction"}),
		uploading: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "assay_registry_uploads_active", Help: "Blob bodies being written right now.",
		}),
		recorded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_registry_audit_records_total", Help: "Pull and denial records, by outcome.",
		}, []string{"outcome"}),
		ingested: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_registry_ingests_total", Help: "Pushed evidence handed on, by outcome.",
		}, []string{"outcome"}),
	}
	if reg == nil {
		return m, nil
	}
	var errs error
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.bytes, m.uploading, m.recorded, m.ingested} {
		errs = errors.Join(errs, reg.Register(c))
	}
	return m, errs
}

var classes = [...]string{"other", "1xx", "2xx", "3xx", "4xx", "5xx"}

func (m *metrics) observe(ctx context.Context, op operation, w *response, took time.Duration) {
	class := w.status / 100
	if class < 1 || class > 5 {
		class = 0
	}
	m.requests.WithLabelValues(string(op), classes[class]).Inc()
	telemetry.Observe(ctx, m.seconds.WithLabelValues(string(op)), took.Seconds())
	m.bytes.WithLabelValues("in").Add(float64(w.in))
	m.bytes.WithLabelValues("out").Add(float64(w.out))
}
