package gate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"assay/artifact"
	"assay/config"
	"assay/internal/fault"
	"assay/registry"
	"assay/store"
	"assay/telemetry"
	"assay/trust"
	"assay/verify"
)

// settleSoon is when what was pushed is looked at once more: evidence may have
// come between its judgement and its commit.
const settleSoon = 3 * time.Second

// Prepare decides about a manifest before it is committed, so that evidence
// which was there first counts at once. For a staged repository nothing is
// decided about what nothing is known of: it waits.
func (g *Gate) Prepare(ctx context.Context, p *registry.Push) error {
	s := g.Repository(p.Repository)
	p.Profile = s.Profile
	if !gated(&s) || carrier(p) {
		return nil
	}
	t := target(p.Repository, p.Digest, p.MediaType, s.Profile)
	sc, err := g.placed(ctx, nil, t, &s)
	if err != nil {
		return err
	}
	pol := g.policyFor(t, sc)
	if s.Mode == config.ModeStaged && g.o.Evidence != nil && pol.Enforces() {
		known, more, err := g.o.Evidence.Evidence(ctx, p.Digest)
		if err == nil && len(known) == 0 && !more {
			p.Warning = fmt.Sprintf("%s is staged: there is no evidence about it yet, and policy %s wants some; sign it, then it becomes public", p.Digest, pol.Name())
			return nil
		}
	}
	// It is stored with the push, in one transaction, or not at all.
	draft, err := g.o.Judge.Draft(ctx, t, sc, pol)
	switch {
	case err == nil:
		p.Prepared = draft
		d := draft.Decision()
		if _, ok := allows(d); !ok {
			p.Warning = fmt.Sprintf("%s is staged: %s", p.Digest, trail(d))
		} else if !d.Allowed() {
			p.Warning = fmt.Sprintf("%s is let in by a policy that only warns: %s", p.Digest, trail(d))
		}
	case s.Mode == config.ModeStrict && len(p.Tags) > 0:
		return fmt.Errorf("decide about %s: %w", p.Digest, err)
	default:
		// Staged is what is not decided upon.
		p.Warning = fmt.Sprintf("%s is staged: no decision could be made about it yet", p.Digest)
		g.o.Logger.WarnContext(ctx, "a push could not be decided upon, and is staged", "repository", p.Repository, "digest", string(p.Digest), "error", err)
	}
	return nil
}

// carrier says whether a push is nothing but evidence about something else.
func carrier(p *registry.Push) bool { return p.Subject != "" && !p.Runnable }

// Stored gives a pushed manifest its state.
func (g *Gate) Stored(ctx context.Context, tx *store.Tx, p *registry.Push) error {
	if b, err := blockedIn(ctx, tx, p.Digest); err != nil || b != nil {
		return blockedError(err, p.Digest, b)
	}
	s := g.Repository(p.Repository)
	if !gated(&s) && s.Profile != config.ProfileDev {
		return nil
	}
	was, err := find(ctx, tx, p.Repository, p.Digest)
	if err != nil {
		return err
	}
	r := row{
		repository: p.Repository, digest: p.Digest, mediaType: p.MediaType, state: Staged, owner: p.Owner, changed: tx.Now(),
	}
	if r.fresh = was == nil; was != nil {
		r.owner = was.owner
	}
	attached, err := g.attached(ctx, tx, p, was)
	if err != nil {
		return err
	}
	switch {
	case attached:
		r.state, r.basis, r.carrier, r.subject = Active, basisCarrier, true, p.Subject
	case s.Profile == config.ProfileDev:
		r.state, r.basis, r.expires = Active, basisDev, store.Micros(tx.Now().Add(s.ExpireAfter))
		p.Warning = fmt.Sprintf("repository %s is of profile dev: this expires at %s, and is admitted to no production", p.Repository, store.Time(r.expires).Format(time.RFC3339))
	case was != nil && was.state == Active && !was.carrier:
		p.State = string(Active)
		return nil
	case was != nil && was.carrier && was.state == Active && len(p.Tags) == 0:
		// Evidence that is pushed again is what it was.
		p.State = string(Active)
		return nil
	default:
		return g.stage(ctx, tx, p, &s, &r)
	}
	p.State = string(r.state)
	return g.keep(ctx, tx, &r)
}

// attached says whether a push is nothing but evidence about something else, and
// stays so: what is public for itself, or has a tag of its own, is not made into
// evidence by a push that says so, which would hide the one and show the other.
func (g *Gate) attached(ctx context.Context, tx *store.Tx, p *registry.Push, was *row) (bool, error) {
	if !carrier(p) || was != nil && was.state == Active && !was.carrier {
		return false, nil
	}
	if was == nil || was.carrier {
		return true, nil
	}
	own, err := registry.HasOwnTag(ctx, tx, p.Repository, p.Digest)
	return !own, err
}

// stage stores a manifest as staged, or at once as active where the decision
// that stands allows it.
func (g *Gate) stage(ctx context.Context, tx *store.Tx, p *registry.Push, s *config.RepositorySpec, r *row) error {
	r.expires = store.Micros(tx.Now().Add(s.StagedFor))
	r.due = store.Micros(tx.Now().Add(settleSoon))
	r.reason = p.Warning
	d, err := g.decided(ctx, tx, p, r, s)
	if err != nil {
		return err
	}
	if d != nil {
		if err := g.apply(ctx, tx, r, s, d, cause{actor: "system:gate", reason: "evidence was there before the push"}); err != nil {
			return err
		}
	}
	if r.state == Staged { // decided upon or not, evidence may have come meanwhile
		r.due = store.Micros(tx.Now().Add(settleSoon))
		if err := g.keep(ctx, tx, r); err != nil {
			return err
		}
	}
	p.State = string(r.state)
	g.met.stored(r.state)
	return nil
}

// decided stores what was decided for the push and gives it, or else what
// stands; nil: neither.
func (g *Gate) decided(ctx context.Context, tx *store.Tx, p *registry.Push, r *row, s *config.RepositorySpec) (*verify.Decision, error) {
	if draft, ok := p.Prepared.(*verify.Draft); ok {
		t := target(r.repository, r.digest, r.mediaType, s.Profile)
		sc, err := g.placed(ctx, tx, t, s)
		if err != nil {
			return nil, err
		}
		pol := g.policyFor(t, sc)
		if draft.Decision().PolicyHash == pol.Hash() {
			stored, err := draft.Store(ctx, tx)
			if err != nil || stored {
				return draft.Decision(), err
			}
		}
	}
	return g.standing(ctx, tx, r, s)
}

// standing is the decision about a manifest that counts now: made under the
// policy that applies now and the trust that is in force, and not past its end;
// nil: none.
func (g *Gate) standing(ctx context.Context, tx *store.Tx, r *row, s *config.RepositorySpec) (*verify.Decision, error) {
	t := target(r.repository, r.digest, r.mediaType, s.Profile)
	sc, err := g.placed(ctx, tx, t, s)
	if err != nil {
		return nil, err
	}
	d, err := verify.Standing(ctx, tx, r.digest, sc.ID)
	if errors.Is(err, fault.NotFound) {
		return nil, nil //nolint:nilnil // none is an answer
	}
	if err != nil {
		return nil, err
	}
	// From before a revocation, an allow is no answer.
	if epoch, err := trust.Epoch(ctx, tx); err != nil || d.TrustEpoch < epoch {
		return nil, err
	}
	pol := g.policyFor(t, sc)
	if d.PolicyHash != pol.Hash() || !tx.Now().Before(d.ValidUntil) {
		return nil, nil //nolint:nilnil // what stands is of another time
	}
	return d, nil
}

// TagMove holds what is not active, refuses it where the repository is strict,
// and refuses to move what is immutable.
func (g *Gate) TagMove(ctx context.Context, tx *store.Tx, m registry.Move) (hold bool, err error) {
	if m.Carrier {
		return false, nil
	}
	ctx, span := telemetry.Start(ctx, "gate.tag_move")
	span.Text(telemetry.ManifestDigest, string(m.To))
	span.Text(telemetry.Repository, m.Repository)
	span.Text(telemetry.Tag, m.Tag)
	defer func() {
		if hold {
			span.Text(telemetry.GateState, string(Staged))
		}
		span.End(err)
	}()
	s := g.Repository(m.Repository)
	if pattern, fixed := s.ImmutableTag(m.Tag); fixed && !m.ByRule && m.From != "" && m.From != m.To {
		what := "cannot be moved to " + string(m.To)
		if m.To == "" {
			what = "cannot be deleted"
		}
		return false, fault.Newf(fault.Denied, "tag %s of repository %s is immutable (%s): it names %s and %s; push under a new tag", m.Tag, m.Repository, pattern, m.From, what)
	}
	if m.To == "" || !gated(&s) {
		return false, nil
	}
	r, err := find(ctx, tx, m.Repository, m.To)
	if err != nil {
		return false, err
	}
	if r != nil && r.state == Active && !r.carrier {
		return false, nil
	}
	if s.Mode == config.ModeStaged {
		return true, nil
	}
	why := "there is no evidence about it"
	if r != nil {
		d, err := g.standing(ctx, tx, r, &s)
		if err != nil {
			return false, err
		}
		if d != nil {
			why = trail(d)
		} else if r.reason != "" {
			why = r.reason
		}
	}
	return false, fault.Newf(fault.Denied, "repository %s is strict: tag %s is refused until %s is allowed (%s); push by digest, sign it, then set the tag", m.Repository, m.Tag, m.To, why)
}

// Removed forgets the state of a manifest, unless the repository is immutable
// and no rule for immutable ones deletes, or the manifest is under quarantine or
// revoked: it is kept for those who look into it.
func (g *Gate) Removed(ctx context.Context, tx *store.Tx, m registry.Move) error {
	s := g.Repository(m.Repository)
	r, err := find(ctx, tx, m.Repository, m.From)
	if err != nil {
		return err
	}
	if s.Immutable && !m.ByRule && !m.Carrier && (r == nil || !r.carrier && r.state == Active) {
		return fault.Newf(fault.Denied, "repository %s is immutable: manifest %s cannot be deleted", m.Repository, m.From)
	}
	// Clients do not see it; garbage collection comes here by an index of it.
	if b, err := blockedIn(ctx, tx, m.From); err != nil || b != nil {
		return blockedError(err, m.From, b)
	}
	_, err = tx.Exec(ctx, `DELETE FROM gate_state WHERE repository = ? AND digest = ?`, m.Repository, string(m.From))
	g.forget(tx, m.Repository, m.From)
	return err
}

// keep stores a row and drops what memory knows of it.
func (g *Gate) keep(ctx context.Context, tx *store.Tx, r *row) error {
	g.forget(tx, r.repository, r.digest)
	return put(ctx, tx, r)
}

func (g *Gate) forget(tx *store.Tx, repository string, d artifact.Digest) {
	tx.OnCommit(func() { g.states.drop(stateKey{repository, d}) })
}
