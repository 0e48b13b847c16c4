//go:build pkcs11 && cgo

package pkcs11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"assay/internal/fault"
)

// softhsm makes a token with an EC and an RSA key, and gives their URIs, whose
// PIN lies in a file.
func softhsm(t *testing.T) (uri func(object string) string, ec *ecdsa.PrivateKey, rsaKey *rsa.PrivateKey) {
	t.Helper()
	util, err := exec.LookPath("softhsm2-util")
	if err != nil {
		if os.Getenv("ASSAY_REQUIRE_SOFTHSM") == "1" {
			t.Fatal("softhsm2-util is not on PATH: tools/install.sh softhsm2")
		}
		t.Skip("softhsm2-util is not on PATH: tools/install.sh softhsm2")
	}
	var module string
	for _, pattern := range []string{filepath.Join(filepath.Dir(util), "../lib/*/softhsm/libsofthsm2.so"), "/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so"} {
		if m, _ := filepath.Glob(pattern); len(m) > 0 {
			module = m[0]
			break
		}
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	write(t, conf, []byte("directories.tokendir = "+dir+"\nobjectstore.backend = file\nlog.level = ERROR\n"))
	write(t, filepath.Join(dir, "pin"), []byte("1234\n"))
	t.Setenv("SOFTHSM2_CONF", conf)
	run := func(args ...string) {
		if out, err := exec.CommandContext(t.Context(), util, append([]string{"--module", module}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("softhsm2-util %q: %v\n%s", args, err, out)
		}
	}
	run("--init-token", "--free", "--label", "assay test", "--pin", "1234", "--so-pin", "5678")
	add := func(label, id string, key any) {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, label)
		write(t, path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		run("--import", path, "--token", "assay test", "--label", label, "--id", id, "--pin", "1234")
	}
	if ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if rsaKey, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	add("ec", "a1", ec)
	add("rsa", "a2", rsaKey)
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	add("p384", "a3", other)
	add("twin", "a4", ec)
	add("twin", "a5", rsaKey)
	// The library reads its configuration once, when it is initialised.
	Close()
	t.Cleanup(Close)
	return func(object string) string {
		return fmt.Sprintf("pkcs11:token=assay%%20test;%s?module-path=%s&pin-source=file:%s", object, module, filepath.Join(dir, "pin"))
	}, ec, rsaKey
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSoftHSM(t *testing.T) {
	uri, ec, rsaKey := softhsm(t)
	digest := sha256.Sum256([]byte("hello"))
	for object, pub := range map[string]interface{ Equal(crypto.PublicKey) bool }{
		"object=ec": &ec.PublicKey, "id=%a1": &ec.PublicKey, "object=rsa;id=%a2": &rsaKey.PublicKey,
	} {
		k, err := Open(t.Context(), uri(object))
		if err != nil {
			t.Fatalf("%s: %v", object, err)
		}
		if !pub.Equal(k.Public()) {
			t.Errorf("%s: another public key", object)
		}
		sig, err := k.Sign(nil, digest[:], crypto.SHA256)
		if err != nil {
			t.Fatalf("%s: %v", object, err)
		}
		switch p := k.Public().(type) {
		case *ecdsa.PublicKey:
			if !ecdsa.VerifyASN1(p, digest[:], sig) {
				t.Errorf("%s: the signature does not verify", object)
			}
		case *rsa.PublicKey:
			if err := rsa.VerifyPKCS1v15(p, crypto.SHA256, digest[:], sig); err != nil {
				t.Errorf("%s: %v", object, err)
			}
		}
		if _, err := k.Sign(nil, digest[:5], crypto.SHA256); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s, 5 bytes for a digest: %v", object, err)
		}
		if _, err := k.Sign(nil, digest[:], &rsa.PSSOptions{Hash: crypto.SHA256}); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s, PSS: %v", object, err)
		}
	}
}

// Many at once share a few sessions, and sessions that the token ended are
// opened again.
func TestSoftHSMSessions(t *testing.T) {
	uri, _, _ := softhsm(t)
	signer, err := Open(t.Context(), uri("object=ec"))
	if err != nil {
		t.Fatal(err)
	}
	k := signer.(*Key)
	var wg sync.WaitGroup
	for range 4 * maxSessions {
		wg.Go(func() {
			for range 20 {
				if _, err := k.Sign(nil, make([]byte, 32), crypto.SHA256); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(k.idle); n == 0 || n > maxSessions {
		t.Errorf("%d sessions, want from 1 to %d", n, maxSessions)
	}
	if err := k.lib.CloseAllSessions(k.slot); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Sign(nil, make([]byte, 32), crypto.SHA256); err != nil {
		t.Errorf("after the token ended all sessions: %v", err)
	}
}

func TestSoftHSMRefuses(t *testing.T) {
	uri, _, _ := softhsm(t)
	for object, says := range map[string]string{
		"object=absent": "0 private keys", "object=twin": "2 private keys", "object=p384": "want P-256", "object=ec;serial=0": "0 tokens fit",
	} {
		if _, err := Open(t.Context(), uri(object)); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want invalid saying %q", object, err, says)
		}
	}
	if _, err := Open(t.Context(), "pkcs11:token=a;object=b?module-path=/nowhere/lib.so"); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "does not load") {
		t.Errorf("no library: %v", err)
	}
	pin := uri("object=ec")[strings.LastIndex(uri("object=ec"), "file:")+len("file:"):]
	write(t, pin, []byte("98765"))
	Close() // a login holds for the process
	_, err := Open(t.Context(), uri("object=ec"))
	if !errors.Is(err, fault.Denied) || strings.Contains(err.Error(), "98765") {
		t.Errorf("a wrong PIN: %v, want denied without it", err)
	}
}
