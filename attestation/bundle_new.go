package attestation

import (
	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	dssepb "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"

	"assay/artifact"
)

// Material is what a verifier needs besides the signature itself.
type Material struct {
	// Certificate is the signer's leaf certificate, DER. nil means that a bare
	// key signed, and KeyHint helps to find it.
	Certificate []byte
	// KeyHint names the key to people and key rings; Sigstore's clients write
	// the base64 of the SHA-256 of the public key's DER. May be empty.
	KeyHint string
	// LogEntries prove that the signature was logged; each has its inclusion
	// proof and checkpoint.
	LogEntries []*rekorpb.TransparencyLogEntry
	// Timestamps are RFC 3161 time-stamp responses over the signature, DER.
	Timestamps [][]byte
}

// NewMessageBundle makes a version 0.3 bundle of a signature over the bytes
// whose digest is given. It checks the form as [ParseBundle] does and verifies
// nothing.
func NewMessageBundle(m Material, digest artifact.Digest, signature []byte) (*Bundle, error) {
	if err := digest.Validate(); err != nil {
		return nil, err
	}
	pb := m.bundle(MediaTypeBundleV03)
	setMessage(pb, digest, signature)
	return newBundle(pb, nil, DefaultLimits())
}

// NewDSSEBundle makes a version 0.3 bundle of an envelope with one signature,
// as [NewMessageBundle] does of a message.
func NewDSSEBundle(m Material, e *Envelope) (*Bundle, error) {
	pb := m.bundle(MediaTypeBundleV03)
	setEnvelope(pb, e)
	return newBundle(pb, nil, DefaultLimits())
}

func setMessage(pb *bundlepb.Bundle, digest artifact.Digest, signature []byte) {
	out := &commonpb.MessageSignature{Signature: signature}
	for alg, name := range digestNames {
		if name == digest.Algorithm() {
			out.MessageDigest = &commonpb.HashOutput{Algorithm: alg, Digest: digest.Bytes()}
		}
	}
	pb.Content = &bundlepb.Bundle_MessageSignature{MessageSignature: out}
}

func setEnvelope(pb *bundlepb.Bundle, e *Envelope) {
	out := &dssepb.Envelope{PayloadType: e.PayloadType, Payload: e.Payload}
	for _, s := range e.Signatures {
		out.Signatures = append(out.Signatures, &dssepb.Signature{Sig: s.Sig, Keyid: s.KeyID})
	}
	pb.Content = &bundlepb.Bundle_DsseEnvelope{DsseEnvelope: out}
}

func (m Material) bundle(mediaType string) *bundlepb.Bundle {
	vm := &bundlepb.VerificationMaterial{TlogEntries: m.LogEntries}
	if m.Certificate != nil {
		vm.Content = certificate(m.Certificate)
	} else {
		vm.Content = &bundlepb.VerificationMaterial_PublicKey{PublicKey: &commonpb.PublicKeyIdentifier{Hint: m.KeyHint}}
	}
	if len(m.Timestamps) > 0 {
		data := &bundlepb.TimestampVerificationData{}
		for _, t := range m.Timestamps {
			data.Rfc3161Timestamps = append(data.Rfc3161Timestamps, &commonpb.RFC3161SignedTimestamp{SignedTimestamp: t})
		}
		vm.TimestampVerificationData = data
	}
	return &bundlepb.Bundle{MediaType: mediaType, VerificationMaterial: vm}
}
