package audit_test

import (
	"errors"
	"testing"
	"time"

	"assay/event"
	"assay/internal/fault"
	"assay/store"
)

// What retention dropped is stated, with the event that says so; what is missing
// without such an event is never taken for that.
func TestGapOfRetention(t *testing.T) {
	w := newWorld(t)
	w.happen(3)
	w.happen(4)
	w.publish(w.key)
	if n, err := w.events.DropBefore(t.Context(), time.Now().Add(time.Hour)); err != nil || n != 7 {
		t.Fatalf("dropped %d, %v; want 7", n, err)
	}
	w.happen(2)
	w.publish(w.key)
	lines := w.export(event.Filter{}, true)
	o := w.options()
	o.UpToNow = true
	rep, err := verify(lines, o)
	if err != nil {
		t.Fatal(err)
	}
	g := rep.Gap
	if g == nil || g.First != 1 || g.Last != 7 || g.Events != 7 || g.Batches != rep.Dropped || g.Account != 8 || g.Until.Before(g.From) || g.Dropped.Before(g.Until) {
		t.Fatalf("gap %+v", g)
	}
}

// One who deletes events, old or not, does not pass for retention.
func TestThreat_Store_DeletedEventsAreNoRetention(t *testing.T) {
	for name, c := range map[string]struct {
		where   string
		upToNow bool
		want    error
	}{
		"the oldest":            {"seq <= 3", true, fault.Tampered},
		"the oldest, no end":    {"seq <= 3", false, fault.Undecided},
		"some in the middle":    {"seq > 3 AND seq <= 7", false, fault.Tampered},
		"more than was dropped": {"seq <= 3 OR seq > 7 AND seq <= 9", false, fault.Tampered},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.happen(3)
			w.happen(4)
			w.happen(2)
			w.happen(2)
			w.publish(w.key)
			if err := w.db.Update(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), `DELETE FROM event WHERE `+c.where)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			o := w.options()
			o.UpToNow = c.upToNow
			if rep, err := verify(w.export(event.Filter{}, true), o); !errors.Is(err, c.want) {
				t.Errorf("%+v, %v; want %v", rep, err, c.want)
			}
		})
	}
}
