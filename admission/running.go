package admission

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"assay/artifact"
	"assay/event"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/inventory"
	"assay/store"

	"github.com/prometheus/client_golang/prometheus"
)

// State is whether what runs may run.
type State string

// The states.
const (
	Allowed State = "allowed"
	Denied  State = "denied"
	Drifted State = "drifted" // another digest runs than the one that was pinned
	Unknown State = "unknown" // it could not be found out
)

// RoundsOptions of [Rounds]. All are required but Logger and Registerer.
type RoundsOptions struct {
	DB        *store.DB
	Inventory *inventory.Store
	Judge     Judge
	// Place is where a namespace of a cluster is, as admission asks for it.
	Place func(cluster, namespace string) Place
	// PartOf says whether a manifest is a part of an index of a repository.
	PartOf     func(ctx context.Context, repository string, part, whole artifact.Digest) (bool, error)
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Rounds asks again about all that runs, and tells of what may not run any more,
// what never could, what runs in place of something else, and what may run again.
type Rounds struct {
	o      RoundsOptions
	states *prometheus.GaugeVec
}

// NewRounds makes rounds over a database that was migrated with [Migrations].
func NewRounds(o RoundsOptions) (*Rounds, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Rounds{o: o, states: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "assay_running_images", Help: "Images that run, by namespace and digest, and whether they may: as the last round found.",
	}, []string{"state"})}
	for _, s := range []State{Allowed, Denied, Drifted, Unknown} {
		r.states.WithLabelValues(string(s))
	}
	if o.Registerer == nil {
		return r, nil
	}
	return r, o.Registerer.Register(r.states)
}

const (
	roundPage  = 5000
	roundWrite = 256 // images of which one transaction tells
	// roundAtOnce bounds the questions under way: doors go before rounds.
	roundAtOnce = 4
)

// Tally says what a round found.
type Tally struct {
	Images  int // by cluster, namespace, reference and digest
	Changed int
	Events  int
}

// subject is an image that runs, with the workloads that run it, by key without
// instance.
type subject struct {
	key       runningKey
	workloads map[inventory.Key]*runs
}

// runs is a workload of which instances run an image.
type runs struct {
	*inventory.Running
	instances int
	since     time.Time // first instance of those that run
}

// Round asks about everything once. What changed is written with its events, one
// for each workload that is concerned; what it cannot find out keeps its state.
func (r *Rounds) Round(ctx context.Context) (t Tally, err error) {
	all, err := r.running(ctx)
	if err != nil {
		return t, err
	}
	var was map[runningKey]standing
	var have toldOf
	var at time.Time
	if err := r.o.DB.View(ctx, func(tx *store.Tx) (err error) {
		at = tx.Now()
		if was, err = readFound(ctx, tx); err == nil {
			have, err = readTold(ctx, tx)
		}
		return err
	}); err != nil {
		return t, err
	}
	now := make([]found, len(all))
	var g errgroup.Group
	g.SetLimit(roundAtOnce)
	for i := range all {
		g.Go(func() error { now[i] = r.ask(ctx, &all[i]); return ctx.Err() })
	}
	if err := g.Wait(); err != nil {
		return t, err
	}
	t.Images = len(all)
	count := map[State]int{}
	var changed []change
	for i := range all {
		before, known := was[all[i].key]
		if now[i].state == Unknown && known {
			now[i] = before.found // the last word stands
		}
		count[now[i].state]++
		c := change{subject: &all[i], found: now[i], was: before.state}
		c.tellings(have[all[i].key], before, at)
		if !known || before.found != now[i] || len(c.tell)+len(c.drop) > 0 {
			changed = append(changed, c)
		}
		delete(was, all[i].key)
	}
	for s, c := range r.count(count) {
		r.states.WithLabelValues(string(s)).Set(float64(c))
	}
	t.Changed = len(changed) + len(was)
	return t, r.write(ctx, changed, was, &t)
}

func (r *Rounds) count(in map[State]int) map[State]int {
	for _, s := range []State{Allowed, Denied, Drifted, Unknown} {
		in[s] += 0
	}
	return in
}

// running reads what runs.
func (r *Rounds) running(ctx context.Context) ([]subject, error) {
	index := map[runningKey]int{}
	var out []subject
	for after := ""; ; {
		page, next, err := r.o.Inventory.List(ctx, inventory.Filter{After: after, Limit: roundPage})
		if err != nil {
			return nil, err
		}
		for i := range page {
			w := &page[i]
			k := runningKey{w.Cluster, w.Namespace, w.Image, w.Digest}
			n, have := index[k]
			if !have {
				n = len(out)
				index[k] = n
				out = append(out, subject{k, map[inventory.Key]*runs{}})
			}
			key := w.Key
			key.Instance = ""
			x := out[n].workloads[key]
			if x == nil {
				x = &runs{Running: w, since: w.FirstSeen}
				out[n].workloads[key] = x
			}
			x.instances++
			if w.FirstSeen.Before(x.since) {
				x.since = w.FirstSeen
			}
		}
		if after = next; after == "" {
			return out, nil
		}
	}
}

// ask says whether an image may run where it runs.
func (r *Rounds) ask(ctx context.Context, s *subject) found {
	unknown := func(format string, args ...any) found {
		return found{state: Unknown, cause: CauseUndecided, reason: excerpt.Text(fmt.Sprintf(format, args...), 1000)}
	}
	if s.key.digest == "" {
		return unknown("its node does not say which digest runs")
	}
	ref, err := normalize(s.key.image)
	if err != nil {
		return found{state: Denied, cause: CauseUndecided, reason: excerpt.Text(err.Error(), 1000)}
	}
	if pin := ref.Digest; pin != "" && pin != s.key.digest {
		part, err := r.o.PartOf(ctx, ref.Repository, s.key.digest, pin)
		if err != nil {
			return unknown("%v", err)
		}
		if !part {
			return found{state: Drifted, cause: CauseDigest, reason: fmt.Sprintf("%s was pinned, and its node says that %s runs, which is no part of it", pin, s.key.digest)}
		}
	}
	a, err := r.o.Judge.Judge(ctx, Question{Reference: ref.WithDigest(s.key.digest), Place: r.o.Place(s.key.cluster, s.key.namespace), Standing: true})
	switch {
	case err == nil && a.Allowed():
		return found{state: Allowed, decision: a.Decision}
	case err == nil && a.Blocked != "":
		return found{Denied, CauseRevoked, excerpt.Text(a.Blocked, 1000), a.Decision}
	case err == nil && a.Decision == "":
		return found{Denied, CauseUndecided, excerpt.Text(why(a), 1000), ""}
	case err == nil:
		return found{Denied, CauseDenied, excerpt.Text(why(a), 1000), a.Decision}
	}
	switch fault.KindOf(err) {
	case fault.Denied, fault.NotFound, fault.Invalid, fault.Tampered:
		return found{state: Denied, cause: CauseUndecided, reason: excerpt.Text(err.Error(), 1000)}
	}
	return unknown("%v", err)
}

// write keeps what changed, in transactions of a bounded size.
func (r *Rounds) write(ctx context.Context, changed []change, gone map[runningKey]standing, t *Tally) error {
	for part := range slices.Chunk(changed, roundWrite) {
		n := 0
		if err := r.o.DB.Update(ctx, func(tx *store.Tx) error {
			var events []event.Event
			for i := range part {
				c := &part[i]
				events = append(events, c.events()...)
				if err := writeFound(ctx, tx, c.key, c.found); err != nil {
					return err
				}
				if err := writeTold(ctx, tx, c); err != nil {
					return err
				}
			}
			n = len(events)
			return event.AppendAll(ctx, tx, events)
		}); err != nil {
			return err
		}
		t.Events += n
	}
	if len(gone) == 0 {
		return nil
	}
	return r.o.DB.Update(ctx, func(tx *store.Tx) error {
		for k := range gone {
			if err := forget(ctx, tx, k); err != nil {
				return err
			}
		}
		return nil
	})
}
