package tier

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/artifact"
	"assay/event"
	"assay/evidence"
	"assay/internal/clock"
	"assay/inventory"
	"assay/sbom"
	"assay/store"
	"assay/store/lane"
	"assay/store/storetest"
	"assay/vuln/exploit"
	"assay/vuln/feed"
	"assay/vuln/finding"
)

type site struct {
	t         *testing.T
	db        *store.DB
	inventory *inventory.Store
	book      *Book
	catalogue *inventory.Catalogue
	places    map[artifact.Digest][]string
}

func open(t *testing.T, db *store.DB, change func(*Rules)) *site {
	t.Helper()
	if err := db.Migrate(t.Context(), event.Migrations, evidence.Migrations, sbom.Migrations, feed.Migrations, exploit.Migrations, finding.Migrations, inventory.Migrations, Migrations); err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, db: db, places: map[artifact.Digest][]string{}}
	s.inventory = inventory.New(db, inventory.Options{Catalogue: func() *inventory.Catalogue { return s.catalogue }, Own: func(host string) bool { return host == "own.example" }})
	rules := Default()
	if change != nil {
		change(&rules)
	}
	var err error
	s.book, err = New(Options{DB: db, Inventory: s.inventory, Rules: rules, Stored: func(_ context.Context, _ *store.Tx, d artifact.Digest) ([]string, []artifact.Digest, error) {
		return s.places[d], nil, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) apply(services map[string]inventory.ServiceSpec) {
	s.t.Helper()
	c, err := inventory.NewCatalogue(inventory.Spec{Teams: map[string]inventory.Team{"blue": {}, "platform": {Platform: true}}, Services: services})
	if err != nil {
		s.t.Fatal(err)
	}
	s.catalogue = c
}

func (s *site) runs(cluster, environment string, all ...inventory.Workload) {
	s.t.Helper()
	if err := s.db.Update(s.t.Context(), func(tx *store.Tx) error {
		_, err := s.inventory.Observe(s.t.Context(), tx, inventory.Snapshot{Cluster: cluster, Environment: environment, Reporter: "r", Complete: true, Workloads: all})
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) of(d artifact.Digest, repository string) (out Standing) {
	s.t.Helper()
	if err := s.db.View(s.t.Context(), func(tx *store.Tx) (err error) {
		out, err = s.book.Of(s.t.Context(), tx, d, repository)
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	return out
}

func digest(n int) artifact.Digest { return artifact.SHA256Of(fmt.Append(nil, "tier", n)) }

func workload(name, image string, d artifact.Digest) inventory.Workload {
	return inventory.Workload{Key: inventory.Key{Kind: "Deployment", Name: name}, Image: image, Digest: d}
}

// TestThreat_Tier_UnclassifiedIsTierOne: what nobody classified waits for its
// match like the most critical: no catalogue, no service, a service without a tier,
// and one of several without.
func TestThreat_Tier_UnclassifiedIsTierOne(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db, nil)
		want := Standing{Tier: 1, Source: FromNobody, Exposure: "internet"}
		if diff := cmp.Diff(want, s.of(digest(1), "team/app")); diff != "" {
			t.Errorf("no catalogue: %s", diff)
		}
		s.apply(map[string]inventory.ServiceSpec{
			"a": {Tier: 3, Team: "blue", Environment: "staging", Exposure: "internal", Repositories: []string{"a/**"}},
			"b": {Repositories: []string{"b/**", "a/shared"}},
		})
		want.Team = "platform"
		if diff := cmp.Diff(want, s.of(digest(1), "team/app")); diff != "" {
			t.Errorf("of no service: %s", diff)
		}
		want = Standing{Tier: 3, Catalogue: 3, Source: FromCatalogue, Services: []string{"a"}, Team: "blue", Owned: true, Exposure: "internal", Environment: "staging"}
		if diff := cmp.Diff(want, s.of(digest(1), "a/app")); diff != "" {
			t.Errorf("classified: %s", diff)
		}
		for _, repository := range []string{"b/app", "a/shared"} {
			if got := s.of(digest(1), repository); got.Tier != 1 || got.Source != FromNobody {
				t.Errorf("%s: %+v", repository, got)
			}
		}
		// In several repositories the most critical counts for the queue.
		s.places[digest(2)] = []string{"a/app", "b/app"}
		if got := s.of(digest(2), ""); got.Tier != 1 {
			t.Errorf("in both: %+v", got)
		}
	})
}

// TestThreat_Tier_LoweredWhileItRunsInProduction: whoever edits the catalogue so
// that a service is less critical does not take what runs in production from behind
// the gate.
func TestThreat_Tier_LoweredWhileItRunsInProduction(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db, nil)
		s.apply(map[string]inventory.ServiceSpec{"shop": {Tier: 4, Environment: "staging", Team: "blue", Repositories: []string{"shop/**"}}})
		s.runs("prod", "production", workload("shop", "own.example/shop/app:v1", digest(1)))
		s.runs("lab", "staging", workload("trial", "own.example/shop/trial:v1", digest(3)))
		for name, at := range map[string]Standing{
			"what runs":                           s.of(digest(1), "shop/app"),
			"what is pushed where it came from":   s.of(digest(2), "shop/app"),
			"what runs, pushed to somewhere else": s.of(digest(1), "shop/other"),
		} {
			if at.Tier != 1 || at.Source != FromWorkloads || !at.Production || at.Catalogue != 4 {
				t.Errorf("%s: %+v", name, at)
			}
		}
		if at := s.of(digest(3), "shop/trial"); at.Tier != 4 || at.Production {
			t.Errorf("what runs in a laboratory alone: %+v", at)
		}
		if at := s.of(digest(2), "shop/other"); at.Tier != 4 {
			t.Errorf("what never ran: %+v", at)
		}
		// A cluster of which nobody said what it is counts as production.
		s.runs("edge", "", workload("other", "own.example/shop/other:v1", digest(4)))
		if at := s.of(digest(2), "shop/other"); at.Tier != 4 {
			t.Errorf("nobody but the catalogue says what the cluster is: %+v", at)
		}
		s.runs("edge", "", workload("ours", "own.example/free/app:v1", digest(5)))
		if at := s.of(digest(6), "free/app"); !at.Production {
			t.Errorf("in a cluster without an environment: %+v", at)
		}
		// The same name at another registry is somebody else.
		s.runs("edge", "production", workload("other", "else.example/shop/other:v1", digest(4)))
		if at := s.of(digest(2), "shop/other"); at.Tier != 4 {
			t.Errorf("another registry's: %+v", at)
		}
		// What ran and does no more.
		s.runs("prod", "production")
		if at := s.of(digest(2), "shop/app"); at.Tier != 4 {
			t.Errorf("ended: %+v", at)
		}
	})
}

func TestRules(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Rules)
		ok     bool
	}{
		"default":             {func(*Rules) {}, true},
		"all wait":            {func(r *Rules) { r.Background = map[int]float64{} }, true},
		"tier 1 background":   {func(r *Rules) { r.Background = map[int]float64{1: 1} }, false},
		"tier 5":              {func(r *Rules) { r.Background = map[int]float64{5: 1} }, false},
		"no budget":           {func(r *Rules) { r.Background = map[int]float64{3: 0} }, false},
		"a wait of an hour":   {func(r *Rules) { r.Wait = time.Hour }, false},
		"nobody may wait":     {func(r *Rules) { r.Waiting = 0 }, false},
		"production is 0":     {func(r *Rules) { r.Production = 0 }, false},
		"no readers":          {func(r *Rules) { r.Readers = 0 }, false},
		"a month unmatched":   {func(r *Rules) { r.Within = 30 * 24 * time.Hour }, false},
		"production is two":   {func(r *Rules) { r.Production = 2 }, true},
		"nothing passes late": {func(r *Rules) { r.Within = 0 }, true},
	} {
		r := Default()
		tt.change(&r)
		if err := r.Validate(); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A tier that has spent its budget rests until time has given it another, and
// what is urgent never rests.
func TestBudget(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	b := &Book{o: Options{Rules: Rules{Background: map[int]float64{3: 0.5, 4: 0.1}}}}
	b.budget = newBudget(b.o.Rules.Background, clock.Clock(func() time.Time { return now }))
	check := func(what string, want ...int) {
		t.Helper()
		if diff := cmp.Diff(want, b.Ready()); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	check("at first", 1, 2, 3, 4)
	b.Spent(4, time.Second)   // its whole burst
	b.Spent(1, time.Hour)     // has no budget
	b.Spent(3, 4*time.Second) // of five
	check("spent", 1, 2, 3)
	b.Spent(3, 3*time.Second)
	check("both spent", 1, 2)
	now = now.Add(2 * time.Second)
	check("a little later", 1, 2, 4)
	now = now.Add(2*time.Second + time.Millisecond)
	check("later", 1, 2, 3, 4)
	now = now.Add(-time.Hour)
	b.Spent(3, time.Millisecond)
	now = now.Add(time.Hour)
	b.Spent(3, 5*time.Second)
	check("a burst is bounded", 1, 2, 4)
	if diff := cmp.Diff([]int{1, 2}, b.Urgent()); diff != "" {
		t.Error(diff)
	}
	if !lane.IsUrgent(b, 2) || lane.IsUrgent(b, 3) {
		t.Error("urgent")
	}
}
