package attestation

import (
	"bytes"
	"encoding/base64"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"assay/internal/fault"
	"assay/internal/strictjson"
)

// PayloadType is the DSSE payload type of an in-toto Statement. What the
// statement is about stands inside, in its predicateType.
const PayloadType = "application/vnd.in-toto+json"

// Envelope is a DSSE envelope (secure-systems-lab/dsse, envelope.md) with its
// base64 decoded. The signatures cover [PAE] of type and payload, nothing else
// in the envelope; KeyID in particular is a hint that anybody can rewrite.
type Envelope struct {
	PayloadType string
	Payload     []byte // exactly the bytes that were signed
	Signatures  []EnvelopeSignature
}

// EnvelopeSignature is one signature of an [Envelope].
type EnvelopeSignature struct {
	KeyID string // unauthenticated hint, often empty
	Sig   []byte // raw signature, ASN.1 DER for ECDSA
	// Certificate is the PEM certificate that slsa-github-generator puts beside
	// the signature (member "cert"); unauthenticated like the rest. "" if none.
	Certificate string
}

type wireEnvelope struct {
	Payload     *string        `json:"payload"`
	PayloadType string         `json:"payloadType"`
	Signatures  jsontext.Value `json:"signatures"`
}

type wireSignature struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"`
	Cert  string `json:"cert,omitzero"`
}

// ParseEnvelope reads one DSSE envelope. It must have a payload, a payload
// type and between one and lim.MaxSignatures signatures; they are counted
// before any of them is decoded. Members that DSSE does not name are ignored,
// as its section "JSON" demands.
func ParseEnvelope(b []byte, lim Limits) (*Envelope, error) {
	lim = lim.orDefault()
	var w wireEnvelope
	if err := strictjson.Unmarshal(b, &w, lim.json()); err != nil {
		return nil, fault.Newf(fault.KindOf(err), "DSSE envelope: %w", err)
	}
	if w.PayloadType == "" {
		return nil, invalid("DSSE envelope: payloadType is absent: want for example %s", PayloadType)
	}
	if w.Payload == nil || *w.Payload == "" {
		return nil, invalid("DSSE envelope: payload is absent or empty")
	}
	if err := capArray("DSSE envelope: signatures", w.Signatures, lim.MaxSignatures); err != nil {
		return nil, err
	}
	var sigs []wireSignature
	if err := strictjson.Unmarshal(w.Signatures, &sigs, lim.json()); err != nil {
		return nil, fault.Newf(fault.KindOf(err), "DSSE envelope: signatures: %w", err)
	}
	if len(sigs) == 0 {
		return nil, invalid("DSSE envelope: has no signature: want at least one")
	}
	e := &Envelope{PayloadType: w.PayloadType}
	var err error
	if e.Payload, err = decodeBase64("DSSE envelope: payload", *w.Payload); err != nil {
		return nil, err
	}
	for i, s := range sigs {
		sig, err := decodeBase64("DSSE envelope: signature "+strconv.Itoa(i), s.Sig)
		if err != nil {
			return nil, err
		}
		if len(sig) == 0 {
			return nil, invalid("DSSE envelope: signature %d is absent or empty", i)
		}
		e.Signatures = append(e.Signatures, EnvelopeSignature{KeyID: s.KeyID, Sig: sig, Certificate: s.Cert})
	}
	return e, nil
}

// capArray counts the elements of a JSON array without decoding them and stops
// at the first one over the cap. What is absent or null is no array.
func capArray(what string, raw jsontext.Value, most int) error {
	if raw.Kind() != jsontext.KindBeginArray {
		return invalid("%s: want an array, found %v", what, raw.Kind())
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(raw))
	if _, err := dec.ReadToken(); err != nil {
		return invalid("%s: %w", what, err)
	}
	for n := 0; dec.PeekKind() != jsontext.KindEndArray; n++ {
		if n == most {
			return tooMany(what, most)
		}
		if err := dec.SkipValue(); err != nil {
			return invalid("%s: %w", what, err)
		}
	}
	return nil
}

// MarshalJSON writes the envelope as DSSE's JSON with standard base64.
func (e *Envelope) MarshalJSON() ([]byte, error) {
	type signature struct {
		KeyID string `json:"keyid"`
		Sig   string `json:"sig"`
		Cert  string `json:"cert,omitempty"`
	}
	w := struct {
		Payload     string      `json:"payload"`
		PayloadType string      `json:"payloadType"`
		Signatures  []signature `json:"signatures"`
	}{Payload: base64.StdEncoding.EncodeToString(e.Payload), PayloadType: e.PayloadType}
	for _, s := range e.Signatures {
		w.Signatures = append(w.Signatures, signature{s.KeyID, base64.StdEncoding.EncodeToString(s.Sig), s.Certificate})
	}
	return strictjson.Marshal(w)
}

// Statement reads the payload as an in-toto Statement. Another payload type is
// an error, whatever the payload looks like: the signer did not say that it is
// one. Verify first, then read these same bytes.
func (e *Envelope) Statement(lim Limits) (*Statement, error) {
	if e.PayloadType != PayloadType {
		return nil, invalid("DSSE envelope: payloadType is %.100q, want %q", e.PayloadType, PayloadType)
	}
	return ParseStatement(e.Payload, lim)
}

// PAE is DSSE's pre-authentication encoding, the bytes that are signed:
// "DSSEv1" SP len(type) SP type SP len(body) SP body, lengths in ASCII decimal.
func PAE(payloadType string, body []byte) []byte {
	b := make([]byte, 0, len(payloadType)+len(body)+40)
	b = append(b, "DSSEv1 "...)
	b = strconv.AppendInt(b, int64(len(payloadType)), 10)
	b = append(b, ' ')
	b = append(b, payloadType...)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, ' ')
	return append(b, body...)
}

// PAE is the pre-authentication encoding of this envelope.
func (e *Envelope) PAE() []byte { return PAE(e.PayloadType, e.Payload) }
