package keyring

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/internal/fault"
)

// rsaUnlock is a way to unlock that costs no derivation, as a KMS key is one.
func rsaUnlock(t *testing.T, uri string) *Unlocker {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	u, err := KeyUnlock(uri, key)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// made is a folder with some keys, and their public halves by name.
func made(t *testing.T, u *Unlocker) (Options, map[string]crypto.PublicKey) {
	t.Helper()
	dir := t.TempDir()
	o := Options{Dir: filepath.Join(dir, "keys"), Index: filepath.Join(dir, "keys.json"), Unlock: u}
	f, err := OpenFolder(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	pub := map[string]crypto.PublicKey{}
	for _, name := range []string{"ca", "log", "tsa"} {
		k, err := f.Create(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		pub[name] = k.Public()
	}
	return o, pub
}

func holds(t *testing.T, f *Folder, pub map[string]crypto.PublicKey) {
	t.Helper()
	for name, want := range pub {
		k, err := f.Load(t.Context(), name)
		if err != nil || !want.(interface{ Equal(crypto.PublicKey) bool }).Equal(k.Public()) {
			t.Errorf("key %s is another one (%v)", name, err)
		}
	}
}

// snapshot is every byte of a folder.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s\n%s\n", path, data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// A wrong secret, or none, is refused, and nothing is changed or made.
func TestThreat_Keys_WrongSecretChangesNothing(t *testing.T) {
	right := Passphrase([]byte("correct horse"))
	o, pub := made(t, right)
	before := snapshot(t, filepath.Dir(o.Dir))
	for name, u := range map[string]*Unlocker{"none": nil, "another passphrase": Passphrase([]byte("incorrect")), "a key": rsaUnlock(t, "kms://k")} {
		o.Unlock = u
		f, err := OpenFolder(t.Context(), o)
		if !errors.Is(err, fault.Denied) || f != nil || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("%s: %v, want denied", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "incorrect") {
			t.Errorf("the error has the secret: %v", err)
		}
		if snapshot(t, filepath.Dir(o.Dir)) != before {
			t.Errorf("%s: something was changed", name)
		}
	}
	o.Unlock = right
	f, err := OpenFolder(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	holds(t, f, pub)
	files, err := f.files()
	if err != nil || len(files) != len(pub) {
		t.Errorf("files %q, %v", files, err)
	}
	if strings.Contains(before, "BEGIN PRIVATE KEY") {
		t.Error("a key lies in the clear")
	}
}

func TestThreat_Keys_FilesTampered(t *testing.T) {
	u := rsaUnlock(t, "kms://k")
	write := func(o Options, name, text string) error {
		return os.WriteFile(filepath.Join(o.Dir, name), []byte(text), 0o600)
	}
	read := func(o Options, name string) string {
		b, err := os.ReadFile(filepath.Join(o.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	clear, err := Marshal(stranger, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(o Options) error{
		"a key gone":                        func(o Options) error { return os.Remove(filepath.Join(o.Dir, "log.pem")) },
		"all keys gone":                     func(o Options) error { return os.RemoveAll(o.Dir) },
		"the envelope gone":                 func(o Options) error { return os.Remove(filepath.Join(o.Dir, envelopeFile)) },
		"a key in the clear in its place":   func(o Options) error { return write(o, "log.pem", string(clear)) },
		"a key in the clear beside":         func(o Options) error { return write(o, "extra.pem", string(clear)) },
		"one key's file in another's place": func(o Options) error { return write(o, "log.pem", read(o, "ca.pem")) },
		"two blocks":                        func(o Options) error { return write(o, "log.pem", read(o, "log.pem")+string(clear)) },
		"no PEM":                            func(o Options) error { return write(o, "log.pem", "x") },
		"another data key's name": func(o Options) error {
			return write(o, "log.pem", strings.Replace(read(o, "log.pem"), "Key: ", "Key: 0", 1))
		},
		"another's folder of the same names": func(o Options) error { p, _ := made(t, u); return os.CopyFS(o.Dir+"2", os.DirFS(p.Dir)) },
		"a bit of a key": func(o Options) error {
			text := []byte(read(o, "log.pem"))
			i := strings.Index(string(text), "\n\n") + 20
			text[i] ^= 1
			return write(o, "log.pem", string(text))
		},
		"a slot's challenge": func(o Options) error {
			var e envelope
			if err := json.Unmarshal([]byte(read(o, envelopeFile)), &e); err != nil {
				return err
			}
			e.Keys[0].Slots[0].Challenge[0] ^= 1
			return e.write(o.Dir)
		},
		"a slot's URI": func(o Options) error {
			return write(o, envelopeFile, strings.Replace(read(o, envelopeFile), "kms://k", "kms://l", 1))
		},
		"an unknown member": func(o Options) error {
			return write(o, envelopeFile, strings.Replace(read(o, envelopeFile), "{", `{"x": 1,`, 1))
		},
		"an empty envelope": func(o Options) error { return write(o, envelopeFile, "") },
		"an index that lies": func(o Options) error {
			b, _ := os.ReadFile(o.Index)
			return os.WriteFile(o.Index, []byte(strings.Replace(string(b), "sha256:", "sha256:0", 1)), 0o600)
		},
		"an index of nothing": func(o Options) error { return os.WriteFile(o.Index, []byte("{}"), 0o600) },
		"an entry twice": func(o Options) error {
			b, _ := os.ReadFile(o.Index)
			return os.WriteFile(o.Index, []byte(strings.Replace(string(b), `"name": "log"`, `"name": "ca"`, 1)), 0o600)
		},
	} {
		o, _ := made(t, u)
		if err := change(o); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if name == "another's folder of the same names" {
			o.Dir += "2"
			if err := os.Chmod(o.Dir, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, file := range []string{"ca.pem", "log.pem", "tsa.pem", envelopeFile} {
				if err := os.Chmod(filepath.Join(o.Dir, file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		_, err := OpenFolder(t.Context(), o)
		if !errors.Is(err, fault.Tampered) {
			t.Errorf("%s: %v, want it noticed as tampering", name, err)
		}
	}
}

// A crash anywhere while secrets are exchanged leaves a folder that one of the
// two opens, whole, with the same keys.
func TestReencryptInterrupted(t *testing.T) {
	for after := range 5 { // 0: before the envelope; n: after n-1 files
		old, next := rsaUnlock(t, "kms://old"), rsaUnlock(t, "kms://new")
		o, pub := made(t, old)
		f, err := OpenFolder(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		was := f.envelope.current().ID
		if after > 0 {
			if err := f.envelope.add(t.Context(), next); err != nil {
				t.Fatal(err)
			}
			if err := f.envelope.write(o.Dir); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"ca", "log", "tsa"}[:after-1] {
				k, err := f.read(name)
				if err != nil {
					t.Fatal(err)
				}
				b, err := f.sealed(name, k)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(f.file(name), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := OpenFolder(t.Context(), o); !errors.Is(err, fault.Denied) {
				t.Errorf("crash %d, the old secret: %v, want denied", after, err)
			}
		}
		// Called again as before, it comes to its end.
		if after%2 == 0 {
			if f, err = Reencrypt(t.Context(), o, next); err != nil {
				t.Fatalf("crash %d: %v", after, err)
			}
			holds(t, f, pub)
		}
		o.Unlock = next
		if f, err = OpenFolder(t.Context(), o); err != nil {
			t.Fatalf("crash %d, the new secret: %v", after, err)
		}
		holds(t, f, pub)
		if len(f.envelope.Keys) != 1 || f.envelope.current().ID == was || strings.Contains(snapshot(t, o.Dir), was) {
			t.Errorf("crash %d: the old data key is still there", after)
		}
	}
}

// The same for sealing what lay in the clear.
func TestEncryptInterrupted(t *testing.T) {
	for after := range 4 {
		o, pub := made(t, nil)
		u := rsaUnlock(t, "kms://k")
		f, err := OpenFolder(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if f.envelope, err = newEnvelope(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		f.envelope.Sealing = true
		if err := f.envelope.write(o.Dir); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"ca", "log", "tsa"}[:after] {
			k, err := f.read(name)
			if err != nil {
				t.Fatal(err)
			}
			b, err := f.sealed(name, k)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(f.file(name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if f, err = Encrypt(t.Context(), o, u); err != nil {
			t.Fatalf("crash after %d: %v", after, err)
		}
		holds(t, f, pub)
		if strings.Contains(snapshot(t, o.Dir), "BEGIN PRIVATE KEY") {
			t.Errorf("crash after %d: a key lies in the clear", after)
		}
	}
}

// The form before envelopes is carried over at the first start.
func TestFolderOfTheOlderForm(t *testing.T) {
	dir := t.TempDir()
	secret := []byte("correct horse")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Marshal(key, secret)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o700), os.WriteFile(filepath.Join(dir, "log.pem"), b, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range [][]byte{nil, []byte("incorrect")} {
		if _, err := Open(dir, wrong); !errors.Is(err, fault.Denied) {
			t.Errorf("passphrase %q: %v, want denied", wrong, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, envelopeFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a wrong passphrase made an envelope: %v", err)
	}
	f, err := Open(dir, secret)
	if err != nil {
		t.Fatal(err)
	}
	holds(t, f, map[string]crypto.PublicKey{"log": key.Public()})
	if b, err = os.ReadFile(filepath.Join(dir, "log.pem")); err != nil || !strings.Contains(string(b), "Version: 2") {
		t.Errorf("the file kept its form: %s (%v)", b, err)
	}
}

// randomised signs like RSA and never twice the same.
type randomised struct{ *rsa.PrivateKey }

func (r randomised) Sign(rnd io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	return r.PrivateKey.Sign(rnd, digest, &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: rsa.PSSSaltLengthEqualsHash})
}

func TestKeysThatCannotUnlock(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := KeyUnlock("kms://k", ec); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "want RSA") {
		t.Errorf("ECDSA: %v", err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	u, err := KeyUnlock("kms://k", randomised{r})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newEnvelope(t.Context(), u); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "differently twice") {
		t.Errorf("a key with random signatures: %v", err)
	}
}

func TestUnlockFrom(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	write := func(path, text string) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "pass"), "hunter22\r\n")
	write(filepath.Join(dir, "empty"), "\n")
	write(filepath.Join(dir, "long"), strings.Repeat("x", maxPassphrase+1))
	write(filepath.Join(data, "pass"), "hunter22")
	if err := os.Symlink(filepath.Join(data, "pass"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"CREDENTIALS_DIRECTORY": dir, "PASS": "hunter22"}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for place, says := range map[string]string{
		"": "", "file:" + filepath.Join(dir, "pass"): "", "credential:pass": "", "env:PASS": "", "prompt:": "", "kms://k": "",
		"file:" + filepath.Join(dir, "nosuch"): "no such file", "file:" + filepath.Join(dir, "empty"): "found 0",
		"file:" + filepath.Join(dir, "long"): "want from 1", "file:" + filepath.Join(data, "pass"): "lies in the data folder",
		"file:" + filepath.Join(dir, "link"): "lies in the data folder", "credential:../pass": "no such credential",
		"env:NONE": "found 0", "env:": "want file:PATH", "hunter22": "want file:PATH", "literal:hunter22": "want file:PATH",
	} {
		u, err := UnlockFrom(t.Context(), place, UnlockOptions{
			DataDir: data, Getenv: func(name string) string { return env[name] }, Prompt: func() ([]byte, error) { return []byte("hunter22"), nil },
			OpenURI: func(context.Context, string) (crypto.Signer, error) { return key, nil },
		})
		if says == "" {
			if err != nil || (u == nil) != (place == "") || u != nil && u.key == nil && string(u.passphrase) != "hunter22" {
				t.Errorf("%s: %v, %v", place, u, err)
			}
			continue
		}
		if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "hunter22") {
			t.Errorf("%s: %v, want invalid saying %q and no secret", place, err, says)
		}
	}
	if _, err := UnlockFrom(t.Context(), "prompt:", UnlockOptions{}); !errors.Is(err, fault.Invalid) {
		t.Errorf("no terminal: %v", err)
	}
	if _, err := UnlockFrom(t.Context(), "credential:pass", UnlockOptions{Getenv: func(string) string { return "" }}); !errors.Is(err, fault.Invalid) {
		t.Errorf("no systemd: %v", err)
	}
}

func FuzzEnvelope(f *testing.F) {
	f.Add([]byte(`{"version":1,"keys":[{"id":"0123456789abcdef","slots":[{"method":"key"}]}]}`))
	f.Add([]byte(`{"version":1,"keys":[null]}`))
	u := Passphrase([]byte("x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseEnvelope(b)
		if err != nil {
			return
		}
		for _, k := range e.Keys {
			for _, s := range k.Slots {
				// The cost of a hostile envelope is bounded before it is paid.
				if s.Method == methodPassphrase && s.Cost > 14 {
					continue
				}
				if _, err := u.unwrap(t.Context(), k.ID, s); err == nil {
					t.Error("it opened")
				}
			}
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"version":1,"keys":[{"name":"log","algorithm":"ECDSA P-256","fingerprint":"sha256:00","where":"file","created":"2026-01-01T00:00:00Z"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var in index
		if in.parse("index", b) != nil {
			return
		}
		for _, e := range in.Keys {
			if got, ok := in.find(e.Name); !ok || got != e {
				t.Errorf("%q is not found", e.Name)
			}
		}
	})
}
