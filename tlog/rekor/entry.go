package rekor

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes of the algorithms below
	_ "crypto/sha512"
	"crypto/x509"
	"encoding/base64"

	"assay/internal/fault"

	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
)

// Kind and version of the entries.
const (
	Kind    = "hashedrekord"
	Version = "0.0.2"
)

// algorithm is one that entries may be signed with.
type algorithm struct {
	details  commonpb.PublicKeyDetails
	hash     crypto.Hash
	hashName string // of dev.sigstore.common.v1.HashAlgorithm
	fits     func(crypto.PublicKey) bool
	verify   func(key crypto.PublicKey, h crypto.Hash, digest, sig []byte) bool
}

// algorithms are rekor-tiles' defaults that sign a digest. Pure Ed25519, which
// is among them by name, signs the message itself: an entry that holds only the
// digest cannot be verified, and upstream fails on it too.
var algorithms = []algorithm{
	{commonpb.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256, crypto.SHA256, "SHA2_256", onCurve(elliptic.P256()), verifyECDSA},
	{commonpb.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384, crypto.SHA384, "SHA2_384", onCurve(elliptic.P384()), verifyECDSA},
	{commonpb.PublicKeyDetails_PKIX_ECDSA_P521_SHA_512, crypto.SHA512, "SHA2_512", onCurve(elliptic.P521()), verifyECDSA},
	{commonpb.PublicKeyDetails_PKIX_ED25519_PH, crypto.SHA512, "SHA2_512", isEd25519, verifyEd25519ph},
	{commonpb.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256, crypto.SHA256, "SHA2_256", rsaOf(2048), verifyPKCS1},
	{commonpb.PublicKeyDetails_PKIX_RSA_PKCS1V15_3072_SHA256, crypto.SHA256, "SHA2_256", rsaOf(3072), verifyPKCS1},
	{commonpb.PublicKeyDetails_PKIX_RSA_PKCS1V15_4096_SHA256, crypto.SHA256, "SHA2_256", rsaOf(4096), verifyPKCS1},
}

func onCurve(c elliptic.Curve) func(crypto.PublicKey) bool {
	return func(k crypto.PublicKey) bool { e, ok := k.(*ecdsa.PublicKey); return ok && e.Curve == c }
}

func rsaOf(bits int) func(crypto.PublicKey) bool {
	return func(k crypto.PublicKey) bool { r, ok := k.(*rsa.PublicKey); return ok && r.N.BitLen() == bits }
}

func isEd25519(k crypto.PublicKey) bool { _, ok := k.(ed25519.PublicKey); return ok }

func verifyECDSA(k crypto.PublicKey, _ crypto.Hash, digest, sig []byte) bool {
	return ecdsa.VerifyASN1(k.(*ecdsa.PublicKey), digest, sig)
}

func verifyEd25519ph(k crypto.PublicKey, h crypto.Hash, digest, sig []byte) bool {
	return ed25519.VerifyWithOptions(k.(ed25519.PublicKey), digest, sig, &ed25519.Options{Hash: h}) == nil
}

func verifyPKCS1(k crypto.PublicKey, h crypto.Hash, digest, sig []byte) bool {
	return rsa.VerifyPKCS1v15(k.(*rsa.PublicKey), h, digest, sig) == nil
}

// key parses the verifier and finds its algorithm, which must be the one that
// the request names.
func (r Request) key() (crypto.PublicKey, *algorithm, error) {
	var key crypto.PublicKey
	if len(r.Certificate) > 0 {
		cert, err := x509.ParseCertificate(r.Certificate)
		if err != nil {
			return nil, nil, fault.Newf(fault.Invalid, "the certificate: %w", err)
		}
		key = cert.PublicKey
	} else {
		var err error
		if key, err = x509.ParsePKIXPublicKey(r.PublicKey); err != nil {
			return nil, nil, fault.Newf(fault.Invalid, "the public key: %w", err)
		}
	}
	for i := range algorithms {
		a := &algorithms[i]
		if !a.fits(key) {
			continue
		}
		if r.KeyDetails != 0 && r.KeyDetails != a.details {
			return nil, nil, fault.Newf(fault.Invalid, "keyDetails %s for a key that signs as %s", r.KeyDetails, a.details)
		}
		return key, a, nil
	}
	return nil, nil, fault.Newf(fault.Invalid, "a key of type %T and this size: want ECDSA P-256, P-384 or P-521, Ed25519 (ph), or RSA of 2048, 3072 or 4096 bits", key)
}

// Body verifies the signature and gives the entry's canonical bytes (RFC 8785),
// the same as rekor-tiles logs. What does not verify or is not supported is
// [fault.Invalid].
func (r Request) Body() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	key, alg, err := r.key()
	if err != nil {
		return nil, err
	}
	if len(r.Digest) != alg.hash.Size() {
		return nil, fault.Newf(fault.Invalid, "a digest of %d bytes: %s wants %d", len(r.Digest), alg.details, alg.hash.Size())
	}
	if !alg.verify(key, alg.hash, r.Digest, r.Signature) {
		return nil, fault.Newf(fault.Invalid, "the signature does not verify over the digest with this key")
	}
	return r.body(alg), nil
}

// body writes the members in the order of RFC 8785. All values are base64 or
// names without a character that JSON escapes.
func (r Request) body(alg *algorithm) []byte {
	b := make([]byte, 0, 512+(len(r.Certificate)+len(r.PublicKey)+len(r.Signature))*4/3)
	b = append(b, `{"apiVersion":"`+Version+`","kind":"`+Kind+`","spec":{"hashedRekordV002":{"data":{"algorithm":"`...)
	b = append(b, alg.hashName...)
	b = append(b, `","digest":"`...)
	b = base64.StdEncoding.AppendEncode(b, r.Digest)
	b = append(b, `"},"signature":{"content":"`...)
	b = base64.StdEncoding.AppendEncode(b, r.Signature)
	b = append(b, `","verifier":{"keyDetails":"`...)
	b = append(b, alg.details.String()...)
	if len(r.Certificate) > 0 {
		b = append(b, `","x509Certificate":{"rawBytes":"`...)
		b = base64.StdEncoding.AppendEncode(b, r.Certificate)
	} else {
		b = append(b, `","publicKey":{"rawBytes":"`...)
		b = base64.StdEncoding.AppendEncode(b, r.PublicKey)
	}
	return append(b, `"}}}}}}`...)
}
