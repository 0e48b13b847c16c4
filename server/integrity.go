package server

import (
	"assay/registry/gateway"
	"assay/registry/integrity"
)

// openIntegrity makes what hashes stored blobs again. The registry reads
// through it; who writes, and who checks digests itself, does not.
func (s *Server) openIntegrity() (err error) {
	c := s.cfg.Registry.Scrub
	s.integrity, err = integrity.New(integrity.Options{
		DB: s.db, Blobs: s.blobs, Gate: s.gate, Every: c.Every, Rate: c.Rate, ReadLimit: c.ReadLimit,
		Sources: append([]integrity.Source{s.gateway}, gateway.NewReplicas(s.cfg.Registry.Replicas, nil).Sources()...),
		Clock:   s.clock, Logger: s.log, Registerer: s.reg,
	})
	return err
}
