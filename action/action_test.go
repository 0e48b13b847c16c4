package action_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"assay/action"
	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// bed is a store of actions, and what was carried out.
type bed struct {
	t    *testing.T
	db   *store.DB
	s    *action.Store
	done []string
	fail error
	mu   sync.Mutex
}

func newBed(t *testing.T, db *store.DB, lim action.Limits) *bed {
	t.Helper()
	if err := db.Migrate(t.Context(), event.Migrations, action.Migrations); err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, db: db}
	b.open(lim)
	return b
}

func (b *bed) open(lim action.Limits) {
	b.t.Helper()
	var err error
	b.s, err = action.New(action.Options{DB: b.db, Limits: lim, Registerer: prometheus.NewRegistry(), Carry: func(_ context.Context, tx *store.Tx, e *action.Entry, yes bool) (bool, error) {
		if b.fail != nil {
			return false, b.fail
		}
		tx.OnCommit(func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.done = append(b.done, fmt.Sprintf("%s %s %v", e.Kind, e.Key(), yes))
		})
		return e.Kind == action.Quarantine && yes, nil
	}})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) propose(kind action.Kind, key string, touched, running int, by ...string) (may bool, e *action.Entry) {
	b.t.Helper()
	if err := b.db.Update(b.t.Context(), func(tx *store.Tx) (err error) {
		may, e, err = b.s.Propose(b.t.Context(), tx, action.Proposal{Kind: kind, Key: key, Digest: artifact.SHA256Of([]byte(key)), Reason: "because of " + key, Actor: "system:vuln", By: by},
			func() (action.Reach, error) { return action.Reach{Touched: touched, Running: running}, nil })
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	return may, e
}

func (b *bed) told() map[string]int {
	b.t.Helper()
	out := map[string]int{}
	if err := b.db.View(b.t.Context(), func(tx *store.Tx) error {
		kinds, err := store.Values[string](b.t.Context(), tx, `SELECT kind FROM event_pending WHERE kind LIKE 'action.%'`)
		clear(out)
		for _, k := range kinds {
			out[k]++
		}
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	return out
}

var (
	alice = action.Who{Actor: "user alice", Person: "mailto:alice@x.example"}
	bob   = action.Who{Actor: "user bob", Person: "mailto:bob@x.example"}
	robot = action.Who{Actor: "robot ci"}
)

func TestPropose(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		for _, c := range []struct {
			name             string
			touched, running int
			may              bool
		}{
			{"nothing runs it", 0, 1000, true},
			{"few of many", 100, 1000, true},
			{"the share and one", 101, 1000, false},
			{"few of few", 9, 9, true},
			{"the least of few", 10, 10, false},
			{"the least of many", 10, 100, true},
			{"nobody tells what runs", 0, 0, true},
			{"more than runs", 50, 20, false},
		} {
			t.Run(c.name, func(t *testing.T) {
				b := &bed{t: t, db: db}
				if err := db.Migrate(t.Context(), event.Migrations, action.Migrations); err != nil {
					t.Fatal(err)
				}
				if err := db.Update(t.Context(), func(tx *store.Tx) error { _, err := tx.Exec(t.Context(), `DELETE FROM site_action`); return err }); err != nil {
					t.Fatal(err)
				}
				b.open(action.Limits{})
				if may, e := b.propose(action.Quarantine, c.name, c.touched, c.running); may != c.may || (e == nil) != (c.touched == 0) {
					t.Errorf("%v %+v", may, e)
				}
			})
		}
	})
}

// TestThreat_Action_SlicesOfOneLargeAction: many small actions in a row are one
// large one.
func TestThreat_Action_SlicesOfOneLargeAction(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBed(t, db, action.Limits{})
		var held int
		for i := range 20 { // 4 % each; what was taken down runs no more
			may, e := b.propose(action.Quarantine, fmt.Sprintf("image %d", i), 40, 1000-40*i)
			if !may {
				held++
			} else if i > 1 {
				t.Errorf("%d: %+v", i, e)
			}
		}
		if held != 18 {
			t.Errorf("%d held, want 18", held)
		}
		if got := b.told(); got["action.held"] != 18 {
			t.Errorf("%v", got)
		}
	})
}

// TestDecide: another verified person than whose word it was answers, once.
func TestDecide(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b, ctx := newBed(t, db, action.Limits{}), t.Context()
		_, e := b.propose(action.Quarantine, "a", 500, 1000, "Alice@x.example")
		if e == nil || e.State != action.Held || e.Share != 50 || e.Limit != 10 {
			t.Fatalf("%+v", e)
		}
		for name, who := range map[string]action.Who{"a machine": robot, "whose word it was": alice, "the site": {Actor: "system:vuln", Person: "mailto:carol@x.example"}} {
			for _, yes := range []bool{true, false} {
				if _, err := b.s.Decide(ctx, e.ID, who, yes, "looked at it"); !errors.Is(err, fault.Denied) {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
		if _, err := b.s.Decide(ctx, e.ID, bob, false, " "); !errors.Is(err, fault.Invalid) {
			t.Errorf("refused without a reason: %v", err)
		}
		if _, err := b.s.Decide(ctx, "act_none", bob, true, ""); !errors.Is(err, fault.NotFound) {
			t.Errorf("%v", err)
		}
		// What fails to be carried out changes nothing.
		b.fail = fault.Newf(fault.Unavailable, "no registry")
		if _, err := b.s.Decide(ctx, e.ID, bob, true, ""); !errors.Is(err, fault.Unavailable) {
			t.Errorf("%v", err)
		}
		b.fail = nil
		// A restart forgets nothing.
		b.open(action.Limits{})
		if may, again := b.propose(action.Quarantine, "a", 1, 1000); may || again.ID != e.ID {
			t.Errorf("proposed again: %v %+v", may, again)
		}
		got, err := b.s.Decide(ctx, e.ID, bob, true, "it is malicious")
		if err != nil || got.State != action.Done || got.DecidedBy != "user bob" {
			t.Fatalf("%+v %v", got, err)
		}
		if _, err := b.s.Decide(ctx, e.ID, bob, false, "no after all"); !errors.Is(err, fault.Conflict) {
			t.Errorf("answered twice: %v", err)
		}
		if may, _ := b.propose(action.Quarantine, "a", 1, 1000); !may {
			t.Error("what was done is not done again")
		}
		_, e2 := b.propose(action.Quarantine, "b", 500, 1000)
		if _, err := b.s.Decide(ctx, e2.ID, bob, false, "the feed is wrong"); err != nil {
			t.Fatal(err)
		}
		if may, again := b.propose(action.Quarantine, "b", 1, 1000); may || again.State != action.Refused {
			t.Errorf("refused, and proposed again: %v %+v", may, again)
		}
		if d := cmp.Diff([]string{"quarantine a true", "quarantine b false"}, b.done); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff(map[string]int{"action.held": 2, "action.approved": 1, "action.refused": 1}, b.told()); d != "" {
			t.Error(d)
		}
		// What is carried out by others is asked for by them.
		_, e3 := b.propose(action.PolicyBundle, "p 2", 500, 1000, "carol@x.example")
		if got, err = b.s.Decide(ctx, e3.ID, bob, true, ""); err != nil || got.State != action.Approved {
			t.Fatalf("%+v %v", got, err)
		}
		may, e4 := b.propose(action.PolicyBundle, "p 2", 500, 1000)
		if !may || e4.State != action.Approved {
			t.Fatalf("%v %+v", may, e4)
		}
		if err := db.Update(ctx, func(tx *store.Tx) error { return b.s.Finish(ctx, tx, e4) }); err != nil {
			t.Fatal(err)
		}
		if e, err := b.s.Get(ctx, e4.ID); err != nil || e.State != action.Done || e.DecidedBy != "user bob" {
			t.Errorf("%+v %v", e, err)
		}
		// What persons had done is not counted as the site's own.
		if may, e := b.propose(action.Quarantine, "c", 90, 1000); !may || e.Earlier != 0 {
			t.Errorf("%v %+v", may, e)
		}
		all, err := b.s.List(ctx, action.Query{All: true, Limit: 2})
		if err != nil || len(all) != 2 {
			t.Fatalf("%v %v", all, err)
		}
		rest, err := b.s.List(ctx, action.Query{All: true, Limit: 10, Before: all[1].ID})
		if err != nil || len(rest) != 2 {
			t.Errorf("%v %v", rest, err)
		}
		if open, err := b.s.List(ctx, action.Query{Limit: 10}); err != nil || len(open) != 0 {
			t.Errorf("%v %v", open, err)
		}
	})
}

// TestThreat_Action_TwoAnswersAtOnce: of several answers one counts.
func TestThreat_Action_TwoAnswersAtOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBed(t, db, action.Limits{})
		_, e := b.propose(action.Quarantine, "a", 500, 1000)
		var wg sync.WaitGroup
		var mu sync.Mutex
		good := 0
		for i := range 8 {
			wg.Go(func() {
				_, err := b.s.Decide(t.Context(), e.ID, []action.Who{alice, bob}[i%2], i%3 == 0, "an answer")
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					good++
				} else if !errors.Is(err, fault.Conflict) {
					t.Errorf("%v", err)
				}
			})
		}
		wg.Wait()
		if good != 1 || len(b.done) != 1 {
			t.Errorf("%d answers counted, %v carried out", good, b.done)
		}
	})
}

// TestThreat_Action_NobodyAnswers: what waits is told again and again, is never
// carried out by time, and counts towards nothing.
func TestThreat_Action_NobodyAnswers(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	db, err := store.Open(t.Context(), "sqlite:"+t.TempDir()+"/data/a.db", store.WithClock(func() time.Time { return now }))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	b := newBed(t, db, action.Limits{Answer: time.Hour})
	_, e := b.propose(action.Quarantine, "a", 500, 1000)
	remind := func(want int) {
		t.Helper()
		for range 2 { // as two replicas do
			if err := b.s.Remind(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got := b.told()["action.overdue"]; got != want {
			t.Errorf("told %d times, want %d", got, want)
		}
	}
	remind(0)
	now = now.Add(time.Hour)
	remind(1)
	now = now.Add(time.Hour)
	remind(2)
	now = now.AddDate(1, 0, 0)
	remind(3)
	got, err := b.s.Get(t.Context(), e.ID)
	if err != nil || got.State != action.Held || !got.Overdue || len(b.done) != 0 {
		t.Errorf("%+v %v", got, err)
	}
	if got, err = b.s.Decide(t.Context(), e.ID, bob, true, ""); err != nil || got.State != action.Done || got.Overdue {
		t.Errorf("%+v %v", got, err)
	}
	// What was done without a question counts for the window alone, and is dropped.
	b.propose(action.Quarantine, "b", 90, 1000)
	now = now.Add(2 * time.Hour)
	if may, e := b.propose(action.Quarantine, "c", 90, 1000); !may || e.Earlier != 0 {
		t.Errorf("%v %+v", may, e)
	}
	now = now.AddDate(1, 0, 0)
	remind(3)
	if all, err := b.s.List(t.Context(), action.Query{All: true, Limit: 10}); err != nil || len(all) != 1 || all[0].ID != e.ID {
		t.Errorf("%v %v", all, err)
	}
}
