package rekor

import (
	"encoding/base64"
	"strings"

	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/strictjson"

	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
)

// Limits of one request. They are checked before any key or certificate is
// parsed.
const (
	MaxBody     = 4 << 20  // bytes of a request
	maxDepth    = 16       // of its JSON
	maxVerifier = 16 << 10 // bytes of a key or certificate
	maxSig      = 4 << 10  // bytes of a signature
)

// Request asks for an entry: a signature over a digest, and what verifies it.
// Just one of PublicKey and Certificate is set.
type Request struct {
	Digest      []byte                    // of the artifact, or of the PAE of an attestation
	Signature   []byte                    // ASN.1 for ECDSA, raw otherwise
	PublicKey   []byte                    // SubjectPublicKeyInfo, DER
	Certificate []byte                    // X.509, DER
	KeyDetails  commonpb.PublicKeyDetails // unspecified: the key's own
}

// The JSON of rekor.v2.CreateEntryRequest. protojson takes each name in both
// spellings and base64 in both alphabets, padded or not.
type wireRequest struct {
	Hashed      *wireHashed `json:"hashedRekordRequestV002"`
	HashedSnake *wireHashed `json:"hashed_rekord_request_v002"`
	DSSE        *wireDSSE   `json:"dsseRequestV002"`
	DSSESnake   *wireDSSE   `json:"dsse_request_v002"`
}

type wireHashed struct {
	Digest    wireBytes      `json:"digest"`
	Signature *wireSignature `json:"signature"`
}

type wireSignature struct {
	Content  wireBytes     `json:"content"`
	Verifier *wireVerifier `json:"verifier"`
}

type wireVerifier struct {
	PublicKey        *wireRaw    `json:"publicKey"`
	PublicKeySnake   *wireRaw    `json:"public_key"`
	Certificate      *wireRaw    `json:"x509Certificate"`
	CertificateSnake *wireRaw    `json:"x509_certificate"`
	KeyDetails       wireDetails `json:"keyDetails"`
	KeyDetailsSnake  wireDetails `json:"key_details"`
}

type wireRaw struct {
	Raw      wireBytes `json:"rawBytes"`
	RawSnake wireBytes `json:"raw_bytes"`
}

type wireDSSE struct {
	Envelope  *wireEnvelope   `json:"envelope"`
	Verifiers []*wireVerifier `json:"verifiers"`
}

type wireEnvelope struct {
	Payload          wireBytes           `json:"payload"`
	PayloadType      string              `json:"payloadType"`
	PayloadTypeSnake string              `json:"payload_type"`
	Signatures       []*wireEnvSignature `json:"signatures"`
}

type wireEnvSignature struct {
	Sig   wireBytes `json:"sig"`
	KeyID string    `json:"keyid"`
}

// wireBytes is base64 as protojson reads it.
type wireBytes []byte

// UnmarshalJSON implements json.Unmarshaler.
func (w *wireBytes) UnmarshalJSON(b []byte) error {
	var s *string
	if err := strictjson.Unmarshal(b, &s); err != nil || s == nil {
		return err
	}
	enc := base64.StdEncoding
	if strings.ContainsAny(*s, "-_") {
		enc = base64.URLEncoding
	}
	text := *s
	if strings.ContainsAny(text, "\r\n") { // the decoder would skip them
		return fault.Newf(fault.Invalid, "base64 with line breaks")
	}
	if len(text)%4 != 0 {
		enc = enc.WithPadding(base64.NoPadding)
	}
	raw, err := enc.DecodeString(text)
	if err != nil {
		return fault.Newf(fault.Invalid, "base64: %w", err)
	}
	*w = raw
	return nil
}

// wireDetails is the enumeration's name or number.
type wireDetails commonpb.PublicKeyDetails

// UnmarshalJSON implements json.Unmarshaler.
func (w *wireDetails) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var s string
		if err := strictjson.Unmarshal(b, &s); err != nil {
			return err
		}
		n, ok := commonpb.PublicKeyDetails_value[s]
		if !ok {
			return fault.Newf(fault.Invalid, "keyDetails %.60q is not known", s)
		}
		*w = wireDetails(n)
		return nil
	}
	var n *int32
	if err := strictjson.Unmarshal(b, &n); err != nil || n == nil {
		return err
	}
	*w = wireDetails(*n)
	return nil
}

// ParseRequest reads the JSON of a rekor.v2.CreateEntryRequest: unknown,
// doubled or misspelt members, trailing data, invalid UTF-8 and deep nesting
// are [fault.Invalid], more than [MaxBody] bytes [fault.TooLarge]. No key is
// parsed yet.
func ParseRequest(b []byte) (Request, error) {
	if len(b) > MaxBody {
		return Request{}, fault.Newf(fault.TooLarge, "a request of %d bytes: at most %d", len(b), MaxBody)
	}
	var w wireRequest
	if err := strictjson.Unmarshal(b, &w, strictjson.RejectUnknown(), strictjson.WithMaxBytes(MaxBody), strictjson.WithMaxDepth(maxDepth)); err != nil {
		return Request{}, fault.Newf(fault.Invalid, "the request: %w", err)
	}
	n := 0
	for _, set := range []bool{w.Hashed != nil, w.HashedSnake != nil, w.DSSE != nil, w.DSSESnake != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
		return Request{}, fault.Newf(fault.Invalid, "want just one of hashedRekordRequestV002 and dsseRequestV002, found %d", n)
	}
	var req Request
	var err error
	if h := either(w.Hashed, w.HashedSnake); h != nil {
		req, err = h.request()
	} else {
		req, err = either(w.DSSE, w.DSSESnake).request()
	}
	if err != nil {
		return Request{}, err
	}
	return req, req.check()
}

func either[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

func (h *wireHashed) request() (Request, error) {
	if h.Signature == nil || h.Signature.Verifier == nil {
		return Request{}, fault.Newf(fault.Invalid, "want digest, signature.content and signature.verifier")
	}
	req, err := h.Signature.Verifier.request()
	req.Digest, req.Signature = h.Digest, h.Signature.Content
	return req, err
}

func (v *wireVerifier) request() (Request, error) {
	var req Request
	twice := func(what string) (Request, error) {
		return Request{}, fault.Newf(fault.Invalid, "the verifier has %s", what)
	}
	if v.PublicKey != nil && v.PublicKeySnake != nil || v.Certificate != nil && v.CertificateSnake != nil || v.KeyDetails != 0 && v.KeyDetailsSnake != 0 {
		return twice("a member in two spellings")
	}
	key, cert := either(v.PublicKey, v.PublicKeySnake), either(v.Certificate, v.CertificateSnake)
	if (key == nil) == (cert == nil) {
		return twice("both a key and a certificate, or none: want just one")
	}
	raw := either(key, cert)
	if raw.Raw != nil && raw.RawSnake != nil {
		return twice("rawBytes in two spellings")
	}
	der := []byte(raw.Raw)
	if der == nil {
		der = raw.RawSnake
	}
	if key != nil {
		req.PublicKey = der
	} else {
		req.Certificate = der
	}
	req.KeyDetails = commonpb.PublicKeyDetails(v.KeyDetails | v.KeyDetailsSnake)
	return req, nil
}

// request turns the envelope into what its signer would send today: the hash
// of the PAE, by the hash of the key. The one signature and its one verifier
// make the one entry that an answer can hold.
func (d *wireDSSE) request() (Request, error) {
	if d.Envelope == nil || len(d.Envelope.Signatures) != 1 || len(d.Verifiers) != 1 || d.Envelope.Signatures[0] == nil || d.Verifiers[0] == nil {
		return Request{}, fault.Newf(fault.Invalid, "a dsse request needs an envelope with one signature, and its one verifier: send one request for each signature")
	}
	req, err := d.Verifiers[0].request()
	if err != nil {
		return Request{}, err
	}
	req.Signature = d.Envelope.Signatures[0].Sig
	if err := req.checkSizes(); err != nil {
		return Request{}, err
	}
	_, alg, err := req.key()
	if err != nil {
		return Request{}, err
	}
	typ := d.Envelope.PayloadType
	if typ == "" {
		typ = d.Envelope.PayloadTypeSnake
	}
	if typ == "" || len(d.Envelope.Payload) == 0 {
		return Request{}, fault.Newf(fault.Invalid, "the envelope has no payload or no payloadType")
	}
	h := alg.hash.New()
	h.Write(attestation.PAE(typ, d.Envelope.Payload))
	req.Digest = h.Sum(nil)
	return req, nil
}

func (r Request) check() error {
	if err := r.checkSizes(); err != nil {
		return err
	}
	if len(r.Digest) == 0 {
		return fault.Newf(fault.Invalid, "the digest is missing")
	}
	return nil
}

func (r Request) checkSizes() error {
	switch {
	case len(r.Signature) == 0:
		return fault.Newf(fault.Invalid, "the signature is missing")
	case len(r.PublicKey) == 0 && len(r.Certificate) == 0:
		return fault.Newf(fault.Invalid, "the key or certificate is missing")
	case len(r.PublicKey) > 0 && len(r.Certificate) > 0:
		return fault.Newf(fault.Invalid, "both a key and a certificate: want just one")
	case len(r.Signature) > maxSig:
		return fault.Newf(fault.TooLarge, "a signature of %d bytes: at most %d", len(r.Signature), maxSig)
	case len(r.PublicKey)+len(r.Certificate) > maxVerifier:
		return fault.Newf(fault.TooLarge, "a verifier of %d bytes: at most %d", len(r.PublicKey)+len(r.Certificate), maxVerifier)
	}
	return nil
}
