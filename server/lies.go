package server

import (
	"context"

	"assay/artifact"
	"assay/store"
)

// lies says whether an artifact is a repository's: an image that lies in it, a
// project that bills of materials were handed in for, or a file that lies in none and
// that nobody attested anything about anywhere else.
func lies(ctx context.Context, tx *store.Tx, repository string, subject artifact.Digest) (bool, error) {
	var n int
	err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM (
		SELECT 1 FROM registry_manifest WHERE repository = ? AND digest = ?
		UNION ALL SELECT 1 FROM sbom_upload WHERE project = ? AND subject = ?
		UNION ALL SELECT 1 FROM evidence_subject s JOIN evidence_origin o ON o.ingested_at = s.ingested_at AND o.id = s.id WHERE s.subject = ? AND o.repository = ?
			AND NOT EXISTS (SELECT 1 FROM registry_manifest m WHERE m.digest = s.subject)
			AND NOT EXISTS (SELECT 1 FROM evidence_subject t JOIN evidence_origin p ON p.ingested_at = t.ingested_at AND p.id = t.id WHERE t.subject = s.subject AND p.repository <> o.repository)
			AND NOT EXISTS (SELECT 1 FROM evidence_subject t JOIN evidence_bundle b ON b.id = t.id WHERE t.subject = s.subject AND b.repository <> o.repository)
		) x`, repository, string(subject), repository, string(subject), string(subject), repository).Scan(&n)
	return n > 0, err
}
