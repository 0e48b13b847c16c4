package verify

import (
	"context"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/policy"
	"assay/store"
)

// Recorded is what was decided last upon some facts, and how often.
type Recorded struct {
	FactsID    string
	Facts      *policy.Facts
	Decisions  int    // that rest on these facts, in the time asked for
	DecisionID string // the last of them
	Digest     artifact.Digest
	Verdict    policy.Verdict
	Mode       policy.Mode
	Policy     string
	PolicyHash string
	DecidedAt  time.Time
	Stands     bool // it is the current decision of its digest and scope
}

// Recorded walks the facts that decisions since the given time rest on, and those
// of all decisions that stand, in the order of their ids beyond after, at most
// limit. Facts that were altered in the store are fault.Tampered.
func (e *Engine) Recorded(ctx context.Context, since time.Time, after string, limit int) (out []Recorded, err error) {
	err = e.o.DB.View(ctx, func(tx *store.Tx) error { out, err = recorded(ctx, tx, store.Micros(since), after, limit); return err })
	return out, err
}

// recorded groups first, by an index, so that a page costs what it holds.
func recorded(ctx context.Context, tx *store.Tx, since int64, after string, limit int) ([]Recorded, error) {
	rows, err := tx.Query(ctx, `WITH page AS (
			SELECT d.facts_id, COUNT(*) AS n, MAX(d.decided) AS last
			FROM decision d
			WHERE d.facts_id > ? AND (d.decided >= ? OR EXISTS (SELECT 1 FROM current_decision c WHERE c.digest = d.digest AND c.scope_id = d.scope_id AND c.decision_id = d.id))
			GROUP BY d.facts_id ORDER BY d.facts_id LIMIT ?)
		SELECT p.facts_id, p.n, f.body, d.id, d.digest, d.verdict, d.mode, d.policy, d.policy_hash, d.decided,
			CASE WHEN EXISTS (SELECT 1 FROM current_decision c WHERE c.digest = d.digest AND c.scope_id = d.scope_id AND c.decision_id = d.id) THEN 1 ELSE 0 END
		FROM page p JOIN decision_facts f ON f.id = p.facts_id JOIN decision d ON d.facts_id = p.facts_id AND d.decided = p.last
		ORDER BY p.facts_id, d.id`, after, since, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Recorded
	for rows.Next() {
		var r Recorded
		var body []byte
		var decided, stands int64
		if err := rows.Scan(&r.FactsID, &r.Decisions, &body, &r.DecisionID, &r.Digest, &r.Verdict, &r.Mode, &r.Policy, &r.PolicyHash, &decided, &stands); err != nil {
			return nil, err
		}
		if n := len(out); n > 0 && out[n-1].FactsID == r.FactsID {
			if stands == 1 {
				r.Decisions, r.Facts, r.DecidedAt, r.Stands = out[n-1].Decisions, out[n-1].Facts, store.Time(decided), true
				out[n-1] = r // two of one instant: the one that stands
			}
			continue
		}
		if got := policy.FactsID(body); got != r.FactsID {
			return nil, fault.Newf(fault.Tampered, "facts %s were altered in the store: found %s; restore from a backup", r.FactsID, got)
		}
		if r.Facts, err = policy.ParseFacts(body); err != nil {
			return nil, err
		}
		r.DecidedAt, r.Stands = store.Time(decided), stands == 1
		out = append(out, r)
	}
	return out, rows.Err()
}

// Preview reads the evidence about the target and judges it, and keeps nothing.
// The error is that no answer was found.
func (e *Engine) Preview(ctx context.Context, t Target, scope policy.Scope, p *policy.Policy) (*policy.Facts, policy.Result, error) {
	t, err := e.question(t, scope, p)
	if err != nil {
		return nil, policy.Result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, e.o.Timeout)
	defer cancel()
	state := e.o.Trust()
	if state.Verifier == nil {
		return nil, policy.Result{}, errNoRoot
	}
	now := e.o.Clock().UTC().Truncate(time.Microsecond)
	g := e.gathering(t, state, p)
	if err := g.gather(ctx, e.o.Source, scope, state.Stale, now); err != nil {
		return nil, policy.Result{}, undecided(err)
	}
	res, err := p.Evaluate(ctx, g.facts, now)
	return g.facts, res, err
}

func (e *Engine) gathering(t Target, state TrustState, p *policy.Policy) *gathering {
	return &gathering{
		target: t, verifier: state.Verifier, builders: e.builders, policy: p, cache: e.verdicts, epoch: state.Epoch,
		never: e.keys.Load().own, contracts: e.o.Contracts, runners: e.o.Runners, flaws: e.o.Flaws, services: e.o.Services, workloads: e.o.Workloads, components: e.o.Components, exceptions: e.o.Exceptions,
	}
}
