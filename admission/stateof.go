package admission

import (
	"context"

	"assay/artifact"
	"assay/store"
)

// StateOf says what the last round found of an image that runs in a namespace: the
// worst where it was asked for by several references; "" when none asked yet.
func StateOf(ctx context.Context, tx *store.Tx, cluster, namespace string, d artifact.Digest) (state State, decision string, err error) {
	rows, err := tx.Query(ctx, `SELECT state, decision FROM admission_running WHERE cluster = ? AND namespace = ? AND digest = ? ORDER BY image`, cluster, namespace, string(d))
	if err != nil {
		return "", "", err
	}
	defer rows.Close()
	gravity := map[State]int{"": 0, Allowed: 1, Unknown: 2, Drifted: 3, Denied: 4}
	for rows.Next() {
		var s State
		var dec string
		if err := rows.Scan(&s, &dec); err != nil {
			return "", "", err
		}
		if gravity[s] > gravity[state] {
			state, decision = s, dec
		}
	}
	return state, decision, rows.Err()
}
