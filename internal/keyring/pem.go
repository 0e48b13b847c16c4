package keyring

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"assay/internal/durable"
	"assay/internal/fault"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/youmark/pkcs8"
)

const (
	typePlain  = "PRIVATE KEY"
	typeSealed = "ASSAY SEALED PRIVATE KEY" // see seal.go and envelope.go

	// What others write and we read.
	typeEncrypted = "ENCRYPTED PRIVATE KEY"          // PKCS #8 with PBES2, RFC 8018
	typeSigstore  = "ENCRYPTED SIGSTORE PRIVATE KEY" // cosign generate-key-pair
	typeCosign    = "ENCRYPTED COSIGN PRIVATE KEY"   // and its older versions

	maxKeyFile = 64 << 10
)

// LoadFile reads a private key of its own: PKCS #8, SEC 1 or sealed, in PEM.
// Modes that let others read are refused.
func LoadFile(path string, passphrase []byte) (crypto.Signer, error) {
	return loadFile(path, &seal{passphrase: passphrase})
}

func loadFile(path string, s *seal) (crypto.Signer, error) {
	data, err := readKeyFile(path)
	if err != nil {
		return nil, err
	}
	key, err := parse(data, s)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", path, err)
	}
	return key, nil
}

// readKeyFile reads a key file under its cap. Modes that let others read are
// refused, and one that is not there is [fault.NotFound].
func readKeyFile(path string) ([]byte, error) {
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
	return os.ReadFile(path)
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

// MarshalCosign writes a key in the encrypted form of cosign generate-key-pair:
// PKCS #8 in NaCl's secretbox under scrypt.
func MarshalCosign(key crypto.Signer, passphrase []byte) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	sealed, err := encrypted.Encrypt(der, passphrase)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: typeSigstore, Bytes: sealed}), nil
}

// pkcs8Options are PBES2 with what FIPS 140-3 approves (RFC 8018, NIST SP
// 800-132).
var pkcs8Options = &pkcs8.Opts{
	Cipher:  pkcs8.AES256CBC,
	KDFOpts: pkcs8.PBKDF2Opts{SaltSize: 16, IterationCount: 600_000, HMACHash: crypto.SHA256},
}

// MarshalEncrypted writes a key as encrypted PKCS #8, which openssl reads.
func MarshalEncrypted(key crypto.Signer, passphrase []byte) ([]byte, error) {
	der, err := pkcs8.MarshalPrivateKey(key, passphrase, pkcs8Options)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: typeEncrypted, Bytes: der}), nil
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
		if block.Headers[headerVersion] == sealedVersion {
			return nil, fault.Newf(fault.Invalid, "this key is sealed under the envelope of its folder and is not read alone")
		}
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
