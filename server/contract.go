package server

import (
	"context"

	"assay/artifact"
	"assay/evidence/contract"
	"assay/policy"
	"assay/verify"
)

// newLedger makes the books of what evidence is owed. It is made before the
// engine, which asks it, and asks the engine only once both are there.
func (s *Server) newLedger() (*contract.Ledger, error) {
	return contract.New(contract.Options{
		DB: s.db, Events: s.events, Contracts: s.contracts, Facts: s.knownOf, Logger: s.log, Registerer: s.reg,
	})
}

// contracts are those in force; before the documents are loaded, none.
func (s *Server) contracts() *contract.Set {
	if d := s.desired.Load(); d != nil {
		return d.Contracts
	}
	return nil
}

func (s *Server) knownOf(ctx context.Context, digest artifact.Digest, repository string) (*contract.Facts, error) {
	return s.engine.Known(ctx, verify.Target{Digest: digest, Kind: policy.Image, Repository: repository})
}
