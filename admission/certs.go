package admission

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"assay/internal/clock"
	"assay/internal/fault"
)

const (
	// authorityLife is of the authority whose certificate stands in webhook
	// configurations and in files of the API servers: changing it there means work.
	authorityLife = 10 * 365 * 24 * time.Hour
	// leafLife is of what the listener shows; it is made anew after two thirds.
	leafLife = 7 * 24 * time.Hour
	skew     = 5 * time.Minute
)

// Authority makes the webhook's certificates: the authority is long-lived, what
// the listener shows lives a week, in memory, and is made anew by itself.
type Authority struct {
	cert  *x509.Certificate
	key   crypto.Signer
	names []string
	clock clock.Clock

	mu   sync.Mutex
	leaf *tls.Certificate
	anew time.Time
}

// OpenAuthority reads the authority's certificate from file, or makes it, for
// the key. names are those under which API servers call the webhook: DNS names
// and IP addresses.
func OpenAuthority(file string, key crypto.Signer, names []string, now clock.Clock) (*Authority, error) {
	if now == nil {
		now = clock.System
	}
	if len(names) == 0 {
		return nil, fault.Newf(fault.Invalid, "admission: want a name under which the webhook is called")
	}
	a := &Authority{key: key, names: names, clock: now}
	b, err := os.ReadFile(file)
	switch {
	case os.IsNotExist(err):
		if b, err = makeAuthority(key, now()); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fault.Newf(fault.Invalid, "%s: want a certificate, PEM", file)
	}
	if a.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, fault.Newf(fault.Invalid, "%s: %w", file, err)
	}
	pub, ok := a.cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || !pub.Equal(key.Public()) {
		return nil, fault.Newf(fault.Tampered, "%s is not of the key that belongs to it: restore both from one backup, or delete the file and install the webhook configuration anew", file)
	}
	return a, nil
}

func makeAuthority(key crypto.Signer, now time.Time) ([]byte, error) {
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Assay admission"}, NotBefore: now.Add(-skew), NotAfter: now.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func serial() *big.Int {
	n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // never fails, crypto/rand
	return n
}

// PEM is the authority's certificate, the caBundle of webhook configurations.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// TLS is the listener's configuration. Callers may show a certificate: the door
// that wants one looks at it (see [ClientCA]).
func (a *Authority) TLS() *tls.Config {
	return &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12, GetCertificate: a.get, NextProtos: []string{"h2", "http/1.1"}}
}

func (a *Authority) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.clock()
	if a.leaf != nil && now.Before(a.anew) {
		return a.leaf, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	end := now.Add(leafLife)
	if end.After(a.cert.NotAfter) {
		end = a.cert.NotAfter
	}
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Assay admission"}, NotBefore: now.Add(-skew), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range a.names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	a.leaf, a.anew = &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key}, now.Add(leafLife*2/3)
	return a.leaf, nil
}
