package telemetry

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
)

// Observe enters a value into a histogram; where ctx is in a trace that is
// kept, with the trace's ID as an exemplar, so that a slow bucket leads to what
// was slow.
func Observe(ctx context.Context, o prometheus.Observer, v float64) {
	if id := TraceID(ctx); id != "" {
		if e, ok := o.(prometheus.ExemplarObserver); ok {
			e.ObserveWithExemplar(v, prometheus.Labels{"trace_id": id})
			return
		}
	}
	o.Observe(v)
}
