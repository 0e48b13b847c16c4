package evidence

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// The results that ingests are counted by.
const (
	resultNew       = "new"
	resultDuplicate = "duplicate"
	resultRejected  = "rejected"
	resultError     = "error"
)

type metrics struct {
	ingested *prometheus.CounterVec
	verify   prometheus.Histogram
	tampered prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		ingested: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_evidence_ingested_total", Help: "Bundles brought to the evidence store, by result.",
		}, []string{"result"}),
		verify: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "assay_evidence_verify_seconds", Help: "Time to parse and verify one bundle.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .5, 1},
		}),
		tampered: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_evidence_tampered_total", Help: "Stored bundles whose bytes were not what they had been.",
		}),
	}
	for _, r := range []string{resultNew, resultDuplicate, resultRejected, resultError} {
		m.ingested.WithLabelValues(r)
	}
	if reg == nil {
		return m, nil
	}
	return m, errors.Join(reg.Register(m.ingested), reg.Register(m.verify), reg.Register(m.tampered))
}
