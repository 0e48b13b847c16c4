package integrity

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct{ checked, repairs *prometheus.CounterVec }

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{checked: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_integrity_blobs_checked_total", Help: "Blobs hashed again, by outcome.",
	}, []string{"outcome"}), repairs: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_integrity_repairs_total", Help: "Repairs of damaged blobs, by outcome.",
	}, []string{"outcome"})}
	for _, o := range []string{"repaired", "refused", "failed"} {
		m.repairs.WithLabelValues(o)
	}
	for _, o := range []string{"whole", "damaged", "missing"} {
		m.checked.WithLabelValues(o)
	}
	if reg == nil {
		return m, nil
	}
	return m, errors.Join(reg.Register(m.checked), reg.Register(m.repairs))
}
