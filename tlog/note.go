package tlog

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"fmt"

	"assay/internal/clock"
	"assay/internal/fault"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/mod/sumdb/note"
)

// Signature types of C2SP signed-note.
const (
	algEd25519 = 0x01
	algRFC6962 = 0x05
)

// KeyID gives the id of a log's key: full is the log id that stands in a
// trusted root and in a TransparencyLogEntry, its first four bytes are the
// key hash in the signature lines of a checkpoint.
//
// As Rekor v2 has it: for ECDSA SHA-256 over the key in DER
// (SubjectPublicKeyInfo), which is older than signed-note and names no origin;
// for Ed25519 SHA-256 over origin, newline, 0x01 and the 32 bytes of the key.
// P-256 and Ed25519 keys only: [fault.Invalid].
func KeyID(origin string, pub crypto.PublicKey) (full Hash, short uint32, err error) {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return full, 0, fault.Newf(fault.Invalid, "a log key on curve %s: want P-256", k.Curve.Params().Name)
		}
		der, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return full, 0, fault.Wrap(fault.Invalid, err)
		}
		full = sha256.Sum256(der)
	case ed25519.PublicKey:
		full = noteKeyHash(origin, algEd25519, k)
	default:
		return full, 0, fault.Newf(fault.Invalid, "a log key of type %T: want P-256 or Ed25519", pub)
	}
	return full, binary.BigEndian.Uint32(full[:]), nil
}

func noteKeyHash(name string, alg byte, key []byte) Hash {
	return sha256.Sum256(append(append([]byte(name), '\n', alg), key...))
}

// verifier is a note.Verifier over a function.
type verifier struct {
	name  string
	short uint32
	check func(msg, sig []byte) bool
}

func (v *verifier) Name() string                { return v.name }
func (v *verifier) KeyHash() uint32             { return v.short }
func (v *verifier) Verify(msg, sig []byte) bool { return v.check(msg, sig) }

// signer is a note.Signer over a function.
type signer struct {
	name  string
	short uint32
	sign  func(msg []byte) ([]byte, error)
}

func (s *signer) Name() string                    { return s.name }
func (s *signer) KeyHash() uint32                 { return s.short }
func (s *signer) Sign(msg []byte) ([]byte, error) { return s.sign(msg) }

// NewVerifier checks the checkpoints of a Rekor v2 log: ECDSA P-256 over
// SHA-256 in ASN.1, or Ed25519. Other keys are [fault.Invalid].
func NewVerifier(origin string, pub crypto.PublicKey) (note.Verifier, error) {
	if err := checkOrigin(origin); err != nil {
		return nil, err
	}
	_, short, err := KeyID(origin, pub)
	if err != nil {
		return nil, err
	}
	return &verifier{origin, short, func(msg, sig []byte) bool { return verifySig(pub, msg, sig) }}, nil
}

func newSigner(origin string, key crypto.Signer) (note.Signer, error) {
	_, short, err := KeyID(origin, key.Public())
	if err != nil {
		return nil, err
	}
	return &signer{origin, short, func(msg []byte) ([]byte, error) { return Sign(key, msg) }}, nil
}

// Sign makes the signature of a log key: ECDSA over SHA-256 in ASN.1, or
// Ed25519 over the message itself.
func Sign(key crypto.Signer, msg []byte) ([]byte, error) {
	if _, ok := key.Public().(ed25519.PublicKey); ok {
		return key.Sign(rand.Reader, msg, crypto.Hash(0))
	}
	d := sha256.Sum256(msg)
	return key.Sign(rand.Reader, d[:], crypto.SHA256)
}

func verifySig(pub crypto.PublicKey, msg, sig []byte) bool {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		d := sha256.Sum256(msg)
		return ecdsa.VerifyASN1(k, d[:], sig)
	case ed25519.PublicKey:
		return ed25519.Verify(k, msg, sig)
	}
	return false
}

// Certificate Transparency signs tree heads as RFC 6962 section 3.5 has them;
// C2SP static-ct-api carries such a signature, with its time, in a checkpoint.

func ctKeyHash(origin string, pub crypto.PublicKey) (uint32, error) {
	id, _, err := KeyID(origin, pub)
	if err != nil {
		return 0, err
	}
	if _, ok := pub.(*ecdsa.PublicKey); !ok {
		return 0, fault.Newf(fault.Invalid, "a CT log key of type %T: RFC 6962 wants P-256", pub)
	}
	h := noteKeyHash(origin, algRFC6962, id[:])
	return binary.BigEndian.Uint32(h[:]), nil
}

// NewCTVerifier checks the checkpoints of a log of C2SP static-ct-api.
func NewCTVerifier(origin string, pub crypto.PublicKey) (note.Verifier, error) {
	if err := checkOrigin(origin); err != nil {
		return nil, err
	}
	short, err := ctKeyHash(origin, pub)
	if err != nil {
		return nil, err
	}
	return &verifier{origin, short, func(msg, sig []byte) bool {
		c, err := parseText(string(msg))
		s := cryptobyte.String(sig)
		var at uint64
		var alg uint16
		var raw cryptobyte.String
		if err != nil || !s.ReadUint64(&at) || !s.ReadUint16(&alg) || alg != ecdsaSHA256 ||
			!s.ReadUint16LengthPrefixed(&raw) || !s.Empty() {
			return false
		}
		return verifySig(pub, treeHead(c, at), raw)
	}}, nil
}

func newCTSigner(origin string, key crypto.Signer, now clock.Clock) (note.Signer, error) {
	short, err := ctKeyHash(origin, key.Public())
	if err != nil {
		return nil, err
	}
	return &signer{origin, short, func(msg []byte) ([]byte, error) {
		c, err := parseText(string(msg))
		if err != nil {
			return nil, err
		}
		at := uint64(now().UnixMilli())
		sig, err := Sign(key, treeHead(c, at))
		if err != nil {
			return nil, err
		}
		var b cryptobyte.Builder
		b.AddUint64(at)
		b.AddUint16(ecdsaSHA256)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(sig) })
		return b.Bytes()
	}}, nil
}

// ecdsaSHA256 is the pair of SignatureAndHashAlgorithm, RFC 5246 section
// 7.4.1.4.1: sha256(4), ecdsa(3).
const ecdsaSHA256 = 0x0403

// treeHead is the TreeHeadSignature of RFC 6962 section 3.5.
func treeHead(c Checkpoint, at uint64) []byte {
	var b cryptobyte.Builder
	b.AddUint8(0) // v1
	b.AddUint8(1) // tree_hash
	b.AddUint64(at)
	b.AddUint64(c.Size)
	b.AddBytes(c.Root[:])
	return b.BytesOrPanic()
}

// algECDSA is the type that Rekor's clients and the witnesses that know them use
// for ECDSA P-256 over SHA-256; the key is its SubjectPublicKeyInfo.
const algECDSA = 0x02

// VKey writes a log's key as a verifier key of C2SP signed-note.
func VKey(origin string, pub crypto.PublicKey) (string, error) {
	_, short, err := KeyID(origin, pub)
	if err != nil {
		return "", err
	}
	var key []byte
	switch k := pub.(type) {
	case ed25519.PublicKey:
		key = append([]byte{algEd25519}, k...)
	default:
		der, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			return "", fault.Wrap(fault.Invalid, err)
		}
		key = append([]byte{algECDSA}, der...)
	}
	return fmt.Sprintf("%s+%08x+%s", origin, short, base64.StdEncoding.EncodeToString(key)), nil
}
