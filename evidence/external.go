package evidence

import (
	"context"

	"assay/attestation"
	"assay/internal/oci"
)

// Take takes in evidence that another registry holds beside an image: a bundle, or a
// layer of a legacy .sig or .att tag. Errors are those of [Store.Ingest].
func (s *Store) Take(ctx context.Context, e *oci.Evidence, from Origin) error {
	if err := from.validate(); err != nil {
		return err
	}
	sub := submission{raw: e.Bundle}
	if l := e.Legacy; l != nil {
		lim := s.limits.Attestation
		if l.MediaType == attestation.MediaTypeSimpleSigning {
			sig, err := attestation.FromCosignSignature(l.Payload, l.Annotations, lim)
			if err != nil {
				return err
			}
			sub = submission{raw: sig.Bundle.Bytes(), bundle: sig.Bundle, legacy: true, payload: sig.Payload, image: sig.Image}
		} else {
			b, err := attestation.FromCosignAttestation(l.Payload, l.Annotations, lim)
			if err != nil {
				return err
			}
			sub = submission{raw: b.Bytes(), bundle: b, legacy: true}
		}
	}
	_, _, err := s.ingest(ctx, sub, from)
	return err
}
