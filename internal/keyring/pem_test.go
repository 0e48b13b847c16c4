package keyring

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/internal/fault"
)

// All forms of private keys that people have are read, with their passphrase
// and with no other. The files in testdata were written by cosign v3.1.3 (once
// more under its older PEM type) and by OpenSSL 3.0.
func TestForms(t *testing.T) {
	pass := []byte("correct horse")
	for name, secret := range map[string][]byte{
		"cosign.key":         pass,
		"cosign-old.key":     pass,
		"pkcs8-pbes2.pem":    pass,
		"pkcs8-scrypt.pem":   pass,
		"pkcs8.pem":          nil,
		"sec1.pem":           nil,
		"pkcs8-ed25519.pem":  nil,
		"pkcs8-rsa.pem":      nil,
		"pkcs8-rsa-1024.pem": nil,
	} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		key, err := Parse(b, secret)
		if name == "pkcs8-rsa-1024.pem" {
			if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "too weak") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		// The public half beside it says whether it is the right one.
		pub, err := os.ReadFile(filepath.Join("testdata", name+".pub"))
		if err != nil {
			t.Fatal(err)
		}
		want, err := ParsePublic(pub)
		if err != nil || !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(want) {
			t.Errorf("%s: another key (%v)", name, err)
		}
		if secret == nil {
			continue
		}
		for _, wrong := range [][]byte{nil, []byte("staple")} {
			if _, err := Parse(b, wrong); !errors.Is(err, fault.Denied) || strings.Contains(err.Error(), "staple") {
				t.Errorf("%s with passphrase %q: %v, want denied without it", name, wrong, err)
			}
		}
	}
}

// What is written reads back, and is sealed.
func TestMarshal(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pass := []byte("correct horse")
	for name, write := range map[string]func(crypto.Signer, []byte) ([]byte, error){
		"cosign": MarshalCosign, "pkcs8": MarshalEncrypted, "own": Marshal,
	} {
		b, err := write(key, pass)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		back, err := Parse(b, pass)
		if err != nil || !key.PublicKey.Equal(back.Public()) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Parse(b, []byte("incorrect")); !errors.Is(err, fault.Denied) {
			t.Errorf("%s with another passphrase: %v", name, err)
		}
		for i := range b {
			if b[i] >= 'a' && b[i] < 'y' && i > len(b)/2 && i < len(b)-60 {
				b[i]++
				break
			}
		}
		if _, err := Parse(b, pass); err == nil {
			t.Errorf("%s: a changed byte is not noticed", name)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := x509.MarshalPKCS8PrivateKey(p384)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, b []byte, headers ...string) string {
		p := &pem.Block{Type: kind, Bytes: b, Headers: map[string]string{}}
		for i := 0; i+1 < len(headers); i += 2 {
			p.Headers[headers[i]] = headers[i+1]
		}
		return string(pem.EncodeToMemory(p))
	}
	for name, tt := range map[string]struct{ text, says string }{
		"nothing":            {"", "want a PEM block"},
		"DER":                {string(weak), "want a PEM block"},
		"two keys":           {block(typePlain, weak) + block(typePlain, weak), "found more"},
		"a public key":       {block("PUBLIC KEY", weak), "wants the private key"},
		"a certificate":      {block("CERTIFICATE", weak), "wants the private key"},
		"openssl's old way":  {block("EC PRIVATE KEY", weak, "DEK-Info", "AES"), "openssl pkcs8 -topk8"},
		"an OpenSSH key":     {block("OPENSSH PRIVATE KEY", weak), "PEM type"},
		"garbage":            {block(typePlain, []byte("x")), "asn1"},
		"a hostile cost":     {block(typeSealed, weak, "Salt", "AAAAAAAAAAAAAAAAAAAAAA==", "Scrypt", "63", "Nonce", "AAAAAAAAAAAAAAAA"), "headers are damaged"},
		"of a sealed folder": {block(typeSealed, weak, headerVersion, sealedVersion), "not read alone"},
	} {
		if _, err := Parse([]byte(tt.text), []byte("x")); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want invalid saying %q", name, err, tt.says)
		}
	}
	if _, err := ParsePublic([]byte(block(typePlain, weak))); !errors.Is(err, fault.Invalid) {
		t.Errorf("a private key for a public one: %v", err)
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"pkcs11:token=a?pin-value=1234&module-path=/m": "pkcs11:token=a?pin-value=xxxxx&module-path=/m",
		"awskms:///alias/x":                            "awskms:///alias/x",
		"plugin+x://user:hunter22@host/key":            "plugin+x://user:xxxxx@host/key",
	} {
		if got := Redact(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// A place of its own: nothing is made, the key is taken into service once, and
// is held to from then on.
func TestPlaces(t *testing.T) {
	ctx := t.Context()
	keys := map[string]crypto.Signer{}
	for _, uri := range []string{"kms://a", "kms://b"} {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[uri] = k
	}
	keys["kms://alias-of-a"] = keys["kms://a"]
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys["kms://rsa"] = r
	dir := t.TempDir()
	open := func(places map[string]string) *Folder {
		t.Helper()
		f, err := OpenFolder(ctx, Options{Dir: filepath.Join(dir, "keys"), Index: filepath.Join(dir, "keys.json"), Places: places,
			OpenURI: func(_ context.Context, uri string) (crypto.Signer, error) {
				if k := keys[uri]; k != nil {
					return k, nil
				}
				return nil, fault.Newf(fault.Unavailable, "no KMS there")
			}})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := open(map[string]string{"log": "kms://a", "oidc": "kms://rsa", "ct": "kms://rsa", "tsa": "kms://down"})
	if _, err := f.Load(ctx, "log"); !errors.Is(err, fault.NotFound) {
		t.Errorf("before it is in service: %v", err)
	}
	if k, err := f.LoadOrCreate(ctx, "log"); err != nil || k.Public() != keys["kms://a"].Public() && !keys["kms://a"].(*ecdsa.PrivateKey).PublicKey.Equal(k.Public()) {
		t.Errorf("taken into service: %v", err)
	}
	if _, err := f.CreateRSA(ctx, "oidc"); err != nil {
		t.Errorf("RSA: %v", err)
	}
	if _, err := f.Create(ctx, "ct"); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "want a P-256 key") {
		t.Errorf("RSA where P-256 is wanted: %v", err)
	}
	if _, err := f.LoadOrCreate(ctx, "tsa"); !errors.Is(err, fault.Unavailable) {
		t.Errorf("a KMS that is down: %v", err)
	}
	if files, err := f.files(); err != nil || len(files) != 0 {
		t.Errorf("files %q, %v: want none", files, err)
	}
	if _, err := open(map[string]string{"log": "kms://alias-of-a"}).Load(ctx, "log"); err != nil {
		t.Errorf("the same key by another name: %v", err)
	}
	if _, err := open(map[string]string{"log": "kms://b"}).LoadOrCreate(ctx, "log"); !errors.Is(err, fault.Tampered) {
		t.Errorf("another key: %v, want it noticed", err)
	}
	if _, err := open(nil).LoadOrCreate(ctx, "log"); !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "keys.places.log") {
		t.Errorf("a place that is named no more: %v", err)
	}
}

// A key that ended is not made again, and its file is gone.
func TestRetire(t *testing.T) {
	ctx := t.Context()
	o, _ := made(t, nil)
	f, err := OpenFolder(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Retire(ctx, "log"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(o.Dir, "log.pem")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	for range 2 {
		if _, err := f.LoadOrCreate(ctx, "log"); err == nil {
			t.Error("the name is used again")
		}
		if f, err = OpenFolder(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Retire(ctx, "nosuch"); !errors.Is(err, fault.NotFound) {
		t.Errorf("%v", err)
	}
}
