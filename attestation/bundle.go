package attestation

import (
	"bytes"
	"crypto/x509"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"assay/artifact"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// The media types of a Sigstore bundle; [Bundle.MarshalJSON] writes the last.
const (
	MediaTypeBundleV01 = "application/vnd.dev.sigstore.bundle+json;version=0.1"
	MediaTypeBundleV02 = "application/vnd.dev.sigstore.bundle+json;version=0.2"
	MediaTypeBundleV03 = "application/vnd.dev.sigstore.bundle.v0.3+json"
	// MediaTypeBundle is the one that is written.
	MediaTypeBundle = MediaTypeBundleV03
)

// BundleVersion is the version of the bundle format, which decides what a
// bundle must hold.
type BundleVersion string

// The versions that are read.
const (
	BundleV01 BundleVersion = "0.1" // an inclusion promise is enough
	BundleV02 BundleVersion = "0.2" // each log entry has an inclusion proof
	BundleV03 BundleVersion = "0.3" // as 0.2, and one certificate in place of a chain
)

// ParseBundleMediaType gives the version that a media type names. All spellings
// that were ever written are known, each exactly; nothing else is.
func ParseBundleMediaType(mediaType string) (BundleVersion, error) {
	switch mediaType {
	case MediaTypeBundleV01, "application/vnd.dev.sigstore.bundle.v0.1+json":
		return BundleV01, nil
	case MediaTypeBundleV02, "application/vnd.dev.sigstore.bundle.v0.2+json":
		return BundleV02, nil
	case MediaTypeBundleV03, "application/vnd.dev.sigstore.bundle+json;version=0.3":
		return BundleV03, nil
	}
	return "", invalid("bundle: mediaType is %.100q, want %q or version 0.1, 0.2 of it", mediaType, MediaTypeBundle)
}

// Bundle is a Sigstore bundle whose form was checked. Nothing in it was
// verified. It is immutable: callers do not change what its methods give.
type Bundle struct {
	pb      *bundlepb.Bundle
	raw     []byte
	version BundleVersion
	leaf    *x509.Certificate // nil when signed by a bare key
	limits  Limits
}

// MessageSignature is a signature over an artifact's bytes themselves.
type MessageSignature struct {
	// Digest is what the bundle says the artifact's digest is: a hint to find
	// the artifact by, proven by nothing. "" if the bundle does not say, or
	// uses an algorithm that is not among artifact's.
	Digest    artifact.Digest
	Signature []byte
}

// ParseBundle reads one bundle, version 0.1 to 0.3, in two passes: a strict
// pass over the JSON, which also counts what Limits cap and refuses base64
// with line breaks, then protobuf's own JSON reader. A bundle must hold one
// signature, its verification material, and well-formed log entries:
//
//   - 0.1: an inclusion promise or proof in each log entry
//   - 0.2 and later: an inclusion proof in each
//   - 0.3: a certificate, or a key hint, and no chain
//
// A DSSE envelope has exactly one signature. Certificates after the first of a
// chain are kept but mean nothing, as the format says. b is kept: the caller
// must not change it afterwards.
func ParseBundle(b []byte, lim Limits) (*Bundle, error) {
	lim = lim.orDefault()
	if err := scanBundle(b, lim); err != nil {
		return nil, err
	}
	pb := &bundlepb.Bundle{}
	if err := (protojson.UnmarshalOptions{RecursionLimit: lim.MaxDepth + 1}).Unmarshal(b, pb); err != nil {
		return nil, invalid("bundle: %s", clip(err.Error()))
	}
	return newBundle(pb, b, lim)
}

// newBundle checks a bundle's form; raw nil means that it is written here.
func newBundle(pb *bundlepb.Bundle, raw []byte, lim Limits) (*Bundle, error) {
	version, err := ParseBundleMediaType(pb.GetMediaType())
	if err != nil {
		return nil, err
	}
	b := &Bundle{pb: pb, raw: raw, version: version, limits: lim}
	if err := b.checkContent(); err != nil {
		return nil, err
	}
	if err := b.checkMaterial(); err != nil {
		return nil, err
	}
	if raw == nil {
		if b.raw, err = b.MarshalJSON(); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// caps are the arrays that are counted before anything in them is decoded, by
// both names that protobuf's JSON reader takes for them.
func (l Limits) caps() map[string]int {
	return map[string]int{
		"signatures":  l.MaxSignatures,
		"tlogEntries": l.MaxLogEntries, "tlog_entries": l.MaxLogEntries,
		"rfc3161Timestamps": l.MaxTimestamps, "rfc3161_timestamps": l.MaxTimestamps,
		"certificates": l.MaxCertificates,
		"hashes":       maxProofHashes,
	}
}

// maxProofHashes is the longest path in a tree of 2^63 leaves.
const maxProofHashes = 63

// textMembers are the members of a bundle whose strings are text. Strings
// elsewhere are base64 or numbers, where a line break has no business.
var textMembers = []string{"envelope"} // the checkpoint, a signed note

// scanBundle walks the tokens of the whole document once.
func scanBundle(b []byte, lim Limits) error {
	dec, err := strictjson.Decoder(b, lim.json())
	if err != nil {
		return fault.Newf(fault.KindOf(err), "bundle: %w", err)
	}
	s := bundleScan{dec: dec, caps: lim.caps()}
	if dec.PeekKind() != jsontext.KindBeginObject {
		return invalid("bundle: want a JSON object")
	}
	if err := s.value(""); err != nil {
		return err
	}
	if err := strictjson.End(dec); err != nil {
		return fault.Newf(fault.KindOf(err), "bundle: %w", err)
	}
	return nil
}

type bundleScan struct {
	dec  *jsontext.Decoder
	caps map[string]int
}

// value walks the next value, which stands under the member called name.
func (s *bundleScan) value(name string) error {
	switch s.dec.PeekKind() {
	case jsontext.KindBeginObject:
		return s.object()
	case jsontext.KindBeginArray:
		return s.array(name)
	}
	v, err := s.dec.ReadValue()
	if err != nil {
		return invalid("bundle: %s", clip(err.Error()))
	}
	// The raw text is looked at: \n, \u000a and the like all have a backslash,
	// which base64 and numbers never need except before '/'.
	if v.Kind() == jsontext.KindString && !slices.Contains(textMembers, name) && hasLineBreak(v) {
		return invalid("bundle: member %.80q holds a line break: want one unbroken line", name)
	}
	return nil
}

func (s *bundleScan) object() error {
	for first := true; ; first = false {
		tok, err := s.dec.ReadToken()
		if err != nil {
			return invalid("bundle: %s", clip(err.Error()))
		}
		if first {
			continue
		}
		if tok.Kind() == jsontext.KindEndObject {
			return nil
		}
		if err := s.value(tok.String()); err != nil {
			return err
		}
	}
}

func (s *bundleScan) array(name string) error {
	if _, err := s.dec.ReadToken(); err != nil {
		return invalid("bundle: %s", clip(err.Error()))
	}
	most, capped := s.caps[name]
	for n := 0; s.dec.PeekKind() != jsontext.KindEndArray; n++ {
		if capped && n == most {
			return tooMany("bundle: "+name, most)
		}
		if err := s.value(name); err != nil {
			return err
		}
	}
	_, err := s.dec.ReadToken()
	return err
}

// hasLineBreak looks for CR or LF in a JSON string literal, where they can only
// stand escaped.
func hasLineBreak(lit []byte) bool {
	if bytes.IndexByte(lit, '\\') < 0 {
		return false
	}
	s, err := jsontext.AppendUnquote(nil, lit)
	return err != nil || bytes.ContainsAny(s, "\r\n")
}

func (b *Bundle) checkContent() error {
	switch c := b.pb.GetContent().(type) {
	case *bundlepb.Bundle_MessageSignature:
		m := c.MessageSignature
		if len(m.GetSignature()) == 0 {
			return invalid("bundle: messageSignature has no signature")
		}
		if d := m.GetMessageDigest(); d != nil {
			if want, known := hashSizes[d.GetAlgorithm()]; !known || len(d.GetDigest()) != want {
				return invalid("bundle: messageDigest of %d bytes for algorithm %v: want %d", len(d.GetDigest()), d.GetAlgorithm(), want)
			}
		}
		return nil
	case *bundlepb.Bundle_DsseEnvelope:
		e := c.DsseEnvelope
		if n := len(e.GetSignatures()); n != 1 {
			return invalid("bundle: dsseEnvelope has %d signatures, want exactly one", n)
		}
		if e.GetPayloadType() == "" || len(e.GetPayload()) == 0 || len(e.GetSignatures()[0].GetSig()) == 0 {
			return invalid("bundle: dsseEnvelope lacks its payloadType, payload or signature")
		}
		if hint, key := b.KeyHint(); key {
			if id := e.GetSignatures()[0].GetKeyid(); id != "" && id != hint {
				return invalid("bundle: dsseEnvelope's keyid %.80q is not the key hint %.80q", id, hint)
			}
		}
		return nil
	}
	return invalid("bundle: has neither messageSignature nor dsseEnvelope")
}

var hashSizes = map[commonpb.HashAlgorithm]int{
	commonpb.HashAlgorithm_SHA2_256: 32, commonpb.HashAlgorithm_SHA2_384: 48, commonpb.HashAlgorithm_SHA2_512: 64,
	commonpb.HashAlgorithm_SHA3_256: 32, commonpb.HashAlgorithm_SHA3_384: 48, //nolint:staticcheck // deprecated, and still to be read by its length
}

func (b *Bundle) checkMaterial() error {
	m := b.pb.GetVerificationMaterial()
	var leaf []byte
	switch c := m.GetContent().(type) {
	case *bundlepb.VerificationMaterial_PublicKey:
	case *bundlepb.VerificationMaterial_Certificate:
		leaf = c.Certificate.GetRawBytes()
	case *bundlepb.VerificationMaterial_X509CertificateChain:
		if b.version == BundleV03 {
			return invalid("bundle: version 0.3 must hold a single certificate, found x509CertificateChain")
		}
		certs := c.X509CertificateChain.GetCertificates()
		if len(certs) == 0 {
			return invalid("bundle: x509CertificateChain is empty")
		}
		leaf = certs[0].GetRawBytes()
	default:
		return invalid("bundle: verificationMaterial has neither certificate nor key hint")
	}
	if _, key := b.KeyHint(); !key {
		cert, err := x509.ParseCertificate(leaf)
		if err != nil {
			return invalid("bundle: certificate: %s", clip(err.Error()))
		}
		b.leaf = cert
	}
	for i, e := range m.GetTlogEntries() {
		if err := checkLogEntry(e, b.version); err != nil {
			return invalid("bundle: tlogEntries[%d]: %w", i, err)
		}
	}
	for i, t := range m.GetTimestampVerificationData().GetRfc3161Timestamps() {
		if len(t.GetSignedTimestamp()) == 0 {
			return invalid("bundle: rfc3161Timestamps[%d] is empty", i)
		}
	}
	return nil
}

// checkLogEntry checks one entry's form. Hashes are SHA-256 (RFC 6962).
func checkLogEntry(e *rekorpb.TransparencyLogEntry, v BundleVersion) error {
	switch {
	case e == nil:
		return invalid("is null")
	case e.GetLogIndex() < 0:
		return invalid("logIndex is %d, want 0 or more", e.GetLogIndex())
	case e.GetIntegratedTime() < 0:
		return invalid("integratedTime is %d, want 0 or more", e.GetIntegratedTime())
	case len(e.GetLogId().GetKeyId()) == 0:
		return invalid("logId is absent")
	case e.GetKindVersion().GetKind() == "" || e.GetKindVersion().GetVersion() == "":
		return invalid("kindVersion is absent")
	case len(e.GetCanonicalizedBody()) == 0:
		return invalid("canonicalizedBody is absent")
	}
	p := e.GetInclusionProof()
	if p == nil {
		if v == BundleV01 && len(e.GetInclusionPromise().GetSignedEntryTimestamp()) > 0 {
			return nil
		}
		return invalid("inclusionProof is absent (bundle version %s)", v)
	}
	switch {
	case p.GetTreeSize() <= 0 || p.GetLogIndex() < 0 || p.GetLogIndex() >= p.GetTreeSize():
		return invalid("inclusionProof: index %d does not lie in a tree of %d", p.GetLogIndex(), p.GetTreeSize())
	case len(p.GetRootHash()) != 32:
		return invalid("inclusionProof: rootHash has %d bytes, want 32", len(p.GetRootHash()))
	case len(p.GetHashes()) > maxProofHashes:
		return tooMany("inclusionProof: hashes", maxProofHashes)
	case p.GetCheckpoint().GetEnvelope() == "":
		return invalid("inclusionProof: checkpoint is absent")
	}
	for i, h := range p.GetHashes() {
		if len(h) != 32 {
			return invalid("inclusionProof: hashes[%d] has %d bytes, want 32", i, len(h))
		}
	}
	return nil
}

// clip bounds the text of an error that may quote its input, and evens out the
// spaces that protobuf varies on purpose.
func clip(s string) string { return excerpt.Text(strings.ReplaceAll(s, "\u00a0", " "), 300) }
