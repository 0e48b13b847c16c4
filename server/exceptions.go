package server

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/artifact"
	"assay/attestation"
	"assay/authority/rotation"
	"assay/internal/fault"
	"assay/policy"
	"assay/policy/exception"
	"assay/store"
	"assay/trust"
	"assay/verify"
)

// exceptionsPoll is how late it is told that an exception is over. Decisions end
// with it by themselves.
const exceptionsPoll = 5 * time.Second

// openExceptions makes the book of what two persons agreed to let pass.
func (s *Server) openExceptions() {
	s.exceptions = exception.New(exception.Options{
		DB: s.db, Sign: s.signSource, Verify: s.verifySource, Logger: s.log,
		Limits: exception.Limits{Ordinary: s.cfg.Verify.Exceptions.MaxValidity, BreakGlass: s.cfg.Verify.Exceptions.BreakGlassValidity},
		Judge: func(ctx context.Context, tx *store.Tx, digest artifact.Digest, gone bool) error {
			if gone {
				if err := verify.Hasten(ctx, tx, digest); err != nil {
					return err
				}
			}
			return s.engine.StirDigest(ctx, tx, digest)
		},
	})
	s.reg.MustRegister(&exceptionCounts{s.exceptions, prometheus.NewDesc("assay_exceptions", "Exceptions in force, and requests that wait for another person.", []string{"kind", "state"}, nil)})
}

// exceptionSource gives the decision engine the book, which is opened after it.
type exceptionSource struct{ s *Server }

// Facts implements [verify.ExceptionSource].
func (x exceptionSource) Facts(ctx context.Context, digest artifact.Digest, subject policy.Subject, scope policy.Scope) ([]policy.ExceptionFact, error) {
	if x.s.exceptions == nil {
		return nil, fault.Newf(fault.Undecided, "exceptions are not loaded yet")
	}
	return x.s.exceptions.Facts(ctx, digest, subject, scope)
}

// verifySource gives the statement of a bundle that [Server.signSource] made.
func (s *Server) verifySource(ctx context.Context, bundle []byte, digest artifact.Digest) (*attestation.Statement, error) {
	b, err := attestation.ParseBundle(bundle, attestation.DefaultLimits())
	if err != nil {
		return nil, err
	}
	now := s.trust()
	var keys []trust.Key
	for _, k := range rotation.Of(now.keys, rotation.Source) {
		pub, err := k.PublicKey()
		if err != nil {
			return nil, err
		}
		keys = append(keys, trust.Key{Public: pub, Window: k.Window()})
	}
	if len(keys) == 0 {
		return nil, fault.Newf(fault.Unverified, "the site has no key of role %s", rotation.Source)
	}
	v, err := now.root.VerifyBundle(ctx, b, trust.VerifyOptions{Artifact: digest.Set(), Keys: keys, Thresholds: &trust.Thresholds{TLog: 1}})
	if err != nil {
		return nil, fmt.Errorf("signed by this site: %w", err)
	}
	return attestation.ParseStatement(v.Payload, attestation.DefaultLimits())
}

// exceptionCounts counts what is excused and what waits.
type exceptionCounts struct {
	book *exception.Store
	desc *prometheus.Desc
}

// Describe implements [prometheus.Collector].
func (c *exceptionCounts) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements [prometheus.Collector].
func (c *exceptionCounts) Collect(ch chan<- prometheus.Metric) {
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Second)
	defer stop()
	counts, err := c.book.Count(ctx)
	if err != nil {
		return // a site whose database does not answer has other alerts
	}
	for _, kind := range []string{policy.ExceptionOrdinary, policy.ExceptionBreakGlass} {
		for _, state := range []string{exception.Requested, exception.Approved} {
			ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(counts[[2]string{kind, state}]), kind, state)
		}
	}
}
