package rekor

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"strconv"
	"time"
	"unicode"

	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/tlog"

	"github.com/go-json-experiment/json/jsontext"
)

// Inspection is an entry in words. Nothing in it is verified but that it is the
// entry: what a certificate says is what it says.
type Inspection struct {
	Index    uint64 `json:"index"`
	LeafHash string `json:"leaf_hash"` // hex, RFC 6962
	Size     int    `json:"size"`      // bytes
	Kind     string `json:"kind"`      // "hashedrekord", or what the entry calls itself; "" for what is no JSON
	Version  string `json:"version,omitzero"`

	Digest         string     `json:"digest,omitzero"` // "sha256:…" of what was signed
	KeyDetails     string     `json:"key_details,omitzero"`
	KeyFingerprint string     `json:"key_fingerprint,omitzero"` // "sha256:…" over the SubjectPublicKeyInfo
	Identity       string     `json:"identity,omitzero"`        // subject alternative name of the certificate
	Issuer         string     `json:"issuer,omitzero"`          // OIDC issuer that the certificate names
	Serial         string     `json:"serial,omitzero"`          // of the certificate, hex
	NotBefore      *time.Time `json:"not_before,omitzero"`
	NotAfter       *time.Time `json:"not_after,omitzero"`
}

type inspectBody struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Spec       jsontext.Value `json:"spec"`
}

type inspectSpec struct {
	Hashed struct {
		Data struct {
			Algorithm string    `json:"algorithm"`
			Digest    wireBytes `json:"digest"`
		} `json:"data"`
		Signature wireSignature `json:"signature"`
	} `json:"hashedRekordV002"`
}

var hashNames = map[string]string{"SHA2_256": "sha256", "SHA2_384": "sha384", "SHA2_512": "sha512"}

// Inspect reads an entry of the log. Any bytes can be an entry: those that are
// of another kind, or malformed, are shown by size and hash.
func Inspect(r tlog.Record) Inspection {
	h := tlog.LeafHash(r.Leaf)
	in := Inspection{Index: r.Index, LeafHash: hex.EncodeToString(h[:]), Size: len(r.Leaf)}
	var b inspectBody
	if err := strictjson.Unmarshal(r.Leaf, &b, strictjson.WithMaxDepth(maxDepth)); err != nil {
		return in
	}
	in.Kind, in.Version = visible(b.Kind), visible(b.APIVersion)
	if b.Kind != Kind || b.APIVersion != Version {
		return in
	}
	var spec inspectSpec
	if err := strictjson.Unmarshal(b.Spec, &spec, strictjson.WithMaxDepth(maxDepth)); err != nil {
		return in
	}
	if name, ok := hashNames[spec.Hashed.Data.Algorithm]; ok {
		in.Digest = name + ":" + hex.EncodeToString(spec.Hashed.Data.Digest)
	}
	if v := spec.Hashed.Signature.Verifier; v != nil {
		_ = in.verifier(v)
	}
	return in
}

func (in *Inspection) verifier(v *wireVerifier) error {
	req, err := v.request()
	if err != nil {
		return err
	}
	in.KeyDetails = req.KeyDetails.String()
	if len(req.Certificate) == 0 {
		in.KeyFingerprint = fingerprint(req.PublicKey)
		return nil
	}
	if len(req.Certificate) > maxVerifier {
		return fault.TooLarge
	}
	c, err := x509.ParseCertificate(req.Certificate)
	if err != nil {
		return err
	}
	in.Certificate(c)
	return nil
}

// Certificate fills in what a certificate says.
func (in *Inspection) Certificate(c *x509.Certificate) {
	in.KeyFingerprint = fingerprint(c.RawSubjectPublicKeyInfo)
	in.Identity, in.Issuer = subjectName(c), issuer(c)
	in.Serial = hex.EncodeToString(c.SerialNumber.Bytes())
	in.NotBefore, in.NotAfter = &c.NotBefore, &c.NotAfter
}

// fingerprint is SHA-256 over a key's SubjectPublicKeyInfo, as every part of
// Assay shows keys.
func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func subjectName(c *x509.Certificate) string {
	switch {
	case len(c.URIs) > 0:
		return visible(c.URIs[0].String())
	case len(c.EmailAddresses) > 0:
		return visible(c.EmailAddresses[0])
	case len(c.DNSNames) > 0:
		return visible(c.DNSNames[0])
	}
	return visible(c.Subject.CommonName)
}

// issuer reads Fulcio's extension 1.3.6.1.4.1.57264.1.8, a UTF8String, or the
// older .1.1, bare text.
func issuer(c *x509.Certificate) string {
	v1, v2 := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}
	old := ""
	for _, e := range c.Extensions {
		switch {
		case e.Id.Equal(v2):
			var s string
			if rest, err := asn1.UnmarshalWithParams(e.Value, &s, "utf8"); err == nil && len(rest) == 0 {
				return visible(s)
			}
		case e.Id.Equal(v1):
			old = visible(string(e.Value))
		}
	}
	return old
}

// visible keeps control characters of strangers off a terminal.
func visible(s string) string {
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return strconv.QuoteToGraphic(s)
		}
	}
	return s
}
