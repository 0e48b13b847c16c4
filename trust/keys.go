package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"sync"

	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
)

// verifyKey is a public key that Assay accepts, with its names.
type verifyKey struct {
	pub  crypto.PublicKey
	spki []byte   // SubjectPublicKeyInfo, DER
	sum  [32]byte // SHA-256 of spki
}

// newVerifyKey accepts ECDSA on P-256, P-384 and P-521, Ed25519, and RSA of
// 2,048 to 8,192 bits; anything else is CodeKeyUnsupported.
func newVerifyKey(pub crypto.PublicKey) (*verifyKey, error) {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k == nil {
			return nil, refuse(CodeKeyUnsupported, "public key: nil ECDSA key")
		}
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
		default:
			return nil, refuse(CodeKeyUnsupported, "public key: want ECDSA on P-256, P-384 or P-521")
		}
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return nil, refuse(CodeKeyUnsupported, "public key: Ed25519 wants %d bytes, found %d", ed25519.PublicKeySize, len(k))
		}
	case *rsa.PublicKey:
		if k == nil || k.N == nil || k.N.BitLen() < 2048 || k.N.BitLen() > 8192 || k.E < 3 || k.E&1 == 0 {
			return nil, refuse(CodeKeyUnsupported, "public key: want RSA of 2048 to 8192 bits with an odd exponent from 3")
		}
	default:
		return nil, refuse(CodeKeyUnsupported, "public key: want ECDSA, Ed25519 or RSA, found %T", pub)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, refuse(CodeKeyUnsupported, "public key: %w", err)
	}
	return &verifyKey{pub: pub, spki: spki, sum: sha256.Sum256(spki)}, nil
}

// fingerprint is "sha256:" and the hex SHA-256 of the SubjectPublicKeyInfo.
func (k *verifyKey) fingerprint() string { return "sha256:" + hex.EncodeToString(k.sum[:]) }

// KeyFingerprint names a public key: "sha256:" and the lowercase hex SHA-256 of
// its DER SubjectPublicKeyInfo. Unsupported keys are refused (CodeKeyUnsupported).
func KeyFingerprint(pub crypto.PublicKey) (string, error) {
	k, err := newVerifyKey(pub)
	if err != nil {
		return "", err
	}
	return k.fingerprint(), nil
}

// ParsePublicKey reads one PEM public key or certificate (its key is taken), or
// a bare DER SubjectPublicKeyInfo.
func ParsePublicKey(b []byte) (crypto.PublicKey, error) {
	der := b
	if block, _ := pem.Decode(b); block != nil {
		switch block.Type {
		case "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, refuse(CodeKeyUnsupported, "read public key: certificate: %w", err)
			}
			return cert.PublicKey, nil
		case "RSA PUBLIC KEY":
			k, err := x509.ParsePKCS1PublicKey(block.Bytes)
			if err != nil {
				return nil, refuse(CodeKeyUnsupported, "read public key: %w", err)
			}
			return k, nil
		}
		der = block.Bytes
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, refuse(CodeKeyUnsupported, "read public key: want PEM \"PUBLIC KEY\" or DER SubjectPublicKeyInfo: %w", err)
	}
	if _, err := newVerifyKey(pub); err != nil {
		return nil, err
	}
	return pub, nil
}

// hash is the hash function that goes with the key by default: the curve's for
// ECDSA, SHA-256 for RSA, SHA-512 for pre-hashed Ed25519.
func (k *verifyKey) hash() crypto.Hash {
	switch p := k.pub.(type) {
	case *ecdsa.PublicKey:
		switch p.Curve {
		case elliptic.P384():
			return crypto.SHA384
		case elliptic.P521():
			return crypto.SHA512
		}
	case ed25519.PublicKey:
		return crypto.SHA512
	}
	return crypto.SHA256
}

// facts is a bounded memory of signature checks that passed. An entry is the
// hash of everything the check depended on, so a hit is the same check: it
// saves the work and decides nothing. Failures are never remembered.
type facts struct {
	mu       sync.Mutex
	cur, old map[[32]byte]struct{}
}

const maxFacts = 1 << 14 // per generation; two generations of 32-byte keys, about 2 MB at most

func newFacts() *facts { return &facts{cur: map[[32]byte]struct{}{}} }

func (f *facts) has(k [32]byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.cur[k]; ok {
		return true
	}
	if _, ok := f.old[k]; ok {
		f.put(k)
		return true
	}
	return false
}

func (f *facts) add(k [32]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.put(k)
}

func (f *facts) put(k [32]byte) {
	if len(f.cur) >= maxFacts {
		f.old, f.cur = f.cur, make(map[[32]byte]struct{}, maxFacts)
	}
	f.cur[k] = struct{}{}
}

// digest verifies sig over a digest made by h: ECDSA (ASN.1), RSA (PKCS #1
// v1.5), or Ed25519ph when h is SHA-512.
func (f *facts) digest(k *verifyKey, h crypto.Hash, digest, sig []byte) bool {
	if len(digest) != h.Size() || len(sig) == 0 || len(sig) > 1024 {
		return false
	}
	var buf [32 + 1 + 64 + 1024]byte
	b := append(buf[:0], k.sum[:]...)
	b = append(b, byte(h))
	b = append(b, digest...)
	key := sha256.Sum256(append(b, sig...))
	if f.has(key) {
		return true
	}
	ok := false
	switch p := k.pub.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(p, digest, sig)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(p, h, digest, sig) == nil
	case ed25519.PublicKey:
		ok = h == crypto.SHA512 && ed25519.VerifyWithOptions(p, digest, sig, &ed25519.Options{Hash: crypto.SHA512}) == nil
	}
	if ok {
		f.add(key)
	}
	return ok
}

// message verifies sig over a message with the key's own hash; weak also
// accepts SHA-256 under P-384 and P-521, which old clients wrote.
func (f *facts) message(k *verifyKey, msg, sig []byte, weak bool) bool {
	if p, ok := k.pub.(ed25519.PublicKey); ok && len(sig) == ed25519.SignatureSize && ed25519.Verify(p, msg, sig) {
		return true
	}
	if f.digest(k, k.hash(), sum(k.hash(), msg), sig) {
		return true
	}
	if _, ec := k.pub.(*ecdsa.PublicKey); ec && weak && k.hash() != crypto.SHA256 {
		return f.digest(k, crypto.SHA256, sum(crypto.SHA256, msg), sig)
	}
	return false
}

func sum(h crypto.Hash, b []byte) []byte {
	if h == crypto.SHA256 {
		s := sha256.Sum256(b)
		return s[:]
	}
	w := h.New()
	w.Write(b)
	return w.Sum(nil)
}

// keyDetails lists the protobuf names that a Rekor v2 entry may give to the
// key, with the entry's hash: what the log writes first, then what older
// clients asked it to write.
func (k *verifyKey) keyDetails() []keyDetail {
	switch p := k.pub.(type) {
	case *ecdsa.PublicKey:
		switch p.Curve {
		case elliptic.P384():
			return []keyDetail{{"PKIX_ECDSA_P384_SHA_384", crypto.SHA384}, {"PKIX_ECDSA_P384_SHA_256", crypto.SHA256}}
		case elliptic.P521():
			return []keyDetail{{"PKIX_ECDSA_P521_SHA_512", crypto.SHA512}, {"PKIX_ECDSA_P521_SHA_256", crypto.SHA256}}
		}
		return []keyDetail{{"PKIX_ECDSA_P256_SHA_256", crypto.SHA256}}
	case *rsa.PublicKey:
		switch p.N.BitLen() {
		case 2048:
			return []keyDetail{{"PKIX_RSA_PKCS1V15_2048_SHA256", crypto.SHA256}}
		case 3072:
			return []keyDetail{{"PKIX_RSA_PKCS1V15_3072_SHA256", crypto.SHA256}}
		case 4096:
			return []keyDetail{{"PKIX_RSA_PKCS1V15_4096_SHA256", crypto.SHA256}}
		}
		return nil
	}
	return []keyDetail{{"PKIX_ED25519_PH", crypto.SHA512}, {"PKIX_ED25519", crypto.SHA512}}
}

type keyDetail struct {
	name string
	hash crypto.Hash
}

// protoKeyDetails is the name that a trusted root gives to a log's key.
func protoKeyDetails(k *verifyKey) commonpb.PublicKeyDetails {
	if _, ed := k.pub.(ed25519.PublicKey); ed {
		return commonpb.PublicKeyDetails_PKIX_ED25519
	}
	if d := k.keyDetails(); len(d) > 0 {
		return commonpb.PublicKeyDetails(commonpb.PublicKeyDetails_value[d[0].name])
	}
	return commonpb.PublicKeyDetails_PUBLIC_KEY_DETAILS_UNSPECIFIED
}
