package admission

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/artifact"
	"assay/store"
	"assay/store/storetest"
)

func TestSpots(t *testing.T) {
	var s Spots
	s.AddScope("admission/c1/shop/prod@shop/web")
	s.AddScope("admission/c1/batch@jobs/x")
	s.AddScope("admission/c2/shop@shop/api")
	for _, bad := range []string{"", "default", "admission/c1", "admission/c1/x", "admission//x@y", "gate/c1/x@y"} {
		s.AddScope(bad)
	}
	s.Add(Spot{"c3", "empty"}, "")
	for repository, want := range map[string][]Spot{
		"shop/web": {{"c1", "shop"}},
		"shop/new": {{"c1", "shop"}, {"c2", "shop"}, {"c1", "batch"}, {"c3", "empty"}},
	} {
		if d := cmp.Diff(want, s.For(repository)); d != "" {
			t.Errorf("%s: -want +got:\n%s", repository, d)
		}
	}
	for i := range 100 {
		s.Add(Spot{"c0", fmt.Sprintf("n%d", i)}, "x/y")
	}
	for repository, want := range map[string]int{"shop/web": 1, "shop/new": maxAheadGuesses, "x/y": MaxAheadPlaces} {
		if got := s.For(repository); len(got) != want || got[0] != (Spot{"c1", "shop"}) && repository != "x/y" {
			t.Errorf("%s: %+v, want %d places", repository, got, want)
		}
	}
}

// TestAnnounced: what was announced waits for what follows it, and not for ever.
func TestAnnounced(t *testing.T) {
	now := time.Now()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.Migrate(t.Context(), AheadMigrations); err != nil {
			t.Fatal(err)
		}
		c := Coming{artifact.SHA256Of([]byte("x")), "shop/web"}
		step := func(after time.Duration, announce bool, want int) {
			t.Helper()
			now = now.Add(after)
			if err := db.Update(t.Context(), func(tx *store.Tx) error {
				if announce {
					if err := Announce(t.Context(), tx, []Coming{c}); err != nil {
						return err
					}
				}
				list, err := Announced(t.Context(), tx, 10)
				if err == nil && len(list) != want {
					t.Errorf("%d are due, want %d", len(list), want)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		step(0, true, 0)
		for range 5 {
			step(900*time.Millisecond, true, 0)
		}
		step(600*time.Millisecond, true, 1) // the push is 5.1 s old
		if err := db.Update(t.Context(), func(tx *store.Tx) error { return Arrived(context.Background(), tx, []Coming{c}) }); err != nil {
			t.Fatal(err)
		}
		step(time.Minute, false, 0)
	}, store.WithClock(func() time.Time { return now }))
}
