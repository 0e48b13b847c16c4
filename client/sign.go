package client

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"assay/artifact"
	"assay/internal/fault"

	"github.com/digitorus/timestamp"
	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	dssepb "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// mediaTypeBundle is what signing writes.
const mediaTypeBundle = "application/vnd.dev.sigstore.bundle.v0.3+json"

// Signing makes Sigstore bundles. With a Token it signs keyless: a fresh key,
// a certificate from the CA for the token's identity, the key forgotten after.
// With a Key it signs with that. Either way the signature gets a timestamp and
// a log entry from the services that are named; an empty URL leaves one out,
// which is right for a key only.
type Signing struct {
	Fulcio, Rekor, TSA string // base URLs
	HTTP               *http.Client
	Token              func(context.Context) (string, error) // an OIDC token of audience "sigstore"
	Key                crypto.Signer
}

// maxAnswer caps what a signing service may answer, in bytes.
const maxAnswer = 1 << 20

// Blob signs content by its SHA-256 digest: a bundle with a message signature.
func (s *Signing) Blob(ctx context.Context, d artifact.Digest) (*bundlepb.Bundle, error) {
	if d.Algorithm() != artifact.SHA256 {
		return nil, fault.Newf(fault.Invalid, "sign %s: message signatures are over sha256", d)
	}
	k, err := s.signer(ctx)
	if err != nil {
		return nil, err
	}
	sig, err := k.sign(d.Bytes())
	if err != nil {
		return nil, err
	}
	b := &bundlepb.Bundle{
		MediaType:            mediaTypeBundle,
		VerificationMaterial: k.material(),
		Content: &bundlepb.Bundle_MessageSignature{MessageSignature: &commonpb.MessageSignature{
			MessageDigest: &commonpb.HashOutput{Algorithm: commonpb.HashAlgorithm_SHA2_256, Digest: d.Bytes()},
			Signature:     sig,
		}},
	}
	return b, s.witness(ctx, b, k, d.Bytes(), sig)
}

// Statement signs an in-toto Statement: a bundle with a DSSE envelope of one
// signature. pae is DSSE's pre-authentication encoding of the two.
func (s *Signing) Statement(ctx context.Context, payloadType string, payload, pae []byte) (*bundlepb.Bundle, error) {
	k, err := s.signer(ctx)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(pae)
	sig, err := k.sign(sum[:])
	if err != nil {
		return nil, err
	}
	b := &bundlepb.Bundle{
		MediaType:            mediaTypeBundle,
		VerificationMaterial: k.material(),
		Content: &bundlepb.Bundle_DsseEnvelope{DsseEnvelope: &dssepb.Envelope{
			Payload: payload, PayloadType: payloadType,
			Signatures: []*dssepb.Signature{{Sig: sig}},
		}},
	}
	return b, s.witness(ctx, b, k, sum[:], sig)
}

// witness adds the timestamp and the log entry.
func (s *Signing) witness(ctx context.Context, b *bundlepb.Bundle, k *signer, digest, sig []byte) error {
	if s.TSA != "" {
		token, err := s.timestamp(ctx, sig)
		if err != nil {
			return err
		}
		b.VerificationMaterial.TimestampVerificationData = &bundlepb.TimestampVerificationData{
			Rfc3161Timestamps: []*commonpb.RFC3161SignedTimestamp{{SignedTimestamp: token}},
		}
	}
	if s.Rekor != "" {
		entry, err := s.log(ctx, k, digest, sig)
		if err != nil {
			return err
		}
		b.VerificationMaterial.TlogEntries = []*rekorpb.TransparencyLogEntry{entry}
	}
	return nil
}

// signer is a key with what proves whose it is.
type signer struct {
	key     crypto.Signer
	details string // PublicKeyDetails of protobuf-specs
	cert    []byte // DER of the leaf; nil for a bare key
	pub     []byte // DER of the public key
}

func (s *Signing) signer(ctx context.Context) (*signer, error) {
	key := s.Key
	if key == nil {
		if s.Token == nil {
			return nil, fault.Newf(fault.Invalid, "nothing to sign with: give a key (--key) or an identity token")
		}
		fresh, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		key = fresh
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	k := &signer{key: key, pub: der}
	switch pub := key.Public().(type) {
	case *ecdsa.PublicKey:
		if pub.Curve != elliptic.P256() {
			return nil, fault.Newf(fault.Invalid, "signing key on %s: want P-256", pub.Curve.Params().Name)
		}
		k.details = "PKIX_ECDSA_P256_SHA_256"
	case *rsa.PublicKey:
		switch bits := pub.N.BitLen(); bits {
		case 2048, 3072, 4096: // what protobuf-specs' PublicKeyDetails names
			k.details = fmt.Sprintf("PKIX_RSA_PKCS1V15_%d_SHA256", bits)
		default:
			return nil, fault.Newf(fault.Invalid, "signing key of RSA with %d bits: want 2048, 3072 or 4096", bits)
		}
	case ed25519.PublicKey:
		return nil, fault.Newf(fault.Invalid, "an Ed25519 key cannot sign a digest that the log accepts; want ECDSA P-256 or RSA")
	default:
		return nil, fault.Newf(fault.Invalid, "a signing key of type %T: want ECDSA P-256 or RSA", pub)
	}
	if s.Key == nil {
		token, err := s.Token(ctx)
		if err != nil {
			return nil, fmt.Errorf("identity token: %w", err)
		}
		if k.cert, err = s.certificate(ctx, token, k); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func (k *signer) sign(digest []byte) ([]byte, error) {
	sig, err := k.key.Sign(rand.Reader, digest, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return sig, nil
}

func (k *signer) material() *bundlepb.VerificationMaterial {
	if k.cert != nil {
		return &bundlepb.VerificationMaterial{Content: &bundlepb.VerificationMaterial_Certificate{
			Certificate: &commonpb.X509Certificate{RawBytes: k.cert},
		}}
	}
	// The hint that cosign writes: unauthenticated, and decides nothing.
	sum := sha256.Sum256(k.pub)
	return &bundlepb.VerificationMaterial{Content: &bundlepb.VerificationMaterial_PublicKey{
		PublicKey: &commonpb.PublicKeyIdentifier{Hint: base64.StdEncoding.EncodeToString(sum[:])},
	}}
}

// certificate asks the CA: Fulcio's v2 API, POST /api/v2/signingCert. The proof
// of possession is a signature over the token's subject: its email claim where
// it has one, else sub.
func (s *Signing) certificate(ctx context.Context, token string, k *signer) ([]byte, error) {
	subject, err := proofSubject(token)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(subject))
	proof, err := k.sign(sum[:])
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(map[string]any{
		"publicKeyRequest": map[string]any{
			"publicKey": map[string]string{
				"algorithm": "ECDSA",
				"content":   string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.pub})),
			},
			"proofOfPossession": base64.StdEncoding.EncodeToString(proof),
		},
	})
	if err != nil {
		return nil, err
	}
	// A token that is refused is want of credentials, whatever the status.
	out, err := s.post(ctx, "certificate authority", s.Fulcio+"/api/v2/signingCert", "application/json", token, body)
	if errors.Is(err, fault.Invalid) {
		return nil, fault.Wrap(fault.Unauthenticated, err)
	}
	if err != nil {
		return nil, err
	}
	var answer struct {
		Signed struct {
			Chain struct {
				Certificates []string `json:"certificates"`
			} `json:"chain"`
		} `json:"signedCertificateEmbeddedSct"`
	}
	if err := json.Unmarshal(out, &answer); err != nil || len(answer.Signed.Chain.Certificates) == 0 {
		return nil, fault.Newf(fault.Unavailable, "certificate authority %s: no certificate in its answer", s.Fulcio)
	}
	block, _ := pem.Decode([]byte(answer.Signed.Chain.Certificates[0]))
	if block == nil {
		return nil, fault.Newf(fault.Unavailable, "certificate authority %s: its certificate is not PEM", s.Fulcio)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "certificate authority %s: its certificate does not read: %w", s.Fulcio, err)
	}
	if !bytes.Equal(cert.RawSubjectPublicKeyInfo, k.pub) {
		return nil, fault.Newf(fault.Unverified, "certificate authority %s: certified another key than the one it was asked for", s.Fulcio)
	}
	return block.Bytes, nil
}

// proofSubject reads the token without believing it: the CA checks it.
func proofSubject(token string) (string, error) {
	parts := strings.SplitN(token, ".", 4)
	if len(parts) != 3 {
		return "", fault.Newf(fault.Invalid, "the identity token is not a JWT of three parts")
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", fault.Newf(fault.Invalid, "the identity token's claims are not base64url: %w", err)
	}
	var claims struct {
		Subject string `json:"sub"`
		Email   string `json:"email"`
	}
	if err := json.Unmarshal(b, &claims); err != nil {
		return "", fault.Newf(fault.Invalid, "the identity token's claims are not JSON: %w", err)
	}
	if claims.Email != "" {
		return claims.Email, nil
	}
	if claims.Subject == "" {
		return "", fault.Newf(fault.Invalid, "the identity token has no subject")
	}
	return claims.Subject, nil
}

func (s *Signing) timestamp(ctx context.Context, sig []byte) ([]byte, error) {
	sum := sha256.Sum256(sig)
	req, err := (&timestamp.Request{HashAlgorithm: crypto.SHA256, HashedMessage: sum[:], Certificates: true}).Marshal()
	if err != nil {
		return nil, err
	}
	out, err := s.post(ctx, "timestamp authority", s.TSA, "application/timestamp-query", "", req)
	if err != nil {
		return nil, err
	}
	ts, err := timestamp.ParseResponse(out)
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "timestamp authority %s: %w", s.TSA, err)
	}
	if !bytes.Equal(ts.HashedMessage, sum[:]) {
		return nil, fault.Newf(fault.Unverified, "timestamp authority %s: stamped something else", s.TSA)
	}
	return out, nil
}

// log adds the signature to a Rekor v2 log: POST /api/v2/log/entries.
func (s *Signing) log(ctx context.Context, k *signer, digest, sig []byte) (*rekorpb.TransparencyLogEntry, error) {
	verifier := map[string]any{"keyDetails": k.details}
	if k.cert != nil {
		verifier["x509Certificate"] = map[string]any{"rawBytes": k.cert}
	} else {
		verifier["publicKey"] = map[string]any{"rawBytes": k.pub}
	}
	body, err := json.Marshal(map[string]any{"hashedRekordRequestV002": map[string]any{
		"digest":    digest,
		"signature": map[string]any{"content": sig, "verifier": verifier},
	}})
	if err != nil {
		return nil, err
	}
	out, err := s.post(ctx, "transparency log", s.Rekor+"/api/v2/log/entries", "application/json", "", body)
	if err != nil {
		return nil, err
	}
	var entry rekorpb.TransparencyLogEntry
	if err := protojson.Unmarshal(out, &entry); err != nil {
		return nil, fault.Newf(fault.Unavailable, "transparency log %s: %w", s.Rekor, err)
	}
	if err := sameEntry(entry.GetCanonicalizedBody(), digest, sig); err != nil {
		return nil, fault.Newf(fault.Unverified, "transparency log %s: %w", s.Rekor, err)
	}
	return &entry, nil
}

// sameEntry finds out early that a log answered with something else than what
// it was given; whether the entry is in the log is for verifiers to prove.
func sameEntry(body, digest, sig []byte) error {
	var e struct {
		Spec struct {
			Hashed struct {
				Data struct {
					Digest []byte `json:"digest"`
				} `json:"data"`
				Signature struct {
					Content []byte `json:"content"`
				} `json:"signature"`
			} `json:"hashedRekordV002"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return fmt.Errorf("its entry does not read: %w", err)
	}
	if h := e.Spec.Hashed; !bytes.Equal(h.Data.Digest, digest) || !bytes.Equal(h.Signature.Content, sig) {
		return errors.New("its entry is about another signature than the one it was given")
	}
	return nil
}

func (s *Signing) post(ctx context.Context, who, url, contentType, bearer string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", UserAgent)
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := noRedirect(s.HTTP).Do(req)
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "%s: %w", who, err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "%s %s: %w", who, url, err)
	}
	if len(out) > maxAnswer {
		return nil, fault.Newf(fault.TooLarge, "%s %s: its answer is larger than %d bytes", who, url, maxAnswer)
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		return nil, answerError(who, resp, out)
	}
	return out, nil
}
