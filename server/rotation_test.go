package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/authority/rotation"
	"assay/client"
	"assay/config"
	"assay/identity"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/store"
	"assay/trust"
	"assay/trust/tuf"

	"google.golang.org/protobuf/encoding/protojson"
)

// movable is a clock that a test moves forward.
type movable struct{ ahead atomic.Int64 }

func (m *movable) now() time.Time       { return time.Now().Add(time.Duration(m.ahead.Load())) }
func (m *movable) pass(d time.Duration) { m.ahead.Add(int64(d)) }

// signed is a bundle and what it is about.
type signed struct {
	digest artifact.Digest
	bundle []byte
	at     time.Time
}

// signs signs one file with the site's services, as cosign would.
func (s *testSite) signs(ctx context.Context, content string) (signed, error) {
	st := s.Status(ctx)
	sig := &client.Signing{Fulcio: st.Services.Fulcio, Rekor: st.Services.Rekor, TSA: st.Services.TSA, Token: func(ctx context.Context) (string, error) {
		a, err := s.admin.Mint(ctx, client.TokenRequest{Subject: "signer@example.com", Audience: string(identity.AudienceSigstore), TTL: 60})
		return a.Token, err
	}}
	out := signed{digest: artifact.SHA256Of([]byte(content)), at: s.clock()}
	pb, err := sig.Blob(ctx, out.digest)
	if err != nil {
		return out, err
	}
	out.bundle, err = protojson.Marshal(pb)
	return out, err
}

// under verifies a bundle under a root, offline.
func (b signed) under(ctx context.Context, r *trust.Root, now clock.Clock) error {
	parsed, err := attestation.ParseBundle(b.bundle, attestation.DefaultLimits())
	if err != nil {
		return err
	}
	_, err = r.VerifyBundle(ctx, parsed, trust.VerifyOptions{Artifact: b.digest.Set(), AnyIdentity: true, Now: now})
	return err
}

// updates reads the trusted root as a TUF client does that keeps a cache.
func (s *testSite) updates(ctx context.Context, first []byte, cache string) (*trust.Root, error) {
	return tuf.LoadFromTUF(ctx, tuf.ClientOptions{URL: s.public + "/tuf", Root: first, Cache: cache, Clock: s.clock, AllowPrivate: true})
}

func (s *testSite) rotates(role rotation.Role, q client.RotateKeyRequest) client.Key {
	s.t.Helper()
	k, err := s.admin.RotateKey(s.t.Context(), string(role), q)
	if err != nil {
		s.t.Fatalf("rotate %s: %v", role, err)
	}
	return *k
}

// stateOf gives the states of a role's keys, oldest first.
func (s *testSite) statesOf(role rotation.Role) (out []string) {
	s.t.Helper()
	for _, k := range rotation.Of(s.trust().keys, role) {
		out = append(out, string(k.State))
	}
	return out
}

// settle steps until nothing is due.
func (s *testSite) settle() {
	s.t.Helper()
	if _, err := s.own.keeper.Step(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

var _ = []any{sha256.New, errors.Is, fmt.Sprint, io.EOF, http.MethodGet, filepath.Join, slices.Sort[[]int], strings.Cut, sync.OnceFunc, config.Default, fault.Invalid, store.Micros}
