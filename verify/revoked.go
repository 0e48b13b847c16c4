package verify

import (
	"context"
	"slices"
	"time"

	"assay/artifact"
	"assay/policy"
	"assay/store"
	"assay/trust/revocation"
)

// Revocations tells the state of each root's list at now, and when the first of
// the lists ends; zero: there is none.
func (v *Verifier) Revocations(now time.Time) (states []policy.Revocations, stale bool, until time.Time) {
	if len(v.o.Lists) == 0 {
		return nil, false, time.Time{}
	}
	names := slices.Clone(v.names)
	for name := range v.o.Lists { // one may be asked though nothing is verified under its root
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		s := v.o.Lists[name]
		one := policy.Revocations{Root: name, State: string(s.Status(now))}
		if s != nil {
			one.Entries = s.Entries()
			until = earliest(until, s.List.Expires.Time)
		}
		stale = stale || one.State == string(revocation.Stale)
		states = append(states, one)
	}
	return states, stale, until
}

// enterRevocations puts the state of the lists into the facts, and whether the
// artifact itself is revoked.
func (g *gathering) enterRevocations(now time.Time) {
	t := &g.facts.Trust
	states, stale, until := g.verifier.Revocations(now)
	t.Revocations, t.Stale = states, t.Stale || stale
	g.expires = earliest(g.expires, until)
	e := g.verifier.revoked.Artifact(g.digests)
	switch {
	case e == nil:
	case now.Before(e.InvalidSince.Time):
		g.expires = earliest(g.expires, e.InvalidSince.Time)
	default:
		t.Revoked = &policy.Revoked{Since: e.InvalidSince.UTC().Format(time.RFC3339), Reason: clip(e.Reason, 300)}
	}
}

// AllowedIn lists the scopes in which a digest is allowed by its last decision,
// at most 100.
func AllowedIn(ctx context.Context, tx *store.Tx, digest artifact.Digest) (scopes []string, err error) {
	rows, err := tx.Query(ctx, `SELECT c.scope_id FROM current_decision c JOIN decision d ON d.id = c.decision_id
		WHERE c.digest = ? AND d.verdict = ? ORDER BY c.scope_id LIMIT 100`, string(digest), string(policy.Allow))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		scopes = append(scopes, s)
	}
	return scopes, rows.Err()
}

// Hasten ends the decisions about a digest now, so that they come first among
// those that are due. What they said is not changed.
func Hasten(ctx context.Context, tx *store.Tx, digest artifact.Digest) error {
	now := store.Micros(tx.Now())
	_, err := tx.Exec(ctx, `UPDATE current_decision SET valid_until = ? WHERE digest = ? AND valid_until > ?`, now, string(digest), now)
	return err
}
