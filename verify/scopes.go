package verify

import (
	"context"

	"assay/store"
)

// InScopes gives the decisions that hold now in all scopes whose ids begin with a
// prefix, at most limit, in no order.
func (e *Engine) InScopes(ctx context.Context, prefix string, limit int) (out []*Decision, err error) {
	err = e.o.DB.View(ctx, func(tx *store.Tx) error {
		out = nil
		epoch, err := e.o.Epoch(ctx, tx)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT `+decisionColumns+`, c.trust_epoch, c.valid_until
			FROM current_decision c JOIN decision d ON d.id = c.decision_id
			WHERE substr(c.scope_id, 1, ?) = ? AND c.trust_epoch >= ? AND c.valid_until > ? LIMIT ?`, len(prefix), prefix, epoch, store.Micros(e.o.Clock()), limit)
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
			out = append(out, d)
		}
		return rows.Err()
	})
	return out, err
}
