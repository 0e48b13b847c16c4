package event_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"assay/event"
	"assay/store"
	"assay/store/storetest"
)

// TestNews: consumers share looks at what was sealed, and none misses what it
// wants: neither what was there before the first look, nor what comes among much
// that it does not want, nor what it begins to want later.
func TestNews(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		l := open(t, db)
		sealed := int64(0)
		add := func(kinds ...event.Kind) {
			t.Helper()
			for _, k := range kinds {
				add(t, db, event.Event{Kind: k, Actor: "test"})
				sealed++
			}
			await(t, l, sealed)
		}
		add(event.ServerStarted, event.ServerStopped)
		ctx, stop := context.WithCancel(t.Context())
		var later atomic.Bool
		// A transaction that two writers collide in is run again, and the handler with
		// it: what counts is which events were given.
		type follower struct {
			mu   sync.Mutex
			seen map[string]bool
			done chan error
		}
		got := func(f *follower) int64 {
			f.mu.Lock()
			defer f.mu.Unlock()
			return int64(len(f.seen))
		}
		follow := func(name string, wanted func() []event.Kind) *follower {
			f := &follower{seen: map[string]bool{}, done: make(chan error, 1)}
			go func() {
				f.done <- l.ConsumeWanted(ctx, name, func(_ context.Context, _ *store.Tx, batch []event.Event) error {
					f.mu.Lock()
					defer f.mu.Unlock()
					for i := range batch {
						f.seen[batch[i].ID] = true
					}
					return nil
				}, wanted)
			}()
			return f
		}
		started := follow("started", func() []event.Kind { return []event.Kind{event.ServerStarted} })
		all := follow("all", func() []event.Kind { return nil })
		late := follow("late", func() []event.Kind {
			if later.Load() {
				return []event.Kind{event.ServerStopped}
			}
			return []event.Kind{}
		})
		wait := func(f *follower, name string, n int64) {
			t.Helper()
			for end := time.Now().Add(20 * time.Second); got(f) != n; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%s was given %d events, want %d", name, got(f), n)
				}
			}
		}
		wait(started, "started", 1)
		wait(all, "all", 2)
		for range 50 {
			add(event.ServerStopped, event.ServerStopped)
		}
		add(event.ServerStarted)
		wait(started, "started", 2)
		wait(all, "all", 103)
		later.Store(true)
		add(event.ServerStopped)
		for end := time.Now().Add(20 * time.Second); got(late) == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("what is wanted only now does not come")
			}
		}
		wait(all, "all", 104)
		stop()
		for _, f := range []*follower{started, all, late} {
			if err := <-f.done; err != nil {
				t.Error(err)
			}
		}
	})
}
