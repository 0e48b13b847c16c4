package verify

import (
	"context"
	"slices"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/policy"
	"assay/store"
)

// ExceptionSource knows what two persons agreed to let pass.
type ExceptionSource interface {
	// Facts gives the exceptions for a digest that hold where it is to run, or did
	// lately, each verified.
	Facts(ctx context.Context, digest artifact.Digest, subject policy.Subject, scope policy.Scope) ([]policy.ExceptionFact, error)
}

// maxExceptions bounds those in facts: those that hold longest.
const maxExceptions = 16

// enterExceptions enters what was agreed to let pass. A decision ends with the
// first that does.
func (g *gathering) enterExceptions(ctx context.Context, src ExceptionSource, now time.Time) error {
	if src == nil {
		return nil
	}
	all, err := src.Facts(ctx, g.target.Digest, g.facts.Subject, g.facts.Scope)
	if err != nil {
		return err
	}
	g.facts.Exceptions = all[:min(len(all), maxExceptions)]
	for i := range g.facts.Exceptions {
		if until, err := time.Parse(time.RFC3339, g.facts.Exceptions[i].Until); err == nil && now.Before(until) {
			g.expires = earliest(g.expires, until)
		}
	}
	return nil
}

// Excepted lists the exceptions without which a decision would not allow, with the
// checks that each excuses.
func (d *Decision) Excepted() map[string][]string {
	if d == nil || !d.Allowed() {
		return nil
	}
	out := map[string][]string{}
	for _, c := range d.Checks {
		if c.Exception != "" && c.Status == policy.Warned {
			out[c.Exception] = append(out[c.Exception], c.Name)
		}
	}
	return out
}

// tellExceptions tells of the exceptions that a decision newly rests on.
func tellExceptions(ctx context.Context, tx *store.Tx, d, was *Decision, ev event.Event) error {
	before := was.Excepted()
	now := d.Excepted()
	ids := make([]string, 0, len(now))
	for id := range now {
		if before[id] == nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for _, id := range ids {
		ev.Kind, ev.Body = event.ExceptionUsed, map[string]any{"id": id, "decision": d.ID, "scope": d.ScopeID, "checks": now[id]}
		if err := event.Append(ctx, tx, ev); err != nil {
			return err
		}
	}
	return nil
}
