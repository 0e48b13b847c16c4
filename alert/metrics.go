package alert

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	opened, deliveries *prometheus.CounterVec
	unowned, escalated prometheus.Counter
	active             *prometheus.GaugeVec
}

func newMetrics() *metrics {
	m := &metrics{
		opened:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_alert_opened_total", Help: "Alerts opened, by severity."}, []string{"severity"}),
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_alert_deliveries_total", Help: "Attempts to tell a receiver of alerts, by outcome."}, []string{"outcome"}),
		unowned:    prometheus.NewCounter(prometheus.CounterOpts{Name: "assay_alert_unowned_total", Help: "Alerts of what nobody owns, which went to the platform's team."}),
		escalated:  prometheus.NewCounter(prometheus.CounterOpts{Name: "assay_alert_escalated_total", Help: "Pages told again for want of an acknowledgement."}),
		active:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "assay_alert_active", Help: "Alerts that are open, by severity and state."}, []string{"severity", "state"}),
	}
	for _, s := range []Severity{Page, Ticket} {
		m.opened.WithLabelValues(string(s))
		for _, st := range []State{Firing, Acknowledged} {
			m.active.WithLabelValues(string(s), string(st))
		}
	}
	for _, o := range []string{"taken", "retried", "given_up"} {
		m.deliveries.WithLabelValues(o)
	}
	return m
}

func (m *metrics) register(r prometheus.Registerer) {
	r.MustRegister(m.opened, m.deliveries, m.unowned, m.escalated, m.active)
}
