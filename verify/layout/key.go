package layout

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"slices"

	"assay/internal/fault"
)

// Key is a functionary's key as a layout names it. Its id is a name and proves
// nothing.
type Key struct {
	KeyID               string   `json:"keyid"`
	KeyIDHashAlgorithms []string `json:"keyid_hash_algorithms,omitempty"`
	KeyType             string   `json:"keytype"`
	KeyVal              struct {
		Private     string `json:"private,omitempty"`
		Public      string `json:"public"`
		Certificate string `json:"certificate,omitempty"`
	} `json:"keyval"`
	Scheme string `json:"scheme"`
}

// publicKey is a key that verifies. fingerprint is of the key itself, so that one
// key under two ids is one functionary.
type publicKey struct {
	key         crypto.PublicKey
	fingerprint string // "sha256:" and the hex SHA-256 of the PKIX form
}

func (k Key) parse() (*publicKey, error) {
	if k.KeyVal.Private != "" {
		return nil, fault.Newf(fault.Invalid, "it holds a private key: that is no secret any longer, replace it")
	}
	if k.KeyVal.Certificate != "" {
		return nil, fault.Newf(fault.Invalid, "certificates are not read: functionaries are keys here")
	}
	if k.KeyType == "ed25519" && len(k.KeyVal.Public) == 2*ed25519.PublicKeySize {
		raw, err := hex.DecodeString(k.KeyVal.Public)
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "an ed25519 key that is not hex")
		}
		return newPublicKey(ed25519.PublicKey(raw), k.Scheme)
	}
	block, rest := pem.Decode([]byte(k.KeyVal.Public))
	if block == nil || len(rest) > 0 && len(rest) != len("\n") {
		return nil, fault.Newf(fault.Invalid, "want one public key in PEM, or an ed25519 key of 64 hex digits")
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "public key: %w", err)
	}
	return newPublicKey(pub, k.Scheme)
}

// newPublicKey takes a key for what it is; scheme is held against that, "" is any.
func newPublicKey(pub crypto.PublicKey, scheme string) (*publicKey, error) {
	var schemes []string
	switch p := pub.(type) {
	case *rsa.PublicKey:
		if p.N.BitLen() < 2048 || p.N.BitLen() > 8192 {
			return nil, fault.Newf(fault.Invalid, "an RSA key of %d bits, want 2048 to 8192", p.N.BitLen())
		}
		schemes = []string{"rsassa-pss-sha256"}
	case *ecdsa.PublicKey:
		switch p.Curve.Params().BitSize {
		case 256:
			schemes = []string{"ecdsa-sha2-nistp256"}
		case 384:
			schemes = []string{"ecdsa-sha2-nistp384"}
		case 521:
			schemes = []string{"ecdsa-sha2-nistp521"}
		default:
			return nil, fault.Newf(fault.Invalid, "a curve of %d bits, want 256, 384 or 521", p.Curve.Params().BitSize)
		}
	case ed25519.PublicKey:
		schemes = []string{"ed25519"}
	default:
		return nil, fault.Newf(fault.Invalid, "a key of type %T", pub)
	}
	if scheme != "" && !slices.Contains(schemes, scheme) {
		return nil, fault.Newf(fault.Invalid, "scheme %.60q of such a key, want %s", scheme, schemes[0])
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return &publicKey{pub, "sha256:" + hex.EncodeToString(sum[:])}, nil
}

func (k *publicKey) verify(signed, sig []byte) bool {
	switch p := k.key.(type) {
	case *rsa.PublicKey:
		sum := sha256.Sum256(signed)
		return rsa.VerifyPSS(p, crypto.SHA256, sum[:], sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto}) == nil
	case *ecdsa.PublicKey:
		switch p.Curve.Params().BitSize {
		case 256:
			sum := sha256.Sum256(signed)
			return ecdsa.VerifyASN1(p, sum[:], sig)
		case 384:
			sum := sha512.Sum384(signed)
			return ecdsa.VerifyASN1(p, sum[:], sig)
		}
		sum := sha512.Sum512(signed)
		return ecdsa.VerifyASN1(p, sum[:], sig)
	case ed25519.PublicKey:
		return ed25519.Verify(p, signed, sig)
	}
	return false
}
