package gateway

import (
	"context"
	"errors"
	"fmt"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/oci"
	"assay/registry"
)

// Bounds on one bring.
const (
	maxManifests     = 1000      // of an index, with the indexes in it
	maxNesting       = 4         // indexes within indexes
	maxReferrers     = 64        // about one manifest
	maxEvidenceDepth = 2         // evidence about evidence
	maxEvidence      = 256 << 20 // bytes of evidence that are brought at once; the rest on demand
)

// bringing is one way to the upstream and back.
type bringing struct {
	*source
	g  *Gateway
	in registry.Intake

	reached    bool            // the upstream answered
	asked      artifact.Digest // what was asked for last
	digest     artifact.Digest // what the reference is
	manifests  int
	evidence   int64 // bytes so far
	incomplete bool  // some evidence could not be brought
}

// bring makes what is here what the upstream has. have is what is here.
func (b *bringing) bring(ctx context.Context, tag string, d, have artifact.Digest) error {
	b.digest = have
	ref := b.at
	ref.Tag, ref.Digest = tag, d
	if have != "" {
		now, err := b.client.Head(ctx, ref)
		if err != nil {
			return err
		}
		b.reached = true
		if now == have {
			b.about(ctx, have, 0)
			return nil
		}
	}
	b.asked = d
	m, err := b.client.Manifest(ctx, ref)
	if err != nil {
		return err
	}
	b.reached, b.asked, b.digest = true, m.Digest, m.Digest
	if m.Digest == have {
		b.about(ctx, have, 0)
		return nil
	}
	if registry.IsCarrierTag(tag) {
		return b.whole(ctx, m, tag)
	}
	// Evidence first: then the gate knows it when it judges.
	b.about(ctx, m.Digest, 0)
	if err := b.children(ctx, m, 0); err != nil {
		return err
	}
	err = b.take(ctx, m, tag, false)
	if errors.Is(err, fault.Denied) && tag != "" {
		// The tag may not move there. The manifest is kept as what waits for
		// evidence, so that its status can be asked for.
		if kept := b.take(ctx, m, "", false); kept == nil && have != "" {
			return fmt.Errorf("%w: %w", errKept, err)
		}
	}
	return err
}

func (b *bringing) take(ctx context.Context, m *oci.Manifest, tag string, whole bool) error {
	return b.in.Take(ctx, registry.Fetched{
		Repository: b.repository, Tag: tag, Digest: m.Digest, MediaType: m.MediaType, Bytes: m.Bytes, Whole: whole,
	})
}

// children brings the manifests of an index. One that the upstream has not is
// not here either: some registries keep a part of an index alone.
func (b *bringing) children(ctx context.Context, m *oci.Manifest, depth int) error {
	parts, err := m.Parts()
	if err != nil {
		return err
	}
	if len(parts.Manifests) > 0 && depth == maxNesting {
		return fault.Newf(fault.TooLarge, "%s: indexes within indexes, more than %d deep", b.at, maxNesting)
	}
	for _, c := range parts.Manifests {
		if b.manifests++; b.manifests > maxManifests {
			return fault.Newf(fault.TooLarge, "%s: consists of more than %d manifests", b.at, maxManifests)
		}
		if here, err := b.in.Has(ctx, b.repository, c.Digest); err != nil || here {
			if err != nil {
				return err
			}
			continue
		}
		b.asked = c.Digest
		child, err := b.client.Manifest(ctx, b.at.WithDigest(c.Digest))
		if errors.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if int64(len(child.Bytes)) != c.Size || child.MediaType != c.MediaType {
			return fault.Newf(fault.Tampered, "manifest %s has %d bytes and is a %.100q, the index says %d and %.100q", c.Digest, len(child.Bytes), child.MediaType, c.Size, c.MediaType)
		}
		if err := b.children(ctx, child, depth+1); err != nil {
			return err
		}
		if err := b.take(ctx, child, "", false); err != nil {
			return err
		}
	}
	return nil
}

// about brings what the upstream holds about a digest: its referrers, what is
// said about those, and the tags of those who know no referrers. What cannot be
// brought is tried again soon: without it, the gate judges by what is here.
func (b *bringing) about(ctx context.Context, d artifact.Digest, depth int) {
	if depth == maxEvidenceDepth {
		return
	}
	list, _, err := b.client.Referrers(ctx, b.at.WithDigest(d))
	b.missing(ctx, d, err)
	if len(list) > maxReferrers {
		list, b.incomplete = list[:maxReferrers], true
	}
	for _, r := range list {
		b.missing(ctx, r.Digest, b.referrer(ctx, d, r, depth))
	}
	if d.Algorithm() != artifact.SHA256 || depth > 0 {
		return // the older scheme is of sha256, and of images
	}
	for _, suffix := range []string{".sig", ".att", ".sbom"} {
		tag := oci.FallbackTag(d) + suffix
		b.missing(ctx, d, b.carrier(ctx, tag))
	}
}

// missing notes that evidence could not be brought; that there is none is no
// failure.
func (b *bringing) missing(ctx context.Context, d artifact.Digest, err error) {
	if err == nil || errors.Is(err, fault.NotFound) {
		return
	}
	b.incomplete = true
	b.g.o.Logger.WarnContext(ctx, "evidence could not be brought from the upstream", "repository", b.repository, "upstream", b.at.Host, "digest", string(d), "error", err)
	if errors.Is(err, fault.Tampered) {
		b.g.mismatch(ctx, b, "evidence about "+string(b.digest), d, err)
	}
}

func (b *bringing) referrer(ctx context.Context, about artifact.Digest, r oci.Descriptor, depth int) error {
	here, err := b.in.Has(ctx, b.repository, r.Digest)
	if err != nil {
		return err
	}
	if !here {
		m, err := b.client.Manifest(ctx, b.at.WithDigest(r.Digest))
		if err != nil {
			return err
		}
		parts, err := m.Parts()
		if err != nil {
			return err
		}
		if parts.Subject != about {
			return fault.Newf(fault.Unverified, "manifest %s is listed as a referrer of %s, but names another subject", r.Digest, about)
		}
		if err := b.whole(ctx, m, ""); err != nil {
			return err
		}
	}
	b.about(ctx, r.Digest, depth+1)
	return nil
}

// carrier brings one of cosign's tags, if it has moved.
func (b *bringing) carrier(ctx context.Context, tag string) error {
	ref := b.at
	ref.Tag = tag
	have, _, err := b.in.Points(ctx, b.repository, tag)
	if err != nil {
		return err
	}
	if have != "" {
		if now, err := b.client.Head(ctx, ref); err != nil || now == have {
			return err
		}
	}
	m, err := b.client.Manifest(ctx, ref)
	if err != nil || m.Digest == have {
		return err
	}
	return b.whole(ctx, m, tag)
}

// whole brings a manifest with its blobs, as far as they are of the size of
// evidence.
func (b *bringing) whole(ctx context.Context, m *oci.Manifest, tag string) error {
	parts, err := m.Parts()
	if err != nil {
		return err
	}
	for _, c := range parts.Manifests { // a fallback tag's list
		here, err := b.in.Has(ctx, b.repository, c.Digest)
		if err == nil && !here {
			err = b.listed(ctx, c)
		}
		if err != nil {
			return err
		}
	}
	var size int64
	for _, d := range parts.Blobs() {
		size += min(d.Size, maxEvidence+1)
	}
	if size > maxEvidence-b.evidence {
		b.incomplete = true
		return b.take(ctx, m, tag, false)
	}
	b.evidence += size
	for _, d := range parts.Blobs() {
		if err := b.g.Blob(ctx, b.in, b.repository, d.Digest, d.Size); err != nil {
			return err
		}
	}
	return b.take(ctx, m, tag, true)
}

// listed brings a manifest of a list of evidence.
func (b *bringing) listed(ctx context.Context, d oci.Descriptor) error {
	if b.manifests++; b.manifests > maxManifests {
		return fault.Newf(fault.TooLarge, "%s: consists of more than %d manifests", b.at, maxManifests)
	}
	m, err := b.client.Manifest(ctx, b.at.WithDigest(d.Digest))
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	parts, err := m.Parts()
	if err != nil {
		return err
	}
	if len(parts.Manifests) > 0 {
		return fault.Newf(fault.Invalid, "manifest %s: an index in a list of evidence", d.Digest)
	}
	return b.whole(ctx, m, "")
}

// Blob implements registry.Upstream.
func (g *Gateway) Blob(ctx context.Context, in registry.Intake, repository string, d artifact.Digest, size int64) error {
	src, err := g.source(repository)
	if err != nil {
		return err
	}
	// Whoever hangs up does not end it for the others, nor for the next.
	done := g.flight.DoChan("blob "+repository+" "+string(d), func() (any, error) {
		ctx := context.WithoutCancel(ctx)
		g.blobs <- struct{}{}
		defer func() { <-g.blobs }()
		// Who had to wait may come after it is here.
		if here, err := in.AdoptBlob(ctx, repository, d); err != nil || here {
			return nil, err
		}
		err := src.blob(ctx, in, d, size)
		if errors.Is(err, fault.Tampered) {
			g.mismatch(ctx, &bringing{source: src, asked: d}, string(d), d, err)
		}
		return nil, err
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *source) blob(ctx context.Context, in registry.Intake, d artifact.Digest, size int64) error {
	body, err := s.client.BlobReader(ctx, s.at, d, size)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	return in.TakeBlob(ctx, s.repository, d, size, body)
}
