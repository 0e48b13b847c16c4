package inventory

import (
	"context"
	"time"

	"assay/artifact"
	"assay/store"
)

// RanSince says whether a digest runs in a namespace ("": any) of a cluster, or ran
// there until some time after since.
func (s *Store) RanSince(ctx context.Context, cluster, namespace string, digest artifact.Digest, since time.Time) (ran bool, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM inventory_workload WHERE digest = ? AND ended = 0 AND cluster = ? AND (? = '' OR namespace = ?))
				OR EXISTS (SELECT 1 FROM inventory_workload WHERE digest = ? AND ended > ? AND cluster = ? AND (? = '' OR namespace = ?))`,
			string(digest), cluster, namespace, namespace, string(digest), store.Micros(since), cluster, namespace, namespace).Scan(&ran)
	})
	return ran, err
}
