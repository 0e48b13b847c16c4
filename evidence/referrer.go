package evidence

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// RegistrySource reads what a repository holds, for [Store.Referrer]. Who may
// read was decided before. Both methods give the bytes whose digest was asked
// for, or fault.Tampered; fault.NotFound when they are not there. They read no
// more than the manifest cap and the bundle cap, and give fault.TooLarge above.
type RegistrySource interface {
	Manifest(ctx context.Context, repository string, d artifact.Digest) (b []byte, mediaType string, err error)
	Blob(ctx context.Context, repository string, d artifact.Digest) ([]byte, error)
}

// blobSource reads manifests and layers from the blob store itself, where the
// registry keeps both.
type blobSource struct{ s *Store }

func (b blobSource) Manifest(ctx context.Context, _ string, d artifact.Digest) ([]byte, string, error) {
	raw, err := b.s.readBlob(ctx, d, b.s.limits.Attestation.MaxManifest)
	return raw, "", err
}

func (b blobSource) Blob(ctx context.Context, _ string, d artifact.Digest) ([]byte, error) {
	return b.s.readBlob(ctx, d, b.s.limits.Attestation.MaxBundle)
}

// SourceRegistry is the Origin.Source of what [Store.Referrer] takes in.
const SourceRegistry = "registry"

const bundleTypes = "application/vnd.dev.sigstore.bundle"

// manifest is what is read of a pushed manifest or index.
type manifest struct {
	MediaType    string                   `json:"mediaType"`
	ArtifactType string                   `json:"artifactType"`
	Config       attestation.Descriptor   `json:"config"`
	Layers       []attestation.Descriptor `json:"layers"`
	Manifests    []attestation.Descriptor `json:"manifests"`
	Subject      *attestation.Descriptor  `json:"subject"`
}

// notation says whether the manifest holds a signature of the Notary Project: by
// its artifact type, or by its configuration's, where older clients put it.
func (m *manifest) notation() bool {
	return m.ArtifactType == attestation.ArtifactTypeNotation || m.Config.MediaType == attestation.ArtifactTypeNotation
}

// Referrer takes in the evidence in one pushed manifest about subject:
//
//   - an OCI 1.1 referrer whose layers are Sigstore bundles,
//   - one that holds a signature of the Notary Project,
//   - the image behind a cosign .sig or .att tag, whose layers are converted
//     into bundles,
//   - the index behind a fallback tag: each bundle manifest that it lists.
//
// A manifest that holds none of these is nothing to do. A bundle that does not
// verify, or is about something else than subject, is noted as rejected and
// does not keep the others out. The error is for what may succeed later (the
// database or the blob store failed): call again, it is idempotent.
func (s *Store) Referrer(ctx context.Context, subject artifact.Digest, repository string, d artifact.Digest, artifactType string) error {
	if err := errors.Join(subject.Validate(), d.Validate()); err != nil {
		return err
	}
	from := Origin{Repository: repository, Source: SourceRegistry}
	if err := from.validate(); err != nil {
		return err
	}
	r := referral{s: s, ctx: ctx, subject: subject, from: from}
	return r.manifest(d, artifactType, true)
}

// referral is one call of Referrer.
type referral struct {
	s       *Store
	ctx     context.Context
	subject artifact.Digest
	from    Origin
}

func (r *referral) manifest(d artifact.Digest, artifactType string, mayList bool) error {
	raw, mediaType, err := r.s.registry.Manifest(r.ctx, r.from.Repository, d)
	if err != nil {
		return r.unread(d, "manifest", err)
	}
	var m manifest
	if err := strictjson.Unmarshal(raw, &m, strictjson.WithLimits(strictjson.Limits{MaxBytes: r.s.limits.Attestation.MaxManifest})); err != nil {
		return r.malformed(d, "manifest: %w", err)
	}
	if m.MediaType == "" {
		m.MediaType = mediaType
	}
	if m.ArtifactType == "" {
		m.ArtifactType = artifactType
	}
	switch {
	case len(m.Layers) > 0 && len(m.Manifests) > 0:
		return r.malformed(d, "manifest has both layers and manifests, which readers would tell apart differently")
	case len(m.Manifests) > 0:
		if !mayList {
			return r.malformed(d, "an index within the index of a fallback tag")
		}
		return r.index(d, m.Manifests)
	case m.Subject != nil && m.Subject.Digest != r.subject:
		return r.malformed(d, "manifest names subject %s, and is listed for %s", m.Subject.Digest, r.subject)
	}
	return r.layers(d, m)
}

// index reads what a fallback tag lists (OCI Distribution 1.1, "Referrers Tag
// Schema"). The newest stand last, where clients append.
func (r *referral) index(d artifact.Digest, listed []attestation.Descriptor) error {
	if n := r.s.limits.MaxListed; len(listed) > n {
		if err := r.malformed(d, "index lists %d manifests; the last %d are read", len(listed), n); err != nil {
			return err
		}
		listed = listed[len(listed)-n:]
	}
	var errs []error
	for _, l := range listed {
		// Some clients leave the type out; those are looked into.
		if l.ArtifactType != "" && l.ArtifactType != attestation.ArtifactTypeNotation && !strings.HasPrefix(l.ArtifactType, bundleTypes) {
			continue
		}
		if l.Digest.Validate() != nil {
			errs = append(errs, r.malformed(d, "index lists the digest %.80q", l.Digest))
			continue
		}
		errs = append(errs, r.manifest(l.Digest, l.ArtifactType, false))
	}
	return errors.Join(errs...)
}

func (r *referral) layers(d artifact.Digest, m manifest) error {
	layers := m.Layers
	if n := r.s.limits.MaxLayers; len(layers) > n {
		if err := r.malformed(d, "manifest has %d layers; the last %d are read", len(layers), n); err != nil {
			return err
		}
		layers = layers[len(layers)-n:]
	}
	var errs []error
	for _, l := range layers {
		read := r.reader(l.MediaType, m)
		if read == nil {
			continue
		}
		if err := r.layer(d, l, read); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// layerReader makes a submission of a layer.
type layerReader func(b []byte, l attestation.Descriptor) (submission, error)

// reader picks how a layer is read, by its exact type; nil for layers that are
// no evidence.
func (r *referral) reader(mediaType string, m manifest) layerReader {
	lim := r.s.limits.Attestation
	switch {
	case strings.HasPrefix(mediaType, bundleTypes):
		return func(b []byte, _ attestation.Descriptor) (submission, error) {
			return submission{raw: b}, nil
		}
	case m.Subject != nil && m.notation() && (mediaType == attestation.MediaTypeJWS || mediaType == attestation.MediaTypeCOSE):
		return func(b []byte, _ attestation.Descriptor) (submission, error) {
			if !attestation.IsNotation(b) {
				return submission{}, refusal(CodeManifest, "the layer is no signature of the Notary Project")
			}
			return submission{raw: b}, nil
		}
	case m.Subject != nil:
		return nil // the legacy forms have none
	case mediaType == attestation.MediaTypeSimpleSigning:
		return func(b []byte, l attestation.Descriptor) (submission, error) {
			sig, err := attestation.FromCosignSignature(b, l.Annotations, lim)
			if err != nil {
				return submission{}, err
			}
			return submission{raw: sig.Bundle.Bytes(), bundle: sig.Bundle, legacy: true, payload: sig.Payload, image: sig.Image}, nil
		}
	case mediaType == attestation.MediaTypeDSSE:
		return func(b []byte, l attestation.Descriptor) (submission, error) {
			bundle, err := attestation.FromCosignAttestation(b, l.Annotations, lim)
			if err != nil {
				return submission{}, err
			}
			return submission{raw: bundle.Bytes(), bundle: bundle, legacy: true}, nil
		}
	}
	return nil
}

// layer takes in one layer. Refusals were noted and are no error here.
func (r *referral) layer(d artifact.Digest, l attestation.Descriptor, read layerReader) error {
	if l.Digest.Validate() != nil {
		return r.malformed(d, "manifest has a layer with the digest %.80q", l.Digest)
	}
	if l.Size > r.s.limits.Attestation.MaxBundle {
		return r.note(string(l.Digest), CodeTooLarge, r.s.tooLarge(int(l.Size)))
	}
	b, err := r.s.registry.Blob(r.ctx, r.from.Repository, l.Digest)
	if err != nil {
		return r.unread(l.Digest, "layer", err)
	}
	sub, err := read(b, l)
	if err != nil {
		return r.note(string(l.Digest), Code(err), err)
	}
	sub.about = r.subject
	if _, _, err = r.s.ingest(r.ctx, sub, r.from); Code(err) != "" {
		return nil
	}
	return err
}

// unread sorts out why content could not be read: it is not what it should be,
// or it could not be had just now.
func (r *referral) unread(d artifact.Digest, what string, err error) error {
	code := ""
	switch {
	case errors.Is(err, fault.NotFound):
		code = CodeMissing
	case errors.Is(err, fault.Tampered):
		code = CodeTampered
	case errors.Is(err, fault.TooLarge):
		code = CodeTooLarge
	default:
		return fmt.Errorf("read %s %s of %s: %w", what, d, r.from.Repository, err)
	}
	return r.note(string(d), code, err)
}

func (r *referral) malformed(d artifact.Digest, format string, args ...any) error {
	return r.note(string(d), CodeManifest, fmt.Errorf(format, args...))
}

func (r *referral) note(id, code string, err error) error {
	r.s.reject(r.ctx, Rejection{ID: id, Subject: r.subject, Code: code, Reason: printable(err.Error(), 200),
		Repository: r.from.Repository, Source: r.from.Source}, r.from.Actor)
	return nil
}
