package event_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"assay/event"
	"assay/store"
	"assay/store/storetest"
)

var seenSet = store.Migrations{Name: "seen", Steps: []string{`
CREATE TABLE seen (seq BIGINT NOT NULL, times BIGINT NOT NULL, ord BIGINT NOT NULL, PRIMARY KEY (seq))`}}

// note is a consumer: it counts how often it was given each event, and in
// which order.
func note(ctx context.Context, tx *store.Tx, batch []event.Event) error {
	for _, e := range batch {
		_, err := tx.Exec(ctx, `INSERT INTO seen (seq, times, ord) SELECT ?, 1, COUNT(*) FROM seen WHERE true
			ON CONFLICT (seq) DO UPDATE SET times = seen.times + 1`, e.Seq)
		if err != nil {
			return err
		}
	}
	return nil
}

// checkSeen says whether the consumer was given each of n events once, in order.
func checkSeen(t testing.TB, db *store.DB, n int64) {
	t.Helper()
	ctx := context.Background()
	var count, most, wrong int64
	err := db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, `SELECT COUNT(*), COALESCE(MAX(times), 0), COALESCE(SUM(CASE WHEN ord = seq - 1 THEN 0 ELSE 1 END), 0) FROM seen`).Scan(&count, &most, &wrong)
	})
	if err != nil || count != n || n > 0 && most != 1 || wrong != 0 {
		t.Errorf("consumed %d events, one up to %d times, %d out of order, %v; want %d, once each, in order", count, most, wrong, err, n)
	}
}

// consume runs a consumer until the test ends or stop is called.
func consume(t testing.TB, l *event.Log, name string, fn func(context.Context, *store.Tx, []event.Event) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Consume(ctx, name, fn) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("consumer: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func awaitCursor(t testing.TB, l *event.Log, name string, n int64) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		all, err := l.Cursors(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if all[name] >= n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("cursor %s is at %d, want %d", name, all[name], n)
		}
	}
}

func TestConsume(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		l := open(t, db)
		if err := db.Migrate(context.Background(), seenSet); err != nil {
			t.Fatal(err)
		}
		add(t, db, pulls(3)...)
		await(t, l, 3)
		stop := consume(t, l, "a", note) // a new one starts with the oldest
		awaitCursor(t, l, "a", 3)
		add(t, db, pulls(2)...)
		awaitCursor(t, l, "a", 5)
		stop()
		add(t, db, pulls(4)...)
		await(t, l, 9)
		checkSeen(t, db, 5)
		consume(t, l, "a", note) // goes on where it stood
		awaitCursor(t, l, "a", 9)
		checkSeen(t, db, 9)
		// Another name has a cursor of its own.
		var n atomic.Int64
		consume(t, l, "b", func(_ context.Context, _ *store.Tx, batch []event.Event) error { n.Add(int64(len(batch))); return nil })
		awaitCursor(t, l, "b", 9)
		if n.Load() < 9 {
			t.Errorf("b was given %d events, want 9", n.Load())
		}
		all, err := l.Cursors(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(map[string]int64{"a": 9, "b": 9}, all); d != "" {
			t.Errorf("cursors (-want +got):\n%s", d)
		}
	})
}

// TestConsumeAgainAfterFailure: what a failed batch wrote is gone, it comes
// again, and no event is skipped.
func TestConsumeAgainAfterFailure(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		seal(t, db)
		r := prometheus.NewRegistry()
		l := event.NewLog(db, event.LogOptions{Registerer: r})
		if err := db.Migrate(context.Background(), seenSet); err != nil {
			t.Fatal(err)
		}
		var failures atomic.Int64
		consume(t, l, "a", func(ctx context.Context, tx *store.Tx, batch []event.Event) error {
			if err := note(ctx, tx, batch); err != nil {
				return err
			}
			if failures.Add(1) <= 2 {
				return errors.New("not now")
			}
			return nil
		})
		add(t, db, pulls(10)...)
		awaitCursor(t, l, "a", 10)
		checkSeen(t, db, 10)
		if n := testutil.CollectAndCount(r, "assay_event_consumer_failures_total"); n != 1 {
			t.Errorf("failures metric: %d series, want 1", n)
		}
	})
}

// TestConsumersShareAName: several processes consume under one name, and each
// event goes to one of them.
func TestConsumersShareAName(t *testing.T) {
	for _, d := range storetest.Dialects {
		t.Run(string(d), func(t *testing.T) {
			dsn := storetest.DSN(t, d)
			db := storetest.OpenDSN(t, dsn)
			l := open(t, db)
			if err := db.Migrate(context.Background(), seenSet); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				consume(t, event.NewLog(storetest.OpenDSN(t, dsn), event.LogOptions{}), "a", note)
			}
			for i := range 10 {
				add(t, db, pulls(7)...)
				await(t, l, int64(i+1)*7)
			}
			awaitCursor(t, l, "a", 70)
			checkSeen(t, db, 70)
		})
	}
}

func TestConsumeManyAtOnce(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	l := open(t, db)
	ctx := context.Background()
	if err := db.Migrate(ctx, seenSet); err != nil {
		t.Fatal(err)
	}
	err := db.Update(ctx, func(tx *store.Tx) error {
		for i := range 5000 { // more than a batch of either kind
			e := event.Event{Kind: event.DecisionMade, Body: map[string]any{"id": fmt.Sprint(i)}}
			if err := event.Append(ctx, tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	consume(t, l, "a", note)
	awaitCursor(t, l, "a", 5000)
	checkSeen(t, db, 5000)
	if err := l.VerifyChain(ctx, 0, 0); err != nil {
		t.Error(err)
	}
}

// TestConsumeKinds: a consumer of some kinds is given those and no others, once
// each, and its cursor follows past what it was not given.
func TestConsumeKinds(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		l := open(t, db)
		appendAll := func(kind event.Kind, n int) {
			t.Helper()
			if err := db.Update(t.Context(), func(tx *store.Tx) error {
				list := make([]event.Event, n)
				for i := range list {
					list[i] = event.Event{Kind: kind, Actor: "system:test", Body: map[string]any{}}
				}
				return event.AppendAll(t.Context(), tx, list)
			}); err != nil {
				t.Fatal(err)
			}
		}
		var mu sync.Mutex
		given := map[event.Kind]int{}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- l.Consume(ctx, "some", func(_ context.Context, tx *store.Tx, batch []event.Event) error {
				tx.OnCommit(func() {
					mu.Lock()
					defer mu.Unlock()
					for _, e := range batch {
						given[e.Kind]++
					}
				})
				return nil
			}, event.AttestationIngested, event.TagMoved)
		}()
		await := func(what string, is func() bool) {
			t.Helper()
			for began := time.Now(); !is(); time.Sleep(5 * time.Millisecond) {
				if time.Since(began) > 30*time.Second {
					t.Fatalf("%s: not within 30 s; given %v", what, given)
				}
			}
		}
		count := func(k event.Kind) int {
			mu.Lock()
			defer mu.Unlock()
			return given[k]
		}
		appendAll(event.ArtifactPulled, 3)
		appendAll(event.TagMoved, 300) // more than one batch
		appendAll(event.ArtifactPulled, 3)
		appendAll(event.AttestationIngested, 1)
		await("the wanted", func() bool { return count(event.TagMoved) == 300 && count(event.AttestationIngested) == 1 })
		// Only what nobody wants: the cursor goes past it all the same.
		appendAll(event.ArtifactPulled, 2500)
		await("the cursor", func() bool {
			all, err := l.Cursors(t.Context())
			return err == nil && all["some"] >= 2307
		})
		appendAll(event.TagMoved, 1)
		await("one more", func() bool { return count(event.TagMoved) == 301 })
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(given) != 2 {
			t.Errorf("given %v", given)
		}
	})
}
