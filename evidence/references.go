package evidence

import (
	"context"
	"errors"
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

// Needs calls keep with those of the digests that hold a bundle which is too
// large for a row.
func Needs(ctx context.Context, tx *store.Tx, digests []artifact.Digest, keep func(artifact.Digest)) error {
	for _, d := range digests {
		if d.Algorithm() != artifact.SHA256 {
			continue
		}
		var id string
		err := tx.QueryRow(ctx, `SELECT id FROM evidence_bundle WHERE id = ? AND content IS NULL`, "att_"+d.Hex()).Scan(&id)
		if err == nil {
			keep(d)
		} else if !errors.Is(err, fault.NotFound) {
			return err
		}
	}
	return nil
}
