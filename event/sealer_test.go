package event_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
)

// TestSealingLatency: an event is sealed within 100 ms of its commit, whether
// the sealer is woken in its own process or finds what another committed. The
// median is judged, since this machine may be busy; so is the worst, loosely.
func TestSealingLatency(t *testing.T) {
	for _, d := range storetest.Dialects {
		for _, same := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/same process=%v", d, same), func(t *testing.T) {
				dsn := storetest.DSN(t, d)
				db := storetest.OpenDSN(t, dsn)
				l := open(t, db)
				writer := db
				if !same {
					writer = storetest.OpenDSN(t, dsn) // its signals reach no one
				}
				add(t, writer, pulls(1)...)
				await(t, l, 1) // the sealer has its lease
				var took []time.Duration
				for i := range 15 {
					add(t, writer, pulls(1)...)
					committed := time.Now()
					await(t, l, int64(i+2))
					took = append(took, time.Since(committed))
					time.Sleep(time.Duration(i) * 7 * time.Millisecond)
				}
				slices.Sort(took)
				t.Logf("median %s, worst %s", took[len(took)/2], took[len(took)-1])
				if median := took[len(took)/2]; median > 100*time.Millisecond {
					t.Errorf("median %s, want at most 100 ms", median)
				}
				if worst := took[len(took)-1]; worst > 2*time.Second {
					t.Errorf("worst %s", worst)
				}
			})
		}
	}
}

// TestManyAppendersAndSealers: nothing is lost or doubled, numbers have no
// gaps, and what one client committed in an order is sealed in that order.
func TestManyAppendersAndSealers(t *testing.T) {
	const clients, rounds = 16, 30
	for _, d := range storetest.Dialects {
		t.Run(string(d), func(t *testing.T) {
			dsn := storetest.DSN(t, d)
			db := storetest.OpenDSN(t, dsn)
			l := open(t, db)
			seal(t, db)                        // a second in this process
			seal(t, storetest.OpenDSN(t, dsn)) // and one that stands for another
			ctx := context.Background()
			var wg sync.WaitGroup
			for c := range clients {
				wg.Go(func() {
					for i := range rounds {
						err := db.Update(ctx, func(tx *store.Tx) error {
							return event.Append(ctx, tx, event.Event{Kind: event.ArtifactPushed, Actor: fmt.Sprint(c), Body: map[string]any{"size": i}})
						})
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			await(t, l, clients*rounds)
			all, err := l.Query(ctx, event.Filter{Limit: 1000})
			if err != nil {
				t.Fatal(err)
			}
			if len(all) != clients*rounds {
				t.Errorf("sealed %d, appended %d", len(all), clients*rounds)
			}
			next := map[string]int{}
			for i, e := range all {
				var body struct {
					Size int `json:"size"`
				}
				if err := e.Decode(&body); err != nil {
					t.Fatal(err)
				}
				if e.Seq != int64(i+1) || body.Size != next[e.Actor] {
					t.Fatalf("event %d of %s has number %d and round %d, want %d and %d", i, e.Actor, e.Seq, body.Size, i+1, next[e.Actor])
				}
				next[e.Actor]++
			}
			if err := l.VerifyChain(ctx, 0, 0); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSealerTakesOver: when the leader stops, another seals at once; when it
// is cut off without a word, after its lease.
func TestSealerTakesOver(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		l := event.NewLog(db, event.LogOptions{})
		stop := seal(t, db)
		add(t, db, pulls(1)...)
		await(t, l, 1)
		seal(t, db)
		stop()
		start := time.Now()
		add(t, db, pulls(1)...)
		await(t, l, 2)
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("took over after %s", took)
		}
	})
}

// TestSealerIsFenced: one that was stopped while another took its lease seals
// nothing.
func TestSealerIsFenced(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		l := open(t, db)
		ctx := context.Background()
		add(t, db, pulls(1)...)
		await(t, l, 1)
		// Somebody takes the lease, as after a long stop of this process.
		sql(t, db, `UPDATE lease SET holder = 'other', epoch = epoch + 1, expires = 32503680000000000 WHERE name = 'event.sealer'`)
		add(t, db, pulls(1)...)
		time.Sleep(300 * time.Millisecond)
		h, err := l.LastHead(ctx)
		if err != nil || h.LastSeq != 1 {
			t.Errorf("sealed up to %d, %v: the former leader went on", h.LastSeq, err)
		}
		sql(t, db, `UPDATE lease SET expires = 0 WHERE name = 'event.sealer'`)
		await(t, l, 2)
	})
}

func TestOutbox(t *testing.T) {
	clock := &hand{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		l := open(t, db)
		ctx := context.Background()
		unlogged := func() (batches []int64) {
			t.Helper()
			hs, err := l.UnloggedHeads(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range hs {
				if err := l.CheckHead(ctx, h); err != nil {
					t.Error(err)
				}
				batches = append(batches, h.Batch)
			}
			return batches
		}
		expect := func(when string, want ...int64) {
			t.Helper()
			var got []int64
			for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
				if got = unlogged(); cmp.Equal(want, got) {
					break
				}
			}
			time.Sleep(100 * time.Millisecond) // and it stays so
			if d := cmp.Diff(want, unlogged()); d != "" {
				t.Errorf("%s: unlogged (-want +got):\n%s", when, d)
			}
		}
		backlog := func(want time.Duration) {
			t.Helper()
			if got, err := l.Backlog(ctx); err != nil || got != want {
				t.Errorf("backlog: got %s, %v; want %s", got, err, want)
			}
		}
		backlog(0)
		expect("an empty log")
		add(t, db, pulls(1)...)
		await(t, l, 1)
		expect("the first event is due at once", 1)
		add(t, db, pulls(1)...)
		await(t, l, 2)
		expect("the next waits", 1)
		clock.move(9 * time.Second)
		expect("for 10 s", 1)
		clock.move(time.Second)
		expect("and is due then", 1, 2)
		backlog(10 * time.Second)
		clock.move(5 * time.Second)
		backlog(15 * time.Second)

		hs, err := l.UnloggedHeads(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.Logged(ctx, 1); !errors.Is(err, fault.NotFound) {
			t.Errorf("logged head over event 1: got %v, want not found", err)
		}
		for range 2 { // the second time changes nothing
			if err := l.MarkLogged(ctx, hs[1], 77); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.MarkLogged(ctx, hs[1], 78); err != nil {
			t.Fatal(err)
		}
		h, index, err := l.Logged(ctx, 2)
		if err != nil || index != 77 || h != hs[1] {
			t.Errorf("logged: got %+v at %d, %v; want batch 2 at 77", h, index, err)
		}
		backlog(0)
		expect("a later head settles the earlier")

		// Publishing a head is itself an event, and no reason to publish again.
		add(t, db, event.Event{Kind: event.LogHeadPublished})
		await(t, l, 3)
		clock.move(time.Minute)
		expect("nothing new but that a head was published")
		add(t, db, pulls(1)...)
		await(t, l, 4)
		expect("news", 4)
	}, store.WithClock(clock.Now))
}

// TestOutboxByCount: 10,000 events make a head due before its time.
func TestOutboxByCount(t *testing.T) {
	clock := &hand{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	db := storetest.Open(t, store.SQLite, store.WithClock(clock.Now))
	l := open(t, db)
	ctx := context.Background()
	add(t, db, pulls(1)...)
	await(t, l, 1)
	total := int64(1)
	for range 11 {
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
		total += 1000
	}
	await(t, l, total)
	time.Sleep(200 * time.Millisecond)
	hs, err := l.UnloggedHeads(ctx)
	if err != nil || len(hs) != 2 || hs[1].LastSeq < 10_001 {
		t.Errorf("got %+v, %v; want the first head and one past 10,000 events", hs, err)
	}
}

// hand is a clock that tests move.
type hand struct {
	mu  sync.Mutex
	now time.Time
}

func (h *hand) Now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *hand) move(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}
