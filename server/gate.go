package server

import (
	"assay/registry/gate"
)

// openGate makes the registry's gate. Its rules come with the documents.
func (s *Server) openGate() (err error) {
	s.gate, err = gate.New(gate.Options{
		DB: s.db, Access: s.access, Judge: s.engine, Evidence: s.evidence, Events: s.events,
		Revocations: s.revokedDigests, Clock: s.clock, Logger: s.log, Registerer: s.reg,
	})
	return err
}

// revokedDigests are the digests that the site's trust revokes.
func (s *Server) revokedDigests() []gate.Revocation { return nil }
