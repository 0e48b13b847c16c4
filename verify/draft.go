package verify

import (
	"context"
	"errors"
	"time"

	"assay/internal/fault"
	"assay/policy"
	"assay/store"
	"assay/telemetry"
)

// Draft is a decision that is made, and signed, and not stored yet: for a door
// whose own change is to be one transaction with it.
type Draft struct {
	e        *Engine
	d        *Decision
	standing *Decision // which it replaces, or extends
	stirred  int64     // how often that was stirred before this was begun
	extends  bool
	facts    *policy.Facts
	bytes    []byte // the facts, canonical
}

// Decision is what was decided. It holds once it is stored.
func (f *Draft) Decision() *Decision { return f.d }

// Draft is [Engine.Decide] up to the point where the decision is stored.
func (e *Engine) Draft(ctx context.Context, t Target, scope policy.Scope, p *policy.Policy) (*Draft, error) {
	t, err := e.question(t, scope, p)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, e.o.Timeout)
	defer cancel()
	start := time.Now()
	ctx, span := telemetry.Start(ctx, "verify.decide")
	span.Text(telemetry.ManifestDigest, string(t.Digest))
	span.Text(telemetry.Scope, scope.ID)
	f, err := again(ctx, e, func() (*Draft, error) { return e.draft(ctx, t, scope, p) })
	var d *Decision
	if err == nil {
		d = f.d
		span.Text(telemetry.DecisionID, d.ID)
		span.Text(telemetry.Verdict, string(d.Verdict))
	}
	e.met.decided(ctx, d, err, time.Since(start))
	span.End(err)
	return f, err
}

// Store stores the decision in tx, with its event. false: trust or the decision
// that it replaces has changed since it was drafted; then nothing is written,
// and what stands, stands. It may be called again when tx is tried again.
func (f *Draft) Store(ctx context.Context, tx *store.Tx) (bool, error) {
	err := f.store(ctx, tx)
	if errors.Is(err, errMoved) {
		return false, nil
	}
	return err == nil, err
}

func (f *Draft) store(ctx context.Context, tx *store.Tx) error {
	e, d := f.e, f.d
	if err := e.unmoved(ctx, tx, d.TrustEpoch); err != nil {
		return err
	}
	drop := func() { e.cache.drop(decisionKey{d.Digest, d.ScopeID}) }
	if f.extends {
		tx.OnCommit(func() { drop(); e.met.extended.Inc() })
		return extend(ctx, tx, d, f.stirred)
	}
	was, err := current(ctx, tx, d.Digest, d.ScopeID)
	switch {
	case errors.Is(err, fault.NotFound):
		was = nil
	case err != nil:
		return err
	}
	if (was == nil) != (f.standing == nil) || was != nil && was.ID != f.standing.ID {
		return errMoved
	}
	if err := insert(ctx, tx, d, f.bytes, f.stirred); err != nil {
		return err
	}
	tx.OnCommit(drop)
	return e.tell(ctx, tx, d, was, f.facts.Scope)
}

// again runs fn until trust and the standing decision stay where they are
// meanwhile, a few times.
func again[T any](ctx context.Context, e *Engine, fn func() (T, error)) (none T, err error) {
	for try := 0; ; try++ {
		got, err := fn()
		if !errors.Is(err, errMoved) || try == 4 {
			return got, undecided(err)
		}
		if e.o.Refresh != nil {
			if err := e.o.Refresh(ctx); err != nil {
				return none, undecided(err)
			}
		}
		select {
		case <-time.After(time.Duration(try) * 20 * time.Millisecond):
		case <-ctx.Done():
			return none, undecided(context.Cause(ctx))
		}
	}
}
