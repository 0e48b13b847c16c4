package retention

import (
	"context"

	"assay/artifact"
	"assay/store"
)

// Held says whether a hold in force is on a repository or on one of the digests,
// in whatever repository: for what other domains keep about them.
func (s *Holds) Held(ctx context.Context, tx *store.Tx, repository string, digests []artifact.Digest) (bool, error) {
	const inForce = `SELECT COUNT(*) FROM retention_hold WHERE ended = 0 AND (ends = 0 OR ends > ?) AND `
	now := store.Micros(tx.Now())
	var n int64
	if repository != "" {
		if err := tx.QueryRow(ctx, inForce+`repository = ? AND digest = ''`, now, repository).Scan(&n); err != nil || n > 0 {
			return n > 0, err
		}
	}
	for _, d := range digests {
		if err := tx.QueryRow(ctx, inForce+`digest = ?`, now, string(d)).Scan(&n); err != nil || n > 0 {
			return n > 0, err
		}
	}
	return false, nil
}
