package attestation

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes that SignatureHash names
	_ "crypto/sha512"
	"crypto/x509"
	"fmt"
	"math/big"

	"assay/internal/fault"
)

// minRSABits is the smallest RSA modulus that verifies.
const minRSABits = 2048

// SignatureHash is the hash that a key of this type signs over, as Sigstore's
// algorithm registry pairs them: SHA-256 for P-256 and RSA, SHA-384 for P-384,
// SHA-512 for P-521; 0 for Ed25519, which signs the message itself. Other keys
// are [fault.Invalid].
func SignatureHash(pub crypto.PublicKey) (crypto.Hash, error) {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch size := k.Curve.Params().BitSize; size {
		case 256:
			return crypto.SHA256, nil
		case 384:
			return crypto.SHA384, nil
		case 521:
			return crypto.SHA512, nil
		default:
			return 0, invalid("ECDSA key of %d bits: want P-256, P-384 or P-521", size)
		}
	case ed25519.PublicKey:
		return 0, nil
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSABits {
			return 0, invalid("RSA key of %d bits: want at least %d", k.N.BitLen(), minRSABits)
		}
		return crypto.SHA256, nil
	}
	return 0, invalid("public key of type %T: want ECDSA, Ed25519 or RSA", pub)
}

// SignMessage signs a message with a signer of any type that [SignatureHash]
// knows: ASN.1 DER for ECDSA, PKCS #1 v1.5 for RSA. The signer may be remote;
// ctx is looked at before it is called, since crypto.Signer takes none.
func SignMessage(ctx context.Context, signer crypto.Signer, message []byte) ([]byte, error) {
	h, err := SignatureHash(signer.Public())
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	input := message
	if h != 0 {
		input = sum(h, message)
	}
	sig, err := signer.Sign(rand.Reader, input, h)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return sig, nil
}

// VerifySignature checks one signature over a message. It is nil or
// [fault.Unverified]; an unusable key is [fault.Invalid]. An ECDSA signature by
// a P-384 or P-521 key may be over SHA-256 too: cosign made such for years. It
// is ASN.1 DER, or r and s at full width side by side, as JOSE has it and
// Google's verification summaries use it: DSSE leaves the encoding open.
func VerifySignature(pub crypto.PublicKey, message, sig []byte) error {
	h, err := SignatureHash(pub)
	if err != nil {
		return err
	}
	ok := false
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		ok = verifyECDSA(k, sum(h, message), sig)
		if !ok && h != crypto.SHA256 {
			ok = verifyECDSA(k, sum(crypto.SHA256, message), sig)
		}
	case ed25519.PublicKey:
		ok = len(k) == ed25519.PublicKeySize && ed25519.Verify(k, message, sig)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(k, h, sum(h, message), sig) == nil
	}
	if !ok {
		return fault.Newf(fault.Unverified, "signature does not verify with the %T given", pub)
	}
	return nil
}

func verifyECDSA(k *ecdsa.PublicKey, digest, sig []byte) bool {
	if ecdsa.VerifyASN1(k, digest, sig) {
		return true
	}
	width := (k.Curve.Params().BitSize + 7) / 8
	if len(sig) != 2*width {
		return false
	}
	r, s := new(big.Int).SetBytes(sig[:width]), new(big.Int).SetBytes(sig[width:])
	return ecdsa.Verify(k, digest, r, s)
}

func sum(h crypto.Hash, b []byte) []byte {
	d := h.New()
	d.Write(b)
	return d.Sum(nil)
}

// SignDSSE makes an envelope with one signature over PAE(payloadType, body):
// ECDSA over SHA-256 for the P-256 keys that Assay makes, Ed25519 as it is. The
// keyid stays empty, since it would decide nothing.
func SignDSSE(ctx context.Context, signer crypto.Signer, payloadType string, body []byte) (*Envelope, error) {
	if payloadType == "" || len(body) == 0 {
		return nil, invalid("sign DSSE envelope: payload type and body must not be empty")
	}
	sig, err := SignMessage(ctx, signer, PAE(payloadType, body))
	if err != nil {
		return nil, fmt.Errorf("sign DSSE envelope: %w", err)
	}
	return &Envelope{PayloadType: payloadType, Payload: body, Signatures: []EnvelopeSignature{{Sig: sig}}}, nil
}

// SignStatement validates and writes a statement and signs it as [SignDSSE].
func SignStatement(ctx context.Context, signer crypto.Signer, s *Statement) (*Envelope, error) {
	body, err := s.Bytes()
	if err != nil {
		return nil, err
	}
	return SignDSSE(ctx, signer, PayloadType, body)
}

// DSSEMatch says which signature of an envelope one of the keys made.
type DSSEMatch struct {
	Key       int // index into the keys given
	Signature int // index into Envelope.Signatures
}

// VerifyDSSE tries the keys on the signatures, whatever the keyids say, and
// gives one match for each distinct key that signed, in the order of the keys.
// The same key given twice counts once, so len of the result can be compared
// with a threshold. No match is [fault.Unverified]; more signatures than
// DefaultLimits allow is [fault.TooLarge], before any is tried.
func VerifyDSSE(e *Envelope, keys ...crypto.PublicKey) ([]DSSEMatch, error) {
	if most := DefaultLimits().MaxSignatures; len(e.Signatures) > most {
		return nil, tooMany("DSSE envelope: signatures", most)
	}
	pae := e.PAE()
	seen := map[string]bool{}
	var matches []DSSEMatch
	for k, key := range keys {
		id, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return nil, invalid("verify DSSE envelope: key %d: %w", k, err)
		}
		if seen[string(id)] {
			continue
		}
		seen[string(id)] = true
		for s, sig := range e.Signatures {
			if VerifySignature(key, pae, sig.Sig) == nil {
				matches = append(matches, DSSEMatch{Key: k, Signature: s})
				break
			}
		}
	}
	if len(matches) == 0 {
		return nil, fault.Newf(fault.Unverified, "verify DSSE envelope: none of its %d signatures was made by any of the %d keys", len(e.Signatures), len(seen))
	}
	return matches, nil
}
