package inventory

import (
	"context"

	"assay/artifact"
	"assay/store"
)

// Spot is where a digest runs; without a cluster it is everywhere.
type Spot struct {
	Cluster, Namespace string
	Digest             artifact.Digest
}

// Spread counts the workloads that run any of these, and all that run. A workload
// counts once, however many instances and containers it has; one of a cluster that
// was not heard of for long counts as running.
func (s *Store) Spread(ctx context.Context, tx *store.Tx, spots map[Spot]bool) (touched, running int, err error) {
	rows, err := tx.Query(ctx, `SELECT DISTINCT cluster, namespace, kind, name, digest FROM inventory_workload WHERE ended = 0 ORDER BY cluster, namespace, kind, name`)
	if err != nil {
		return 0, 0, err
	}
	defer rows.Close()
	var last [4]string
	counted := false
	for rows.Next() {
		var w [4]string
		var d artifact.Digest
		if err := rows.Scan(&w[0], &w[1], &w[2], &w[3], &d); err != nil {
			return 0, 0, err
		}
		if w != last || running == 0 {
			running, last, counted = running+1, w, false
		}
		if !counted && (spots[Spot{Digest: d}] || spots[Spot{w[0], w[1], d}]) {
			touched, counted = touched+1, true
		}
	}
	return touched, running, rows.Err()
}
