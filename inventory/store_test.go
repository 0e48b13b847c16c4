package inventory

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/store"
	"assay/store/storetest"

	"github.com/google/go-cmp/cmp"
)

func digest(n int) artifact.Digest {
	return artifact.Digest(fmt.Sprintf("sha256:%064x", n))
}

func catalogue(t testing.TB, parts ...Spec) *Catalogue {
	t.Helper()
	c, err := NewCatalogue(parts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var shop = Spec{
	Teams:    map[string]Team{"payments": {Contacts: []string{"#payments"}}, "platform": {Platform: true}},
	Clusters: map[string]Cluster{"lab": {Environment: "staging"}},
	Services: map[string]ServiceSpec{
		"checkout": {Tier: 1, Team: "payments", Environment: "production", Exposure: ExposedInternet, Repositories: []string{"shop/checkout/**"}, Workloads: []Selector{{Namespace: "shop", Name: "checkout*"}}},
		"reports":  {Tier: 4, Team: "payments", Exposure: ExposedIsolated, Repositories: []string{"shop/reports", "ghcr.io/vendor/reports"}, Workloads: []Selector{{Cluster: "prod-*", Name: "reports"}}},
		"batch":    {Repositories: []string{"shop/**"}},
	},
}

func pod(name, instance string, d artifact.Digest) Workload {
	return Workload{Key: Key{"shop", "Deployment", name, instance, "main"}, Image: "registry.example/shop/" + name + ":v1", Digest: d, Node: "n1"}
}

func observe(t *testing.T, db *store.DB, s *Store, snap Snapshot) (done Changed) {
	t.Helper()
	if err := db.Update(t.Context(), func(tx *store.Tx) (err error) {
		done, err = s.Observe(t.Context(), tx, snap)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return done
}

func told(t *testing.T, db *store.DB) (out []string) {
	t.Helper()
	if err := db.View(t.Context(), func(tx *store.Tx) error {
		rows, err := tx.Query(t.Context(), `SELECT kind, digest, cluster, service, env FROM event_pending ORDER BY time, ord`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var kind, digest, cluster, service, env string
			if err := rows.Scan(&kind, &digest, &cluster, &service, &env); err != nil {
				return err
			}
			out = append(out, fmt.Sprintf("%s %s %s %s %s", kind, digest[len(digest)-2:], cluster, service, env))
		}
		return rows.Err()
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestWhatRuns(t *testing.T) {
	begin := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	now := begin
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		now = begin
		whatRuns(t, db, &now)
	}, store.WithClock(func() time.Time { return now }))
}

func whatRuns(t *testing.T, db *store.DB, now *time.Time) {
	if err := db.Migrate(t.Context(), event.Migrations, Migrations); err != nil {
		t.Fatal(err)
	}
	book := catalogue(t, shop)
	s := New(db, Options{Catalogue: func() *Catalogue { return book }, Own: func(h string) bool { return h == "registry.example" }})
	one, two := pod("checkout", "a", digest(1)), pod("checkout", "b", digest(1))
	rep := pod("reports", "x", digest(2))
	first := *now
	if got := observe(t, db, s, Snapshot{Cluster: "prod-eu", Reporter: "agent", Complete: true, Workloads: []Workload{one, two, rep}}); got != (Changed{Started: 3}) {
		t.Fatalf("first: %+v", got)
	}
	*now = now.Add(time.Hour)
	if got := observe(t, db, s, Snapshot{Cluster: "prod-eu", Reporter: "agent", Complete: true, Workloads: []Workload{one, two, rep}}); got != (Changed{Kept: 3}) {
		t.Fatalf("again: %+v", got)
	}
	ran := func(namespace string, d artifact.Digest, ago time.Duration) bool {
		t.Helper()
		ran, err := s.RanSince(t.Context(), "prod-eu", namespace, d, now.Add(-ago))
		if err != nil {
			t.Fatal(err)
		}
		return ran
	}
	if !ran("shop", digest(1), 0) || !ran("", digest(1), 0) || ran("", digest(3), time.Hour) || ran("bank", digest(1), time.Hour) || ran("shop", digest(3), time.Hour) {
		t.Error("what runs where")
	}
	// One instance is updated, by a snapshot of it alone; then the other one is,
	// and the reports end.
	*now = now.Add(time.Hour)
	one.Digest = digest(3)
	if got := observe(t, db, s, Snapshot{Cluster: "prod-eu", Reporter: "agent", Workloads: []Workload{one}}); got != (Changed{Started: 1, Stopped: 1}) {
		t.Fatalf("update: %+v", got)
	}
	*now = now.Add(time.Hour)
	two.Digest = digest(3)
	if got := observe(t, db, s, Snapshot{Cluster: "prod-eu", Reporter: "agent", Workloads: []Workload{two}, Ended: []Key{rep.Key, {Kind: "Pod", Name: "never-heard-of"}}}); got != (Changed{Started: 1, Stopped: 2}) {
		t.Fatalf("second update: %+v", got)
	}
	if diff := cmp.Diff([]string{
		"workload.started 01 prod-eu checkout production", "workload.started 02 prod-eu reports ",
		"workload.started 03 prod-eu checkout production",
		"workload.stopped 01 prod-eu checkout production", "workload.stopped 02 prod-eu reports ",
	}, told(t, db)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	for _, q := range []struct {
		name string
		f    Filter
		want []string
	}{
		{"now", Filter{}, []string{"checkout/a 03", "checkout/b 03"}},
		{"then", Filter{At: first.Add(time.Minute)}, []string{"checkout/a 01", "checkout/b 01", "reports/x 02"}},
		{"between", Filter{At: first.Add(2*time.Hour + time.Minute)}, []string{"checkout/a 03", "checkout/b 01", "reports/x 02"}},
		{"before", Filter{At: first.Add(-time.Second)}, nil},
		{"digest then", Filter{At: first, Digest: digest(2)}, []string{"reports/x 02"}},
		{"service", Filter{At: first, Service: "reports"}, []string{"reports/x 02"}},
		{"cluster", Filter{Cluster: "other"}, nil},
	} {
		var got []string
		f := q.f
		f.Limit = 1
		for {
			page, next, err := s.List(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range page {
				got = append(got, fmt.Sprintf("%s/%s %s", r.Name, r.Instance, string(r.Digest)[len(r.Digest)-2:]))
			}
			if next == "" {
				break
			}
			f.After = next
		}
		if diff := cmp.Diff(q.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", q.name, diff)
		}
	}
	*now = now.Add(time.Hour) // nothing was heard for long
	if err := db.View(t.Context(), func(tx *store.Tx) error {
		p, err := s.Runs(t.Context(), tx, digest(3))
		if err != nil {
			return err
		}
		if diff := cmp.Diff(&Presence{Instances: 2, Production: true, Silent: true, Services: []string{"checkout"}, Clusters: []string{"prod-eu"}, Since: first.Add(2 * time.Hour)}, p); diff != "" {
			t.Errorf("presence (-want +got):\n%s", diff)
		}
		if p, err := s.Runs(t.Context(), tx, digest(1)); err != nil || p != nil {
			t.Errorf("what ended still runs: %+v, %v", p, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestReassign(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.Migrate(t.Context(), event.Migrations, Migrations); err != nil {
			t.Fatal(err)
		}
		var book *Catalogue
		s := New(db, Options{Catalogue: func() *Catalogue { return book }, Own: func(string) bool { return true }})
		observe(t, db, s, Snapshot{Cluster: "lab", Environment: "dev", Reporter: "agent", Workloads: []Workload{pod("checkout", "a", digest(1)), pod("other", "a", digest(2))}})
		if all, _, err := s.List(t.Context(), Filter{Unowned: true}); err != nil || len(all) != 2 || all[0].Environment != "dev" {
			t.Fatalf("without a catalogue: %+v, %v", all, err)
		}
		book = catalogue(t, shop)
		changed := 0
		if err := db.Update(t.Context(), func(tx *store.Tx) (err error) { changed, err = s.Reassign(t.Context(), tx); return err }); err != nil || changed != 2 {
			t.Fatalf("%d, %v", changed, err)
		}
		all, _, err := s.List(t.Context(), Filter{})
		if err != nil || len(all) != 2 || all[0].Service != "checkout" || all[0].Team != "payments" || all[1].Service != "batch" || all[1].Environment != "staging" {
			t.Fatalf("%+v, %v", all, err)
		}
	})
}

func TestSnapshotsThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		snap Snapshot
		want string
	}{
		{Snapshot{Cluster: "Prod EU"}, "lower-case"},
		{Snapshot{Cluster: "a", Workloads: []Workload{{Key: Key{Kind: "Pod"}}}}, "want a kind and a name"},
		{Snapshot{Cluster: "a", Workloads: []Workload{{Key: Key{Kind: "Pod", Name: "x"}, Digest: "latest"}}}, "digest"},
		{Snapshot{Cluster: "a", Workloads: []Workload{{Key: Key{Kind: "Pod", Name: "x\n"}}}}, "control"},
		{Snapshot{Cluster: "a", Workloads: []Workload{pod("x", "", digest(1)), pod("x", "", digest(2))}}, "twice"},
		{Snapshot{Cluster: "a", Workloads: []Workload{pod("x", "", digest(1))}, Ended: []Key{pod("x", "", digest(2)).Key}}, "those that ended"},
		{Snapshot{Cluster: "a", Ended: make([]Key, MaxSnapshot+1)}, "at most"},
	} {
		if err := c.snap.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
}

func names(all []*Service) (out []string) {
	for _, s := range all {
		out = append(out, s.Name)
	}
	return out
}

func TestOfArtifact(t *testing.T) {
	c := catalogue(t, shop)
	for _, q := range []struct {
		place Place
		want  []string
	}{
		{Place{"", "shop/checkout/web"}, []string{"batch", "checkout"}}, // batch is not classified, so that it is of tier 1
		{Place{"", "shop/reports"}, []string{"batch", "reports"}},
		{Place{"ghcr.io", "vendor/reports"}, []string{"reports"}},
		{Place{"evil.example", "shop/reports"}, nil}, // the same name elsewhere is somebody else
		{Place{"", "other"}, nil},
		{Place{}, nil},
	} {
		if diff := cmp.Diff(q.want, names(c.OfArtifact(digest(9), q.place))); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", q.place, diff)
		}
	}
}

// TestThreat_Inventory_UnknownIsWorst: what nobody said of a service, a cluster
// and an environment counts as the worst.
func TestThreat_Inventory_UnknownIsWorst(t *testing.T) {
	s := Service{}
	if s.Criticality() != MostCritical || s.Classified() || s.Reach() != ExposedInternet {
		t.Errorf("a service of which nothing is said: tier %d, exposure %s", s.Criticality(), s.Reach())
	}
	for _, e := range []string{"", "production", "prod-eu", "Dev", "devious"} {
		if !Production(e) {
			t.Errorf("environment %q counts as none of production", e)
		}
	}
	if Production("dev") {
		t.Error("dev counts as production")
	}
}

func TestCataloguesThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		parts []Spec
		want  string
	}{
		{[]Spec{{}}, "says nothing"},
		{[]Spec{{Services: map[string]ServiceSpec{"a": {Tier: 5}}}}, "tier 5"},
		{[]Spec{{Services: map[string]ServiceSpec{"A b": {}}}}, "lower-case"},
		{[]Spec{{Services: map[string]ServiceSpec{"a": {Exposure: "public"}}}}, "exposure"},
		{[]Spec{{Services: map[string]ServiceSpec{"a": {Team: "none"}}}}, "stands under no teams"},
		{[]Spec{{Services: map[string]ServiceSpec{"a": {Repositories: []string{"a[b"}}}}}, "no meaning"},
		{[]Spec{{Services: map[string]ServiceSpec{"a": {Workloads: []Selector{{}}}}}}, "at least one"},
		{[]Spec{shop, {Services: map[string]ServiceSpec{"checkout": {}}}}, "two documents"},
		{[]Spec{{Teams: map[string]Team{"a": {Platform: true}, "b": {Platform: true}}}}, "both the platform's"},
	} {
		if _, err := NewCatalogue(c.parts...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
}

// TestTenThousand holds the size that the inventory is made for: the bounds are
// wide, since machines differ, and would be missed by a scan of everything.
func TestTenThousand(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.Migrate(t.Context(), event.Migrations, Migrations); err != nil {
			t.Fatal(err)
		}
		book := catalogue(t, shop)
		s := New(db, Options{Catalogue: func() *Catalogue { return book }, Own: func(string) bool { return true }})
		snap := Snapshot{Cluster: "prod-eu", Reporter: "agent", Complete: true}
		for i := range 10_000 {
			snap.Workloads = append(snap.Workloads, pod(fmt.Sprintf("app-%d", i/5), fmt.Sprint(i), digest(i/10)))
		}
		took := func(what string, most time.Duration, fn func() error) {
			t.Helper()
			at := time.Now()
			if err := fn(); err != nil {
				t.Fatal(err)
			}
			d := time.Since(at)
			t.Logf("%s: %s", what, d)
			if d > most {
				t.Errorf("%s took %s, want at most %s", what, d, most)
			}
		}
		in := func(fn func(ctx context.Context, tx *store.Tx) error) func() error {
			return func() error { return db.Update(t.Context(), func(tx *store.Tx) error { return fn(t.Context(), tx) }) }
		}
		full := in(func(ctx context.Context, tx *store.Tx) error { _, err := s.Observe(ctx, tx, snap); return err })
		took("first snapshot", 20*time.Second, full)
		took("the same again", 5*time.Second, full)
		took("one instance", time.Second, in(func(ctx context.Context, tx *store.Tx) error {
			w := snap.Workloads[4711]
			w.Digest = digest(77777)
			_, err := s.Observe(ctx, tx, Snapshot{Cluster: "prod-eu", Reporter: "agent", Workloads: []Workload{w}})
			return err
		}))
		took("where a digest runs", time.Second, func() error {
			all, _, err := s.List(t.Context(), Filter{Digest: digest(500)})
			if err == nil && len(all) != 10 {
				err = fmt.Errorf("%d rows", len(all))
			}
			return err
		})
		took("what runs, by digest", 5*time.Second, in(func(ctx context.Context, tx *store.Tx) error {
			all, err := s.Presences(ctx, tx)
			if err == nil && len(all) != 1001 {
				err = fmt.Errorf("%d digests", len(all))
			}
			return err
		}))
	})
}

func FuzzSelectors(f *testing.F) {
	f.Add("shop", "checkout*", "shop/**", "shop/checkout")
	f.Fuzz(func(t *testing.T, namespace, name, pattern, repository string) {
		c, err := NewCatalogue(Spec{Services: map[string]ServiceSpec{"a": {Repositories: []string{pattern}, Workloads: []Selector{{Namespace: namespace, Name: name}}}}})
		if err != nil {
			return
		}
		all := c.OfArtifact("", Place{"", repository})
		if slices.Contains(names(all), "a") && repository == "" {
			t.Error("an artifact that lies nowhere belongs to a service")
		}
	})
}
