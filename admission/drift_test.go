package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/inventory"
	"assay/policy"
	"assay/store"
	"assay/store/storetest"
)

// round is a site of which the clock stands still until it is moved.
type round struct {
	*testing.T
	db     *store.DB
	store  *inventory.Store
	rounds *Rounds

	mu      sync.Mutex
	now     time.Time
	answers map[artifact.Digest]*Answer
	seen    map[string]int
}

func (r *round) Judge(_ context.Context, q Question) (*Answer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.answers[q.Reference.Digest]; a != nil {
		return a, nil
	}
	return nil, fault.Newf(fault.Unavailable, "nobody answers")
}

func (r *round) answer(d artifact.Digest, a *Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers[d] = a
}

func (r *round) pass(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

// each runs a test on both databases.
func eachRound(t *testing.T, run func(r *round)) {
	for _, dialect := range []store.Dialect{store.SQLite, store.PostgreSQL} {
		t.Run(string(dialect), func(t *testing.T) {
			r := &round{T: t, now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), answers: map[artifact.Digest]*Answer{}, seen: map[string]int{}}
			db, err := store.Open(t.Context(), storetest.DSN(t, dialect), store.WithClock(func() time.Time {
				r.mu.Lock()
				defer r.mu.Unlock()
				return r.now
			}))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			if err := db.Migrate(t.Context(), event.Migrations, inventory.Migrations, Migrations); err != nil {
				t.Fatal(err)
			}
			r.db = db
			r.store = inventory.New(db, inventory.Options{})
			r.rounds, err = NewRounds(RoundsOptions{DB: db, Inventory: r.store, Judge: r,
				Place:  func(cluster, namespace string) Place { return Place{Cluster: cluster, Namespace: namespace} },
				PartOf: func(context.Context, string, artifact.Digest, artifact.Digest) (bool, error) { return false, nil }})
			if err != nil {
				t.Fatal(err)
			}
			run(r)
		})
	}
}

// runs says all that runs in cluster c1: NAME/INSTANCE to reference and digest.
func (r *round) runs(all map[[2]string][2]string) {
	r.Helper()
	s := inventory.Snapshot{Cluster: "c1", Reporter: "test", Complete: true}
	for at, what := range all {
		s.Workloads = append(s.Workloads, inventory.Workload{Key: inventory.Key{Namespace: "shop", Kind: "Deployment", Name: at[0], Instance: at[1], Container: "app"}, Image: what[0], Digest: artifact.Digest(what[1])})
	}
	if err := r.db.Update(r.Context(), func(tx *store.Tx) error { _, err := r.store.Observe(r.Context(), tx, s); return err }); err != nil {
		r.Fatal(err)
	}
}

// goes goes a round, and wants these events of it: KIND NAME CAUSE.
func (r *round) goes(want ...string) {
	r.Helper()
	if _, err := r.rounds.Round(r.Context()); err != nil {
		r.Fatal(err)
	}
	r.tells(want...)
}

// tells wants these events since it was last called.
func (r *round) tells(want ...string) {
	r.Helper()
	var got []string
	for what, n := range r.told() {
		for range n - r.seen[what] {
			got = append(got, what)
		}
		r.seen[what] = n
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		r.Errorf("events: %s", diff)
	}
}

// told counts what was told.
func (r *round) told() map[string]int {
	r.Helper()
	out := map[string]int{}
	if err := r.db.View(r.Context(), func(tx *store.Tx) error {
		rows, err := tx.Query(r.Context(), `SELECT kind, body FROM event_pending WHERE actor = 'system:admission'`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var kind string
			var body []byte
			if err := rows.Scan(&kind, &body); err != nil {
				return err
			}
			var b struct{ Name, Cause, What string }
			if err := json.Unmarshal(body, &b); err != nil {
				return err
			}
			for _, x := range []string{b.Name, b.Cause, b.What} {
				if x != "" {
					kind += " " + x
				}
			}
			out[kind]++
		}
		return rows.Err()
	}); err != nil {
		r.Fatal(err)
	}
	return out
}

func digestOf(s string) artifact.Digest { return artifact.SHA256Of([]byte(s)) }

// TestDrift: each way in which what runs is not what was admitted is told of, once
// for each workload, and again when it began anew.
func TestDrift(t *testing.T) {
	eachRound(t, func(r *round) {
		good, bad, other := digestOf("good"), digestOf("bad"), digestOf("other")
		pin := "registry.test/shop/web@" + string(good)
		allow := &Answer{Verdict: policy.Allow, Decision: "dec_1"}
		r.answer(good, allow)
		r.answer(bad, &Answer{Verdict: policy.Deny, Decision: "dec_2"})
		web := map[[2]string][2]string{{"web", "1"}: {pin, string(good)}, {"web", "2"}: {pin, string(good)}}
		with := func(more map[[2]string][2]string) map[[2]string][2]string {
			for k, v := range web {
				more[k] = v
			}
			return more
		}
		r.runs(web)
		r.goes()

		// Another digest than the one that was pinned; a Decision that denies; and no
		// Decision at all, which is no news until it lasts.
		unpinned := "registry.test/shop/api:v1"
		drifting := map[[2]string][2]string{{"api", "1"}: {unpinned, string(bad)}, {"swapped", "1"}: {pin, string(other)}, {"silent", "1"}: {"registry.test/shop/x:v1", ""}, {"unasked", "1"}: {"registry.test/shop/y:v1", string(other)}}
		r.runs(with(drifting))
		r.goes("workload.denied api denied", "workload.drifted swapped digest")
		r.goes()
		r.pass(undecidedFor - time.Second)
		r.goes()
		r.pass(2 * time.Second)
		r.goes("workload.undecided silent undecided", "workload.undecided unasked undecided")
		r.pass(undecidedFor)
		r.goes()

		// Another workload begins to run what is denied: it is told of too, though the
		// image is no news; and one that ended and began again.
		drifting[[2]string{"api-two", "1"}] = [2]string{unpinned, string(bad)}
		r.runs(with(drifting))
		r.goes("workload.denied api-two denied")
		drifting[[2]string{"api", "2"}] = [2]string{unpinned, string(bad)}
		r.pass(time.Second)
		r.runs(with(drifting))
		r.goes() // one more instance
		delete(drifting, [2]string{"api", "1"})
		delete(drifting, [2]string{"api", "2"})
		drifting[[2]string{"api", "3"}] = [2]string{unpinned, string(bad)}
		r.pass(time.Second)
		r.runs(with(drifting))
		r.goes("workload.denied api denied")

		// It is revoked: what was admitted before is told of; and what may run again.
		r.answer(good, &Answer{Verdict: policy.Allow, Blocked: "a backdoor"})
		r.goes("workload.denied web revoked")
		r.answer(good, allow)
		r.answer(bad, allow)
		r.goes("workload.allowed api", "workload.allowed api-two", "workload.allowed web")
		r.answer(other, allow)
		r.goes("workload.allowed unasked")
		r.goes()

		// Nothing is kept of what ended.
		r.runs(map[[2]string][2]string{})
		r.goes()
		if err := r.db.View(r.Context(), func(tx *store.Tx) error {
			for _, table := range []string{"admission_running", "admission_told"} {
				var n int
				if err := tx.QueryRow(r.Context(), `SELECT COUNT(*) FROM `+table).Scan(&n); err != nil {
					return err
				}
				if n != 0 {
					return fmt.Errorf("%d rows in %s", n, table)
				}
			}
			return nil
		}); err != nil {
			r.Error(err)
		}
	})
}

// TestGuards: a webhook that is missing, changed or back is told of once, and so is
// a cluster in which a first look finds none.
func TestGuards(t *testing.T) {
	eachRound(t, func(r *round) {
		hook := func(print string) Guard {
			return Guard{Kind: "validatingwebhookconfigurations", Name: "assay", Fingerprint: digestOf(print).Hex()}
		}
		for _, step := range []struct {
			cluster string
			seen    []Guard
			want    []string
		}{
			{"c1", []Guard{hook("a")}, nil},
			{"c1", []Guard{hook("a")}, nil},
			{"c1", []Guard{hook("b")}, []string{"cluster.guard_changed assay changed"}},
			{"c1", nil, []string{"cluster.guard_changed assay missing"}},
			{"c1", nil, nil},
			{"c1", []Guard{hook("b")}, []string{"cluster.guard_changed assay back"}},
			{"c2", nil, []string{"cluster.guard_changed assay missing"}},
			{"c2", nil, nil},
			{"c2", []Guard{hook("a")}, []string{"cluster.guard_changed assay back"}},
		} {
			if err := SeeGuards(r.Context(), r.db, step.cluster, step.seen); err != nil {
				r.Fatal(err)
			}
			r.tells(step.want...)
		}
	})
}

// TestLapses: a cluster that falls silent is told of once, and when it is heard again.
func TestLapses(t *testing.T) {
	eachRound(t, func(r *round) {
		heard := r.now
		for _, step := range []struct {
			silent []string
			want   []string
		}{
			{nil, nil}, {[]string{"c1"}, []string{"cluster.silent"}}, {[]string{"c1"}, nil},
			{[]string{"c2"}, []string{"cluster.silent", "cluster.heard"}}, {nil, []string{"cluster.heard"}}, {nil, nil},
		} {
			silent := map[string]time.Time{}
			for _, name := range step.silent {
				silent[name] = heard
			}
			if err := Lapses(r.Context(), r.db, silent); err != nil {
				r.Fatal(err)
			}
			r.tells(step.want...)
		}
	})
}
