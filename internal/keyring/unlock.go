package keyring

import (
	"bytes"
	"context"
	"crypto"
	"crypto/fips140"
	"crypto/hkdf"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"assay/internal/fault"

	"golang.org/x/crypto/scrypt"
)

// Unlocker is one way to open a folder's envelope: a passphrase, or a key that
// never leaves its KMS or token.
type Unlocker struct {
	passphrase []byte
	uri        string
	key        crypto.Signer
}

// Passphrase unlocks by a passphrase.
func Passphrase(p []byte) *Unlocker { return &Unlocker{passphrase: p} }

// KeyUnlock unlocks by a private key elsewhere: its signature of a random
// challenge is the secret. The key must be RSA, whose PKCS #1 v1.5 signatures
// are the same each time (RFC 8017, section 8.2); ECDSA's differ. Nothing else
// should be signed with it, since who may sign with it may open the folder.
func KeyUnlock(uri string, key crypto.Signer) (*Unlocker, error) {
	if _, ok := key.Public().(*rsa.PublicKey); !ok {
		return nil, fault.Newf(fault.Invalid, "unlocking by %s: its key is %s, want RSA, since only RSA's signatures are the same each time: make one with assay keys generate --kms %s --algorithm rsa-2048", Redact(uri), Algorithm(key.Public()), Redact(uri))
	}
	return &Unlocker{uri: uri, key: key}, nil
}

// slot is a data key sealed for one way to unlock.
type slot struct {
	Method string `json:"method"` // "passphrase" or "key"

	KDF  string `json:"kdf,omitempty"`  // passphrase: "scrypt" or "pbkdf2-sha256"
	Cost int    `json:"cost,omitempty"` // log2 of scrypt's N; iterations of PBKDF2
	Salt []byte `json:"salt,omitempty"`

	URI         string `json:"uri,omitempty"` // key
	Fingerprint string `json:"fingerprint,omitempty"`
	Challenge   []byte `json:"challenge,omitempty"`

	Wrapped []byte `json:"wrapped,omitempty"`
}

const (
	methodPassphrase = "passphrase"
	methodKey        = "key"

	kdfScrypt = "scrypt"
	kdfPBKDF2 = "pbkdf2-sha256" // what FIPS 140-3 approves (NIST SP 800-132)

	pbkdf2Cost = 1_000_000 // some 0.3 s, once at start
)

func (k *envelopeKey) ways() string {
	var ways []string
	for _, s := range k.Slots {
		if s.Method == methodKey {
			ways = append(ways, Redact(s.URI))
		} else {
			ways = append(ways, s.Method)
		}
	}
	return strings.Join(ways, ", or ")
}

// wrap seals a data key for u.
func (u *Unlocker) wrap(ctx context.Context, id string, dataKey []byte) (slot, error) {
	salt := make([]byte, 32)
	if _, err := rand.Read(salt); err != nil {
		return slot{}, err
	}
	s := slot{Method: methodPassphrase, KDF: kdfScrypt, Cost: scryptLogN, Salt: salt}
	if fips140.Enabled() {
		s.KDF, s.Cost = kdfPBKDF2, pbkdf2Cost
	}
	if u.key != nil {
		fp, err := Fingerprint(u.key.Public())
		if err != nil {
			return slot{}, err
		}
		s = slot{Method: methodKey, URI: u.uri, Fingerprint: fp, Challenge: salt}
	}
	kek, err := u.kek(ctx, s)
	if err != nil {
		return slot{}, err
	}
	if u.key != nil {
		// A service that randomises what it signs would lock the keys in for ever.
		again, err := u.kek(ctx, s)
		if err != nil {
			return slot{}, err
		}
		if !bytes.Equal(kek, again) {
			return slot{}, fault.Newf(fault.Invalid, "unlocking by %s: it signed the same bytes differently twice, so it cannot unlock anything; want a key for RSA PKCS #1 v1.5 signatures", Redact(u.uri))
		}
	}
	aead, err := gcm(kek)
	if err != nil {
		return slot{}, err
	}
	s.Wrapped = aead.Seal(nil, nil, dataKey, s.bound(id))
	return s, nil
}

// unwrap opens a slot. One of another method is [fault.Denied] as well.
func (u *Unlocker) unwrap(ctx context.Context, id string, s slot) ([]byte, error) {
	switch {
	case s.Method == methodPassphrase && u.key != nil:
		return nil, fault.Newf(fault.Denied, "they are sealed with a passphrase, and keys.unlock names the key %s", Redact(u.uri))
	case s.Method == methodKey && u.key == nil:
		return nil, fault.Newf(fault.Denied, "they are sealed by the key %s, and keys.unlock gives a passphrase", Redact(s.URI))
	case s.Method == methodKey:
		fp, err := Fingerprint(u.key.Public())
		if err != nil {
			return nil, err
		}
		if fp != s.Fingerprint {
			return nil, fault.Newf(fault.Denied, "they are sealed by the key %s with fingerprint %s, and %s is %s", Redact(s.URI), s.Fingerprint, Redact(u.uri), fp)
		}
	}
	kek, err := u.kek(ctx, s)
	if err != nil {
		return nil, err
	}
	aead, err := gcm(kek)
	if err != nil {
		return nil, err
	}
	key, err := aead.Open(nil, nil, s.Wrapped, s.bound(id))
	if err != nil || len(key) != dataKeySize {
		if s.Method == methodKey {
			return nil, fault.Newf(fault.Tampered, "the key %s does not open them any more: envelope.json is damaged, restore it from a backup", Redact(s.URI))
		}
		return nil, fault.Newf(fault.Denied, "the passphrase does not open them: it is another one, or envelope.json is damaged")
	}
	return key, nil
}

// bound is what a slot's seal covers besides the data key: its own parameters.
func (s slot) bound(id string) []byte {
	s.Wrapped = nil
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings, bytes and a number
	}
	return append([]byte("assay envelope v1\n"+id+"\n"), b...)
}

// kek derives the key that seals a data key.
func (u *Unlocker) kek(ctx context.Context, s slot) ([]byte, error) {
	switch {
	case s.Method == methodKey && len(s.Challenge) == 32:
		sum := sha256.Sum256(append([]byte("assay unlock challenge v1\n"), s.Challenge...))
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		sig, err := u.key.Sign(rand.Reader, sum[:], crypto.SHA256)
		if err != nil {
			return nil, fmt.Errorf("unlock by %s: %w", Redact(u.uri), err)
		}
		return hkdf.Key(sha256.New, sig, s.Challenge, "assay envelope key v1", 32)
	case s.Method == methodPassphrase && s.KDF == kdfScrypt && s.Cost >= 14 && s.Cost <= 20 && len(s.Salt) >= 16:
		return scrypt.Key(u.passphrase, s.Salt, 1<<s.Cost, 8, 1, 32)
	case s.Method == methodPassphrase && s.KDF == kdfPBKDF2 && s.Cost >= 100_000 && s.Cost <= 20_000_000 && len(s.Salt) >= 16:
		key, err := pbkdf2.Key(sha256.New, string(u.passphrase), s.Salt, s.Cost, 32)
		return key, fault.Wrap(fault.Invalid, err)
	}
	return nil, fault.Newf(fault.Tampered, "a slot of the envelope is damaged (method %.20q, derivation %.20q, cost %d): restore envelope.json from a backup", s.Method, s.KDF, s.Cost)
}

// UnlockOptions are what [UnlockFrom] looks at.
type UnlockOptions struct {
	// DataDir is the data folder: a passphrase in it would lie in every backup
	// beside what it protects. "" checks nothing.
	DataDir string
	// Prompt asks on the terminal; nil when there is none.
	Prompt func() ([]byte, error)
	// Getenv reads the environment; nil is os.Getenv.
	Getenv func(string) string
	// OpenURI replaces [OpenURI], for tests.
	OpenURI func(ctx context.Context, uri string) (crypto.Signer, error)
}

// UnlockMethods says which places [UnlockFrom] reads, a line each: form and
// meaning.
func UnlockMethods() [][2]string {
	return [][2]string{
		{"file:PATH", "a file of mode 0600 outside of the data folder: protects backups, not the running machine"},
		{"credential:NAME", "a systemd credential (LoadCredentialEncrypted=), which can be sealed to the machine's TPM"},
		{"env:NAME", "an environment variable, for orchestrators that have no better way"},
		{"prompt:", "asked on the terminal at each start"},
		{"awskms://… gcpkms://… azurekms://… hashivault://…", "an RSA key of a KMS, by its plugin: the secret never lies on this machine"},
		{"plugin+NAME://…", "an RSA key behind any sigstore-kms-NAME executable"},
		{"pkcs11:…", "an RSA key of a PKCS #11 token, in builds with the tag pkcs11"},
	}
}

// maxPassphrase is more than any passphrase needs, in bytes.
const maxPassphrase = 64 << 10

// UnlockFrom finds the way to unlock that place names; "" is none. An empty
// secret is an error, since it would leave keys in the clear without a word.
func UnlockFrom(ctx context.Context, place string, o UnlockOptions) (*Unlocker, error) {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.OpenURI == nil {
		o.OpenURI = func(ctx context.Context, uri string) (crypto.Signer, error) { return OpenURI(ctx, uri, nil) }
	}
	scheme, rest, _ := strings.Cut(place, ":")
	var secret []byte
	var err error
	switch {
	case place == "":
		return nil, nil
	case scheme == "file":
		secret, err = readSecret(rest, o.DataDir)
	case scheme == "credential":
		dir := o.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" || !filepath.IsLocal(rest) {
			return nil, fault.Newf(fault.Invalid, "unlock %s: systemd gave no such credential (LoadCredential=%s:… in the unit)", place, rest)
		}
		secret, err = readSecret(filepath.Join(dir, rest), "")
	case scheme == "env" && rest != "":
		secret = []byte(o.Getenv(rest))
	case place == "prompt:":
		if o.Prompt == nil {
			return nil, fault.Newf(fault.Invalid, "unlock prompt: there is no terminal to ask on; use file:, credential: or a KMS")
		}
		secret, err = o.Prompt()
	case IsKeyURI(place):
		key, err := o.OpenURI(ctx, place)
		if err != nil {
			return nil, fmt.Errorf("unlock by %s: %w", Redact(place), err)
		}
		return KeyUnlock(place, key)
	default:
		// The text is not repeated: it may be the passphrase itself.
		return nil, fault.Newf(fault.Invalid, "keys.unlock: want file:PATH, credential:NAME, env:NAME, prompt: or the URI of a KMS key; assay keys unlock-methods explains them")
	}
	if err != nil {
		return nil, err
	}
	secret = bytes.TrimRight(secret, "\r\n")
	if len(secret) == 0 || len(secret) > maxPassphrase {
		return nil, fault.Newf(fault.Invalid, "unlock %s: want from 1 to %d bytes, found %d", place, maxPassphrase, len(secret))
	}
	return Passphrase(secret), nil
}

// readSecret reads a passphrase file that lies outside of dataDir.
func readSecret(path, dataDir string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "unlock: %w", err)
	}
	defer f.Close()
	if dataDir != "" {
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "unlock: %w", err)
		}
		if data, err := filepath.EvalSymlinks(dataDir); err == nil {
			if rel, err := filepath.Rel(data, absolute(real)); err == nil && filepath.IsLocal(rel) {
				return nil, fault.Newf(fault.Invalid, "unlock file %s lies in the data folder, where every backup would hold it beside the keys that it opens: move it out", path)
			}
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPassphrase+3))
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "unlock: %w", err)
	}
	return b, nil
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
