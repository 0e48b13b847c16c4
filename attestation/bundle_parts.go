package attestation

import (
	"crypto/x509"

	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"assay/artifact"
	"assay/internal/strictjson"
)

// Version is the bundle's format version.
func (b *Bundle) Version() BundleVersion { return b.version }

// MediaType is the media type as the bundle spells it.
func (b *Bundle) MediaType() string { return b.pb.GetMediaType() }

// Proto gives the protobuf message, for packages that hand it on to Sigstore's
// own. It is shared, not copied: do not change it.
func (b *Bundle) Proto() *bundlepb.Bundle { return b.pb }

// Bytes are the bundle's bytes exactly as they were read or first written. Its
// identity is their digest.
func (b *Bundle) Bytes() []byte { return b.raw }

// Digest is the sha256 digest of [Bundle.Bytes].
func (b *Bundle) Digest() artifact.Digest { return artifact.SHA256Of(b.raw) }

// Envelope gives the DSSE envelope, or nil if the bundle holds a message
// signature. It has exactly one signature.
func (b *Bundle) Envelope() *Envelope {
	e := b.pb.GetDsseEnvelope()
	if e == nil {
		return nil
	}
	out := &Envelope{PayloadType: e.GetPayloadType(), Payload: e.GetPayload()}
	for _, s := range e.GetSignatures() {
		out.Signatures = append(out.Signatures, EnvelopeSignature{KeyID: s.GetKeyid(), Sig: s.GetSig()})
	}
	return out
}

// MessageSignature gives the message signature, or nil if the bundle holds an
// envelope.
func (b *Bundle) MessageSignature() *MessageSignature {
	m := b.pb.GetMessageSignature()
	if m == nil {
		return nil
	}
	out := &MessageSignature{Signature: m.GetSignature()}
	for alg, name := range digestNames {
		if m.GetMessageDigest().GetAlgorithm() == alg {
			out.Digest = artifact.NewDigest(name, m.GetMessageDigest().GetDigest())
		}
	}
	return out
}

var digestNames = map[commonpb.HashAlgorithm]string{
	commonpb.HashAlgorithm_SHA2_256: artifact.SHA256,
	commonpb.HashAlgorithm_SHA2_384: artifact.SHA384,
	commonpb.HashAlgorithm_SHA2_512: artifact.SHA512,
}

// Signature is the raw signature, whichever way it was made.
func (b *Bundle) Signature() []byte {
	if m := b.pb.GetMessageSignature(); m != nil {
		return m.GetSignature()
	}
	return b.pb.GetDsseEnvelope().GetSignatures()[0].GetSig()
}

// Statement reads the envelope's payload as an in-toto Statement, under the
// limits that the bundle was parsed with. A bundle without an envelope, or
// with another payload type, is an error.
func (b *Bundle) Statement() (*Statement, error) {
	e := b.Envelope()
	if e == nil {
		return nil, invalid("bundle: holds a message signature, no statement")
	}
	return e.Statement(b.limits)
}

// Certificate is the leaf certificate, or nil if the bundle names a key.
func (b *Bundle) Certificate() *x509.Certificate { return b.leaf }

// KeyHint gives the hint of a bundle signed by a bare key, possibly empty, and
// whether it is one.
func (b *Bundle) KeyHint() (hint string, key bool) {
	c, ok := b.pb.GetVerificationMaterial().GetContent().(*bundlepb.VerificationMaterial_PublicKey)
	if !ok {
		return "", false
	}
	return c.PublicKey.GetHint(), true
}

// LogEntries are the transparency log entries, in the bundle's order.
func (b *Bundle) LogEntries() []*rekorpb.TransparencyLogEntry {
	return b.pb.GetVerificationMaterial().GetTlogEntries()
}

// Timestamps are the RFC 3161 time-stamp responses, each DER.
func (b *Bundle) Timestamps() [][]byte {
	var out [][]byte
	for _, t := range b.pb.GetVerificationMaterial().GetTimestampVerificationData().GetRfc3161Timestamps() {
		out = append(out, t.GetSignedTimestamp())
	}
	return out
}

// MarshalJSON writes the bundle as version 0.3: of a chain, only the leaf. A
// 0.1 bundle whose log entries have a promise and no proof cannot be a 0.3 one
// and is written as it is. The form is canonical (RFC 8785), so equal bundles
// give equal bytes; the bytes that were read are [Bundle.Bytes].
func (b *Bundle) MarshalJSON() ([]byte, error) {
	pb := b.pb
	if b.canBeV03() {
		pb = proto.CloneOf(b.pb)
		pb.MediaType = MediaTypeBundleV03
		if b.leaf != nil {
			pb.VerificationMaterial.Content = certificate(b.leaf.Raw)
		}
	}
	raw, err := protojson.Marshal(pb)
	if err != nil {
		return nil, invalid("write bundle: %s", clip(err.Error()))
	}
	return strictjson.CanonicalBytes(raw, b.limits.json())
}

func (b *Bundle) canBeV03() bool {
	for _, e := range b.LogEntries() {
		if e.GetInclusionProof() == nil {
			return false
		}
	}
	return true
}

func certificate(der []byte) *bundlepb.VerificationMaterial_Certificate {
	return &bundlepb.VerificationMaterial_Certificate{Certificate: &commonpb.X509Certificate{RawBytes: der}}
}
