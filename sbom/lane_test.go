package sbom

import (
	"fmt"
	"testing"
	"time"

	"assay/event"
	"assay/store"
	"assay/store/lane"
	"assay/store/storetest"
)

// TestLanes: what is urgent is read first, by a reader of its own, and what others
// wait for is read by the rest.
func TestLanes(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.Migrate(t.Context(), event.Migrations, Migrations); err != nil {
			t.Fatal(err)
		}
		s := NewStore(db, Limits{})
		f := &Follower{Store: s}
		if err := db.Update(t.Context(), func(tx *store.Tx) error {
			for i := range 500 {
				if _, err := tx.Exec(t.Context(), `INSERT INTO sbom_pending (attestation, asked, tries, tier) VALUES (?, ?, 0, 3)`, fmt.Sprintf("att_%03d", i), store.Micros(tx.Now().Add(-time.Hour))+int64(i)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		next := func(turn lane.Turn) string {
			t.Helper()
			id, _, err := f.next(t.Context(), turn)
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		urgent, all := lane.Turn{Tiers: []int{1}}, lane.Turn{Tiers: []int{1, 2, 3, 4}}
		if id := next(urgent); id != "" {
			t.Errorf("the reader of what is urgent took %s", id)
		}
		if id := next(all); id != "att_000" {
			t.Errorf("%q", id)
		}
		if err := db.Update(t.Context(), func(tx *store.Tx) error {
			return s.Hasten(t.Context(), tx, []Waiting{{Attestation: "att_400"}, {Attestation: "att_new"}}, 1)
		}); err != nil {
			t.Fatal(err)
		}
		if a, b := next(urgent), next(all); a != "att_400" || b != "att_new" {
			t.Errorf("%q, %q", a, b)
		}
		if id := next(urgent); id != "" {
			t.Errorf("%q", id)
		}
		if id := next(lane.Turn{Tiers: []int{1, 2}}); id != "" {
			t.Errorf("a tier without a budget: %q", id)
		}
		if id := next(lane.Turn{}); id != "" {
			t.Errorf("no tier at all: %q", id)
		}
	})
}
