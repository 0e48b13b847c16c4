package gate

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics have fixed label sets: states, and allow, deny or undecided.
type metrics struct {
	changes *prometheus.CounterVec
	pushes  *prometheus.CounterVec
	judged  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_gate_changes_total", Help: "Manifests that became active, rejected, quarantined, revoked, held for a person or released.",
		}, []string{"to"}),
		pushes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_gate_pushes_total", Help: "Manifests pushed to repositories with a gate, by the state that they got.",
		}, []string{"state"}),
		judged: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_gate_judgements_total", Help: "Judgements of manifests, by verdict; undecided: tried again.",
		}, []string{"verdict"}),
	}
	for _, s := range []State{Active, Rejected, Quarantined, Revoked, Waiting, "released"} {
		m.changes.WithLabelValues(string(s))
	}
	for _, v := range []string{"allow", "deny", "undecided"} {
		m.judged.WithLabelValues(v)
	}
	m.stored("")
	if reg == nil {
		return m, nil
	}
	var errs error
	for _, c := range []prometheus.Collector{m.changes, m.pushes, m.judged} {
		errs = errors.Join(errs, reg.Register(c))
	}
	return m, errs
}

func (m *metrics) stored(s State) {
	if s == "" {
		m.pushes.WithLabelValues(string(Staged))
		m.pushes.WithLabelValues(string(Active))
		return
	}
	m.pushes.WithLabelValues(string(s)).Inc()
}
