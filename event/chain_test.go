package event_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
)

// chain makes a log of at least four batches of a few events, and stops its
// sealer, so that a test may damage it.
func chain(t *testing.T, db *store.DB) *event.Log {
	t.Helper()
	migrate(t, db)
	stop := seal(t, db)
	l := event.NewLog(db, event.LogOptions{})
	for i := range 4 {
		err := db.Update(context.Background(), func(tx *store.Tx) error {
			for _, e := range pulls(5) {
				if err := event.Append(context.Background(), tx, e); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		await(t, l, int64(i+1)*5)
	}
	stop()
	if err := l.VerifyChain(context.Background(), 0, 0); err != nil {
		t.Fatalf("before any damage: %v", err)
	}
	return l
}

// sql changes the database behind the package's back.
func sql(t testing.TB, db *store.DB, statements ...string) {
	t.Helper()
	ctx := context.Background()
	err := db.Update(ctx, func(tx *store.Tx) error {
		for _, s := range statements {
			if _, err := tx.Exec(ctx, s); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestThreat_Store_EventsTamperedWith changes the log in every way that one who
// writes the database can, and expects each to be found.
func TestThreat_Store_EventsTamperedWith(t *testing.T) {
	tests := []struct {
		name string
		sql  []string
		say  string
	}{
		{"actor", []string{`UPDATE event SET actor = 'bob' WHERE seq = 7`}, "batch 2"},
		{"body", []string{`UPDATE event SET body = '{"repository":"x"}' WHERE seq = 7`}, "batch 2"},
		{"body, same value, other spelling", []string{`UPDATE event SET body = ' ' || body WHERE seq = 7`}, "batch 2"},
		{"time", []string{`UPDATE event SET time = time + 1 WHERE seq = 7`}, "batch 2"},
		{"kind", []string{`UPDATE event SET kind = 'artifact.pushed' WHERE seq = 7`}, "batch 2"},
		{"digest", []string{`UPDATE event SET digest = 'sha256:00' WHERE seq = 7`}, "batch 2"},
		{"trace", []string{`UPDATE event SET trace_id = 'a' WHERE seq = 7`}, "batch 2"},
		{"team moved to service", []string{`UPDATE event SET service = actor, actor = '' WHERE seq = 7`}, "batch 2"},
		{"a quote that ends the text", []string{`UPDATE event SET actor = '","body":{},"cluster":"' WHERE seq = 7`}, "batch 2"},
		{"missing", []string{`DELETE FROM event WHERE seq = 8`}, "event 8 is missing"},
		{"first missing", []string{`DELETE FROM event WHERE seq = 1`}, "event 1 is missing"},
		{"last missing", []string{`DELETE FROM event WHERE seq = 20`}, "event 20 is missing"},
		{"whole batch missing", []string{`DELETE FROM event WHERE seq >= 6 AND seq <= 10`}, "event 6 is missing"},
		{"all missing", []string{`DELETE FROM event`}, "event 1 is missing"},
		{"reordered", []string{
			`UPDATE event SET seq = 1000 WHERE seq = 7`, `UPDATE event SET seq = 7 WHERE seq = 8`, `UPDATE event SET seq = 8 WHERE seq = 1000`,
		}, "batch 2"},
		{"reordered between batches", []string{
			`UPDATE event SET seq = 1000 WHERE seq = 7`, `UPDATE event SET seq = 7 WHERE seq = 12`, `UPDATE event SET seq = 12 WHERE seq = 1000`,
		}, "batch 2"},
		{"added", []string{`INSERT INTO event (seq, id, time, kind, digest, actor, team, service, env, cluster, trace_id, body)
			SELECT 21, 'evt_x', time, kind, digest, actor, team, service, env, cluster, trace_id, body FROM event WHERE seq = 20`}, "event 21 lies beyond"},
		{"root", []string{`UPDATE event_head SET root = hash WHERE batch = 2`}, "batch 2"},
		{"prev", []string{`UPDATE event_head SET prev = root WHERE batch = 2`}, "batch 2"},
		{"hash", []string{`UPDATE event_head SET hash = root WHERE batch = 2`}, "batch 2"},
		{"hash of the last", []string{`UPDATE event_head SET hash = root WHERE batch = 4`}, "batch 4"},
		{"head's time", []string{`UPDATE event_head SET time = time + 1 WHERE batch = 2`}, "batch 2"},
		{"head cut", []string{`UPDATE event_head SET last_seq = 9 WHERE batch = 2`}, "batch 2"},
		{"short hash", []string{`UPDATE event_head SET root = CAST('' AS BYTES) WHERE batch = 2`}, "batch 2"},
		{"head missing", []string{`DELETE FROM event_head WHERE batch = 2`}, "heads between are missing"},
		{"first head missing", []string{`DELETE FROM event_head WHERE batch = 1`}, "after batch 0 comes batch 2"},
		{"last head missing", []string{`DELETE FROM event_head WHERE batch = 4`}, "event 16 lies beyond"},
		{"all heads missing", []string{`DELETE FROM event_head`}, "event 1 lies beyond"},
		{"heads swapped", []string{
			`UPDATE event_head SET batch = 9 WHERE batch = 2`, `UPDATE event_head SET batch = 2 WHERE batch = 3`, `UPDATE event_head SET batch = 3 WHERE batch = 9`,
		}, "batch 2"},
	}
	for _, d := range storetest.Dialects {
		t.Run(string(d), func(t *testing.T) {
			db := storetest.Open(t, d)
			l := chain(t, db)
			ctx := context.Background()
			for _, tt := range tests {
				save(t, db)
				sql(t, db, tt.sql...)
				err := l.VerifyChain(ctx, 0, 0)
				if !errors.Is(err, fault.Tampered) || !strings.Contains(err.Error(), tt.say) {
					t.Errorf("%s: got %v, want tampered with %q", tt.name, err, tt.say)
				}
				restore(t, db)
			}
			if err := l.VerifyChain(ctx, 0, 0); err != nil {
				t.Errorf("after all was restored: %v", err)
			}
			// A range that does not touch the damage passes, one that does fails.
			sql(t, db, `UPDATE event SET actor = 'bob' WHERE seq = 7`)
			for _, r := range []struct {
				from, to int64
				ok       bool
			}{{1, 5, true}, {11, 20, true}, {11, 0, true}, {1, 6, false}, {10, 10, false}, {8, 12, false}} {
				if err := l.VerifyChain(ctx, r.from, r.to); (err == nil) != r.ok {
					t.Errorf("events %d to %d: got %v, want ok %v", r.from, r.to, err, r.ok)
				}
			}
			if err := l.VerifyChain(ctx, 5, 4); !errors.Is(err, fault.Invalid) {
				t.Errorf("events 5 to 4: got %v", err)
			}
		})
	}
}

// save keeps a copy of the log, which restore brings back.
func save(t *testing.T, db *store.DB) {
	t.Helper()
	sql(t, db, `DROP TABLE IF EXISTS event_saved`, `DROP TABLE IF EXISTS head_saved`)
	ctx := context.Background()
	err := db.Migrate(ctx, store.Migrations{Name: fmt.Sprintf("save%d", time.Now().UnixNano()), Steps: []string{`
		CREATE TABLE event_saved (seq BIGINT, id TEXT, time BIGINT, kind TEXT, digest TEXT, actor TEXT, team TEXT, service TEXT, env TEXT, cluster TEXT, trace_id TEXT, body TEXT, repository TEXT);
		CREATE TABLE head_saved (batch BIGINT, first_seq BIGINT, last_seq BIGINT, root BYTES, prev BYTES, hash BYTES, time BIGINT, news BIGINT);
		INSERT INTO event_saved SELECT * FROM event; INSERT INTO head_saved SELECT * FROM event_head`}})
	if err != nil {
		t.Fatal(err)
	}
}

func restore(t *testing.T, db *store.DB) {
	t.Helper()
	sql(t, db, `DELETE FROM event`, `DELETE FROM event_head`,
		`INSERT INTO event SELECT * FROM event_saved`, `INSERT INTO event_head SELECT * FROM head_saved`)
}

// TestThreat_Store_HistoryRewritten rewrites the log consistently, cuts it off,
// and restores an old backup; a published head tells.
func TestThreat_Store_HistoryRewritten(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		l := chain(t, db)
		ctx := context.Background()
		published, err := l.LastHead(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.CheckHead(ctx, published); err != nil {
			t.Fatal(err)
		}
		forged := published
		forged.Root[0] ^= 1
		if err := l.CheckHead(ctx, forged); !errors.Is(err, fault.Tampered) {
			t.Errorf("a head whose hash does not fit: got %v", err)
		}
		forged.Hash = forged.Sum()
		if err := l.CheckHead(ctx, forged); !errors.Is(err, fault.Tampered) {
			t.Errorf("another head of the batch: got %v", err)
		}
		if err := l.MarkLogged(ctx, forged, 1); !errors.Is(err, fault.Tampered) {
			t.Errorf("mark another head as logged: got %v", err)
		}
		// Cut the end off, consistently: the chain alone does not show it.
		first, err := l.Heads(ctx, published.Batch-2, 1)
		if err != nil {
			t.Fatal(err)
		}
		sql(t, db, fmt.Sprintf(`DELETE FROM event WHERE seq > %d`, first[0].LastSeq), fmt.Sprintf(`DELETE FROM event_head WHERE batch > %d`, first[0].Batch))
		if err := l.VerifyChain(ctx, 0, 0); err != nil {
			t.Errorf("a log cut at a batch: got %v", err)
		}
		if err := l.CheckHead(ctx, published); !errors.Is(err, fault.Tampered) || !strings.Contains(err.Error(), "cut short") {
			t.Errorf("cut short: got %v, want tampered", err)
		}
		// And go on from there with other events.
		stop := seal(t, db)
		add(t, db, pulls(1)...)
		await(t, l, first[0].LastSeq+1)
		stop()
		if err := l.VerifyChain(ctx, 0, 0); err != nil {
			t.Errorf("a rewritten log: got %v", err)
		}
		if err := l.CheckHead(ctx, published); !errors.Is(err, fault.Tampered) || !strings.Contains(err.Error(), "rewritten") {
			t.Errorf("rewritten: got %v, want tampered", err)
		}
	})
}

func TestDropBefore(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		l := chain(t, db)
		ctx := context.Background()
		hs, err := l.Heads(ctx, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		later := time.Now().Add(time.Hour)
		drop := func(before time.Time, want int64) {
			t.Helper()
			if n, err := l.DropBefore(ctx, before); err != nil || n != want {
				t.Errorf("drop: got %d, %v; want %d", n, err, want)
			}
		}
		drop(later, 0) // no head is in the log yet
		if err := l.MarkLogged(ctx, hs[2], 42); err != nil {
			t.Fatal(err)
		}
		sql(t, db, `INSERT INTO event_cursor (name, seq, changed) VALUES ('slow', 7, 0)`)
		drop(hs[0].Time, 0) // nothing is older than the first batch
		drop(later, 5)      // the consumer is in batch 2
		drop(later, 0)
		if err := l.VerifyChain(ctx, 0, 0); err != nil {
			t.Errorf("with the account of the drop unsealed: %v", err)
		}
		stop := seal(t, db)
		await(t, l, 21)
		if err := l.VerifyChain(ctx, 0, 0); err != nil {
			t.Errorf("with the account of the drop sealed: %v", err)
		}
		sql(t, db, `DELETE FROM event WHERE seq <= 10`) // by hand, beyond the account
		if err := l.VerifyChain(ctx, 0, 0); !errors.Is(err, fault.Tampered) {
			t.Errorf("a batch dropped by hand: got %v, want tampered", err)
		}
		if err := l.Forget(ctx, "slow"); err != nil {
			t.Fatal(err)
		}
		drop(later, 5) // batch 3, the last in the log
		await(t, l, 22)
		stop()
		if err := l.VerifyChain(ctx, 0, 0); err != nil {
			t.Errorf("after the second drop: %v", err)
		}
		got, err := l.Query(ctx, event.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		if got[0].Seq != 16 || len(got) != 7 {
			t.Errorf("kept %d events from %d, want 7 from 16", len(got), got[0].Seq)
		}
		if after, err := l.Heads(ctx, 0, 4); err != nil || cmp.Diff(hs, after) != "" {
			t.Errorf("heads changed: %v %s", err, cmp.Diff(hs, after))
		}
		// The account itself must hold: one who edits it is found.
		sql(t, db, `UPDATE event SET body = '{"last_seq":20,"last_batch":4,"count":1,"hash":"`+hs[3].Hash.String()+`"}' WHERE seq = 22`,
			`DELETE FROM event WHERE seq <= 20`)
		if err := l.VerifyChain(ctx, 0, 0); !errors.Is(err, fault.Tampered) {
			t.Errorf("an account that was edited: got %v, want tampered", err)
		}
	})
}

func TestDropInSteps(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	l := open(t, db)
	ctx := context.Background()
	const total = 12_000
	for range total / 1000 {
		err := db.Update(ctx, func(tx *store.Tx) error {
			for _, e := range pulls(1000) {
				if err := event.Append(ctx, tx, e); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	await(t, l, total)
	h, err := l.LastHead(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.MarkLogged(ctx, h, 1); err != nil {
		t.Fatal(err)
	}
	if n, err := l.DropBefore(ctx, time.Now().Add(time.Hour)); err != nil || n < total {
		t.Errorf("dropped %d, %v; want %d", n, err, total)
	}
	await(t, l, total+2)
	if err := l.VerifyChain(ctx, 0, 0); err != nil {
		t.Error(err)
	}
	accounts, err := l.Query(ctx, event.Filter{Kinds: []event.Kind{event.EventsDropped}})
	if err != nil || len(accounts) < 2 {
		t.Errorf("%d accounts, %v; want one for each step of at most 5,000", len(accounts), err)
	}
}
