package revocation_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"fmt"
	"testing"
	"time"

	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"

	"assay/artifact"
	"assay/attestation"
	"assay/trust"
	"assay/trust/revocation"
	"assay/trust/trusttest"
)

// site is a trust domain that revokes: a world whose log holds the lists, an
// online key, and two of three root keys.
type site struct {
	*trusttest.World
	t         testing.TB
	root      *trust.Root
	online    *ecdsa.PrivateKey
	offline   []*ecdsa.PrivateKey
	authority revocation.Authority
}

func newSite(t testing.TB) *site {
	w := trusttest.New(t)
	s := &site{World: w, t: t, root: w.Root(t, trust.WithName("site")), online: trusttest.NewKey(t)}
	s.authority = revocation.Authority{Online: []crypto.PublicKey{s.online.Public()}, RootThreshold: 2}
	for range 3 {
		k := trusttest.NewKey(t)
		s.offline = append(s.offline, k)
		s.authority.Root = append(s.authority.Root, k.Public())
	}
	return s
}

func (s *site) now() time.Time { return s.Start.Add(time.Hour) }

// prove logs a signature in the world's log, which does not keep what it is over:
// the body is made of digest and signature.
func (s *site) prove(pae []byte) revocation.Prover {
	return func(_ context.Context, _, sig []byte, key crypto.PublicKey) (*rekorpb.TransparencyLogEntry, []byte, error) {
		for _, k := range append([]*ecdsa.PrivateKey{s.online}, s.offline...) {
			if k.PublicKey.Equal(key) {
				return s.Log(s.t, trusttest.Body(s.t, pae, sig, nil, k)), s.Timestamp(s.t, sig, s.now(), false), nil
			}
		}
		return nil, nil, fmt.Errorf("no such key")
	}
}

func (s *site) list(version int64, entries ...revocation.Entry) *revocation.List {
	l := &revocation.List{
		Schema: revocation.Schema, Domain: "site", Version: version, Use: revocation.Online,
		Issued: revocation.At(s.now()), Expires: revocation.At(s.now().Add(revocation.OnlineValidity)),
	}
	l.Entries, _ = l.With(entries...)
	return l
}

func (s *site) seal(l *revocation.List, signers ...crypto.Signer) []byte {
	s.t.Helper()
	return s.sealOn(nil, l, signers...)
}

func (s *site) sealOn(base *revocation.Signed, l *revocation.List, signers ...crypto.Signer) []byte {
	s.t.Helper()
	body, err := l.Bytes()
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := revocation.Seal(s.t.Context(), l, base, s.prove(attestation.PAE(revocation.PayloadType, body)), signers...)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *site) open(b []byte) *revocation.Signed {
	s.t.Helper()
	out, err := revocation.Open(s.t.Context(), b, s.authority, s.root)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// entry completes an entry.
func entry(e revocation.Entry, since time.Time) revocation.Entry {
	e.InvalidSince, e.Created = revocation.At(since), revocation.At(since)
	e.Reason, e.Requester = "a test", "tester"
	return e
}

func keyEntry(t testing.TB, k *ecdsa.PrivateKey, since time.Time) revocation.Entry {
	fp, err := trust.KeyFingerprint(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return entry(revocation.Entry{Kind: revocation.Key, Key: fp}, since)
}

func digestOf(s string) artifact.Digest { return artifact.SHA256Of([]byte(s)) }
