package gate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"assay/artifact"
	"assay/config"
	"assay/event"
	"assay/internal/fault"
	"assay/registry"
	"assay/store"
	"assay/verify"
)

// cause is who or what has a state change.
type cause struct{ actor, reason string }

// retryIn is when what could not be decided is tried again.
const retryIn = 15 * time.Second

// Settle judges a manifest of a repository anew and brings its state to the
// verdict. A manifest that has none, or none that a decision could change, is
// nothing to do. The error is that no answer was found: the last verdict stands
// and the worker tries again.
func (g *Gate) Settle(ctx context.Context, repository string, d artifact.Digest, why string) error {
	var r *row
	if err := g.db.View(ctx, func(tx *store.Tx) (err error) {
		r, err = find(ctx, tx, repository, d)
		return err
	}); err != nil || r == nil {
		return err
	}
	return g.settle(ctx, r, why)
}

func (g *Gate) settle(ctx context.Context, r *row, why string) error {
	s := g.Repository(r.repository)
	now := store.Micros(g.o.Clock())
	if r.carrier {
		return g.settled(ctx, r, 0)
	}
	if r.basis == basisHand && r.expires > now {
		return g.settled(ctx, r, r.expires) // until then the approver's word holds
	}
	if !gated(&s) {
		return g.opened(ctx, r, &s)
	}
	t := target(r.repository, r.digest, r.mediaType, s.Profile)
	sc, err := g.placed(ctx, nil, t, &s)
	if err != nil {
		return err
	}
	pol := g.policyFor(t, sc)
	if r.state == Staged && g.o.Evidence != nil && pol.Enforces() {
		// Nothing is known of most that was just pushed, which is no news.
		if known, more, err := g.o.Evidence.Evidence(ctx, r.digest); err == nil && len(known) == 0 && !more && r.decision == "" {
			return g.settled(ctx, r, 0)
		}
	}
	d, err := g.o.Judge.Decide(ctx, t, sc, pol)
	if err != nil {
		g.met.judged.WithLabelValues("undecided").Inc()
		return errors.Join(fmt.Errorf("judge %s in %s: %w", r.digest, r.repository, err), g.settled(ctx, r, store.Micros(g.o.Clock().Add(retryIn))))
	}
	_, ok := allows(d)
	stale := !ok && g.onlyStale(ctx, d)
	if stale && r.state == Active {
		// Roots or lists that are too old say nothing against what was good
		// before: the last verdict stands, and the site has an alert of its own.
		g.o.Logger.WarnContext(ctx, "trust is stale: what is active stays so, nothing becomes active", "repository", r.repository, "digest", string(r.digest))
		return g.settled(ctx, r, store.Micros(g.o.Clock().Add(retryIn)))
	}
	return g.db.Update(ctx, func(tx *store.Tx) error {
		now, err := find(ctx, tx, r.repository, r.digest)
		if err != nil || now == nil {
			return err
		}
		// What stands in this transaction counts: of two who judged at once, the
		// later decision, whoever comes last here.
		d, err := g.standing(ctx, tx, now, &s)
		if err != nil || d == nil {
			return err
		}
		if err := g.apply(ctx, tx, now, &s, d, cause{"system:gate", why}); err != nil || !stale || now.state == Active {
			return err
		}
		now.due = store.Micros(tx.Now().Add(retryIn)) // it may be fresh again soon
		return g.keep(ctx, tx, now)
	})
}

func (g *Gate) onlyStale(ctx context.Context, d *verify.Decision) bool {
	f, err := g.o.Judge.Facts(ctx, d.FactsHash)
	return err == nil && f.Trust.Stale
}

// settled notes that a row was looked at, and when to look again.
func (g *Gate) settled(ctx context.Context, r *row, due int64) error {
	return g.db.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE gate_state SET due = ?, judged = ? WHERE repository = ? AND digest = ? AND due <= ?`,
			due, tx.Now(), r.repository, string(r.digest), max(r.due, store.Micros(tx.Now())))
		return err
	})
}

// opened deals with a row of a repository that has no gate any longer: what was
// staged there is for all.
func (g *Gate) opened(ctx context.Context, r *row, s *config.RepositorySpec) error {
	if r.basis == basisDev && s.Profile == config.ProfileDev || r.state == Active {
		return g.settled(ctx, r, 0)
	}
	return g.db.Update(ctx, func(tx *store.Tx) error {
		now, err := find(ctx, tx, r.repository, r.digest)
		if err != nil || now == nil {
			return err
		}
		now.due, now.expires = 0, 0
		return g.activate(ctx, tx, now, s, "open", "", cause{"system:gate", "the repository is open now"})
	})
}

// apply brings a row to a decision, in tx.
func (g *Gate) apply(ctx context.Context, tx *store.Tx, r *row, s *config.RepositorySpec, d *verify.Decision, c cause) error {
	r.judged, r.decision = store.Micros(tx.Now()), d.ID
	r.due = store.Micros(again(tx.Now(), d.ValidUntil))
	if basis, ok := allows(d); ok {
		g.met.judged.WithLabelValues("allow").Inc()
		if basis == basisWarn {
			c.reason = clip("the policy only warns: "+trail(d), maxReason)
		}
		return g.activate(ctx, tx, r, s, basis, d.ID, c)
	}
	g.met.judged.WithLabelValues("deny").Inc()
	if whole, err := g.activeWhole(ctx, tx, r.repository, r.digest); err != nil {
		return err
	} else if whole != "" {
		return g.activate(ctx, tx, r, s, basisIndex+string(whole), d.ID, cause{c.actor, "part of an index that is allowed"})
	}
	if r.state == Active {
		return g.deactivate(ctx, tx, r, s, cause{c.actor, clip(trail(d), maxReason)})
	}
	r.reason = trail(d)
	if r.fresh {
		return nil // it is stored by who asked
	}
	return g.keep(ctx, tx, r)
}

// again is when a decision is to be made anew: before it ends, so that nothing
// is without a verdict.
func again(now, until time.Time) time.Time {
	return now.Add(max(until.Sub(now)*9/10, retryIn))
}

// activeWhole gives an index of the repository that is active in its own right
// and has the manifest as a part; empty: none.
func (g *Gate) activeWhole(ctx context.Context, tx *store.Tx, repository string, d artifact.Digest) (artifact.Digest, error) {
	all, err := wholes(ctx, tx, repository, d)
	if err != nil {
		return "", err
	}
	for _, w := range all {
		r, err := find(ctx, tx, repository, w)
		if err != nil {
			return "", err
		}
		if r != nil && r.state == Active && !r.carrier {
			return w, nil
		}
	}
	return "", nil
}

type promotedBody struct {
	Repository string   `json:"repository"`
	From       State    `json:"from"`
	Basis      string   `json:"basis"`
	Reason     string   `json:"reason"`
	Decision   string   `json:"decision,omitempty"`
	Tags       []string `json:"tags,omitempty"`     // at most 64
	Children   int      `json:"children,omitempty"` // manifests of the index that became active with it
}

// activate shows a manifest, and the parts of an index with it, and moves the
// tags that waited.
func (g *Gate) activate(ctx context.Context, tx *store.Tx, r *row, s *config.RepositorySpec, basis, decision string, c cause) error {
	from := r.state
	r.state, r.basis, r.reason = Active, basis, c.reason
	if basis != basisHand {
		r.expires = 0
	}
	if from != Active {
		r.changed = tx.Now()
	}
	if err := g.keep(ctx, tx, r); err != nil {
		return err
	}
	children, tags, err := g.activateParts(ctx, tx, r, s, c)
	if err != nil {
		return err
	}
	if !r.fresh {
		own, err := g.moveHeld(ctx, tx, r.repository, r.digest, s, c)
		if err != nil {
			return err
		}
		tags = append(own, tags...)
	}
	if from == Active && len(tags) == 0 && children == 0 {
		return nil
	}
	tx.OnCommit(func() { g.met.changes.WithLabelValues(string(Active)).Inc() })
	return event.Append(ctx, tx, event.Event{
		Kind: event.ArtifactPromoted, Digest: r.digest, Actor: c.actor, Env: s.Environment,
		Body: promotedBody{r.repository, from, basis, clip(c.reason, maxReason), decision, tags[:min(len(tags), 64)], children},
	})
}

// activateParts shows what an index is made of.
func (g *Gate) activateParts(ctx context.Context, tx *store.Tx, whole *row, s *config.RepositorySpec, c cause) (n int, tags []string, err error) {
	if !registry.IsIndex(whole.mediaType) {
		return 0, nil, nil
	}
	all, err := parts(ctx, tx, whole.repository, whole.digest)
	if err != nil {
		return 0, nil, err
	}
	for _, d := range all {
		r, err := find(ctx, tx, whole.repository, d)
		if err != nil {
			return n, tags, err
		}
		if r == nil || r.state == Active && !r.carrier {
			continue
		}
		n++
		r.state, r.basis, r.reason, r.carrier, r.subject, r.expires, r.changed = Active, basisIndex+string(whole.digest), "part of an index that is allowed", false, "", 0, tx.Now()
		if err := g.keep(ctx, tx, r); err != nil {
			return n, tags, err
		}
		moved, err := g.moveHeld(ctx, tx, r.repository, d, s, c)
		if err != nil {
			return n, tags, err
		}
		tags = append(tags, moved...)
	}
	return n, tags, nil
}

func (g *Gate) moveHeld(ctx context.Context, tx *store.Tx, repository string, d artifact.Digest, s *config.RepositorySpec, c cause) ([]string, error) {
	return registry.Promote(ctx, tx, registry.Promotion{
		Repository: repository, Digest: d, Actor: c.actor, Reason: clip(c.reason, maxReason),
		Fixed: func(tag string) bool { _, fixed := s.ImmutableTag(tag); return fixed },
	})
}

type rejectedBody struct {
	Repository string   `json:"repository"`
	From       State    `json:"from"`
	Reason     string   `json:"reason"`
	Decision   string   `json:"decision,omitempty"`
	Tags       []string `json:"tags,omitempty"` // that were given up waiting, at most 64
}

// deactivate hides a manifest that was active, and the parts that were so as
// parts of it alone. Its tags stay: who asks for them hears why.
func (g *Gate) deactivate(ctx context.Context, tx *store.Tx, r *row, s *config.RepositorySpec, c cause) error {
	if err := g.reject(ctx, tx, r, s, c, nil); err != nil {
		return err
	}
	members, err := selectRows(ctx, tx, `repository = ? AND basis = ?`, r.repository, basisIndex+string(r.digest))
	if err != nil {
		return err
	}
	for i := range members {
		m := &members[i]
		whole, err := g.activeWhole(ctx, tx, m.repository, m.digest)
		if err != nil {
			return err
		}
		if whole != "" {
			m.basis = basisIndex + string(whole)
			if err := g.keep(ctx, tx, m); err != nil {
				return err
			}
			continue
		}
		m.due = store.Micros(tx.Now()) // it may be allowed in its own right
		if err := g.reject(ctx, tx, m, s, cause{c.actor, "part of " + string(r.digest) + ": " + c.reason}, nil); err != nil {
			return err
		}
	}
	return nil
}

// reject hides one manifest.
func (g *Gate) reject(ctx context.Context, tx *store.Tx, r *row, s *config.RepositorySpec, c cause, tags []string) error {
	from := r.state
	r.state, r.basis, r.reason, r.expires, r.changed = Rejected, "", c.reason, 0, tx.Now()
	if err := g.keep(ctx, tx, r); err != nil {
		return err
	}
	tx.OnCommit(func() { g.met.changes.WithLabelValues(string(Rejected)).Inc() })
	return event.Append(ctx, tx, event.Event{
		Kind: event.ArtifactRejected, Digest: r.digest, Actor: c.actor, Env: s.Environment,
		Body: rejectedBody{r.repository, from, clip(c.reason, maxReason), r.decision, tags[:min(len(tags), 64)]},
	})
}

// Promotion by hand.
const (
	DefaultHand = 7 * 24 * time.Hour
	MaxHand     = 90 * 24 * time.Hour
)

// PromoteByHand makes a manifest active without a decision that allows it, for
// a time, because an approver says so. The policy is asked again at the end.
// Errors: fault.NotFound, fault.Denied for what is quarantined or revoked,
// fault.Conflict where the repository has no gate.
func (g *Gate) PromoteByHand(ctx context.Context, repository string, d artifact.Digest, actor, reason string, within time.Duration) error {
	if within == 0 {
		within = DefaultHand
	}
	if within < time.Minute || within > MaxHand {
		return fault.Newf(fault.Invalid, "promote for %s: want between 1m and %s", within, MaxHand)
	}
	if err := wantReason(reason); err != nil {
		return err
	}
	return g.db.Update(ctx, func(tx *store.Tx) error {
		s := g.Repository(repository)
		if b, err := blockedIn(ctx, tx, d); err != nil || b != nil {
			return blockedError(err, d, b)
		}
		r, err := find(ctx, tx, repository, d)
		if err != nil {
			return err
		}
		switch {
		case !gated(&s):
			return fault.Newf(fault.Conflict, "repository %s is open: there is nothing to promote", repository)
		case r == nil || r.carrier:
			return fault.Newf(fault.NotFound, "%s is not a manifest of repository %s that waits", d, repository)
		}
		r.expires = store.Micros(tx.Now().Add(within))
		r.due, r.judged = r.expires, store.Micros(tx.Now())
		return g.activate(ctx, tx, r, &s, basisHand, "", cause{actor, reason})
	})
}

func wantReason(reason string) error {
	if n := len(reason); n < 3 || n > maxReason {
		return fault.Newf(fault.Invalid, "a reason of %d bytes: want 3 to %d, for those who read the record", n, maxReason)
	}
	return nil
}
