package evidence

import (
	"context"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// References gives each blob that holds a bundle which is too large for a row.
func References(ctx context.Context, tx *store.Tx, fn func(artifact.Digest) error) error {
	rows, err := tx.Query(ctx, `SELECT id FROM evidence_bundle WHERE content IS NULL`)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return err
		}
		hex, ok := strings.CutPrefix(id, "att_")
		if !ok {
			return fault.Newf(fault.Tampered, "bundle %.80q has no id of a bundle", id)
		}
		if err := fn(artifact.Digest(artifact.SHA256 + ":" + hex)); err != nil {
			return err
		}
	}
	return rows.Err()
}
