package server

import (
	"crypto"
	"fmt"
	"os"

	"assay/internal/fault"
	"assay/internal/keyring"
	"assay/trust"
	"assay/verify"
)

// configuredTrust adds the foreign roots and the keys of the configuration file.
func (s *Server) configuredTrust(d *trustDraft) error {
	for _, path := range s.cfg.Trust.Roots {
		b, err := readSmall(path)
		if err != nil {
			return fmt.Errorf("trust.roots: %w", err)
		}
		r, err := trust.ParseTrustedRoot(b, trust.WithName(path))
		if err != nil {
			return fmt.Errorf("trust.roots: %s: %w", path, err)
		}
		d.verify.Roots = append(d.verify.Roots, r)
	}
	for _, path := range s.cfg.Trust.Keys {
		b, err := readSmall(path)
		if err != nil {
			return fmt.Errorf("trust.keys: %w", err)
		}
		pub, err := keyring.ParsePublic(b)
		if err != nil {
			return fmt.Errorf("trust.keys: %s: %w", path, err)
		}
		d.verify.Keys = append(d.verify.Keys, trust.Key{Public: pub})
	}
	return nil
}

// newEngine makes the decision engine over the evidence store and the live
// trust state.
func (s *Server) newEngine(key crypto.Signer) (*verify.Engine, error) {
	return verify.New(verify.Options{
		DB: s.db, Source: s.evidence, Trust: func() verify.TrustState {
			t := s.trust()
			return verify.TrustState{Verifier: t.verifier, Epoch: t.epoch}
		},
		Profile: s.profile, Contracts: s.ledger, Runners: s.runners, Services: serviceFacts{s}, Workloads: workloadFacts{s}, Flaws: flaws{&s.vulnerabilities, s.sboms, s.evidence}, Components: s.sboms, Exceptions: exceptionSource{s},
		Refresh: s.followTrust, Key: key, VerifierID: s.public, Host: s.host(),
		MaxValidity: s.cfg.Verify.MaxValidity, Builders: s.cfg.Verify.Builders, Clock: s.clock, Logger: s.log, Registerer: s.reg,
	})
}

// profile is that of a repository. A process that has no registry, or has not
// opened it yet, knows of none.
func (s *Server) profile(repository string) string {
	if s.gate == nil {
		return ""
	}
	return s.gate.Profile(repository)
}

func readSmall(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	if st.Size() > 4<<20 {
		return nil, fault.Newf(fault.TooLarge, "%s: %d bytes are too many", path, st.Size())
	}
	return os.ReadFile(path)
}
