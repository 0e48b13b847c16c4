package server

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"

	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"

	"assay/attestation"
	"assay/authority/rotation"
	"assay/config"
	"assay/evidence"
	"assay/internal/fault"
	"assay/source/forge"
)

// openForges makes what records the words of forges. It stands in every process,
// and works in that with role api.
func (s *Server) openForges() (err error) {
	s.forges, err = forge.New(forge.Options{
		DB: s.db, Secret: config.Secret, URL: s.public, Clock: s.clock, Logger: s.log, Registerer: s.reg,
		Sources: func() []*forge.Source {
			if d := s.desired.Load(); d != nil {
				return d.Sources
			}
			return nil
		},
		Sign: s.signSource,
		Ingest: func(ctx context.Context, bundle []byte) error {
			_, _, err := s.evidence.Ingest(ctx, bundle, evidence.Origin{Source: "forge", Actor: "system:source"})
			return err
		},
	})
	return err
}

// signSource signs a statement about a commit with the key of role source. The
// key is made when the first statement is: a site that knows no forge has none.
func (s *Server) signSource(ctx context.Context, st *attestation.Statement) ([]byte, error) {
	key, err := s.activeSigner(ctx, rotation.Source)
	if errors.Is(err, fault.Unavailable) {
		if key, err = s.ownKey(ctx, s.keys, rotation.Source); err == nil {
			err = s.reloadTrust(ctx)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("source key: %w", err)
	}
	env, err := attestation.SignStatement(ctx, key, st)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	digest, hint := sha256.Sum256(env.PAE()), sha256.Sum256(spki)
	entry, stamp, err := s.proveSignature(ctx, digest[:], env.Signatures[0].Sig, key.Public())
	if err != nil {
		return nil, err
	}
	b, err := attestation.NewDSSEBundle(attestation.Material{
		KeyHint: base64.StdEncoding.EncodeToString(hint[:]), LogEntries: []*rekorpb.TransparencyLogEntry{entry}, Timestamps: [][]byte{stamp},
	}, env)
	if err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
