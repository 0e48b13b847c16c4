// Package keyring gives private keys by name. Keys lie as PKCS #8 PEM files in
// a folder of mode 0700; each is sealed with scrypt and AES-256-GCM when a
// passphrase is given. All keys are P-256: verifying costs a tenth of P-384.
package keyring

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"assay/internal/durable"
	"assay/internal/fault"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/youmark/pkcs8"
	"golang.org/x/crypto/scrypt"
)

const (
	typePlain  = "PRIVATE KEY"
	typeSealed = "ASSAY SEALED PRIVATE KEY" // AES-256-GCM over PKCS #8 DER, key by scrypt

	// What others write and we read.
	typeEncrypted = "ENCRYPTED PRIVATE KEY"          // PKCS #8 with PBES2, RFC 8018
	typeSigstore  = "ENCRYPTED SIGSTORE PRIVATE KEY" // cosign generate-key-pair
	typeCosign    = "ENCRYPTED COSIGN PRIVATE KEY"   // and its older versions

	// scrypt's cost as its author's 2017 note has it for files; 128 MiB, some
	// 0.4 s, once at start.
	scryptLogN = 17
	maxKeyFile = 64 << 10
)

// Folder is a set of keys in one folder. It implements the key store that
// authority, trust and server ask for. The keys of a folder share their salt,
// so that scrypt runs once at start and not once a key.
type Folder struct {
	dir        string
	passphrase []byte // nil: keys are not sealed
	seal       seal
}

// Open opens a folder of keys, making it when absent. passphrase seals and
// unseals them; nil means that they lie in the clear, protected by the file
// mode alone. A looser mode than 0700 is refused.
func Open(dir string, passphrase []byte) (*Folder, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := durable.CheckPrivate(dir); err != nil {
		return nil, err
	}
	return &Folder{dir: dir, passphrase: passphrase, seal: seal{passphrase: passphrase}}, nil
}

func (f *Folder) path(name string) (string, error) {
	if name == "" || !filepath.IsLocal(name) || filepath.Base(name) != name {
		return "", fault.Newf(fault.Invalid, "key name %q: want a plain name", name)
	}
	return filepath.Join(f.dir, name+".pem"), nil
}

// Create makes a new P-256 key, durable on return. An existing name is
// [fault.Conflict].
func (f *Folder) Create(_ context.Context, name string) (crypto.Signer, error) {
	path, err := f.path(name)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return key, f.keep(path, key)
}

// CreateRSA makes a new RSA key of 2,048 bits, for what must be read by
// clients that know nothing else.
func (f *Folder) CreateRSA(_ context.Context, name string) (crypto.Signer, error) {
	path, err := f.path(name)
	if err != nil {
		return nil, err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	return key, f.keep(path, key)
}

func (f *Folder) keep(path string, key crypto.Signer) error {
	data, err := marshal(key, &f.seal)
	if err != nil {
		return err
	}
	return durable.CreateFile(path, data, 0o600)
}

// Load reads a key; one that is not there is [fault.NotFound].
func (f *Folder) Load(_ context.Context, name string) (crypto.Signer, error) {
	path, err := f.path(name)
	if err != nil {
		return nil, err
	}
	return loadFile(path, &f.seal)
}

// LoadOrCreate loads a key, making it the first time.
func (f *Folder) LoadOrCreate(ctx context.Context, name string) (crypto.Signer, error) {
	key, err := f.Load(ctx, name)
	if errors.Is(err, fault.NotFound) {
		return f.Create(ctx, name)
	}
	return key, err
}

// LoadFile reads a private key of its own: PKCS #8, SEC 1 or sealed, in PEM.
// Modes that let others read are refused.
func LoadFile(path string, passphrase []byte) (crypto.Signer, error) {
	return loadFile(path, &seal{passphrase: passphrase})
}

func loadFile(path string, s *seal) (crypto.Signer, error) {
	st, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.Newf(fault.NotFound, "key %s: no such file", path)
	}
	if err != nil {
		return nil, err
	}
	if st.Size() > maxKeyFile {
		return nil, fault.Newf(fault.Invalid, "key %s: %d bytes are too many for a key", path, st.Size())
	}
	if err := durable.CheckPrivate(path); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := parse(data, s)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", path, err)
	}
	return key, nil
}

// Marshal writes a key as PEM, sealed when there is a passphrase.
func Marshal(key crypto.Signer, passphrase []byte) ([]byte, error) {
	return marshal(key, &seal{passphrase: passphrase})
}

func marshal(key crypto.Signer, s *seal) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if len(s.passphrase) == 0 {
		return pem.EncodeToMemory(&pem.Block{Type: typePlain, Bytes: der}), nil
	}
	salt, aead, err := s.own()
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{
		Type: typeSealed,
		Headers: map[string]string{
			"Salt": base64.StdEncoding.EncodeToString(salt), "Scrypt": strconv.Itoa(scryptLogN),
			"Nonce": base64.StdEncoding.EncodeToString(nonce),
		},
		Bytes: aead.Seal(nil, nonce, der, []byte(typeSealed)),
	}), nil
}

// Parse reads a PEM private key.
func Parse(data, passphrase []byte) (crypto.Signer, error) {
	return parse(data, &seal{passphrase: passphrase})
}

func parse(data []byte, s *seal) (crypto.Signer, error) {
	passphrase := s.passphrase
	block, rest := pem.Decode(data)
	if block == nil {
		return nil, fault.Newf(fault.Invalid, "want a PEM block of type %q", typePlain)
	}
	if b, _ := pem.Decode(rest); b != nil {
		return nil, fault.Newf(fault.Invalid, "want one PEM block, found more")
	}
	der := block.Bytes
	switch block.Type {
	case typeSealed:
		if len(passphrase) == 0 {
			return nil, fault.Newf(fault.Denied, "the key is sealed: give its passphrase")
		}
		salt, err := base64.StdEncoding.DecodeString(block.Headers["Salt"])
		logN, nerr := strconv.Atoi(block.Headers["Scrypt"])
		nonce, kerr := base64.StdEncoding.DecodeString(block.Headers["Nonce"])
		if err != nil || nerr != nil || kerr != nil || len(salt) != saltSize || logN < 14 || logN > 20 || len(nonce) != 12 {
			return nil, fault.Newf(fault.Invalid, "the sealed key's headers are damaged")
		}
		aead, err := s.cipher(salt, logN)
		if err != nil {
			return nil, err
		}
		if der, err = aead.Open(nil, nonce, block.Bytes, []byte(typeSealed)); err != nil {
			return nil, fault.Newf(fault.Denied, "the passphrase does not open the key, or the file is damaged")
		}
	case typePlain:
	case typeSigstore, typeCosign:
		plain, err := encrypted.Decrypt(der, passphrase)
		if err != nil {
			return nil, fault.Newf(fault.Denied, "the passphrase does not open cosign's key (a file given for it, or COSIGN_PASSWORD): %w", err)
		}
		der = plain
	case typeEncrypted:
		key, err := pkcs8.ParsePKCS8PrivateKey(der, passphrase)
		if err != nil {
			return nil, fault.Newf(fault.Denied, "the passphrase does not open the encrypted PKCS #8 key: %w", err)
		}
		return signer(key)
	case "EC PRIVATE KEY":
		if block.Headers["DEK-Info"] != "" {
			return nil, fault.Newf(fault.Invalid, "this old way of encrypting a key is not read: openssl pkcs8 -topk8 -in KEY -out NEW writes it as encrypted PKCS #8")
		}
		key, err := x509.ParseECPrivateKey(der)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err)
		}
		return key, nil
	case "PUBLIC KEY", "CERTIFICATE":
		return nil, fault.Newf(fault.Invalid, "this is a %s: signing wants the private key", strings.ToLower(block.Type))
	default:
		return nil, fault.Newf(fault.Invalid, "PEM type %.40q: want %q, %q or cosign's", block.Type, typePlain, typeEncrypted)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	return signer(key)
}

func signer(key any) (crypto.Signer, error) {
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		return k, nil
	case ed25519.PrivateKey:
		return k, nil
	case *rsa.PrivateKey:
		if k.N.BitLen() < 2048 {
			return nil, fault.Newf(fault.Invalid, "an RSA key of %d bits is too weak: want 2048 or more", k.N.BitLen())
		}
		return k, nil
	}
	return nil, fault.Newf(fault.Invalid, "a %T cannot sign", key)
}

const saltSize = 16

// seal derives the cipher of a passphrase, and remembers it by salt.
type seal struct {
	passphrase []byte

	mu    sync.Mutex
	salt  []byte // the last one used: new keys take it
	logN  int
	known map[string]cipher.AEAD
}

// own is the cipher for new keys: that of the keys that are there, else one of
// a fresh salt.
func (s *seal) own() ([]byte, cipher.AEAD, error) {
	s.mu.Lock()
	salt := s.salt
	if s.logN != scryptLogN {
		salt = nil
	}
	s.mu.Unlock()
	if salt == nil {
		salt = make([]byte, saltSize)
		if _, err := rand.Read(salt); err != nil {
			return nil, nil, err
		}
	}
	aead, err := s.cipher(salt, scryptLogN)
	return salt, aead, err
}

func (s *seal) cipher(salt []byte, logN int) (cipher.AEAD, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := string(salt) + strconv.Itoa(logN)
	if c := s.known[name]; c != nil {
		return c, nil
	}
	k, err := scrypt.Key(s.passphrase, salt, 1<<logN, 8, 1, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	c, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	if s.known == nil {
		s.known = map[string]cipher.AEAD{}
	}
	s.known[name], s.salt, s.logN = c, salt, logN
	return c, nil
}

// MarshalPublic writes a public key as PKIX PEM.
func MarshalPublic(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// ParsePublic reads a PKIX public key, or the key of a certificate, in PEM.
func ParsePublic(data []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fault.Newf(fault.Invalid, `want a PEM block of type "PUBLIC KEY"`)
	}
	switch block.Type {
	case "PUBLIC KEY":
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		return key, fault.Wrap(fault.Invalid, err)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err)
		}
		return cert.PublicKey, nil
	}
	return nil, fault.Newf(fault.Invalid, `PEM type %.40q: want "PUBLIC KEY"`, block.Type)
}
