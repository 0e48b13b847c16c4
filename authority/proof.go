package authority

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"

	"assay/internal/fault"

	"github.com/sigstore/sigstore/pkg/cryptoutils/goodkey"
)

// checkKey refuses keys that are weak or of a kind we do not certify. RSA is
// 2048, 3072 or 4096 bits with exponent 65537, and neither of the known
// factorable makes (boulder's goodkey policy, as Fulcio).
func checkKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() && k.Curve != elliptic.P521() {
			return fault.Newf(fault.Invalid, "the public key is on curve %s: want P-256, P-384 or P-521", k.Curve.Params().Name)
		}
	case *rsa.PublicKey:
		// Before anything is computed with it.
		if n := k.N.BitLen(); n < 2048 || n > 4096 {
			return fault.Newf(fault.Invalid, "the public key is insecure or unwieldy: RSA of %d bits, want 2048, 3072 or 4096", n)
		}
	case ed25519.PublicKey:
		return nil
	default:
		return fault.Newf(fault.Invalid, "the public key is a %T: want ECDSA, Ed25519 or RSA", pub)
	}
	if err := goodkey.ValidatePubKey(pub); err != nil {
		return fault.Newf(fault.Invalid, "the public key is insecure: %w", err)
	}
	return nil
}

// parsePublicKey reads a PEM public key, PKIX or PKCS #1.
func parsePublicKey(text string) (crypto.PublicKey, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(rest) != 0 && !blank(rest) {
		return nil, fault.Newf(fault.Invalid, `the public key could not be parsed: want one PEM block of type "PUBLIC KEY"`)
	}
	var pub crypto.PublicKey
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		pub, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		pub, err = x509.ParsePKCS1PublicKey(block.Bytes)
	default:
		return nil, fault.Newf(fault.Invalid, `the public key could not be parsed: PEM type %.40q, want "PUBLIC KEY"`, block.Type)
	}
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "the public key could not be parsed: %w", err)
	}
	return pub, checkKey(pub)
}

func blank(b []byte) bool {
	for _, c := range b {
		if c != '\n' && c != '\r' && c != ' ' && c != '\t' {
			return false
		}
	}
	return true
}

// checkProof verifies the signature over the challenge that shows possession
// of the private key, with the hash that goes with the key (SHA-256 for P-256
// and RSA PKCS #1 v1.5, SHA-384 for P-384, SHA-512 for P-521), as Fulcio and
// its clients have it.
func checkProof(pub crypto.PublicKey, challenge string, proof []byte) error {
	ok := false
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, curveSum(k, challenge), proof)
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, []byte(challenge), proof)
	case *rsa.PublicKey:
		sum := sha256.Sum256([]byte(challenge))
		ok = rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], proof) == nil
	}
	if !ok {
		return fault.Newf(fault.Invalid, "the proof of possession does not verify: want a signature by the public key's private half over the token's subject (its e-mail address where it has one)")
	}
	return nil
}

func curveSum(k *ecdsa.PublicKey, challenge string) []byte {
	switch k.Curve {
	case elliptic.P384():
		sum := sha512.Sum384([]byte(challenge))
		return sum[:]
	case elliptic.P521():
		sum := sha512.Sum512([]byte(challenge))
		return sum[:]
	}
	sum := sha256.Sum256([]byte(challenge))
	return sum[:]
}

// parseCSR reads a PKCS #10 request in PEM and gives its key. The request is
// signed by that key, which proves possession; all its other fields are
// ignored.
func parseCSR(data []byte) (crypto.PublicKey, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" || !blank(rest) {
		return nil, fault.Newf(fault.Invalid, `the certificate signing request could not be parsed: want one PEM block of type "CERTIFICATE REQUEST"`)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "the certificate signing request could not be parsed: %w", err)
	}
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, err
	}
	switch csr.SignatureAlgorithm {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512,
		x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA, x509.PureEd25519:
	default:
		return nil, fault.Newf(fault.Invalid, "the certificate signing request is signed with %s: want ECDSA, RSA PKCS #1 v1.5 or Ed25519 with SHA-256 or more", csr.SignatureAlgorithm)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fault.Newf(fault.Invalid, "the signature of the certificate signing request does not verify: %w", err)
	}
	return csr.PublicKey, nil
}
