package server

import (
	"context"
	"crypto"
	"fmt"
	"os"

	"assay/internal/fault"
	"assay/internal/keyring"
	"assay/store"
	"assay/trust"
	"assay/verify"
)

// bundleVerifier verifies under all roots and keys whose evidence counts here:
// the site's own, and the foreign ones of the configuration.
func (s *Server) bundleVerifier() (*verify.Verifier, error) {
	o := verify.VerifierOptions{Roots: []*trust.Root{s.root}, Clock: s.clock}
	for _, path := range s.cfg.Trust.Roots {
		b, err := readSmall(path)
		if err != nil {
			return nil, fmt.Errorf("trust.roots: %w", err)
		}
		r, err := trust.ParseTrustedRoot(b, trust.WithName(path))
		if err != nil {
			return nil, fmt.Errorf("trust.roots: %s: %w", path, err)
		}
		o.Roots = append(o.Roots, r)
	}
	for _, path := range s.cfg.Trust.Keys {
		b, err := readSmall(path)
		if err != nil {
			return nil, fmt.Errorf("trust.keys: %w", err)
		}
		pub, err := keyring.ParsePublic(b)
		if err != nil {
			return nil, fmt.Errorf("trust.keys: %s: %w", path, err)
		}
		o.Keys = append(o.Keys, trust.Key{Public: pub})
	}
	return verify.NewVerifier(o)
}

// newEngine makes the decision engine over the evidence store.
func (s *Server) newEngine(ctx context.Context, bundles *verify.Verifier, key crypto.Signer) (*verify.Engine, error) {
	state := verify.TrustState{Verifier: bundles}
	if err := s.db.View(ctx, func(tx *store.Tx) (err error) {
		state.Epoch, err = trust.Epoch(ctx, tx)
		return err
	}); err != nil {
		return nil, err
	}
	return verify.New(verify.Options{
		DB: s.db, Source: s.evidence, Trust: func() verify.TrustState { return state }, Key: key, VerifierID: s.public, Host: s.host(),
		MaxValidity: s.cfg.Verify.MaxValidity, Builders: s.cfg.Verify.Builders, Clock: s.clock, Logger: s.log, Registerer: s.reg,
	})
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
