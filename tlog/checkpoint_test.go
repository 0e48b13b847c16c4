package tlog

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/internal/clock"
	"assay/internal/fault"
	"assay/internal/vectors"

	"golang.org/x/mod/sumdb/note"
)

// anyKey accepts every signature of one name, so that only the text decides.
type anyKey struct{ name string }

func (a anyKey) Name() string                { return a.name }
func (a anyKey) KeyHash() uint32             { return 0 }
func (a anyKey) Verify(_, _ []byte) bool     { return true }
func (a anyKey) Sign([]byte) ([]byte, error) { return []byte("signature"), nil }

func TestCheckpointVectors(t *testing.T) {
	dir := vectors.Dir(t, "hostile/checkpoint")
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 2 {
		t.Fatalf("%d cases in %s, INDEX.md lists 2", len(files), dir)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"origin", "origin "} {
			if c, err := ParseCheckpoint(b, anyKey{name}); err == nil {
				t.Errorf("%s: read as %+v, INDEX.md says REJECT", f.Name(), c)
			}
		}
	}
}

func TestParseCheckpoint(t *testing.T) {
	root := base64.StdEncoding.EncodeToString(make([]byte, 32))
	empty := emptyRoot()
	sign := func(text string) []byte {
		b, err := note.Sign(&note.Note{Text: text}, anyKey{"origin"})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	tests := []struct {
		name, text string
		want       *fault.Kind // nil: accepted
	}{
		{"plain", "origin\n7\n" + root + "\n", nil},
		{"extension", "origin\n7\n" + root + "\nmore\n", nil},
		{"empty tree", "origin\n0\n" + base64.StdEncoding.EncodeToString(empty[:]) + "\n", nil},
		{"empty tree with another root", "origin\n0\n" + root + "\n", fault.Invalid},
		{"other origin", "elsewhere\n7\n" + root + "\n", fault.Unverified},
		{"origin with space", "origin \n7\n" + root + "\n", fault.Invalid},
		{"no origin", "7\n" + root + "\n", fault.Invalid},
		{"empty origin", "\n7\n" + root + "\n", fault.Invalid},
		{"no size", "origin\n" + root + "\n", fault.Invalid},
		{"leading zero", "origin\n07\n" + root + "\n", fault.Invalid},
		{"plus sign", "origin\n+7\n" + root + "\n", fault.Invalid},
		{"negative", "origin\n-7\n" + root + "\n", fault.Invalid},
		{"hexadecimal", "origin\n0x7\n" + root + "\n", fault.Invalid},
		{"beyond 63 bits", "origin\n9223372036854775808\n" + root + "\n", fault.Invalid},
		{"space behind the size", "origin\n7 \n" + root + "\n", fault.Invalid},
		{"short root", "origin\n7\nAAAA\n", fault.Invalid},
		{"long root", "origin\n7\n" + base64.StdEncoding.EncodeToString(make([]byte, 33)) + "\n", fault.Invalid},
		{"unpadded root", "origin\n7\n" + strings.TrimRight(root, "=") + "\n", fault.Invalid},
		{"root with other last bits", "origin\n7\n" + root[:42] + "B=\n", fault.Invalid},
		{"empty extension", "origin\n7\n" + root + "\n\n", fault.Invalid},
		{"too many extensions", "origin\n7\n" + root + "\n" + strings.Repeat("x\n", 17), fault.Invalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseCheckpoint(sign(tt.text), anyKey{"origin"})
			if tt.want == nil && err != nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	good := sign("origin\n7\n" + root + "\n")
	if _, err := ParseCheckpoint(good, anyKey{"other"}); !errors.Is(err, fault.Unverified) {
		t.Errorf("no signature of the key: %v", err)
	}
	if _, err := ParseCheckpoint(append(good, make([]byte, maxCheckpoint)...), anyKey{"origin"}); !errors.Is(err, fault.Invalid) {
		t.Errorf("a large note: %v", err)
	}
}

func TestSignatures(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256 := newKey(t)
	c := Checkpoint{Origin: testOrigin, Size: 3, Root: Hash{1, 2, 3}}
	now := clock.System
	tests := map[string]struct {
		signer   func() (note.Signer, error)
		verifier func() (note.Verifier, error)
	}{
		"P-256":    {func() (note.Signer, error) { return newSigner(testOrigin, p256) }, func() (note.Verifier, error) { return NewVerifier(testOrigin, p256.Public()) }},
		"Ed25519":  {func() (note.Signer, error) { return newSigner(testOrigin, ed) }, func() (note.Verifier, error) { return NewVerifier(testOrigin, ed.Public()) }},
		"RFC 6962": {func() (note.Signer, error) { return newCTSigner(testOrigin, p256, now) }, func() (note.Verifier, error) { return NewCTVerifier(testOrigin, p256.Public()) }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, err := tt.signer()
			if err != nil {
				t.Fatal(err)
			}
			v, err := tt.verifier()
			if err != nil {
				t.Fatal(err)
			}
			signed, err := note.Sign(&note.Note{Text: c.text()}, s)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := ParseCheckpoint(signed, v); err != nil || got.Size != 3 || got.Root != c.Root {
				t.Errorf("%+v, %v", got, err)
			}
			forged := []byte(strings.Replace(string(signed), "\n3\n", "\n4\n", 1))
			if _, err := ParseCheckpoint(forged, v); !errors.Is(err, fault.Unverified) {
				t.Errorf("another size under the same signature: %v", err)
			}
		})
	}
	// The Ed25519 note key is that of golang.org/x/mod/sumdb/note itself.
	vkey, err := note.NewEd25519VerifierKey(testOrigin, ed.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	std, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	if _, short, _ := KeyID(testOrigin, ed.Public()); short != std.KeyHash() {
		t.Errorf("Ed25519 key hash %08x, signed-note's is %08x", short, std.KeyHash())
	}
}

func FuzzParseCheckpoint(f *testing.F) {
	root := base64.StdEncoding.EncodeToString(make([]byte, 32))
	f.Add([]byte("origin\n7\n" + root + "\n\n— origin AAAAAHNpZ25hdHVyZQ==\n"))
	f.Add([]byte("origin\n7\n" + root + "\nmore\n\n— origin AAAAAHNpZ25hdHVyZQ==\n— witness AAAAAHNpZ25hdHVyZQ==\n"))
	f.Add([]byte("origin \n1\nAAAA\n\n— origin AAAA\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCheckpoint(b, anyKey{"origin"})
		if err != nil {
			return
		}
		// What is accepted has just one spelling.
		text := c.text() + strings.Join(append(c.Extensions, ""), "\n")
		if !strings.HasPrefix(string(b), text+"\n") {
			t.Errorf("read %q as %+v, which is written %q", b, c, text)
		}
	})
}
