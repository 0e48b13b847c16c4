package event_test

import (
	"errors"
	"testing"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
)

// Every event of batches of every size up to a bound is proved, and of none is
// anything else.
func TestExport(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		l := open(t, db)
		ctx := t.Context()
		if _, _, err := l.Span(ctx, time.Time{}, time.Time{}); !errors.Is(err, fault.NotFound) {
			t.Errorf("span of nothing: %v", err)
		}
		var total int64
		for n := 1; n <= 9; n++ {
			add(t, db, pulls(n)...)
			total += int64(n)
			await(t, l, total)
		}
		first, last, err := l.Span(ctx, time.Time{}, time.Time{})
		if err != nil || first != 1 {
			t.Fatalf("span %d to %d, %v", first, last, err)
		}
		seen := int64(0)
		for after := first - 1; after < last; {
			page, err := l.Export(ctx, event.Filter{}, after, last, 4, 7)
			if err != nil || len(page) == 0 {
				t.Fatalf("page of %d after %d: %v", len(page), after, err)
			}
			for _, s := range page {
				after = s.Head.Batch
				if s.LogIndex != -1 || int64(len(s.Events)) != s.Head.Count {
					t.Fatalf("batch %d: %d events of %d, index %d", s.Head.Batch, len(s.Events), s.Head.Count, s.LogIndex)
				}
				for i, p := range s.Events {
					seen++
					if p.Event.Seq != seen {
						t.Fatalf("event %d, want %d", p.Event.Seq, seen)
					}
					if err := p.Verify(s.Head); err != nil {
						t.Fatal(err)
					}
					bent := p
					bent.Index++
					if bent.Verify(s.Head) == nil {
						t.Errorf("event %d proves to stand elsewhere", p.Event.Seq)
					}
					bent = p
					bent.Proof = append(append([]event.Hash(nil), p.Proof...), event.Hash{})
					if bent.Verify(s.Head) == nil {
						t.Errorf("event %d: a longer proof holds", p.Event.Seq)
					}
					bent = s.Events[(i+1)%len(s.Events)]
					bent.Proof = p.Proof
					if len(s.Events) > 1 && bent.Verify(s.Head) == nil && i%2 == 0 && len(p.Proof) > 0 {
						t.Errorf("event %d holds by another's proof", bent.Event.Seq)
					}
				}
			}
		}
		if seen != total {
			t.Errorf("%d events, want %d", seen, total)
		}
		page, err := l.Export(ctx, event.Filter{Digest: artifact.SHA256Of([]byte("nothing"))}, 0, last, 1000, 1000)
		if err != nil || len(page) == 0 || len(page[0].Events) != 0 {
			t.Errorf("a filter that chooses nothing: %d, %v", len(page), err)
		}
	})
}

func TestQueryByRepositoryAndName(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		l := open(t, db)
		body := func(r string) map[string]string { return map[string]string{"repository": r, "tag": "v1"} }
		add(t, db,
			event.Event{Kind: event.ArtifactPulled, Actor: "https://i#ann", Body: body("team/a_b")},
			event.Event{Kind: event.ArtifactPulled, Actor: "https://i#joann", Body: body("team/axb")},
			event.Event{Kind: event.ArtifactPulled, Actor: "https://j#ann", Body: body("team/a_b/c")},
			event.Event{Kind: event.BreakGlass, Actor: "uid:0", Body: map[string]string{"reason": `"repository":"team/a_b"`}},
			event.Event{Kind: event.DecisionMade, Actor: "system:x", Body: body("other")},
		)
		await(t, l, 5)
		for _, c := range []struct {
			name string
			f    event.Filter
			want int
		}{
			{"repository, exactly", event.Filter{Repository: "team/a_b"}, 1},
			{"name, of any issuer", event.Filter{Name: "ann"}, 2},
			{"actor", event.Filter{Actor: "https://i#ann"}, 1},
			{"the trail", event.Filter{Classes: []event.Class{event.Audit, event.Alert}}, 4},
			{"a percent sign", event.Filter{Repository: "%"}, 0},
		} {
			got, err := l.Query(t.Context(), c.f)
			if err != nil || len(got) != c.want {
				t.Errorf("%s: %d events, want %d (%v)", c.name, len(got), c.want, err)
			}
		}
	})
}
