package slo

import (
	"fmt"
	"testing"
	"time"

	"assay/store"
)

// A release that is gone makes room for one that came, and what was counted of it
// stays among the others; those that are counted now keep their place.
func TestSeriesMakeRoom(t *testing.T) {
	for _, dialect := range []store.Dialect{store.SQLite, store.PostgreSQL} {
		t.Run(string(dialect), func(t *testing.T) {
			now := time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)
			s := newStore(t, dialect, &now)
			one := func(release string, good int64) Sample {
				return Sample{Indicator: SBOMAvailability, At: now, Place: Place{Release: release}, Good: good}
			}
			s.must(t, []Sample{one("old", 7)})
			now = now.Add(48 * time.Hour)
			var x []Sample
			for i := range MaxValues - 1 {
				x = append(x, one(fmt.Sprintf("r%d", i), 1))
			}
			s.must(t, x)
			s.must(t, []Sample{one("new", 1)})
			s.must(t, []Sample{one("beyond", 1)})
			got, err := s.Indicators(t.Context(), Query{IDs: []ID{SBOMAvailability}, Window: 72 * time.Hour, By: ByRelease, Limit: 10_000})
			if err != nil {
				t.Fatal(err)
			}
			by := map[string]float64{}
			for _, p := range got[0].By {
				by[p.Value] = p.Denominator
			}
			if len(by) != MaxValues+1 || by["new"] != 1 || by["old"] != 0 || by["r7"] != 1 || by["beyond"] != 0 || by[Other] != 4 { // 8 in two looks
				t.Errorf("%d parts: new %v, old %v, r7 %v, beyond %v, others %v; want 501: 1, 0, 1, 0, 4", len(by), by["new"], by["old"], by["r7"], by["beyond"], by[Other])
			}
		})
	}
}

// Many values of one look that are counted together are one look: a level is
// averaged over looks.
func TestOthersOfOneLookAreOneLook(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)
	s := newStore(t, store.SQLite, &now)
	for range 2 {
		var x []Sample
		for i := range MaxValues + 100 {
			x = append(x, Sample{Indicator: VulnerableDependencies, At: now, Place: Place{Release: fmt.Sprintf("r%d", i)}, Bad: 1, Sum: 3})
		}
		s.must(t, x)
		now = now.Add(5 * time.Minute)
	}
	var n int64
	if err := s.o.DB.View(t.Context(), func(tx *store.Tx) error {
		return tx.QueryRow(t.Context(), `SELECT MAX(n) FROM slo_rollup WHERE step = 60`).Scan(&n)
	}); err != nil || n != 1 {
		t.Errorf("a minute of one look counts %d looks, %v", n, err)
	}
}
