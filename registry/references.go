package registry

import (
	"context"

	"assay/artifact"
	"assay/store"
)

// References gives each manifest and blob that the tables of tx say is stored,
// in no order, some more than once.
func References(ctx context.Context, tx *store.Tx, fn func(artifact.Digest) error) error {
	rows, err := tx.Query(ctx, `SELECT digest FROM registry_manifest UNION SELECT child FROM registry_reference WHERE kind = ?`, refBlob)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var d string
		if err := rows.Scan(&d); err != nil {
			return err
		}
		if err := fn(artifact.Digest(d)); err != nil {
			return err
		}
	}
	return rows.Err()
}
