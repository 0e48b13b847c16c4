package verify

import (
	"strings"
	"testing"
	"time"

	"assay/policy"
	"assay/store"
	"assay/store/storetest"
)

// Recorded gives each set of facts once, with its last decision, by pages; what
// stands is there however old it is.
func TestRecorded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		r := newRig(t, db)
		r.items = Items{r.w.sign(alice, content)}
		first := decideOn(t, r, parse(t, signedByAlice))
		r.advance(time.Hour)
		audit := parse(t, strings.Replace(signedByAlice, "spec:\n", "spec:\n  mode: audit\n", 1))
		r.set(func() { r.items = append(Items{}, r.items[0], r.w.sign("bob@example.org", content)) })
		second := decideOn(t, r, audit)
		all := func(since time.Time, limit int) (out []Recorded) {
			after := ""
			for {
				page, err := r.Recorded(t.Context(), since, after, limit)
				if err != nil {
					t.Fatal(err)
				}
				if len(page) == 0 {
					return out
				}
				out, after = append(out, page...), page[len(page)-1].FactsID
			}
		}
		for _, limit := range []int{1, 100} {
			got := all(time.Unix(0, 0), limit)
			if len(got) != 2 {
				t.Fatalf("%d sets of facts, want 2", len(got))
			}
			for _, one := range got {
				want := first
				if one.FactsID == second.FactsHash {
					want = second
				}
				if one.DecisionID != want.ID || one.Decisions != 1 || one.Facts.Subject.Digest != want.Digest || one.Stands != (want == second) || !one.DecidedAt.Equal(want.DecidedAt) {
					t.Errorf("%+v, want %+v", one, want)
				}
			}
		}
		if got := all(r.now.Add(time.Hour), 100); len(got) != 1 || got[0].DecisionID != second.ID {
			t.Errorf("after all: %+v, want what stands", got)
		}
		f, res, err := r.Preview(t.Context(), target(content), scope, parse(t, signedByAlice))
		if err != nil || res.Verdict != policy.Allow || len(f.Signatures) != 2 {
			t.Errorf("%+v, %v", res, err)
		}
		if d, err := r.Current(t.Context(), second.Digest, scope.ID); err != nil || d.ID != second.ID {
			t.Errorf("a preview was kept: %+v, %v", d, err)
		}
	})
}
