package integrity

import (
	"context"

	"assay/artifact"
	"assay/store"
)

// Forget drops what is noted of blobs that nothing needed and that are deleted:
// what is pushed under their digests later is other bytes.
func (c *Checker) Forget(ctx context.Context, tx *store.Tx, gone []artifact.Digest) error {
	for _, d := range gone {
		if _, err := tx.Exec(ctx, `DELETE FROM integrity_damage WHERE digest = ?`, string(d)); err != nil {
			return err
		}
	}
	tx.OnCommit(c.forget)
	return nil
}
