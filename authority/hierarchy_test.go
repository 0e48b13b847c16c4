package authority

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/internal/fault"
	"assay/internal/keyring"
)

// failing is a key store that breaks at its n-th creation.
type failing struct {
	KeyStore
	left int
}

var errBroken = errors.New("broken")

func (f *failing) Create(ctx context.Context, name string) (crypto.Signer, error) {
	if f.left == 0 {
		return nil, errBroken
	}
	f.left--
	return f.KeyStore.Create(ctx, name)
}

func (f *failing) CreateRSA(ctx context.Context, name string) (crypto.Signer, error) {
	if f.left == 0 {
		return nil, errBroken
	}
	f.left--
	return f.KeyStore.CreateRSA(ctx, name)
}

func openKeys(t testing.TB, dir string) *keyring.Folder {
	t.Helper()
	k, err := openKeyFolder(dir)
	must(t, err)
	return k
}

func openKeyFolder(dir string) (*keyring.Folder, error) {
	return keyring.OpenFolder(bg, keyring.Options{Dir: filepath.Join(dir, "keys"), Removable: []string{KeyCARoot, KeyTSARoot}})
}

func initIn(t testing.TB, dir string) (*Material, error) {
	t.Helper()
	keys, err := openKeyFolder(dir)
	if err != nil {
		return nil, err
	}
	return Init(bg, keys, InitOptions{Dir: filepath.Join(dir, "certificates"), Name: "example"})
}

func TestHierarchy(t *testing.T) {
	m, err := initIn(t, t.TempDir())
	must(t, err)
	for _, c := range append(m.CAChain, m.TSAChain...) {
		if err := p256(c.PublicKey); err != nil || c.SignatureAlgorithm != x509.ECDSAWithSHA256 {
			t.Errorf("%s: %v, %s", c.Subject, err, c.SignatureAlgorithm)
		}
	}
	long := t.TempDir()
	if m, err := Init(bg, openKeys(t, long), InitOptions{Dir: filepath.Join(long, "certificates"), Name: strings.Repeat("ä", 100)}); err != nil || len(m.CAChain[0].Subject.Organization[0]) != 64 {
		t.Errorf("a long name: %v", err)
	}
	inter, caRoot := m.CAChain[0], m.CAChain[1]
	if !inter.IsCA || !inter.MaxPathLenZero || inter.KeyUsage&x509.KeyUsageCertSign == 0 || len(inter.ExtKeyUsage) != 1 || inter.ExtKeyUsage[0] != x509.ExtKeyUsageCodeSigning {
		t.Errorf("intermediate %+v", inter)
	}
	if !caRoot.IsCA || caRoot.MaxPathLen != 1 || len(caRoot.ExtKeyUsage) != 0 {
		t.Errorf("root %+v", caRoot)
	}
	leaf, tsaRoot := m.TSAChain[0], m.TSAChain[1]
	if leaf.IsCA || !timeStamper(leaf) || leaf.KeyUsage != x509.KeyUsageDigitalSignature || !tsaRoot.IsCA || !tsaRoot.MaxPathLenZero {
		t.Errorf("time stamp chain %+v", leaf)
	}
	if tsaRoot.Equal(caRoot) {
		t.Error("one root for both: a timestamp's key could sign identities")
	}
	// Neither can do the other's work.
	if _, err := NewTSA(TSAOptions{Chain: m.CAChain, Signer: m.CASigner}); !errors.Is(err, fault.Invalid) {
		t.Errorf("the CA as a TSA: %v", err)
	}
	if _, err := NewTSA(TSAOptions{Chain: m.TSAChain, Signer: m.CASigner}); !errors.Is(err, fault.Tampered) {
		t.Errorf("another key: %v", err)
	}
}

// Interrupted after any number of keys, Init comes to its end the next time,
// with one hierarchy.
func TestInitInterrupted(t *testing.T) {
	for n := range 6 {
		dir := t.TempDir()
		_, err := Init(bg, &failing{openKeys(t, dir), n}, InitOptions{Dir: filepath.Join(dir, "certificates")})
		if done := n >= 5; done != (err == nil) || err != nil && !errors.Is(err, errBroken) {
			t.Fatalf("broken after %d keys: %v", n, err)
		}
		a, err := initIn(t, dir)
		must(t, err)
		b, err := initIn(t, dir)
		must(t, err)
		for i := range a.CAChain {
			if !a.CAChain[i].Equal(b.CAChain[i]) || !a.TSAChain[i].Equal(b.TSAChain[i]) {
				t.Errorf("after %d keys: two hierarchies", n)
			}
		}
	}
}

// The roots' keys can be kept elsewhere once they have signed.
func TestRootKeysOffline(t *testing.T) {
	dir := t.TempDir()
	_, err := initIn(t, dir)
	must(t, err)
	for _, name := range []string{KeyCARoot, KeyTSARoot} {
		must(t, os.Remove(filepath.Join(dir, "keys", name+".pem")))
	}
	if _, err := initIn(t, dir); err != nil {
		t.Error(err)
	}
}

func TestThreat_Store_AuthorityFilesTampered(t *testing.T) {
	other := t.TempDir()
	_, err := initIn(t, other)
	must(t, err)
	for name, change := range map[string]func(dir string) error{
		"CA certificates gone":  func(dir string) error { return os.Remove(filepath.Join(dir, "certificates", FileCAChain)) },
		"TSA certificates gone": func(dir string) error { return os.Remove(filepath.Join(dir, "certificates", FileTSAChain)) },
		"another's certificates": func(dir string) error {
			b, err := os.ReadFile(filepath.Join(other, "certificates", FileCAChain))
			return errors.Join(err, os.WriteFile(filepath.Join(dir, "certificates", FileCAChain), b, 0o600))
		},
		"another's key": func(dir string) error {
			b, err := os.ReadFile(filepath.Join(other, "keys", KeyTSA+".pem"))
			return errors.Join(err, os.WriteFile(filepath.Join(dir, "keys", KeyTSA+".pem"), b, 0o600))
		},
		"key gone": func(dir string) error { return os.Remove(filepath.Join(dir, "keys", KeyCAIntermediate+".pem")) },
		"empty file": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "certificates", FileCAChain), nil, 0o600)
		},
		"text after the certificates": func(dir string) error {
			path := filepath.Join(dir, "certificates", FileCAChain)
			b, err := os.ReadFile(path)
			return errors.Join(err, os.WriteFile(path, append(b, "x"...), 0o600))
		},
		"one certificate": func(dir string) error {
			path := filepath.Join(dir, "certificates", FileCAChain)
			b, err := os.ReadFile(path)
			cut := strings.LastIndex(string(b), "-----BEGIN")
			return errors.Join(err, os.WriteFile(path, b[:cut], 0o600))
		},
		"huge": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "certificates", FileCAChain), make([]byte, maxChainFile+1), 0o600)
		},
	} {
		dir := t.TempDir()
		_, err := initIn(t, dir)
		must(t, err)
		must(t, change(dir))
		if _, err := initIn(t, dir); !errors.Is(err, fault.Tampered) && !errors.Is(err, fault.NotFound) {
			t.Errorf("%s: %v, want it noticed", name, err)
		}
	}
}
