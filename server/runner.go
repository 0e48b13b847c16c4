package server

import "assay/builder/runner/baseline"

// openRunners opens what is known of builds and their machines.
func (s *Server) openRunners() (err error) {
	s.runners, err = baseline.New(baseline.Options{
		DB: s.db, Evidence: s.evidence, Verifier: liveVerifier{s}, TrustedRefs: s.cfg.Runner.TrustedRefs, Clock: s.clock, Logger: s.log,
	})
	if err == nil {
		err = s.reg.Register(s.runners.Metrics())
	}
	return err
}
