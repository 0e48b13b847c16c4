// Package trusttest is a private Sigstore in memory, for tests: a certificate
// authority with SCTs, a CT log, a timestamp authority and a Rekor v2 log, all
// on P-256, that make real bundles. Nothing in it is a stand-in: what it signs
// verifies under [World.Root] and, written out, under any Sigstore client.
package trusttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	"golang.org/x/crypto/cryptobyte"

	"assay/trust"
)

// World is one trust domain. Its fields may be replaced between signatures to
// make what an attacker would make. It is safe for concurrent use while they
// are left alone.
type World struct {
	Start  time.Time // of every window; certificates of authorities live ten years from it
	Host   string    // host name of the log
	CA     Authority // Chain: issuing certificate, root
	TSA    Authority // Chain: signing certificate, root
	CTKey  *ecdsa.PrivateKey
	LogKey *ecdsa.PrivateKey

	mu     sync.Mutex
	leaves [][]byte // hashes of the log's leaves
	serial int64
}

// Authority is a chain with the key of its first certificate.
type Authority struct {
	Key   *ecdsa.PrivateKey
	Chain []*x509.Certificate
}

// New makes a world whose authorities begin on 2026-01-01 UTC.
func New(t testing.TB) *World {
	t.Helper()
	w := &World{Start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Host: "log.assay.test", CTKey: NewKey(t), LogKey: NewKey(t), serial: 100}
	w.CA = w.authority(t, "ca", true, x509.ExtKeyUsageCodeSigning)
	w.TSA = w.authority(t, "tsa", false, x509.ExtKeyUsageTimeStamping)
	return w
}

// NewKey makes a P-256 key.
func NewKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (w *World) authority(t testing.TB, name string, issues bool, eku x509.ExtKeyUsage) Authority {
	t.Helper()
	rootKey, key := NewKey(t), NewKey(t)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name + "-root", Organization: []string{"assay.test"}},
		NotBefore: w.Start, NotAfter: w.Start.AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, MaxPathLen: 1,
	}
	root = Certify(t, root, root, rootKey.Public(), rootKey)
	sub := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name, Organization: []string{"assay.test"}},
		NotBefore: w.Start, NotAfter: w.Start.AddDate(10, 0, 0), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if issues {
		sub.IsCA, sub.MaxPathLenZero, sub.KeyUsage, sub.ExtKeyUsage = true, true, x509.KeyUsageCertSign, []x509.ExtKeyUsage{eku}
	} else {
		// RFC 3161, section 2.3: critical, which crypto/x509 does not write.
		val, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
		if err != nil {
			t.Fatal(err)
		}
		sub.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: val}}
	}
	return Authority{Key: key, Chain: []*x509.Certificate{Certify(t, sub, root, key.Public(), rootKey), root}}
}

// Certify signs a certificate and parses it.
func Certify(t testing.TB, tmpl, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Parts are the world's keys as a trusted root holds them.
func (w *World) Parts() trust.Parts {
	win := trust.Window{Start: w.Start}
	return trust.Parts{
		Logs:   []trust.Log{{URL: "https://" + w.Host, Key: w.LogKey.Public(), Window: win}},
		CTLogs: []trust.Log{{URL: "https://ct.assay.test", Key: w.CTKey.Public(), Window: win}},
		CAs:    []trust.Authority{{URL: "https://ca.assay.test", Chain: w.CA.Chain, Window: win}},
		TSAs:   []trust.Authority{{URL: "https://tsa.assay.test", Chain: w.TSA.Chain, Window: win}},
	}
}

// Root is the world's trusted root.
func (w *World) Root(t testing.TB, opts ...trust.RootOption) *trust.Root {
	t.Helper()
	return Build(t, w.Parts(), opts...)
}

// Build makes a root and reads it back as a client would.
func Build(t testing.TB, p trust.Parts, opts ...trust.RootOption) *trust.Root {
	t.Helper()
	r, err := trust.NewRoot(p)
	if err != nil {
		t.Fatal(err)
	}
	r, err = trust.ParseTrustedRoot(r.Bytes(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Leaf describes a signing certificate to issue.
type Leaf struct {
	Issuer, Subject string                  // OIDC issuer; SAN: with "@" an email address, else a URI
	Extensions      map[int]string          // last arc below 1.3.6.1.4.1.57264.1 -> text
	At              time.Time               // NotBefore; zero: a minute after Start
	For             time.Duration           // zero: ten minutes
	NoSCT           bool                    //
	SCTAt           time.Time               // zero: At
	Template        func(*x509.Certificate) // last change before it is signed
}

// Issue makes a key and its certificate, as Fulcio does: signed once without
// the SCT, promised by the CT log, signed again with the SCT last.
func (w *World) Issue(t testing.TB, l Leaf) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key := NewKey(t)
	if l.At.IsZero() {
		l.At = w.Start.Add(time.Minute)
	}
	if l.For == 0 {
		l.For = 10 * time.Minute
	}
	w.mu.Lock()
	w.serial++
	serial := w.serial
	w.mu.Unlock()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: l.At, NotAfter: l.At.Add(l.For),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	if strings.Contains(l.Subject, "@") && !strings.Contains(l.Subject, "://") {
		tmpl.EmailAddresses = []string{l.Subject}
	} else {
		u, err := url.Parse(l.Subject)
		if err != nil {
			t.Fatal(err)
		}
		tmpl.URIs = []*url.URL{u}
	}
	arc := func(n int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, n} }
	utf8 := func(s string) []byte {
		b, err := asn1.MarshalWithParams(s, "utf8")
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	tmpl.ExtraExtensions = append(tmpl.ExtraExtensions, pkix.Extension{Id: arc(1), Value: []byte(l.Issuer)}, pkix.Extension{Id: arc(8), Value: utf8(l.Issuer)})
	for n, s := range l.Extensions {
		tmpl.ExtraExtensions = append(tmpl.ExtraExtensions, pkix.Extension{Id: arc(n), Value: utf8(s)})
	}
	if l.Template != nil {
		l.Template(tmpl)
	}
	issuer := w.CA.Chain[0]
	if !l.NoSCT {
		pre := Certify(t, tmpl, issuer, key.Public(), w.CA.Key)
		at := l.SCTAt
		if at.IsZero() {
			at = l.At
		}
		tmpl.ExtraExtensions = append(tmpl.ExtraExtensions, w.sct(t, pre, issuer, at))
	}
	return key, Certify(t, tmpl, issuer, key.Public(), w.CA.Key)
}

// sct is the CT log's promise for a precertificate, RFC 6962 section 3.2.
func (w *World) sct(t testing.TB, pre, issuer *x509.Certificate, at time.Time) pkix.Extension {
	t.Helper()
	var b cryptobyte.Builder
	b.AddUint16(0)
	b.AddUint64(uint64(at.UnixMilli()))
	b.AddUint16(1)
	ikh := sha256.Sum256(issuer.RawSubjectPublicKeyInfo)
	b.AddBytes(ikh[:])
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(pre.RawTBSCertificate) })
	b.AddUint16(0)
	spki, err := x509.MarshalPKIXPublicKey(w.CTKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	id := sha256.Sum256(spki)
	sig := Sign(t, w.CTKey, b.BytesOrPanic())
	one := binary.BigEndian.AppendUint64(append([]byte{0}, id[:]...), uint64(at.UnixMilli()))
	one = append(one, 0, 0, 4, 3)
	one = binary.BigEndian.AppendUint16(one, uint16(len(sig)))
	one = append(one, sig...)
	list := binary.BigEndian.AppendUint16(nil, uint16(len(one)+2))
	list = append(binary.BigEndian.AppendUint16(list, uint16(len(one))), one...)
	val, err := asn1.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: val}
}

// Sign is ECDSA with SHA-256 over a message.
func Sign(t testing.TB, k *ecdsa.PrivateKey, msg []byte) []byte {
	t.Helper()
	h := sha256.Sum256(msg)
	sig, err := ecdsa.SignASN1(rand.Reader, k, h[:])
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// Timestamp stamps a message (for a bundle: the signature) at the given time.
// embed puts the authority's certificates into the token.
func (w *World) Timestamp(t testing.TB, msg []byte, at time.Time, embed bool) []byte {
	t.Helper()
	h := sha256.Sum256(msg)
	ts := timestamp.Timestamp{
		HashAlgorithm: crypto.SHA256, HashedMessage: h[:], Time: at, Policy: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2},
		SerialNumber: big.NewInt(at.UnixNano()), AddTSACertificate: embed, Certificates: w.TSA.Chain[1:],
	}
	b, err := ts.CreateResponseWithOpts(w.TSA.Chain[0], w.TSA.Key, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
