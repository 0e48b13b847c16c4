package contract

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	evidence *prometheus.GaugeVec
	missing  prometheus.Counter
}

// The words that expected evidence is counted by; a predicate type itself is
// anybody's text and no label.
var (
	typeWords  = []string{"provenance", "sbom", "signature", "test", "vex", "vsa", "other"}
	stateWords = []string{"present", "late", "missing", "pending"}
)

// typeWord is the label of a predicate type.
func typeWord(t string) string {
	for _, c := range []struct{ prefix, word string }{
		{"https://slsa.dev/provenance/", "provenance"}, {"https://cyclonedx.org/bom", "sbom"}, {"https://spdx.dev/Document", "sbom"},
		{TypeSignature, "signature"}, {"https://in-toto.io/attestation/test-result/", "test"}, {"https://openvex.dev/ns", "vex"},
		{"https://slsa.dev/verification_summary/", "vsa"},
	} {
		if strings.HasPrefix(t, c.prefix) {
			return c.word
		}
	}
	return "other"
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		evidence: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "assay_contract_evidence", Help: "Evidence that contracts expect of what was pushed in the last 30 days, by type and state.",
		}, []string{"type", "state"}),
		missing: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_contract_missing_total", Help: "Artifacts of which evidence was missing when the contract's time was over.",
		}),
	}
	for _, t := range typeWords {
		for _, s := range stateWords {
			m.evidence.WithLabelValues(t, s)
		}
	}
	if reg == nil {
		return m, nil
	}
	return m, errors.Join(reg.Register(m.evidence), reg.Register(m.missing))
}

// measured is how far back the gauges look.
const measured = 30 * 24 * time.Hour

// measure sets the gauges; every replica tells the same.
func (l *Ledger) measure(ctx context.Context) error {
	rows, err := l.Coverage(ctx, l.o.DB.Now().Add(-measured), "")
	if err != nil {
		return err
	}
	sum := map[[2]string]int{}
	for _, c := range rows {
		t := typeWord(c.PredicateType)
		sum[[2]string{t, "present"}] += c.Present
		sum[[2]string{t, "late"}] += c.Late
		sum[[2]string{t, "missing"}] += c.Missing
		sum[[2]string{t, "pending"}] += c.Pending
	}
	for _, t := range typeWords {
		for _, s := range stateWords {
			l.met.evidence.WithLabelValues(t, s).Set(float64(sum[[2]string{t, s}]))
		}
	}
	return nil
}
