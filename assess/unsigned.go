package assess

import (
	"context"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/oci"
)

// What BuildKit puts into an index beside the images: statements that nobody signed
// (https://docs.docker.com/build/metadata/attestations/attestation-storage/).
const (
	referenceType   = "vnd.docker.reference.type"
	attestationType = "attestation-manifest"
	statementType   = "application/vnd.in-toto+json"
	predicateAnno   = "in-toto.io/predicate-type"
	// codeUnsigned is why they are claims.
	codeUnsigned = "unsigned"
	// maxUnsigned is how many manifests of statements are read of an index.
	maxUnsigned = 8
)

// unsigned reads what an index says of its images without a signature. That the index
// holds it is certain, and who wrote it is not.
func (r *Run) unsigned(ctx context.Context, at artifact.Reference, m *oci.Manifest, claims map[string]*claim) error {
	parts, err := m.Parts()
	if err != nil {
		return nil //nolint:nilerr // what is no manifest claims nothing
	}
	n := 0
	for _, d := range parts.Manifests {
		if d.Annotations[referenceType] != attestationType || d.Digest.Validate() != nil {
			continue
		}
		if n++; n > maxUnsigned {
			return nil
		}
		inner, err := r.o.Client.Manifest(ctx, at.WithDigest(d.Digest))
		if err != nil {
			return err
		}
		held, err := inner.Parts()
		if err != nil {
			continue
		}
		for _, l := range held.Layers {
			k := kindOf(l.Annotations[predicateAnno])
			if l.MediaType != statementType || l.Annotations[predicateAnno] == "" || k == other || k == signature {
				continue
			}
			c := &claim{id: "unsigned:" + string(l.Digest), kind: k, identity: "nobody: statements in the image's index", code: codeUnsigned}
			if k == bom && r.o.Feeds != nil {
				b, err := r.o.Client.Blob(ctx, at, l.Digest)
				if err != nil {
					return err
				}
				st, err := attestation.ParseStatement(b, attestation.DefaultLimits())
				if err != nil || kindOf(st.PredicateType) != bom {
					continue
				}
				c.predicate = st.Predicate
			}
			claims[c.id] = c
		}
	}
	return nil
}
