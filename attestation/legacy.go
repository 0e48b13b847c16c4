package attestation

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"

	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// The layers and annotations of the images that cosign, before bundles, kept
// signatures (tag sha256-<hex>.sig) and attestations (.att) in.
const (
	MediaTypeSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	MediaTypeDSSE          = "application/vnd.dsse.envelope.v1+json"

	AnnotationCosignSignature   = "dev.cosignproject.cosign/signature"   // base64; empty for attestations
	AnnotationCosignCertificate = "dev.sigstore.cosign/certificate"      // PEM
	AnnotationCosignChain       = "dev.sigstore.cosign/chain"            // PEM
	AnnotationCosignBundle      = "dev.sigstore.cosign/bundle"           // JSON: Rekor v1 entry and promise
	AnnotationCosignTimestamp   = "dev.sigstore.cosign/rfc3161timestamp" // JSON: time-stamp response
	AnnotationCosignPredicate   = "predicateType"                        // unauthenticated
	simpleSigningType           = "cosign container image signature"
	simpleSigningTypeAtomic     = "atomic container signature"
)

// LegacySignature is one layer of a cosign .sig image, as a bundle.
type LegacySignature struct {
	// Bundle signs Payload: its message digest is the payload's, not the
	// image's. It is version 0.1 when the log gave only a promise.
	Bundle *Bundle
	// Payload is the layer's content, in the simple signing form.
	Payload []byte
	// Image is the manifest digest that the payload names; it is signed over
	// and so counts once the bundle verifies.
	Image artifact.Digest
	// Reference is the docker-reference in the payload: opaque text.
	Reference string
}

// FromCosignSignature turns a layer of a cosign .sig image into a bundle. The
// annotations are the layer's; the payload must be the bytes whose digest the
// manifest names.
func FromCosignSignature(payload []byte, annotations map[string]string, lim Limits) (*LegacySignature, error) {
	lim = lim.orDefault()
	image, reference, err := ParseSimpleSigning(payload, lim)
	if err != nil {
		return nil, err
	}
	sig, err := decodeBase64("cosign signature annotation", annotations[AnnotationCosignSignature])
	if err != nil {
		return nil, err
	}
	m, mediaType, err := legacyMaterial(annotations, lim)
	if err != nil {
		return nil, err
	}
	pb := m.bundle(mediaType)
	setMessage(pb, artifact.SHA256Of(payload), sig)
	b, err := newBundle(pb, nil, lim)
	if err != nil {
		return nil, err
	}
	return &LegacySignature{Bundle: b, Payload: payload, Image: image, Reference: reference}, nil
}

// FromCosignAttestation turns a layer of a cosign .att image, a DSSE envelope
// with one signature, into a bundle.
func FromCosignAttestation(envelope []byte, annotations map[string]string, lim Limits) (*Bundle, error) {
	lim = lim.orDefault()
	e, err := ParseEnvelope(envelope, lim)
	if err != nil {
		return nil, err
	}
	m, mediaType, err := legacyMaterial(annotations, lim)
	if err != nil {
		return nil, err
	}
	if m.Certificate == nil {
		m.KeyHint = e.Signatures[0].KeyID // the format wants the two equal
	}
	pb := m.bundle(mediaType)
	setEnvelope(pb, e)
	return newBundle(pb, nil, lim)
}

// FromEnvelope turns a bare envelope with one signature, as
// slsa-github-generator wrote them, into a bundle: the certificate is taken
// from the signature when it has one. There is no log entry in it, so it can
// be verified only with material from elsewhere.
func FromEnvelope(e *Envelope) (*Bundle, error) {
	if len(e.Signatures) != 1 {
		return nil, invalid("DSSE envelope: has %d signatures, a bundle holds exactly one", len(e.Signatures))
	}
	m := Material{KeyHint: e.Signatures[0].KeyID}
	if p := e.Signatures[0].Certificate; p != "" {
		der, err := firstCertificate(p)
		if err != nil {
			return nil, err
		}
		m = Material{Certificate: der}
	}
	return NewDSSEBundle(m, e)
}

// ParseSimpleSigning reads the payload of a cosign image signature
// (containers/image, "simple signing"): the digest of the manifest that was
// signed, and the reference it was signed under.
func ParseSimpleSigning(payload []byte, lim Limits) (image artifact.Digest, reference string, err error) {
	var w struct {
		Critical struct {
			Identity struct {
				Reference string `json:"docker-reference"`
			} `json:"identity"`
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
			Type string `json:"type"`
		} `json:"critical"`
	}
	if err := strictjson.Unmarshal(payload, &w, lim.orDefault().json()); err != nil {
		return "", "", fault.Newf(fault.KindOf(err), "simple signing payload: %w", err)
	}
	if t := w.Critical.Type; t != simpleSigningType && t != simpleSigningTypeAtomic {
		return "", "", invalid("simple signing payload: critical.type is %.80q, want %q", t, simpleSigningType)
	}
	image, err = artifact.ParseDigest(w.Critical.Image.Digest)
	if err != nil {
		return "", "", invalid("simple signing payload: %w", err)
	}
	return image, w.Critical.Identity.Reference, nil
}

// legacyMaterial reads what both kinds of layer carry, and says which bundle
// version can hold it.
func legacyMaterial(annotations map[string]string, lim Limits) (m Material, mediaType string, err error) {
	mediaType = MediaTypeBundleV03
	for _, a := range []string{AnnotationCosignCertificate, AnnotationCosignChain, AnnotationCosignBundle, AnnotationCosignTimestamp} {
		if int64(len(annotations[a])) > lim.MaxManifest {
			return m, "", fault.Newf(fault.TooLarge, "cosign annotation %s: %d bytes, want at most %d", a, len(annotations[a]), lim.MaxManifest)
		}
	}
	if p := annotations[AnnotationCosignCertificate]; p != "" {
		if m.Certificate, err = firstCertificate(p); err != nil {
			return m, "", err
		}
	}
	if raw := annotations[AnnotationCosignBundle]; raw != "" {
		e, err := parseRekorBundle([]byte(raw), lim)
		if err != nil {
			return m, "", err
		}
		m.LogEntries = []*rekorpb.TransparencyLogEntry{e}
		mediaType = MediaTypeBundleV01
	}
	if raw := annotations[AnnotationCosignTimestamp]; raw != "" && raw != "null" {
		var w struct {
			Response string `json:"SignedRFC3161Timestamp"`
		}
		if err := strictjson.Unmarshal([]byte(raw), &w, lim.json()); err != nil {
			return m, "", fault.Newf(fault.KindOf(err), "cosign timestamp annotation: %w", err)
		}
		der, err := decodeBase64("cosign timestamp annotation", w.Response)
		if err != nil {
			return m, "", err
		}
		m.Timestamps = [][]byte{der}
	}
	return m, mediaType, nil
}

// parseRekorBundle reads cosign's RekorBundle: a Rekor v1 entry and the log's
// promise to include it.
func parseRekorBundle(b []byte, lim Limits) (*rekorpb.TransparencyLogEntry, error) {
	var w struct {
		SignedEntryTimestamp string
		Payload              struct {
			Body           string `json:"body"`
			IntegratedTime int64  `json:"integratedTime"`
			LogIndex       int64  `json:"logIndex"`
			LogID          string `json:"logID"`
		}
	}
	if err := strictjson.Unmarshal(b, &w, lim.json()); err != nil {
		return nil, fault.Newf(fault.KindOf(err), "cosign bundle annotation: %w", err)
	}
	set, err := decodeBase64("cosign bundle annotation: SignedEntryTimestamp", w.SignedEntryTimestamp)
	if err != nil {
		return nil, err
	}
	body, err := decodeBase64("cosign bundle annotation: body", w.Payload.Body)
	if err != nil {
		return nil, err
	}
	id, err := hex.DecodeString(w.Payload.LogID)
	if err != nil {
		return nil, invalid("cosign bundle annotation: logID: %w", err)
	}
	var kind struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := strictjson.Unmarshal(body, &kind, lim.json()); err != nil {
		return nil, fault.Newf(fault.KindOf(err), "cosign bundle annotation: body: %w", err)
	}
	return &rekorpb.TransparencyLogEntry{
		LogIndex:          w.Payload.LogIndex,
		LogId:             &commonpb.LogId{KeyId: id},
		KindVersion:       &rekorpb.KindVersion{Kind: kind.Kind, Version: kind.APIVersion},
		IntegratedTime:    w.Payload.IntegratedTime,
		InclusionPromise:  &rekorpb.InclusionPromise{SignedEntryTimestamp: set},
		CanonicalizedBody: body,
	}, nil
}

// ToCosignAnnotations writes a message bundle's parts as the annotations of a
// .sig layer, for readers that know no bundles. A log entry without a promise
// (Rekor v2 gives none) cannot be written so and is left out.
func ToCosignAnnotations(b *Bundle) (map[string]string, error) {
	out := map[string]string{AnnotationCosignSignature: base64.StdEncoding.EncodeToString(b.Signature())}
	if b.Envelope() != nil {
		out[AnnotationCosignSignature] = ""
	}
	if c := b.Certificate(); c != nil {
		out[AnnotationCosignCertificate] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	for _, e := range b.LogEntries() {
		set := e.GetInclusionPromise().GetSignedEntryTimestamp()
		if len(set) == 0 {
			continue
		}
		raw, err := strictjson.Marshal(map[string]any{
			"SignedEntryTimestamp": set,
			"Payload": map[string]any{
				"body": e.GetCanonicalizedBody(), "integratedTime": e.GetIntegratedTime(),
				"logIndex": e.GetLogIndex(), "logID": hex.EncodeToString(e.GetLogId().GetKeyId()),
			},
		})
		if err != nil {
			return nil, err
		}
		out[AnnotationCosignBundle] = string(raw)
		break
	}
	if t := b.Timestamps(); len(t) > 0 {
		raw, err := strictjson.Marshal(map[string]any{"SignedRFC3161Timestamp": t[0]})
		if err != nil {
			return nil, err
		}
		out[AnnotationCosignTimestamp] = string(raw)
	}
	return out, nil
}

// firstCertificate gives the DER of the first certificate in PEM text; the
// leaf comes first wherever there are several.
func firstCertificate(text string) ([]byte, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, invalid("certificate: want a PEM block of type CERTIFICATE")
	}
	return block.Bytes, nil
}
