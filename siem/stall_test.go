package siem

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"assay/event"
	"assay/store"
	"assay/store/storetest"
)

// A sink that takes nothing for ten minutes is told of once, also by a process that
// starts anew, and once when it has everything again.
func TestStalledSink(t *testing.T) {
	for _, dialect := range []store.Dialect{store.SQLite, store.PostgreSQL} {
		t.Run(string(dialect), func(t *testing.T) {
			var ahead atomic.Int64
			clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
			db := storetest.Open(t, dialect, store.WithClock(clock))
			if err := db.Migrate(t.Context(), event.Migrations); err != nil {
				t.Fatal(err)
			}
			log := event.NewLog(db, event.LogOptions{})
			start := func() *stream {
				s, err := New(Options{DB: db, Events: log, Sinks: []Spec{{Name: "hec", URL: "https://siem.example/in"}}})
				if err != nil {
					t.Fatal(err)
				}
				return s.streams[0]
			}
			ctx, stop := context.WithCancel(context.Background())
			sealed := make(chan struct{})
			go func() { defer close(sealed); _ = event.NewSealer(db, event.SealerOptions{}).Run(ctx) }()
			defer func() { stop(); <-sealed }()
			check := func(st *stream, backlog int64, want ...event.Kind) {
				t.Helper()
				if err := st.tell(t.Context(), backlog); err != nil {
					t.Fatal(err)
				}
				var list []event.Event
				for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
					var err error
					if list, err = log.Query(t.Context(), event.Filter{Kinds: []event.Kind{event.SIEMStalled, event.SIEMResumed}}); err != nil {
						t.Fatal(err)
					}
					if len(list) >= len(want) {
						break
					}
				}
				if len(list) != len(want) {
					t.Fatalf("%d events, want %v", len(list), want)
				}
				for i := range want {
					if list[i].Kind != want[i] {
						t.Errorf("event %d is %s, want %s", i, list[i].Kind, want[i])
					}
				}
			}
			st := start()
			st.tried(clock(), errors.New("503\r\nlater"))
			check(st, 5)
			ahead.Add(int64(stalledAfter - time.Minute))
			st.tried(clock(), errors.New("503\r\nlater"))
			check(st, 5)
			ahead.Add(int64(time.Minute))
			check(st, 7, event.SIEMStalled)
			check(st, 8, event.SIEMStalled)
			st = start()
			st.tried(clock(), errors.New("503"))
			check(st, 9, event.SIEMStalled)
			ahead.Add(int64(time.Hour))
			check(st, 9, event.SIEMStalled)
			st.tried(clock(), nil)
			check(st, 3, event.SIEMStalled) // it takes again, and has not everything
			check(st, 0, event.SIEMStalled, event.SIEMResumed)
			check(st, 0, event.SIEMStalled, event.SIEMResumed)
		})
	}
}
