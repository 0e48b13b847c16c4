package trust

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"assay/internal/excerpt"
)

// content is what a log entry must bind: what was signed, the signature, and
// the key. It comes from the bundle; the entry is compared with it.
type content struct {
	// Of a message signature: the artifact's digest.
	message   bool
	digestAlg crypto.Hash
	digest    []byte
	// Of a DSSE envelope.
	payloadType string
	payload     []byte
	pae         []byte
	keyID       string // beside the signature; a hint

	signature []byte
	key       *verifyKey
	cert      *x509.Certificate // nil when signed with a bare key
}

var hashNames = map[crypto.Hash]string{crypto.SHA256: "SHA2_256", crypto.SHA384: "SHA2_384", crypto.SHA512: "SHA2_512"}

// isV2 says whether an entry's kind and version are Rekor v2's.
func isV2(kind, version string) bool {
	return version == "0.0.2" && (kind == "hashedrekord" || kind == "dsse")
}

// bindV2 compares a Rekor v2 body with the one that the log must have written
// for this content (rekor-tiles: canonical JSON of the protobuf entry), byte
// for byte. There is nothing in a body that this does not bind.
func (c *content) bindV2(kind string, body []byte) error {
	for _, d := range c.key.keyDetails() {
		var want []byte
		switch {
		case kind == "hashedrekord":
			digest := c.digest
			if !c.message {
				digest = sum(d.hash, c.pae)
			} else if d.hash != c.digestAlg {
				continue
			}
			want = c.appendV2(nil, `hashedrekord`, `{"hashedRekordV002":{"data":`, d, digest, `,"signature":`, `}}}`)
		case kind == "dsse" && !c.message:
			want = c.appendV2(nil, `dsse`, `{"dsseV002":{"payloadHash":`, keyDetail{d.name, crypto.SHA256}, sum(crypto.SHA256, c.payload), `,"signatures":[`, `]}}}`)
		}
		if want != nil && bytes.Equal(want, body) {
			return nil
		}
	}
	return c.explainV2(kind, body)
}

func (c *content) appendV2(b []byte, kind, open string, d keyDetail, digest []byte, mid, end string) []byte {
	enc := base64.StdEncoding
	b = append(b, `{"apiVersion":"0.0.2","kind":"`+kind+`","spec":`+open...)
	b = append(b, `{"algorithm":"`+hashNames[d.hash]+`","digest":"`...)
	b = enc.AppendEncode(b, digest)
	b = append(b, `"}`+mid+`{"content":"`...)
	b = enc.AppendEncode(b, c.signature)
	b = append(b, `","verifier":{"keyDetails":"`+d.name+`",`...)
	if c.cert != nil {
		b = append(b, `"x509Certificate":{"rawBytes":"`...)
		b = enc.AppendEncode(b, c.cert.Raw)
	} else {
		b = append(b, `"publicKey":{"rawBytes":"`...)
		b = enc.AppendEncode(b, c.key.spki)
	}
	return append(b, `"}}}`+end...)
}

type v2Body struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Spec       struct {
		HashedRekord struct {
			Data      v2Hash      `json:"data"`
			Signature v2Signature `json:"signature"`
		} `json:"hashedRekordV002"`
		DSSE struct {
			PayloadHash v2Hash        `json:"payloadHash"`
			Signatures  []v2Signature `json:"signatures"`
		} `json:"dsseV002"`
	} `json:"spec"`
}

type v2Hash struct {
	Algorithm string `json:"algorithm"`
	Digest    []byte `json:"digest"`
}

type v2Signature struct {
	Content  []byte         `json:"content"`
	Verifier jsontext.Value `json:"verifier"`
}

// explainV2 says which of the three differs. It only ever refuses.
func (c *content) explainV2(kind string, body []byte) error {
	var e v2Body
	if err := json.Unmarshal(body, &e, json.RejectUnknownMembers(false)); err != nil {
		return refuse(CodeTLogMalformed, "log entry: body does not parse: %w", err)
	}
	if e.Kind != kind || e.APIVersion != "0.0.2" {
		return refuse(CodeTLogMismatch, "log entry: body is %.40q %.20q, the bundle says %q 0.0.2", e.Kind, e.APIVersion, kind)
	}
	s, h := e.Spec.HashedRekord.Signature, e.Spec.HashedRekord.Data
	if kind == "dsse" {
		if h = e.Spec.DSSE.PayloadHash; len(e.Spec.DSSE.Signatures) == 1 {
			s = e.Spec.DSSE.Signatures[0]
		}
	}
	if !bytes.Equal(s.Content, c.signature) {
		return mismatch("signature", "another signature than the bundle's")
	}
	ok := false
	for _, d := range c.key.keyDetails() {
		switch {
		case kind == "dsse":
			ok = ok || bytes.Equal(h.Digest, sum(crypto.SHA256, c.payload))
		case c.message:
			ok = ok || bytes.Equal(h.Digest, c.digest)
		default:
			ok = ok || bytes.Equal(h.Digest, sum(d.hash, c.pae))
		}
	}
	if !ok {
		return mismatch("digest", "digest "+hex.EncodeToString(h.Digest))
	}
	return mismatch("key", "another certificate, key or key type than the bundle's")
}

func mismatch(what, found string) error {
	return refuse(CodeTLogMismatch, "log entry: %s differs: it records %s; the entry belongs to another bundle, sign again", what, found)
}

// Rekor v1 bodies. Other members (an entry's own envelope, tool versions) are
// covered by the log's signatures and say nothing that a check here uses.
type v1Body struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Spec       jsontext.Value `json:"spec"`
}

type v1HexHash struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"value"`
}

type v1HashedRekord struct {
	Data struct {
		Hash v1HexHash `json:"hash"`
	} `json:"data"`
	Signature struct {
		Content   []byte `json:"content"`
		PublicKey struct {
			Content []byte `json:"content"` // PEM
		} `json:"publicKey"`
	} `json:"signature"`
}

type v1DSSE struct {
	PayloadHash v1HexHash `json:"payloadHash"`
	Signatures  []struct {
		Signature []byte `json:"signature"`
		Verifier  []byte `json:"verifier"` // PEM
	} `json:"signatures"`
}

type v1Intoto struct {
	Content struct {
		Envelope struct {
			PayloadType string `json:"payloadType"`
			Signatures  []struct {
				PublicKey []byte `json:"publicKey"` // PEM
				Sig       []byte `json:"sig"`       // the envelope's base64 text
			} `json:"signatures"`
		} `json:"envelope"`
		PayloadHash v1HexHash `json:"payloadHash"`
	} `json:"content"`
}

type v1Intoto1 struct {
	Content struct {
		Hash v1HexHash `json:"hash"` // of the envelope's JSON
	} `json:"content"`
	PublicKey []byte `json:"publicKey"` // PEM
}

// bindV1 compares a Rekor v1 body with the content: hashedrekord 0.0.1, dsse
// 0.0.1, intoto 0.0.1 and 0.0.2. A kind that does not record all of digest,
// signature and key binds nothing and is refused.
func (c *content) bindV1(kind, version string, body []byte) error {
	var e v1Body
	if err := json.Unmarshal(body, &e); err != nil {
		return refuse(CodeTLogMalformed, "log entry: body does not parse: %w", err)
	}
	if e.Kind != kind || e.APIVersion != version {
		return refuse(CodeTLogMismatch, "log entry: body is %.40q %.20q, the bundle says %.40q %.20q", e.Kind, e.APIVersion, kind, version)
	}
	var err error
	switch kind + "/" + version {
	case "hashedrekord/0.0.1":
		var s v1HashedRekord
		if err = json.Unmarshal(e.Spec, &s); err == nil {
			return c.bindHashedRekord(&s)
		}
	case "dsse/0.0.1":
		var s v1DSSE
		if err = json.Unmarshal(e.Spec, &s); err == nil {
			if len(s.Signatures) != 1 {
				return refuse(CodeTLogMismatch, "log entry: %d signatures, want the bundle's one", len(s.Signatures))
			}
			return c.bindEnvelope(s.PayloadHash, s.Signatures[0].Signature, s.Signatures[0].Verifier)
		}
	case "intoto/0.0.2":
		var s v1Intoto
		if err = json.Unmarshal(e.Spec, &s); err == nil {
			return c.bindIntoto(&s)
		}
	case "intoto/0.0.1":
		var s v1Intoto1
		if err = json.Unmarshal(e.Spec, &s); err == nil {
			return c.bindIntoto1(&s)
		}
	default:
		return refuse(CodeTLogMalformed, "log entry: kind %.40q %.20q is not one that binds digest, signature and key (hashedrekord 0.0.1 and 0.0.2, dsse 0.0.1 and 0.0.2, intoto 0.0.1 and 0.0.2)", kind, version)
	}
	return refuse(CodeTLogMalformed, "log entry: body does not parse: %w", err)
}

func (c *content) bindHashedRekord(s *v1HashedRekord) error {
	want, alg := c.digest, c.digestAlg
	if !c.message {
		return refuse(CodeTLogMismatch, "log entry: a hashedrekord 0.0.1 does not record an envelope's payload")
	}
	if !bytes.Equal(s.Signature.Content, c.signature) {
		return mismatch("signature", "another signature than the bundle's")
	}
	if got, err := hex.DecodeString(s.Data.Hash.Value); err != nil || !bytes.Equal(got, want) || !sameHash(s.Data.Hash.Algorithm, alg) {
		return mismatch("digest", s.Data.Hash.Algorithm+":"+clip(s.Data.Hash.Value))
	}
	return c.bindPEM(s.Signature.PublicKey.Content)
}

func (c *content) bindIntoto(s *v1Intoto) error {
	env := s.Content.Envelope
	if len(env.Signatures) != 1 {
		return refuse(CodeTLogMismatch, "log entry: %d signatures, want the bundle's one", len(env.Signatures))
	}
	if env.PayloadType != c.payloadType {
		return mismatch("payload type", clip(env.PayloadType))
	}
	sig, err := base64.StdEncoding.DecodeString(string(env.Signatures[0].Sig))
	if err != nil {
		return mismatch("signature", "something that is not a DSSE signature in base64")
	}
	return c.bindEnvelope(s.Content.PayloadHash, sig, env.Signatures[0].PublicKey)
}

// bindIntoto1 binds through the hash of the whole envelope, which holds payload,
// payload type and signature. The hash is over the JSON as the client wrote it;
// cosign and in-toto's Go library write it as below, and nothing else can have
// the same hash.
func (c *content) bindIntoto1(s *v1Intoto1) error {
	if c.message {
		return refuse(CodeTLogMismatch, "log entry: it records an envelope, the bundle holds a message signature")
	}
	enc := base64.StdEncoding
	b := append([]byte(`{"payloadType":`), quote(c.payloadType)...)
	b = append(b, `,"payload":"`...)
	b = enc.AppendEncode(b, c.payload)
	b = append(b, `","signatures":[{"keyid":`...)
	b = append(b, quote(c.keyID)...)
	b = append(b, `,"sig":"`...)
	b = enc.AppendEncode(b, c.signature)
	b = append(b, `"}]}`...)
	h := s.Content.Hash
	if got, err := hex.DecodeString(h.Value); err != nil || !bytes.Equal(got, sum(crypto.SHA256, b)) || !sameHash(h.Algorithm, crypto.SHA256) {
		return mismatch("envelope", h.Algorithm+":"+clip(h.Value))
	}
	return c.bindPEM(s.PublicKey)
}

// quote writes a JSON string.
func quote(s string) []byte {
	b, err := jsontext.AppendQuote(nil, s)
	if err != nil {
		return []byte(`""`) // not UTF-8: no client wrote that, and the hash will differ
	}
	return b
}

func (c *content) bindEnvelope(hash v1HexHash, sig, keyPEM []byte) error {
	if c.message {
		return refuse(CodeTLogMismatch, "log entry: it records an envelope, the bundle holds a message signature")
	}
	if !bytes.Equal(sig, c.signature) {
		return mismatch("signature", "another signature than the bundle's")
	}
	if got, err := hex.DecodeString(hash.Value); err != nil || !bytes.Equal(got, sum(crypto.SHA256, c.payload)) || !sameHash(hash.Algorithm, crypto.SHA256) {
		return mismatch("digest", "payload "+hash.Algorithm+":"+clip(hash.Value))
	}
	return c.bindPEM(keyPEM)
}

// bindPEM compares the entry's key: the very certificate when the bundle has
// one, else the very key.
func (c *content) bindPEM(b []byte) error {
	block, rest := pem.Decode(b)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return refuse(CodeTLogMalformed, "log entry: its key is not one PEM block")
	}
	if c.cert != nil {
		if block.Type != "CERTIFICATE" || !bytes.Equal(block.Bytes, c.cert.Raw) {
			return mismatch("key", "another certificate than the bundle's")
		}
		return nil
	}
	if bytes.Equal(block.Bytes, c.key.spki) {
		return nil
	}
	if pub, err := ParsePublicKey(b); err == nil && block.Type != "CERTIFICATE" {
		if k, err := newVerifyKey(pub); err == nil && k.sum == c.key.sum {
			return nil
		}
	}
	return mismatch("key", "another public key than the one given")
}

func sameHash(name string, h crypto.Hash) bool {
	switch strings.ToLower(name) {
	case "sha256":
		return h == crypto.SHA256
	case "sha384":
		return h == crypto.SHA384
	case "sha512":
		return h == crypto.SHA512
	}
	return false
}

// clip shortens text of others for a message.
func clip(s string) string { return excerpt.Text(s, 140) }
