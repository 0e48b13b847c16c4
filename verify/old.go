package verify

import (
	"context"
	"time"

	"assay/artifact"
	"assay/store"
)

// Replaced is a decision that does not stand any longer.
type Replaced struct {
	ID      string
	Digest  artifact.Digest
	Scope   string
	Decided time.Time
}

// ReplacedDecisions lists decisions that were made before a time and have been
// replaced, but for the newest so many of each artifact and scope, after one of
// them (the zero value: from the first), the oldest first.
func ReplacedDecisions(ctx context.Context, tx *store.Tx, before time.Time, keepLast int, after Replaced, limit int) (out []Replaced, err error) {
	rows, err := tx.Query(ctx, `SELECT d.id, d.digest, d.scope_id, d.decided FROM decision d
		WHERE d.decided < ? AND (d.decided, d.id) > (?, ?)
		AND NOT EXISTS (SELECT 1 FROM current_decision c WHERE c.digest = d.digest AND c.scope_id = d.scope_id AND c.decision_id = d.id)
		AND (SELECT COUNT(*) FROM decision n WHERE n.digest = d.digest AND n.scope_id = d.scope_id AND n.decided > d.decided) > ?
		ORDER BY d.decided, d.id LIMIT ?`, before, store.Micros(after.Decided), after.ID, keepLast, limit)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var r Replaced
		var at int64
		if err := rows.Scan(&r.ID, &r.Digest, &r.Scope, &at); err != nil {
			return nil, err
		}
		r.Decided = store.Time(at)
		out = append(out, r)
	}
	return out, rows.Err()
}

// DropDecision takes a replaced decision away, with its facts when no other
// decision was made from them. One that stands is left alone.
func DropDecision(ctx context.Context, tx *store.Tx, id string) (bool, error) {
	var facts string
	if err := tx.QueryRow(ctx, `SELECT facts_id FROM decision WHERE id = ?`, id).Scan(&facts); err != nil {
		return false, err
	}
	n, err := tx.Exec(ctx, `DELETE FROM decision WHERE id = ? AND NOT EXISTS (
		SELECT 1 FROM current_decision c WHERE c.digest = decision.digest AND c.scope_id = decision.scope_id AND c.decision_id = decision.id)`, id)
	if err != nil || n == 0 {
		return false, err
	}
	_, err = tx.Exec(ctx, `DELETE FROM decision_facts WHERE id = ? AND NOT EXISTS (SELECT 1 FROM decision d WHERE d.facts_id = decision_facts.id)`, facts)
	return err == nil, err
}
