package keyring

import (
	"crypto/ecdsa"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"assay/internal/fault"
)

func TestFolder(t *testing.T) {
	ctx := t.Context()
	for _, passphrase := range [][]byte{nil, []byte("correct horse")} {
		dir := filepath.Join(t.TempDir(), "keys")
		f, err := Open(dir, passphrase)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Load(ctx, "ca"); !errors.Is(err, fault.NotFound) {
			t.Fatalf("absent key: %v, want not found", err)
		}
		made, err := f.Create(ctx, "ca")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Create(ctx, "ca"); !errors.Is(err, fault.Conflict) {
			t.Fatalf("second create: %v, want a conflict", err)
		}
		loaded, err := f.LoadOrCreate(ctx, "ca")
		if err != nil || !made.Public().(*ecdsa.PublicKey).Equal(loaded.Public()) {
			t.Fatalf("the loaded key is another one (%v)", err)
		}
		if passphrase != nil {
			for _, wrong := range [][]byte{nil, []byte("incorrect horse")} {
				if _, err := Open(dir, wrong); !errors.Is(err, fault.Denied) {
					t.Errorf("passphrase %q: %v, want denied", wrong, err)
				}
			}
		}
		for _, name := range []string{"", "../ca", "a/b", "/etc/passwd"} {
			if _, err := f.Load(ctx, name); !errors.Is(err, fault.Invalid) {
				t.Errorf("name %q: %v, want invalid", name, err)
			}
		}
	}
}

func TestLooseModesAreRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	f, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Create(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "k.pem"), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Load(t.Context(), "k"); !errors.Is(err, fault.Denied) {
		t.Errorf("mode 0640: %v, want denied", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, nil); !errors.Is(err, fault.Denied) {
		t.Errorf("folder mode 0755: %v, want denied", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN ASSAY SEALED PRIVATE KEY-----\nSalt: AAAA\nScrypt: 99\n\nAA==\n-----END ASSAY SEALED PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if key, err := Parse(data, nil); err == nil && key == nil {
			t.Fatal("no key and no error")
		}
		_, _ = ParsePublic(data)
	})
}
