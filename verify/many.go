package verify

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"assay/artifact"
	"assay/internal/fault"
	"assay/policy"
	"assay/store"
)

// Ask is one question of many.
type Ask struct {
	Target Target
	Scope  policy.Scope
	Policy *policy.Policy
}

// draftsAtOnce bounds the decisions of one call that are worked on at a time: what
// is decided ahead comes after what somebody waits for.
const draftsAtOnce = 4

// DecideMany is [Engine.Decide] for many questions at once, whose answers share one
// transaction. errs has an error, or nil, for each; err is one of the store, and
// then nothing was stored.
func (e *Engine) DecideMany(ctx context.Context, asks []Ask) (errs []error, err error) {
	errs, drafts := make([]error, len(asks)), make([]*Draft, len(asks))
	var g errgroup.Group
	g.SetLimit(draftsAtOnce)
	for i := range asks {
		g.Go(func() error {
			drafts[i], errs[i] = e.Draft(ctx, asks[i].Target, asks[i].Scope, asks[i].Policy)
			return nil
		})
	}
	_ = g.Wait()
	var moved []int
	if err := e.o.DB.Update(ctx, func(tx *store.Tx) error {
		moved = moved[:0]
		for i, d := range drafts {
			if errs[i] != nil {
				continue
			}
			stored, err := d.Store(ctx, tx)
			if err != nil {
				return err
			}
			if !stored {
				moved = append(moved, i)
			}
		}
		return nil
	}); err != nil {
		return errs, err
	}
	// Somebody decided the same meanwhile, or trust changed: that one by itself.
	for _, i := range moved {
		_, errs[i] = e.Decide(ctx, asks[i].Target, asks[i].Scope, asks[i].Policy)
	}
	return errs, nil
}

// stirPage bounds the decisions that one transaction of StirPolicy looks at.
const stirPage = 1000

// StirPolicy has those current decisions made again that were made by another policy
// than the one that now applies, and says how many there are. hash gives the hash of
// the policy that applies.
func (e *Engine) StirPolicy(ctx context.Context, hash func(ctx context.Context, subject policy.Subject, scope policy.Scope) (string, error)) (n int, err error) {
	type row struct {
		digest       artifact.Digest
		scope, facts string
		policy       string
	}
	var digest, scope string
	for ctx.Err() == nil {
		var page []row
		var facts []*policy.Facts
		if err := e.o.DB.View(ctx, func(tx *store.Tx) error {
			page, facts = nil, nil
			rows, err := tx.Query(ctx, `SELECT c.digest, c.scope_id, d.facts_id, d.policy_hash FROM current_decision c JOIN decision d ON d.id = c.decision_id
				WHERE (c.digest, c.scope_id) > (?, ?) ORDER BY c.digest, c.scope_id LIMIT ?`, digest, scope, stirPage)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var r row
				if err := rows.Scan(&r.digest, &r.scope, &r.facts, &r.policy); err != nil {
					return err
				}
				page = append(page, r)
			}
			if err := rows.Err(); err != nil {
				return err
			}
			rows.Close()
			for _, r := range page {
				f, err := readFacts(ctx, tx, r.facts)
				if err != nil && !errors.Is(err, fault.NotFound) && !errors.Is(err, fault.Tampered) && !errors.Is(err, fault.Invalid) {
					return err
				}
				facts = append(facts, f) // without them it is not known: made again, and told of there
			}
			return nil
		}); err != nil {
			return n, err
		}
		var other []row
		for i, r := range page {
			if facts[i] != nil {
				now, err := hash(ctx, facts[i].Subject, facts[i].Scope)
				if err != nil {
					return n, err
				}
				if now == r.policy {
					continue
				}
			}
			other = append(other, r)
		}
		if len(other) > 0 {
			if err := e.o.DB.Update(ctx, func(tx *store.Tx) error {
				for _, r := range other {
					if _, err := tx.Exec(ctx, `UPDATE current_decision SET stirred = stirred + 1 WHERE digest = ? AND scope_id = ?`, string(r.digest), r.scope); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				return n, err
			}
			n += len(other)
		}
		if len(page) < stirPage {
			return n, nil
		}
		digest, scope = string(page[len(page)-1].digest), page[len(page)-1].scope
	}
	return n, context.Cause(ctx)
}

// StirEvidence has the decisions of scopes with a prefix made again that are about
// the subjects of a bundle of evidence.
func (e *Engine) StirEvidence(ctx context.Context, tx *store.Tx, bundle, prefix string) error {
	_, err := tx.Exec(ctx, `UPDATE current_decision SET stirred = stirred + 1 WHERE digest IN (SELECT subject FROM evidence_subject WHERE id = ?) AND substr(scope_id, 1, ?) = ?`, bundle, len(prefix), prefix)
	return err
}

// Scopes lists the ids that begin with a prefix of scopes in which something was
// decided, at most limit.
func (e *Engine) Scopes(ctx context.Context, prefix string, limit int) (out []string, err error) {
	err = e.o.DB.View(ctx, func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(ctx, `SELECT DISTINCT scope_id FROM current_decision WHERE substr(scope_id, 1, ?) = ? LIMIT ?`, len(prefix), prefix, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				return err
			}
			out = append(out, id)
		}
		return rows.Err()
	})
	return out, err
}
