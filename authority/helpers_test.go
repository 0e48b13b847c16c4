package authority

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"assay/event"
	"assay/identity"
	"assay/internal/clock"
	"assay/internal/keyring"
	"assay/store"
	"assay/store/storetest"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	"github.com/sigstore/sigstore-go/pkg/root"
)

var bg = context.Background()

// precertLog signs SCTs as RFC 6962 has them; what it lacks is the tree.
type precertLog struct {
	key *ecdsa.PrivateKey
	err error
	mu  sync.Mutex
	tbs [][]byte
}

func newPrecertLog(t testing.TB) *precertLog {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &precertLog{key: key}
}

func (l *precertLog) id(t testing.TB) [32]byte {
	der, err := x509.MarshalPKIXPublicKey(l.key.Public())
	if err != nil && t != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(der)
}

func (l *precertLog) AddPreCert(_ context.Context, tbs []byte, issuerKeyHash [32]byte) ([]byte, error) {
	if l.err != nil {
		return nil, l.err
	}
	l.mu.Lock()
	l.tbs = append(l.tbs, tbs)
	l.mu.Unlock()
	now := uint64(time.Now().UnixMilli())
	sct := ct.SignedCertificateTimestamp{SCTVersion: ct.V1, LogID: ct.LogID{KeyID: l.id(nil)}, Timestamp: now}
	input, err := ct.SerializeSCTSignatureInput(sct, ct.LogEntry{Leaf: ct.MerkleTreeLeaf{
		Version: ct.V1, LeafType: ct.TimestampedEntryLeafType,
		TimestampedEntry: &ct.TimestampedEntry{Timestamp: now, EntryType: ct.PrecertLogEntryType,
			PrecertEntry: &ct.PreCert{IssuerKeyHash: issuerKeyHash, TBSCertificate: tbs}},
	}})
	if err != nil {
		return nil, err
	}
	sig, err := cttls.CreateSignature(*l.key, cttls.SHA256, input)
	if err != nil {
		return nil, err
	}
	sct.Signature = ct.DigitallySigned(sig)
	return cttls.Marshal(sct)
}

// site is the authorities of one installation behind one HTTP server.
type site struct {
	*httptest.Server
	dir      string
	db       *store.DB
	log      *precertLog
	material *Material
	issuer   *Issuer
	verifier *identity.Verifier
	ca       *CA
	tsa      *TSA
}

type siteOptions struct {
	dir     string // reused after a "restart"
	clock   clock.Clock
	issuers []identity.IssuerConfig
	permit  func(context.Context, identity.Principal, *identity.Token) error
}

func newSite(t testing.TB, o siteOptions) *site {
	t.Helper()
	if o.dir == "" {
		o.dir = t.TempDir()
	}
	s := &site{dir: o.dir, log: newPrecertLog(t), db: storetest.Open(t, store.SQLite)}
	must(t, s.db.Migrate(bg, event.Migrations))
	keys, err := keyring.Open(filepath.Join(o.dir, "keys"), nil)
	must(t, err)
	s.material, err = Init(bg, keys, InitOptions{Dir: filepath.Join(o.dir, "certificates"), Name: "example"})
	must(t, err)
	mux := http.NewServeMux()
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	s.issuer, err = NewIssuer(IssuerOptions{URL: s.URL + "/oidc", Signer: s.material.OIDC, DB: s.db, Clock: o.clock})
	must(t, err)
	s.verifier, err = identity.NewVerifier(identity.VerifierOptions{Local: s.issuer.Local(), Issuers: o.issuers, Clock: o.clock})
	must(t, err)
	s.ca, err = NewCA(CAOptions{Chain: s.material.CAChain, Signer: s.material.CASigner, SCT: s.log, Verifier: s.verifier, DB: s.db, Clock: o.clock, Permit: o.permit})
	must(t, err)
	s.tsa, err = NewTSA(TSAOptions{Chain: s.material.TSAChain, Signer: s.material.TSASigner, Clock: o.clock})
	must(t, err)
	mux.Handle("/fulcio/", http.StripPrefix("/fulcio", s.ca.Handler()))
	mux.Handle("/oidc/", http.StripPrefix("/oidc", s.issuer.Handler()))
	mux.Handle("/tsa", http.StripPrefix("/tsa", s.tsa.Handler()))
	mux.Handle("/tsa/", http.StripPrefix("/tsa", s.tsa.Handler()))
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *site) mint(t testing.TB, subject string, aud identity.Audience) string {
	t.Helper()
	token, err := s.issuer.Mint(bg, MintRequest{Subject: subject, Audience: aud, By: "test"})
	must(t, err)
	return token
}

// trusted is what a verifier pins of the site.
type trusted struct {
	root.BaseTrustedMaterial
	s *site
}

func (m trusted) FulcioCertificateAuthorities() []root.CertificateAuthority {
	c := m.s.material.CAChain
	return []root.CertificateAuthority{&root.FulcioCertificateAuthority{Root: c[1], Intermediates: c[:1], ValidityPeriodStart: c[1].NotBefore, URI: m.s.URL + "/fulcio"}}
}

func (m trusted) TimestampingAuthorities() []root.TimestampingAuthority {
	c := m.s.material.TSAChain
	return []root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{Root: c[1], Leaf: c[0], ValidityPeriodStart: c[1].NotBefore, URI: m.s.URL + "/tsa"}}
}

func (m trusted) CTLogs() map[string]*root.TransparencyLog {
	id := m.s.log.id(nil)
	return map[string]*root.TransparencyLog{hex.EncodeToString(id[:]): {
		ID: id[:], PublicKey: m.s.log.key.Public(), HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256,
	}}
}

// events waits for nothing: it seals once and reads what was recorded.
func (s *site) events(t testing.TB, kind event.Kind) []event.Event {
	t.Helper()
	ctx, cancel := context.WithCancel(bg)
	done := make(chan error, 1)
	go func() { done <- event.NewSealer(s.db, event.SealerOptions{}).Run(ctx) }()
	l := event.NewLog(s.db, event.LogOptions{})
	marker := "marker-" + string(kind)
	must(t, s.db.Update(bg, func(tx *store.Tx) error {
		return event.Append(bg, tx, event.Event{Kind: event.ServerStopped, Actor: marker})
	}))
	var out []event.Event
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		end, err := l.Query(bg, event.Filter{Kinds: []event.Kind{event.ServerStopped}, Actor: marker})
		must(t, err)
		if len(end) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("events were not sealed within 10 s")
		}
	}
	out, err := l.Query(bg, event.Filter{Kinds: []event.Kind{kind}})
	must(t, err)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	return out
}
