package gate

import (
	"context"
	"strings"

	"assay/artifact"
	"assay/event"
	"assay/store"
)

// decidedAgain takes over what was decided otherwise for the gate by those who
// decide again when what decisions rest on changed: a match that came in the
// background, an advisory, a statement, the catalogue.
func (g *Gate) decidedAgain(ctx context.Context, tx *store.Tx, batch []event.Event) error {
	any := false
	for _, e := range batch {
		if e.Kind != event.DecisionChanged {
			continue
		}
		var body struct {
			Scope string `json:"scope"`
		}
		if err := e.Decode(&body); err != nil {
			return err
		}
		repository, ok := repositoryOf(body.Scope)
		if !ok {
			continue
		}
		n, err := tx.Exec(ctx, `UPDATE gate_state SET due = ? WHERE repository = ? AND digest = ? AND carrier = 0 AND judged <= ?`, tx.Now(), repository, string(e.Digest), e.Time)
		if err != nil {
			return err
		}
		any = any || n > 0
	}
	if any {
		tx.OnCommit(g.wake)
	}
	return nil
}

// repositoryOf is the repository of a scope that is the gate's (scopeOf).
func repositoryOf(scope string) (repository string, ok bool) {
	who, repository, found := strings.Cut(scope, "@")
	return repository, found && (who == "gate" || strings.HasPrefix(who, "gate/"))
}

// await waits for what is known of a digest's flaws, where the policy looks at
// them. What is not known in time is pending: the policy denies it, and it is
// judged again when it is known.
func (g *Gate) await(ctx context.Context, repository string, d artifact.Digest) {
	if g.o.Await == nil {
		return
	}
	s := g.Repository(repository)
	if !gated(&s) {
		return
	}
	t := target(repository, d, "", s.Profile)
	sc, err := g.placed(ctx, nil, t, &s)
	if err == nil && g.policyFor(t, sc).WantsVulnerabilities() {
		err = g.o.Await(ctx, repository, d)
	}
	if err != nil {
		g.o.Logger.WarnContext(ctx, "the match of what was pushed was not waited for; it stays as it is until it is matched", "repository", repository, "digest", string(d), "error", err)
	}
}
