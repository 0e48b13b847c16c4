package gate

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"assay/artifact"
	"assay/config"
	"assay/event"
	"assay/evidence"
	"assay/internal/fault"
	"assay/registry"
	"assay/store"
	"assay/trust"
)

const (
	workEvery   = 250 * time.Millisecond
	leaseFor    = 15 * time.Second
	leaseEvery  = 5 * time.Second
	expireEvery = 2 * time.Second
	dueAtOnce   = 128 // rows that are judged in one turn
	judges      = 4
)

func newHolder() string { return "gate-" + rand.Text() }

// Run keeps the states right until ctx ends: it judges what is due, takes over
// changes of rules and trust, gives up what waited too long, and hears of
// evidence that came by other doors than the registry. Of several replicas one
// does it at a time.
func (g *Gate) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	if g.o.Events != nil {
		wg.Go(func() {
			if err := g.o.Events.Consume(ctx, "gate", g.heard, event.AttestationIngested, event.RunnerAccepted); err != nil && ctx.Err() == nil {
				g.o.Logger.ErrorContext(ctx, "the gate no longer hears of evidence", "error", err)
			}
		})
		wg.Go(func() {
			if err := g.o.Events.Consume(ctx, "gate-decisions", g.decidedAgain, event.DecisionChanged); err != nil && ctx.Err() == nil {
				g.o.Logger.ErrorContext(ctx, "the gate no longer hears of decisions", "error", err)
			}
		})
	}
	tick := time.NewTicker(workEvery)
	defer tick.Stop()
	var leased, expired time.Time
	held := false
	for {
		if now := g.now(); now.Sub(leased) >= leaseEvery || now.Before(leased) {
			leased = now
			var err error
			if held, _, err = g.db.Lease(ctx, "gate", g.holder, leaseFor); err != nil && ctx.Err() == nil {
				g.o.Logger.WarnContext(ctx, "the gate's lease was not renewed", "error", err)
			}
		}
		if err := g.followRevocations(ctx); err != nil && ctx.Err() == nil {
			g.o.Logger.ErrorContext(ctx, "revoked digests are not taken over yet", "error", err)
		}
		if held {
			now := g.now()
			expire := now.Sub(expired) >= expireEvery || now.Before(expired)
			if expire {
				expired = now
			}
			if err := g.Work(ctx, expire); err != nil && ctx.Err() == nil {
				g.o.Logger.ErrorContext(ctx, "the gate could not do all its work, and tries again", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			_ = g.db.Release(context.WithoutCancel(ctx), "gate", g.holder)
			return nil
		case <-tick.C:
		case <-g.poke:
		}
	}
}

// Work is one turn of Run.
func (g *Gate) Work(ctx context.Context, expire bool) error {
	var errs []error
	errs = append(errs, g.followRevocations(ctx), g.takeChanges(ctx))
	if expire {
		errs = append(errs, g.Expire(ctx))
	}
	return errors.Join(append(errs, g.judgeDue(ctx))...)
}

// The marks of what has been dealt with.
const (
	markRules = "rules"
	markTrust = "trust"
)

// fingerprint stands for the rules in force.
func (g *Gate) fingerprint() string {
	r := g.rules.Load()
	s := r.Repositories.Fingerprint()
	if r.Policies != nil {
		for _, p := range r.Policies.Policies() {
			s += " " + p.Hash()
		}
	}
	return string(artifact.SHA256Of([]byte(s)))
}

// takeChanges has everything judged again when rules or trust have changed
// since it was last done, by whichever process.
func (g *Gate) takeChanges(ctx context.Context) error {
	want := g.fingerprint()
	var rules, epoch, did string
	if err := g.db.View(ctx, func(tx *store.Tx) (err error) {
		if rules, err = mark(ctx, tx, markRules); err != nil {
			return err
		}
		if did, err = mark(ctx, tx, markTrust); err != nil {
			return err
		}
		n, err := trust.Epoch(ctx, tx)
		epoch = fmt.Sprint(n)
		return err
	}); err != nil {
		return err
	}
	if rules == want && did == epoch {
		return nil
	}
	if rules != want {
		if err := g.adopt(ctx); err != nil {
			return err
		}
	}
	return g.rescan(ctx, func(tx *store.Tx) error {
		if err := setMark(ctx, tx, markRules, want); err != nil {
			return err
		}
		return setMark(ctx, tx, markTrust, epoch)
	})
}

// Rescan has everything judged again, as after a change of what decisions rest
// on that is neither policy nor trust, such as advisories. Until then the last
// verdicts stand.
func (g *Gate) Rescan(ctx context.Context) error {
	defer g.wake()
	return g.rescan(ctx, func(*store.Tx) error { return nil })
}

func (g *Gate) rescan(ctx context.Context, also func(tx *store.Tx) error) error {
	return g.db.Update(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE gate_state SET due = ? WHERE carrier = 0`, tx.Now()); err != nil {
			return err
		}
		return also(tx)
	})
}

// adopt gives a state to what was pushed before its repository had a gate.
func (g *Gate) adopt(ctx context.Context) error {
	var names []string
	if err := g.db.View(ctx, func(tx *store.Tx) error {
		var err error
		names, err = store.Values[string](ctx, tx, `SELECT name FROM registry_repository ORDER BY name`)
		return err
	}); err != nil {
		return err
	}
	for _, name := range names {
		s := g.Repository(name)
		for more := gated(&s) || s.Profile == config.ProfileDev; more; {
			if err := g.db.Update(ctx, func(tx *store.Tx) (err error) {
				more, err = g.adoptSome(ctx, tx, name, &s)
				return err
			}); err != nil {
				return fmt.Errorf("take over repository %s: %w", name, err)
			}
		}
	}
	return nil
}

const adoptAtOnce = 500

func (g *Gate) adoptSome(ctx context.Context, tx *store.Tx, name string, s *config.RepositorySpec) (more bool, err error) {
	rows, err := tx.Query(ctx, `SELECT m.digest, m.media_type, m.subject, m.pushed_by FROM registry_manifest m
		LEFT JOIN gate_state s ON s.repository = m.repository AND s.digest = m.digest
		WHERE m.repository = ? AND s.digest IS NULL ORDER BY m.digest LIMIT ?`, name, adoptAtOnce)
	if err != nil {
		return false, err
	}
	defer func() { _ = rows.Close() }()
	var list []row
	for rows.Next() {
		r := row{repository: name, state: Staged, reason: "pushed before the repository had a gate", changed: tx.Now()}
		if err := rows.Scan(&r.digest, &r.mediaType, &r.subject, &r.owner); err != nil {
			return false, err
		}
		list = append(list, r)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return false, err
	}
	for i := range list {
		r := &list[i]
		about, err := registry.CarriedBy(ctx, tx, name, r.digest, r.subject)
		if err != nil {
			return false, err
		}
		own, err := registry.HasOwnTag(ctx, tx, name, r.digest)
		if err != nil {
			return false, err
		}
		switch {
		case about != "" && !own:
			r.state, r.basis, r.carrier, r.subject = Active, basisCarrier, true, about
		case s.Profile == config.ProfileDev:
			r.subject, r.state, r.basis, r.expires = "", Active, basisDev, store.Micros(tx.Now().Add(s.ExpireAfter))
		default:
			r.subject = ""
			r.expires, r.due = store.Micros(tx.Now().Add(s.StagedFor)), store.Micros(tx.Now())
		}
		if err := g.keep(ctx, tx, r); err != nil {
			return false, err
		}
	}
	return len(list) == adoptAtOnce, nil
}

// judgeDue judges what is due, some at once.
func (g *Gate) judgeDue(ctx context.Context) error {
	var due []row
	if err := g.db.View(ctx, func(tx *store.Tx) (err error) {
		due, err = selectRows(ctx, tx, `due > 0 AND due <= ? ORDER BY due LIMIT ?`, tx.Now(), dueAtOnce)
		return err
	}); err != nil || len(due) == 0 {
		return err
	}
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	next := make(chan *row)
	for range judges {
		wg.Go(func() {
			for r := range next {
				if err := g.settle(ctx, r, "judged again"); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	for i := range due {
		next <- &due[i]
	}
	close(next)
	wg.Wait()
	if len(due) == dueAtOnce && len(errs) == 0 {
		g.wake()
	}
	if len(errs) > 3 {
		errs = append(errs[:3], fault.Newf(fault.Undecided, "and %d more", len(errs)-3))
	}
	return errors.Join(errs...)
}

// Expire gives up what waited for evidence too long, and what is too old in a
// repository of profile dev.
func (g *Gate) Expire(ctx context.Context) error {
	return g.db.Update(ctx, func(tx *store.Tx) error {
		old, err := selectRows(ctx, tx, `expires > 0 AND expires <= ? AND basis <> ? ORDER BY expires LIMIT 500`, tx.Now(), basisHand)
		if err != nil {
			return err
		}
		for i := range old {
			r := &old[i]
			s := g.Repository(r.repository)
			reason := fmt.Sprintf("it waited for evidence since %s and none came that allows it", r.changed.UTC().Format(time.RFC3339))
			if r.basis == basisDev {
				reason = "it expired by age, since the repository is of profile dev; push it again"
			}
			if r.state == Active && r.basis != basisDev {
				r.expires = 0
				if err := g.keep(ctx, tx, r); err != nil {
					return err
				}
				continue
			}
			tags, err := registry.DropHeld(ctx, tx, r.repository, r.digest)
			if err != nil {
				return err
			}
			if err := g.reject(ctx, tx, r, &s, cause{"system:gate", reason}, tags); err != nil {
				return err
			}
		}
		return nil
	})
}

// heard is what evidence that was taken in by any door leads to: what it is
// about is due, and what was built from the commits that it is about, unless it
// was judged since.
func (g *Gate) heard(ctx context.Context, tx *store.Tx, batch []event.Event) error {
	any := false
	for _, e := range batch {
		if e.Kind != event.AttestationIngested && e.Kind != event.RunnerAccepted || e.Digest == "" {
			continue
		}
		n, err := tx.Exec(ctx, `UPDATE gate_state SET due = ? WHERE digest = ? AND carrier = 0 AND judged <= ?`, tx.Now(), string(e.Digest), e.Time)
		if err != nil {
			return err
		}
		any = any || n > 0
		if e.Kind != event.AttestationIngested {
			continue
		}
		body, _ := e.Body.(json.RawMessage)
		id, err := evidence.Ingested(body)
		if err != nil {
			return err
		}
		if n, err = tx.Exec(ctx, `UPDATE gate_state SET due = ? WHERE carrier = 0 AND judged <= ? AND digest IN (`+evidence.BuiltFrom+`)`, tx.Now(), e.Time, id); err != nil {
			return err
		}
		any = any || n > 0
	}
	if any {
		tx.OnCommit(g.wake)
	}
	return nil
}

// Ingester takes in pushed evidence by next, and then judges what it is about
// in the repository that it was pushed to: a signature that was pushed has its
// effect when the push is answered.
func (g *Gate) Ingester(next registry.Ingester) registry.Ingester { return ingester{g, next} }

type ingester struct {
	g    *Gate
	next registry.Ingester
}

func (i ingester) Referrer(ctx context.Context, subject artifact.Digest, repository string, manifest artifact.Digest, artifactType string) error {
	if err := i.next.Referrer(ctx, subject, repository, manifest, artifactType); err != nil {
		return err
	}
	i.g.await(ctx, repository, subject)
	if err := i.g.Settle(ctx, repository, subject, "evidence arrived"); err != nil {
		i.g.o.Logger.WarnContext(ctx, "evidence arrived, and no decision could be made yet", "repository", repository, "digest", string(subject), "error", err)
	}
	return nil
}
