package admission

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"assay/internal/fault"
)

// TestAuthority: the leaf is made anew by itself before it ends, under an
// authority that stays, also over restarts.
func TestAuthority(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	file := filepath.Join(t.TempDir(), "ca", "admission.pem")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	clock := func() time.Time { return now }
	names := []string{"assay.assay.svc", "127.0.0.1"}
	a, err := OpenAuthority(file, key, names, clock)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(a.PEM()) {
		t.Fatal("no certificate")
	}
	serials := map[string]bool{}
	for range 400 { // four years of weekly looks
		leaf, err := a.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(leaf.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		serials[c.SerialNumber.String()] = true
		for _, n := range names {
			if _, err := c.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now, DNSName: n}); err != nil {
				t.Fatalf("%s at %s: %v", n, now, err)
			}
		}
		now = now.Add(3 * 24 * time.Hour)
	}
	if len(serials) < 150 || len(serials) > 250 {
		t.Errorf("%d leaves in %d days", len(serials), 3*400)
	}
	again, err := OpenAuthority(file, key, names, clock)
	if err != nil || string(again.PEM()) != string(a.PEM()) {
		t.Errorf("after a restart: %v", err)
	}
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if _, err := OpenAuthority(file, other, names, clock); !errors.Is(err, fault.Tampered) {
		t.Errorf("another key: %v", err)
	}
}
