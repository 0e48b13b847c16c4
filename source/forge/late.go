package forge

import (
	"context"

	"assay/store"
)

// maxContributors bounds who is remembered of one change; no change that a
// person wants to review has more.
const maxContributors = 200

// recordContributor remembers who moved the head of a change: an approval by one
// of its authors is none, whoever opened it.
func recordContributor(ctx context.Context, tx *store.Tx, source string, c *change) error {
	if c.Pusher == "" {
		return nil
	}
	_, err := tx.Exec(ctx, `INSERT INTO source_contributor (source, number, person)
		SELECT ?, ?, ? WHERE (SELECT COUNT(*) FROM source_contributor WHERE source = ? AND number = ?) < ? ON CONFLICT (source, number, person) DO NOTHING`,
		source, c.Number, c.Pusher, source, c.Number, maxContributors)
	return err
}

func findContributors(ctx context.Context, tx *store.Tx, source string, number int64) (map[string]bool, error) {
	rows, err := tx.Query(ctx, `SELECT person FROM source_contributor WHERE source = ? AND number = ?`, source, number)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]bool{}
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		out[id] = true
	}
	return out, rows.Err()
}

// again has the push judged once more that a change brought and that counted as
// unreviewed: forges deliver out of order, and what was said before the merge
// may be told after it. What counted as reviewed was stated and stays stated.
func again(ctx context.Context, tx *store.Tx, source string, number int64) error {
	_, err := tx.Exec(ctx, `UPDATE source_push SET due = ? WHERE source = ? AND due = 0 AND reviewed = 0 AND after_id IN
		(SELECT merge_id FROM source_change WHERE source = ? AND number = ? AND merged = 1 AND merge_id <> '')`, store.Micros(tx.Now()), source, source, number)
	return err
}
