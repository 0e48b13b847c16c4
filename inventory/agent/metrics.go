package agent

import (
	"sync/atomic"

	"assay/inventory/threat"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics have fixed label sets: result is image, foreign, changed or unknown;
// outcome is taken, refused or later.
type metrics struct {
	executions *prometheus.CounterVec
	reports    *prometheus.CounterVec
	missed     prometheus.Counter
	kernel     prometheus.Gauge
	swept      prometheus.Gauge

	image, foreign, unknown atomic.Int64 // as executions, for Once
}

func newMetrics(r prometheus.Registerer, q *queue) (*metrics, error) {
	m := &metrics{
		executions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_agent_executions_total", Help: "Executions in containers that were compared with their image: image (it holds the file), foreign, changed or unknown."}, []string{"result"}),
		reports:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_agent_reports_total", Help: "Findings that the server was told of: taken, refused, or later (it did not answer)."}, []string{"outcome"}),
		missed:     prometheus.NewCounter(prometheus.CounterOpts{Name: "assay_agent_missed_total", Help: "Executions of which nothing can be said: dropped by the kernel, no place in the queue, not readable."}),
		kernel:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "assay_agent_kernel", Help: "1 while the kernel tells of each execution (fanotify), 0 while /proc alone is looked through."}),
		swept:      prometheus.NewGauge(prometheus.GaugeOpts{Name: "assay_agent_swept_timestamp_seconds", Help: "When /proc was last looked through."}),
	}
	for _, result := range []string{"image", "foreign", "changed", "unknown"} {
		m.executions.WithLabelValues(result)
	}
	for _, outcome := range []string{"taken", "refused", "later"} {
		m.reports.WithLabelValues(outcome)
	}
	if r == nil {
		return m, nil
	}
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "assay_agent_waiting", Help: "Executions that wait to be compared, on disk."}, func() float64 { return float64(q.length()) })
	for _, c := range []prometheus.Collector{m.executions, m.reports, m.missed, m.kernel, m.swept, waiting} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// compared counts an execution by the rule that it is told by.
func (m *metrics) compared(rule string) {
	switch rule {
	case "":
		rule = "image"
		m.image.Add(1)
	case threat.RuleUnknown:
		m.unknown.Add(1)
	default:
		m.foreign.Add(1)
	}
	m.executions.WithLabelValues(rule).Inc()
}

// told counts a report by what became of it.
func (m *metrics) told(err error) {
	switch {
	case err == nil:
		m.reports.WithLabelValues("taken").Inc()
	case again(err):
		m.reports.WithLabelValues("later").Inc()
	default:
		m.reports.WithLabelValues("refused").Inc()
	}
}
