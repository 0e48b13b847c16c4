package attestation

import (
	"time"

	"assay/artifact"
	"assay/internal/strictjson"
)

// Attestations in a registry: an OCI 1.1 image manifest whose subject is the
// artifact, whose artifactType is the bundle's media type, whose config is the
// empty descriptor and whose one layer is the bundle.
const (
	MediaTypeOCIManifest = "application/vnd.oci.image.manifest.v1+json"
	MediaTypeOCIIndex    = "application/vnd.oci.image.index.v1+json"
	// MediaTypeOCIEmpty is the config's type (OCI image-spec 1.1, "Guidance
	// for an empty descriptor"); its content is [EmptyConfig].
	MediaTypeOCIEmpty = "application/vnd.oci.empty.v1+json"
	EmptyConfig       = "{}"
	EmptyConfigDigest = artifact.Digest("sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a")

	AnnotationBundleContent       = "dev.sigstore.bundle.content"       // [BundleContentDSSE] or [BundleContentMessage]
	AnnotationBundlePredicateType = "dev.sigstore.bundle.predicateType" // unauthenticated copy of the statement's
	AnnotationCreated             = "org.opencontainers.image.created"  // RFC 3339

	BundleContentDSSE    = "dsse-envelope"
	BundleContentMessage = "message-signature"
)

// The suffixes of the tags under which cosign kept things before referrers.
const (
	LegacySignatures   = "sig"
	LegacyAttestations = "att"
	LegacySBOM         = "sbom"
)

// Descriptor is an OCI content descriptor (image-spec, descriptor.md).
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       artifact.Digest   `json:"digest"`
	Size         int64             `json:"size"` // bytes
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

// ReferrerManifest is the manifest that attaches a bundle to its subject.
type ReferrerManifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        Descriptor        `json:"config"`
	Layers        []Descriptor      `json:"layers"`
	Subject       Descriptor        `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
}

// NewReferrerManifest gives the bytes of the manifest that attaches b to
// subject, whose annotations are dropped. Three things are pushed: the config
// [EmptyConfig], the layer b.Bytes(), and this, in that order.
func NewReferrerManifest(subject Descriptor, b *Bundle, created time.Time) ([]byte, error) {
	if err := subject.Digest.Validate(); err != nil {
		return nil, err
	}
	subject.Annotations, subject.ArtifactType = nil, ""
	annotations, err := ReferrerAnnotations(b, created)
	if err != nil {
		return nil, err
	}
	return strictjson.Marshal(ReferrerManifest{
		SchemaVersion: 2,
		MediaType:     MediaTypeOCIManifest,
		ArtifactType:  b.MediaType(),
		Config:        Descriptor{MediaType: MediaTypeOCIEmpty, Digest: EmptyConfigDigest, Size: int64(len(EmptyConfig))},
		Layers:        []Descriptor{{MediaType: b.MediaType(), Digest: b.Digest(), Size: int64(len(b.Bytes()))}},
		Subject:       subject,
		Annotations:   annotations,
	})
}

// ReferrerAnnotations are the annotations of a bundle's manifest. They help to
// choose what to fetch and prove nothing.
func ReferrerAnnotations(b *Bundle, created time.Time) (map[string]string, error) {
	out := map[string]string{
		AnnotationBundleContent: BundleContentMessage,
		AnnotationCreated:       created.UTC().Format(time.RFC3339),
	}
	if e := b.Envelope(); e != nil {
		out[AnnotationBundleContent] = BundleContentDSSE
		if e.PayloadType == PayloadType {
			s, err := b.Statement()
			if err != nil {
				return nil, err
			}
			out[AnnotationBundlePredicateType] = s.PredicateType
		}
	}
	return out, nil
}

// FallbackTag is the tag that holds the referrers of d where a registry has no
// referrers API: algorithm and hex, cut to 32 and 64 characters (OCI
// Distribution 1.1, "Referrers Tag Schema").
func FallbackTag(d artifact.Digest) string {
	cut := func(s string, n int) string { return s[:min(n, len(s))] }
	return cut(d.Algorithm(), 32) + "-" + cut(d.Hex(), 64)
}

// LegacyTag is the tag of cosign's older scheme for d; kind is
// [LegacySignatures], [LegacyAttestations] or [LegacySBOM].
func LegacyTag(d artifact.Digest, kind string) string {
	return d.Algorithm() + "-" + d.Hex() + "." + kind
}

// ParseLegacyTag reads a tag of the form of [LegacyTag] or [FallbackTag], the
// latter with kind "". ok is false for any other tag.
func ParseLegacyTag(tag string) (d artifact.Digest, kind string, ok bool) {
	const prefix = artifact.SHA256 + "-"
	if len(tag) < len(prefix)+64 || tag[:len(prefix)] != prefix {
		return "", "", false
	}
	d = artifact.Digest(artifact.SHA256 + ":" + tag[len(prefix):len(prefix)+64])
	if d.Validate() != nil {
		return "", "", false
	}
	switch rest := tag[len(prefix)+64:]; rest {
	case "":
		return d, "", true
	case "." + LegacySignatures, "." + LegacyAttestations, "." + LegacySBOM:
		return d, rest[1:], true
	}
	return "", "", false
}
