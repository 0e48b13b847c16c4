package verify

import (
	"context"
	"slices"
	"time"

	"assay/artifact"
	"assay/policy"
	"assay/store"
	"assay/trust"
	"assay/trust/foreign"
	"assay/trust/revocation"
)

// revokedBy is what lists revoke: those of the site, whatever they name, and
// those of foreign roots, each what is its own.
type revokedBy struct {
	site   *revocation.Set // nil: no list
	theirs map[string]theirs
}

type theirs struct {
	root *foreign.Root
	set  *revocation.Set
}

func (o *VerifierOptions) revoked() revokedBy {
	var r revokedBy
	var lists []*revocation.List
	for name, l := range o.Lists {
		i := slices.IndexFunc(o.Foreign, func(f *foreign.Root) bool { return f.Name() == name })
		if i < 0 {
			lists = append(lists, l.List)
			continue
		}
		if r.theirs == nil {
			r.theirs = map[string]theirs{}
		}
		r.theirs[name] = theirs{o.Foreign[i], revocation.NewSet(l.List)}
	}
	if len(lists) > 0 {
		r.site = revocation.NewSet(lists...)
	}
	return r
}

// check is a trust.Check.
func (r revokedBy) check(ctx context.Context, v *trust.Verified) error {
	if err := r.site.Check(ctx, v); err != nil {
		return err
	}
	return r.theirs[v.Root].set.Check(ctx, v)
}

// counts says whether the list of a root is asked about what is at a place.
func (r revokedBy) counts(name string, at place) bool {
	t, foreign := r.theirs[name]
	return !foreign || at.within(t.root)
}

// artifact gives the earliest entry that revokes an artifact at a place.
func (r revokedBy) artifact(digests artifact.DigestSet, at place) *revocation.Entry {
	found := r.site.Artifact(digests)
	for _, t := range r.theirs {
		if !at.within(t.root) {
			continue
		}
		if e := t.set.Artifact(digests); e != nil && (found == nil || e.InvalidSince.Before(found.InvalidSince.Time)) {
			found = e
		}
	}
	return found
}

// Revocations tells the state of each root's list at now, whether one is stale,
// and when the first of them ends; zero: there is none.
func (v *Verifier) Revocations(now time.Time) (states []policy.Revocations, stale bool, until time.Time) {
	return v.revocations(now, anywhere)
}

// revocations tells the state of each root's list at now, and of those that count
// at a place whether one is stale, and when the first of them ends; zero: there
// is none.
func (v *Verifier) revocations(now time.Time, at place) (states []policy.Revocations, stale bool, until time.Time) {
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
		}
		if s != nil && v.revoked.counts(name, at) {
			until = earliest(until, s.List.Expires.Time)
			stale = stale || one.State == string(revocation.Stale)
		}
		states = append(states, one)
	}
	return states, stale, until
}

// enterRevocations puts the state of the lists into the facts, and whether the
// artifact itself is revoked.
func (g *gathering) enterRevocations(now time.Time) {
	t := &g.facts.Trust
	at := placeOf(g.facts.Subject)
	states, stale, until := g.verifier.revocations(now, at)
	t.Revocations, t.Stale = states, t.Stale || stale
	g.expires = earliest(g.expires, until)
	e := g.verifier.revoked.artifact(g.digests, at)
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
	return store.Values[string](ctx, tx, `SELECT c.scope_id FROM current_decision c JOIN decision d ON d.id = c.decision_id
		WHERE c.digest = ? AND d.verdict = ? ORDER BY c.scope_id LIMIT 100`, string(digest), string(policy.Allow))
}

// Hasten ends the decisions about a digest now, so that they come first among
// those that are due. What they said is not changed.
func Hasten(ctx context.Context, tx *store.Tx, digest artifact.Digest) error {
	now := store.Micros(tx.Now())
	_, err := tx.Exec(ctx, `UPDATE current_decision SET valid_until = ? WHERE digest = ? AND valid_until > ?`, now, string(digest), now)
	return err
}
