package integrity

import "github.com/prometheus/client_golang/prometheus"

type metrics struct{ checked *prometheus.CounterVec }

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{checked: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_integrity_blobs_checked_total", Help: "Blobs hashed again, by outcome.",
	}, []string{"outcome"})}
	for _, o := range []string{"whole", "damaged", "missing"} {
		m.checked.WithLabelValues(o)
	}
	if reg == nil {
		return m, nil
	}
	return m, reg.Register(m.checked)
}
