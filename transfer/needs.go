package transfer

import (
	"context"
	"errors"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// Needs calls keep with those of the digests that [References] gives.
func Needs(ctx context.Context, tx *store.Tx, digests []artifact.Digest, keep func(artifact.Digest)) error {
	for _, d := range digests {
		var one int64
		err := tx.QueryRow(ctx, `SELECT 1 FROM transfer_sent WHERE what = 'member' AND name = ?
			UNION ALL SELECT 1 FROM transfer_feed WHERE digest = ? LIMIT 1`, string(d), string(d)).Scan(&one)
		if err == nil {
			keep(d)
		} else if !errors.Is(err, fault.NotFound) {
			return err
		}
	}
	return nil
}
