package verify

import (
	"context"

	"assay/store"
)

// InScopes gives each the decisions that hold now in all scopes whose ids begin with
// a prefix, at most limit, by digest and scope, as they are read: without their VSAs,
// and allows without their trails. begin is called before the first, again when the
// reading is begun anew.
func (e *Engine) InScopes(ctx context.Context, prefix string, limit int, begin func(), each func(*Decision) error) error {
	return e.o.DB.View(ctx, func(tx *store.Tx) error {
		begin()
		epoch, err := e.o.Epoch(ctx, tx)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT d.id, d.digest, d.scope_id, d.verdict, d.mode, d.policy, d.policy_hash, d.facts_id, d.trust_epoch, d.decided,
				CASE WHEN d.verdict = 'allow' THEN '[]' ELSE d.checks END, NULL, c.trust_epoch, c.valid_until
			FROM current_decision c JOIN decision d ON d.id = c.decision_id
			WHERE substr(c.scope_id, 1, ?) = ? AND c.trust_epoch >= ? AND c.valid_until > ? ORDER BY c.digest, c.scope_id LIMIT ?`, len(prefix), prefix, epoch, store.Micros(e.o.Clock()), limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var epoch, until int64
			d, err := scanDecision(rows.Scan, &epoch, &until)
			if err != nil {
				return err
			}
			d.TrustEpoch, d.ValidUntil = epoch, store.Time(until)
			if err := each(d); err != nil {
				return err
			}
		}
		return rows.Err()
	})
}
