package inventory

import (
	"testing"

	"assay/artifact"
	"assay/event"
	"assay/store"
	"assay/store/storetest"
)

// TestSpread: workloads are counted, not their Pods and containers; of a place
// only where it is, of everywhere all; what ended counts no more.
func TestSpread(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.Migrate(t.Context(), event.Migrations, Migrations); err != nil {
			t.Fatal(err)
		}
		s := New(db, Options{Catalogue: func() *Catalogue { return &Catalogue{} }, Own: func(string) bool { return true }})
		a, b := artifact.SHA256Of([]byte("a")), artifact.SHA256Of([]byte("b"))
		work := func(namespace, name, instance, container string, d artifact.Digest) Workload {
			return Workload{Key: Key{Namespace: namespace, Kind: "Deployment", Name: name, Instance: instance, Container: container}, Digest: d, Image: "x"}
		}
		observe := func(cluster string, all ...Workload) {
			t.Helper()
			if err := db.Update(t.Context(), func(tx *store.Tx) error {
				_, err := s.Observe(t.Context(), tx, Snapshot{Cluster: cluster, Reporter: "test", Complete: true, Workloads: all})
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		count := func(spots ...Spot) (touched, running int) {
			t.Helper()
			set := map[Spot]bool{}
			for _, x := range spots {
				set[x] = true
			}
			if err := db.View(t.Context(), func(tx *store.Tx) (err error) {
				touched, running, err = s.Spread(t.Context(), tx, set)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			return touched, running
		}
		if n, of := count(Spot{Digest: a}); n != 0 || of != 0 {
			t.Errorf("nothing runs: %d of %d", n, of)
		}
		observe("c1", work("shop", "web", "p1", "app", a), work("shop", "web", "p1", "side", b), work("shop", "web", "p2", "app", a), work("shop", "db", "p1", "app", b), work("bank", "web", "p1", "app", a))
		observe("c2", work("shop", "web", "p1", "app", a))
		for _, c := range []struct {
			name  string
			spots []Spot
			want  int
		}{
			{"everywhere", []Spot{{Digest: a}}, 3},
			{"the side car too", []Spot{{Digest: b}}, 2},
			{"both, each workload once", []Spot{{Digest: a}, {Digest: b}}, 4},
			{"one place", []Spot{{"c1", "shop", a}}, 1},
			{"a place and everywhere", []Spot{{"c1", "shop", a}, {Digest: b}}, 2},
			{"another place", []Spot{{"c3", "shop", a}}, 0},
			{"none", nil, 0},
		} {
			if n, of := count(c.spots...); n != c.want || of != 4 {
				t.Errorf("%s: %d of %d, want %d of 4", c.name, n, of, c.want)
			}
		}
		observe("c2")
		if n, of := count(Spot{Digest: a}); n != 2 || of != 3 {
			t.Errorf("after it ended: %d of %d", n, of)
		}
	})
}
