package sbom

import (
	"context"

	"assay/artifact"
	"assay/store"
)

// Holders is the text of a subquery whose one argument is a digest: it selects the
// artifacts whose bills of materials in force name something of that digest.
const Holders = `SELECT d.subject FROM sbom_digest g JOIN sbom_document d ON d.id = g.document WHERE g.digest = ? AND d.state = 1`

// mostAsked is how many digests of an artifact's components evidence is looked for.
const mostAsked = 50_000

// ComponentEvidence is evidence about something that an artifact holds.
type ComponentEvidence struct {
	Attestation string
	Digest      artifact.Digest // of the component
}

// EvidenceOfComponents gives the evidence of some predicate types that is about
// what an artifact's bills of materials name by digest, the newest first, at most
// limit of it. Beyond 50,000 digests the rest is not looked for.
func (s *Store) EvidenceOfComponents(ctx context.Context, subject artifact.Digest, predicateTypes []string, limit int) (out []ComponentEvidence, err error) {
	if err := subject.Validate(); err != nil || len(predicateTypes) == 0 {
		return nil, err
	}
	args := []any{string(subject), stateInForce, string(subject), mostAsked}
	for _, t := range predicateTypes {
		args = append(args, t)
	}
	err = s.db.View(ctx, func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(ctx, `SELECT DISTINCT b.id, e.subject, b.ingested_at FROM
			(SELECT DISTINCT g.digest AS digest FROM sbom_document d JOIN sbom_digest g ON g.document = d.id WHERE d.subject = ? AND d.state = ? AND g.digest <> ? LIMIT ?) c
			JOIN evidence_subject e ON e.subject = c.digest JOIN evidence_bundle b ON b.id = e.id
			WHERE b.predicate_type IN (`+marks(len(predicateTypes))+`) ORDER BY b.ingested_at DESC, b.id LIMIT ?`, append(args, limit)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var c ComponentEvidence
			var at int64
			if err := rows.Scan(&c.Attestation, &c.Digest, &at); err != nil {
				return err
			}
			out = append(out, c)
		}
		return rows.Err()
	})
	return out, err
}
