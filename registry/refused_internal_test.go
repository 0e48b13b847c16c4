package registry

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
)

func refusedFixture(t *testing.T) (*refusedLogins, *store.DB) {
	t.Helper()
	db := storetest.Open(t, store.SQLite)
	if err := db.Migrate(t.Context(), event.Migrations, Migrations); err != nil {
		t.Fatal(err)
	}
	met, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	return newRefusedLogins(newRecorder(db, log, met), log), db
}

// pending gives the bodies of the events appended so far.
func pending(t *testing.T, db *store.DB) (out []loginBody) {
	t.Helper()
	err := db.View(t.Context(), func(tx *store.Tx) error {
		bodies, err := store.Values[string](t.Context(), tx, `SELECT body FROM event_pending`)
		out = nil
		for _, b := range bodies {
			var l loginBody
			if err := json.Unmarshal([]byte(b), &l); err != nil {
				return err
			}
			out = append(out, l)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sum(all []loginBody) (n int) {
	for _, b := range all {
		n += b.Count
	}
	return n
}

var errRefused = fault.Newf(fault.Unauthenticated, "no")

func TestRefusedLoginsOfManyAddresses(t *testing.T) {
	f, db := refusedFixture(t)
	const more = 100
	for range 2 {
		for i := range maxRefusalSorts + more {
			f.note(t.Context(), fmt.Sprintf("10.0.%d.%d", i/256, i%256), "", errRefused)
		}
	}
	if n := len(f.sorts); n != maxRefusalSorts+1 {
		t.Fatalf("%d sorts are held, want %d", n, maxRefusalSorts+1)
	}
	if n := len(pending(t, db)); n != maxRefusalSorts+1 {
		t.Fatalf("%d events within the window, want %d", n, maxRefusalSorts+1)
	}
	if err := f.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := pending(t, db)
	many := 0
	for _, b := range all {
		if b.Address == manyAddresses {
			many += b.Count
		}
	}
	if n := sum(all); n != 2*(maxRefusalSorts+more) || many != 2*more {
		t.Fatalf("the counts sum up to %d, %d of them of too many addresses; want %d and %d", n, many, 2*(maxRefusalSorts+more), 2*more)
	}
	if len(f.sorts) != 0 || f.timer != nil {
		t.Fatalf("after the flush %d sorts are held, timer %v", len(f.sorts), f.timer)
	}
}

// TestRefusedLoginsTimer: what was counted is told when the window ends, without
// a flush, and a sort of which nothing more comes is forgotten.
func TestRefusedLoginsTimer(t *testing.T) {
	f, db := refusedFixture(t)
	f.window = 200 * time.Millisecond
	for range 10 {
		f.note(t.Context(), "10.0.0.1", "", errRefused)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		f.mu.Lock()
		held := len(f.sorts)
		f.mu.Unlock()
		if held == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sorts are held after 30 s", held)
		}
	}
	if all := pending(t, db); sum(all) != 10 {
		t.Fatalf("told: %+v, want counts that sum up to 10", all)
	}
}

// TestRefusedLoginsOutlastTheDatabase: what could not be written stays in the
// count, and is told once it can.
func TestRefusedLoginsOutlastTheDatabase(t *testing.T) {
	f, db := refusedFixture(t)
	broken, gone := refusedFixture(t)
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	good := f.rec
	f.rec = broken.rec
	for range 5 {
		f.note(t.Context(), "10.0.0.1", "", errRefused)
	}
	if err := f.flush(t.Context()); fault.KindOf(err) != fault.Unavailable {
		t.Fatalf("flush to a closed database: %v, want %v", err, fault.Unavailable)
	}
	f.rec = good
	if err := f.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all := pending(t, db); sum(all) != 5 {
		t.Fatalf("told: %+v, want counts that sum up to 5", all)
	}
}
