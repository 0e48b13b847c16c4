package server

import (
	"context"

	"assay/registry/gate"
	"assay/trust/revocation"
)

// openGate makes the registry's gate. Its rules come with the documents.
func (s *Server) openGate() (err error) {
	s.gate, err = gate.New(gate.Options{
		DB: s.db, Access: s.access, Judge: s.engine, Evidence: s.evidence, Events: s.events,
		Revocations: s.revokedDigests, Await: s.awaitMatch, Placed: s.placedIn, Clock: s.clock, Logger: s.log, Registerer: s.reg,
	})
	return err
}

// revokedDigests are the digests that the site's own list revokes, and those of
// the sites whose bundles it imports, as this
// process has it now, brought up to date first.
func (s *Server) revokedDigests(ctx context.Context) (list []gate.Revocation, epoch int64, err error) {
	if err := s.followTrust(ctx); err != nil {
		return nil, 0, err
	}
	t := s.trust()
	add := func(signed *revocation.Signed) {
		if signed == nil {
			return
		}
		for _, e := range signed.List.Entries {
			if e.Kind == revocation.Artifact {
				list = append(list, gate.Revocation{Digest: e.Digest, Reason: e.Reason, Since: e.InvalidSince.Time})
			}
		}
	}
	add(t.revocations)
	for _, d := range t.domains { // what other sites revoked, as it was carried here
		add(d.revocations)
	}
	return list, t.epoch, nil
}
