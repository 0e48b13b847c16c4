package admission

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"

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

// subject is an image that runs, with the workloads that run it.
type subject struct {
	key       runningKey
	workloads map[inventory.Key]*inventory.Running // without instance
	instances map[inventory.Key]int
}

// Round asks about everything once. What changed is written with its events, one
// for each workload that is concerned; what it cannot find out keeps its state.
func (r *Rounds) Round(ctx context.Context) (t Tally, err error) {
	all, err := r.running(ctx)
	if err != nil {
		return t, err
	}
	var was map[runningKey]found
	if err := r.o.DB.View(ctx, func(tx *store.Tx) (err error) { was, err = readFound(ctx, tx); return err }); err != nil {
		return t, err
	}
	prior := maps.Clone(was)
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
	var changed []int
	for i := range all {
		before, known := was[all[i].key]
		if now[i].state == Unknown && known {
			now[i] = before // the last word stands
		}
		count[now[i].state]++
		if !known || before != now[i] {
			changed = append(changed, i)
		}
		delete(was, all[i].key)
	}
	for s, c := range r.count(count) {
		r.states.WithLabelValues(string(s)).Set(float64(c))
	}
	t.Changed = len(changed) + len(was)
	return t, r.write(ctx, all, now, changed, prior, was, &t)
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
				out = append(out, subject{k, map[inventory.Key]*inventory.Running{}, map[inventory.Key]int{}})
			}
			key := w.Key
			key.Instance = ""
			out[n].workloads[key] = w
			out[n].instances[key]++
		}
		if after = next; after == "" {
			return out, nil
		}
	}
}

// ask says whether an image may run where it runs.
func (r *Rounds) ask(ctx context.Context, s *subject) found {
	unknown := func(format string, args ...any) found {
		return found{state: Unknown, reason: excerpt.Text(fmt.Sprintf(format, args...), 1000)}
	}
	if s.key.digest == "" {
		return unknown("its node does not say which digest runs")
	}
	ref, err := normalize(s.key.image)
	if err != nil {
		return found{state: Denied, reason: excerpt.Text(err.Error(), 1000)}
	}
	if pin := ref.Digest; pin != "" && pin != s.key.digest {
		part, err := r.o.PartOf(ctx, ref.Repository, s.key.digest, pin)
		if err != nil {
			return unknown("%v", err)
		}
		if !part {
			return found{state: Drifted, reason: fmt.Sprintf("%s was pinned, and its node says that %s runs, which is no part of it", pin, s.key.digest)}
		}
	}
	a, err := r.o.Judge.Judge(ctx, Question{Reference: ref.WithDigest(s.key.digest), Place: r.o.Place(s.key.cluster, s.key.namespace), Standing: true})
	switch {
	case err == nil && a.Allowed():
		return found{Allowed, "", a.Decision}
	case err == nil && a.Blocked != "":
		return found{Denied, excerpt.Text(a.Blocked, 1000), a.Decision}
	case err == nil:
		return found{Denied, excerpt.Text(why(a), 1000), a.Decision}
	}
	switch fault.KindOf(err) {
	case fault.Denied, fault.NotFound, fault.Invalid, fault.Tampered:
		return found{state: Denied, reason: excerpt.Text(err.Error(), 1000)}
	}
	return unknown("%v", err)
}

// write keeps what changed, in transactions of a bounded size.
func (r *Rounds) write(ctx context.Context, all []subject, now []found, changed []int, prior, gone map[runningKey]found, t *Tally) error {
	for part := range slices.Chunk(changed, roundWrite) {
		n := 0
		if err := r.o.DB.Update(ctx, func(tx *store.Tx) error {
			var events []event.Event
			for _, i := range part {
				was := prior[all[i].key]
				if was.state != now[i].state {
					events = append(events, tell(&all[i], was.state, now[i])...)
				}
				if err := writeFound(ctx, tx, all[i].key, now[i]); err != nil {
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

// tell gives the events of a change, one for each workload.
func tell(s *subject, was State, now found) (out []event.Event) {
	var kind event.Kind
	switch {
	case now.state == Denied:
		kind = event.WorkloadDenied
	case now.state == Drifted:
		kind = event.WorkloadDrifted
	case now.state == Allowed && was != "" && was != Unknown:
		kind = event.WorkloadAllowed
	default:
		return nil
	}
	for key, w := range s.workloads {
		body := map[string]any{"namespace": key.Namespace, "kind": key.Kind, "name": key.Name, "container": key.Container, "image": s.key.image, "instances": s.instances[key]}
		if now.reason != "" {
			body["reason"] = now.reason
		}
		if now.decision != "" {
			body["decision"] = now.decision
		}
		if was != "" {
			body["was"] = string(was)
		}
		out = append(out, event.Event{Kind: kind, Digest: s.key.digest, Actor: "system:admission", Team: w.Team, Service: w.Service, Env: w.Environment, Cluster: s.key.cluster, Body: body})
	}
	slices.SortFunc(out, func(a, b event.Event) int {
		x, y := a.Body.(map[string]any), b.Body.(map[string]any)
		return cmp.Or(cmp.Compare(x["kind"].(string)+x["name"].(string), y["kind"].(string)+y["name"].(string)), cmp.Compare(x["container"].(string), y["container"].(string)))
	})
	return out
}

// Guard is an object that guards a cluster, as it was seen there; without a
// fingerprint it is not there.
type Guard struct{ Kind, Name, Fingerprint string }

// SeeGuards compares what guards a cluster with what was seen before, and tells of
// what is gone or says something else. The first look tells of nothing but keeps
// what it sees.
func SeeGuards(ctx context.Context, db *store.DB, cluster string, seen []Guard) error {
	return db.Update(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(ctx, `SELECT kind, name, fingerprint FROM admission_guard WHERE cluster = ? ORDER BY kind, name`, cluster)
		if err != nil {
			return err
		}
		var before []Guard
		for rows.Next() {
			var g Guard
			if err := rows.Scan(&g.Kind, &g.Name, &g.Fingerprint); err != nil {
				return err
			}
			before = append(before, g)
		}
		if err := rows.Close(); err != nil {
			return err
		}
		change := func(g Guard, from string) error {
			if _, err := tx.Exec(ctx, `INSERT INTO admission_guard (cluster, kind, name, fingerprint, since) VALUES (?, ?, ?, ?, ?)
				ON CONFLICT (cluster, kind, name) DO UPDATE SET fingerprint = excluded.fingerprint, since = excluded.since`,
				cluster, g.Kind, g.Name, g.Fingerprint, store.Micros(tx.Now())); err != nil || from == g.Fingerprint {
				return err
			}
			what := "changed"
			switch {
			case g.Fingerprint == "":
				what = "missing"
			case from == "":
				what = "back"
			}
			return event.Append(ctx, tx, event.Event{Kind: event.ClusterGuardChanged, Actor: "system:admission", Cluster: cluster, Body: map[string]string{"kind": g.Kind, "name": g.Name, "what": what}})
		}
		for _, b := range before {
			i := slices.IndexFunc(seen, func(g Guard) bool { return g.Kind == b.Kind && g.Name == b.Name })
			now := Guard{Kind: b.Kind, Name: b.Name}
			if i >= 0 {
				now = seen[i]
			}
			if now.Fingerprint == b.Fingerprint {
				continue
			}
			if err := change(now, b.Fingerprint); err != nil {
				return err
			}
		}
		for _, g := range seen {
			if !slices.ContainsFunc(before, func(b Guard) bool { return b.Kind == g.Kind && b.Name == g.Name }) {
				if err := change(g, g.Fingerprint); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
