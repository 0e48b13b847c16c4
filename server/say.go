package server

import (
	"context"

	"assay/artifact"
	"assay/registry/gate"
	"assay/store"
)

// maxSaidParts is how many parts of an index are looked at; beyond, nobody's word
// about it counts by itself.
const maxSaidParts = 1000

// hasSay says whether whoever brought evidence may speak for an artifact in all
// repositories that hold it, and so for what it is made of: evidence was pushed to the
// repository that held each of them first, by somebody who may sign there, or to none,
// which takes a right over the whole site. Whoever copies an artifact of others into a
// repository of his own, or names it in an index of his own, has no say over theirs.
func hasSay(ctx context.Context, tx *store.Tx, attestation string, subject artifact.Digest) (bool, error) {
	parts, err := gate.Parts(ctx, tx, subject)
	if err != nil || len(parts) > maxSaidParts {
		return false, err
	}
	for _, d := range append([]artifact.Digest{subject}, parts...) {
		if is, err := saidOf(ctx, tx, attestation, d); err != nil || !is {
			return false, err
		}
	}
	return true, nil
}

// saidOf is hasSay for one digest alone.
func saidOf(ctx context.Context, tx *store.Tx, attestation string, d artifact.Digest) (bool, error) {
	const there = `SELECT 1 FROM evidence_origin o WHERE o.ingested_at = b.ingested_at AND o.id = b.id AND o.repository = `
	var n int
	err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM evidence_bundle b WHERE b.id = ? AND (b.repository = ''
		OR EXISTS (SELECT 1 FROM registry_manifest m WHERE m.digest = ? AND EXISTS (`+there+`m.repository)
			AND NOT EXISTS (SELECT 1 FROM registry_manifest e WHERE e.digest = m.digest AND e.pushed_at < m.pushed_at AND NOT EXISTS (`+there+`e.repository))))`,
		attestation, string(d)).Scan(&n)
	return n > 0, err
}
