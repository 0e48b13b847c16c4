package trust

import (
	"context"
	"strings"

	"assay/attestation"
)

// Roots are trust domains that may vouch, in the order in which they are tried:
// the own one first, then foreign ones (public-good Sigstore, GitHub, …). A
// bundle is verified under one of them as a whole; parts never mix, so that a
// foreign timestamp authority cannot date what the own authority certified.
type Roots []*Root

// VerifyBundle verifies a bundle under the first root that accepts it; the
// result's Root says which. When none does, the error is that of the root that
// came furthest, and names those that were tried. A reader can be read once:
// with several roots give the artifact's digests.
func (rs Roots) VerifyBundle(ctx context.Context, b *attestation.Bundle, o VerifyOptions) (*Verified, error) {
	return rs.each(func(r *Root) (*Verified, error) { return r.VerifyBundle(ctx, b, o) }, o)
}

// VerifyLegacySignature is [Root.VerifyLegacySignature] under the first root
// that accepts.
func (rs Roots) VerifyLegacySignature(ctx context.Context, l *attestation.LegacySignature, o VerifyOptions) (*Verified, error) {
	return rs.each(func(r *Root) (*Verified, error) { return r.VerifyLegacySignature(ctx, l, o) }, o)
}

func (rs Roots) each(try func(*Root) (*Verified, error), o VerifyOptions) (*Verified, error) {
	if len(rs) == 0 {
		return nil, invalidOption("no trusted root is configured")
	}
	if len(rs) > 1 && o.ArtifactReader != nil {
		return nil, invalidOption("with several roots give the artifact's digests, a reader can be read once")
	}
	var best error
	var names []string
	for _, r := range rs {
		v, err := try(r)
		if err == nil {
			return v, nil
		}
		if Code(err) == "" || Code(err) == CodeBundleOptions {
			return nil, err // the caller's mistake, or the context's end: no root can mend it
		}
		best = nearest(best, err)
		names = append(names, orUnnamed(r.name))
	}
	if len(rs) == 1 {
		return nil, best
	}
	return nil, refuse(Code(best), "%w (roots tried: %s)", best, strings.Join(names, ", "))
}

func orUnnamed(name string) string {
	if name == "" {
		return "unnamed"
	}
	return name
}
