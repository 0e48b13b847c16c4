package server

import (
	"context"

	"assay/artifact"
	"assay/store"
)

// hasSay says whether whoever brought evidence may speak for an artifact: evidence
// was pushed to a repository in which the artifact lies, by somebody who may sign
// there, or to none, which takes a right over the whole site.
func hasSay(ctx context.Context, tx *store.Tx, attestation string, subject artifact.Digest) (bool, error) {
	var n int
	err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM evidence_bundle b WHERE b.id = ? AND (b.repository = ''
		OR EXISTS (SELECT 1 FROM registry_manifest m JOIN evidence_origin o ON o.repository = m.repository AND o.ingested_at = b.ingested_at AND o.id = b.id WHERE m.digest = ?))`,
		attestation, string(subject)).Scan(&n)
	return n > 0, err
}
