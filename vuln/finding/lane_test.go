package finding

import (
	"context"
	"fmt"
	"testing"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/sbom"
	"assay/store"
	"assay/store/lane"
	"assay/store/storetest"
	"assay/vuln/exploit"
	"assay/vuln/feed"

	"github.com/google/go-cmp/cmp"
)

type lanes struct{ ready []int }

func (lanes) Tier(context.Context, *store.Tx, artifact.Digest) (int, error) { return 3, nil }
func (lanes) Urgent() []int                                                 { return []int{1} }
func (l lanes) Ready() []int                                                { return l.ready }
func (lanes) Spent(int, time.Duration)                                      {}

// TestThreat_Tier_FloodOfOthers: a thousand pushes of a tier that nobody waits for
// do not keep one of tier 1 waiting, nor does a flood of tier 1 keep the others from
// ever being matched; a tier that has spent its budget waits.
func TestThreat_Tier_FloodOfOthers(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.Migrate(t.Context(), event.Migrations, sbom.Migrations, feed.Migrations, exploit.Migrations, Migrations); err != nil {
			t.Fatal(err)
		}
		f := &Follower{Matcher: New(db, nil, nil)}
		ask := func(from, to, tier int, ago time.Duration) {
			if err := db.Update(t.Context(), func(tx *store.Tx) error {
				for i := from; i < to; i++ {
					if _, err := tx.Exec(t.Context(), `INSERT INTO finding_pending (kind, id, asked, tries, tier) VALUES (?, ?, ?, 0, ?)`, aDocument, fmt.Sprint(i), store.Micros(tx.Now().Add(-ago))+int64(i), tier); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		turn := 0
		take := func(l lane.Lanes) (w work) {
			t.Helper()
			w, err := f.take(t.Context(), lane.Next(l, turn, false))
			if err != nil {
				t.Fatal(err)
			}
			turn++
			return w
		}
		all := lanes{[]int{1, 2, 3, 4}}
		ask(0, 1000, 3, time.Hour)
		if w := take(all); w.tier != 3 {
			t.Fatalf("%+v", w)
		}
		ask(5000, 5001, 1, time.Minute)
		if w := take(all); w.tier != 1 || w.id != "5000" {
			t.Errorf("tier 1 came after a flood, and was not taken at once: %+v", w)
		}
		// Now a flood of tier 1: every eighth turn goes by age.
		ask(6000, 6100, 1, time.Minute)
		count := map[int]int{}
		for range 16 {
			count[take(all).tier]++
		}
		if diff := cmp.Diff(map[int]int{1: 14, 3: 2}, count); diff != "" {
			t.Error(diff)
		}
		// Without a budget nothing of tier 3 is taken, also by age.
		for range 16 {
			if w := take(lanes{[]int{1, 2}}); w.tier != 1 {
				t.Errorf("%+v", w)
			}
		}
		// What becomes urgent while it waits is taken first.
		if err := db.Update(t.Context(), func(tx *store.Tx) error { return Hasten(t.Context(), tx, []int64{900}, 1) }); err != nil {
			t.Fatal(err)
		}
		turn = 0
		if w := take(all); w.id != "900" {
			t.Errorf("what was hastened: %+v", w)
		}
	})
}
