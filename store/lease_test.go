package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
)

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

func TestLease(t *testing.T) {
	clock := &hand{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		step := func(holder string, wantHeld bool, wantEpoch int64) {
			t.Helper()
			held, epoch, err := db.Lease(ctx, "x", holder, time.Minute)
			if err != nil || held != wantHeld || epoch != wantEpoch {
				t.Errorf("%s: got held %v epoch %d, %v; want %v %d", holder, held, epoch, err, wantHeld, wantEpoch)
			}
		}
		fence := func(epoch int64, ok bool) {
			t.Helper()
			err := db.Update(ctx, func(tx *store.Tx) error { return tx.Fence(ctx, "x", epoch) })
			if ok && err != nil || !ok && !errors.Is(err, fault.Conflict) {
				t.Errorf("fence %d: got %v, want ok %v", epoch, err, ok)
			}
		}
		fence(1, false) // before anyone has it
		step("a", true, 1)
		step("b", false, 1)
		fence(1, true)
		clock.move(59 * time.Second)
		step("a", true, 1) // renewed
		clock.move(59 * time.Second)
		step("b", false, 1)
		clock.move(2 * time.Second)
		step("a", true, 1) // late, but nobody came between
		clock.move(61 * time.Second)
		step("b", true, 2)
		step("a", false, 2)
		fence(1, false) // what a still does changes nothing
		fence(2, true)
		if err := db.Release(ctx, "x", "a"); err != nil { // not its holder
			t.Error(err)
		}
		step("a", false, 2)
		if err := db.Release(ctx, "x", "b"); err != nil {
			t.Error(err)
		}
		step("a", true, 3)
		held, epoch, err := db.Lease(ctx, "y", "b", time.Minute)
		if err != nil || !held || epoch != 1 {
			t.Errorf("another name: got %v %d %v", held, epoch, err)
		}
		if _, _, err := db.Lease(ctx, "x", "", time.Minute); err == nil {
			t.Error("a lease without a holder was given")
		}
	}, store.WithClock(clock.Now))
}

// TestFenceFailsTheTransaction: a function that forgets to look at Fence's
// error changes nothing either.
func TestFenceFailsTheTransaction(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		err := db.Update(ctx, func(tx *store.Tx) error {
			_ = tx.Fence(ctx, "x", 1)
			return nil
		})
		if !errors.Is(err, fault.Conflict) {
			t.Errorf("got %v, want conflict", err)
		}
	})
}

// TestLeaseHasOneHolder lets many ask at once, over and over, on two handles:
// one answer per epoch says "held".
func TestLeaseHasOneHolder(t *testing.T) {
	clock := &hand{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	for _, d := range storetest.Dialects {
		t.Run(string(d), func(t *testing.T) {
			ctx := context.Background()
			dsn := storetest.DSN(t, d)
			handles := []*store.DB{
				storetest.OpenDSN(t, dsn, store.WithClock(clock.Now)), storetest.OpenDSN(t, dsn, store.WithClock(clock.Now)),
			}
			for round := range 5 {
				var holders atomic.Int64
				var wg sync.WaitGroup
				for i := range 12 {
					wg.Go(func() {
						held, epoch, err := handles[i%2].Lease(ctx, "x", fmt.Sprintf("%d/%d", round, i), time.Second)
						if err != nil {
							t.Error(err)
						}
						if epoch != int64(round+1) {
							t.Errorf("round %d: epoch %d", round, epoch)
						}
						if held {
							holders.Add(1)
						}
					})
				}
				wg.Wait()
				if holders.Load() != 1 {
					t.Errorf("round %d: %d holders, want 1", round, holders.Load())
				}
				clock.move(2 * time.Second)
			}
		})
	}
}
