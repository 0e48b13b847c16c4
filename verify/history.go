package verify

import (
	"context"
	"time"

	"assay/artifact"
	"assay/policy"
	"assay/store"
)

// Past is a decision as it was made once, without its trail.
type Past struct {
	ID        string         `json:"id"`
	ScopeID   string         `json:"scope"`
	Verdict   policy.Verdict `json:"verdict"`
	Mode      policy.Mode    `json:"mode"`
	Policy    string         `json:"policy"`
	DecidedAt time.Time      `json:"decided_at"`
	Holds     bool           `json:"holds"` // it is the current one of its scope
}

// History lists the decisions about a digest that were ever made, the newest
// first: those made before an instant (the zero time: all), at most limit.
func (e *Engine) History(ctx context.Context, digest artifact.Digest, before time.Time, limit int) (out []Past, err error) {
	if err := digest.Validate(); err != nil {
		return nil, err
	}
	until := int64(1) << 62
	if !before.IsZero() {
		until = before.UnixMicro()
	}
	err = e.o.DB.View(ctx, func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(ctx, `SELECT d.id, d.scope_id, d.verdict, d.mode, d.policy, d.decided,
				CASE WHEN c.decision_id = d.id THEN 1 ELSE 0 END
			FROM decision d LEFT JOIN current_decision c ON c.digest = d.digest AND c.scope_id = d.scope_id
			WHERE d.digest = ? AND d.decided < ? ORDER BY d.decided DESC, d.id LIMIT ?`, string(digest), until, limit)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var p Past
			var decided, holds int64
			if err := rows.Scan(&p.ID, &p.ScopeID, &p.Verdict, &p.Mode, &p.Policy, &decided, &holds); err != nil {
				return err
			}
			p.DecidedAt, p.Holds = store.Time(decided), holds == 1
			out = append(out, p)
		}
		return rows.Err()
	})
	return out, err
}
