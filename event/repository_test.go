package event_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"assay/event"
	"assay/store"
	"assay/store/storetest"
)

// TestQueryByRepositoryOverOldRows: what a version before the index sealed is
// found as well, in one order with the rest, and gets into the index by and by.
func TestQueryByRepositoryOverOldRows(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		stop := seal(t, db)
		l := event.NewLog(db, event.LogOptions{})
		for i := range 9 {
			kind := event.ArtifactPulled
			if i%3 == 2 {
				kind = event.ArtifactPushed
			}
			add(t, db, event.Event{Kind: kind, Actor: "ann", Body: map[string]any{"repository": []string{"team/app", "team/lib"}[i%2], "tag": fmt.Sprint(i)}})
		}
		// Texts that no column may hold, and one that only looks like it.
		add(t, db,
			event.Event{Kind: event.ArtifactDenied, Actor: "eve", Body: map[string]any{"repository": "nul\x00"}},
			event.Event{Kind: event.ArtifactDenied, Actor: "eve", Body: map[string]any{"repository": strings.Repeat("x", 8000)}},
			event.Event{Kind: event.ArtifactDenied, Actor: "eve", Body: map[string]any{"reason": `"repository":"team/app"`}},
			event.Event{Kind: event.ArtifactDenied, Actor: "eve", Body: map[string]any{"a": map[string]string{"repository": "team/app"}}})
		await(t, l, 13)
		stop()
		seqs := func(f event.Filter) string {
			t.Helper()
			list, err := l.Query(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			var out []string
			for _, e := range list {
				out = append(out, fmt.Sprint(e.Seq))
			}
			return strings.Join(out, " ")
		}
		look := func(when string) {
			t.Helper()
			for _, c := range []struct {
				f    event.Filter
				want string
			}{
				{event.Filter{Repository: "team/app"}, "1 3 5 7 9"},
				{event.Filter{Repository: "team/app", Newest: true, Limit: 2}, "9 7"},
				{event.Filter{Repository: "team/app", Newest: true, AfterSeq: 7}, "5 3 1"},
				{event.Filter{Repository: "team/app", AfterSeq: 3, Limit: 2}, "5 7"},
				{event.Filter{Repository: "team/lib", Kinds: []event.Kind{event.ArtifactPushed}}, "6"},
				{event.Filter{Repository: "team/app", Classes: []event.Class{event.Audit}, From: time.Now().Add(-time.Hour), To: time.Now().Add(time.Hour)}, "1 3 5 7 9"},
				{event.Filter{Repository: "team/app", From: time.Now().Add(time.Hour)}, ""},
				{event.Filter{Repository: "team/none"}, ""},
			} {
				if got := seqs(c.f); got != c.want && !(when != "indexed" && got == c.want+" 13") {
					t.Errorf("%s: %+v: %q, want %q", when, c.f, got, c.want)
				}
			}
		}
		look("indexed")
		sql(t, db, `UPDATE event SET repository = NULL WHERE seq <= 12 AND seq <> 5`)
		look("some of before")
		sql(t, db, `UPDATE event SET repository = NULL WHERE seq <= 12`)
		look("all of before")
		seal(t, db)
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
			var left int64
			if err := db.View(t.Context(), func(tx *store.Tx) error {
				return tx.QueryRow(t.Context(), `SELECT COUNT(*) FROM event WHERE repository IS NULL`).Scan(&left)
			}); err != nil {
				t.Fatal(err)
			}
			if left == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d rows are not filled in", left)
			}
		}
		look("indexed")
		if err := l.VerifyChain(t.Context(), 0, 0); err != nil {
			t.Errorf("the chain: %v", err)
		}
	})
}

// BenchmarkQueryRepository asks for the newest 100 records of one repository of
// a thousand among a million events, as assay audit query does.
func BenchmarkQueryRepository(b *testing.B) {
	const events, repositories = 1_000_000, 1000
	for _, d := range storetest.Dialects {
		for _, indexed := range []bool{true, false} {
			b.Run(fmt.Sprintf("%s/indexed=%v", d, indexed), func(b *testing.B) {
				db := storetest.Open(b, d)
				migrate(b, db)
				l := event.NewLog(db, event.LogOptions{})
				const at = 500
				now := time.Now().Add(-time.Hour)
				for n := 0; n < events; n += at {
					if err := db.Update(b.Context(), func(tx *store.Tx) error {
						text := `INSERT INTO event (seq, id, time, kind, digest, actor, team, service, env, cluster, trace_id, body, repository) VALUES ` +
							strings.TrimSuffix(strings.Repeat(`(?, ?, ?, ?, '', 'ann', '', '', '', '', '', ?, ?), `, at), ", ")
						args := make([]any, 0, at*6)
						for i := n; i < n+at; i++ {
							name := fmt.Sprintf("team/app-%d", i%repositories)
							var column any = name
							if !indexed {
								column = nil
							}
							kind := event.ArtifactPulled
							if i%7 == 0 {
								kind = event.ArtifactPushed
							}
							args = append(args, i+1, fmt.Sprintf("evt_%d", i), now.Add(time.Duration(i)*time.Millisecond), string(kind), `{"repository":"`+name+`","tag":"v1"}`, column)
						}
						_, err := tx.Exec(b.Context(), text, args...)
						return err
					}); err != nil {
						b.Fatal(err)
					}
				}
				b.ResetTimer()
				for i := range b.N {
					got, err := l.Query(b.Context(), event.Filter{Repository: fmt.Sprintf("team/app-%d", i%repositories), Classes: []event.Class{event.Audit}, Newest: true})
					if err != nil || len(got) != 100 {
						b.Fatalf("%d, %v", len(got), err)
					}
				}
			})
		}
	}
}
