package supply

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"

	"github.com/google/go-cmp/cmp"
)

func stock(day int, admins ...string) *Inventory {
	i := &Inventory{Version: 1, Provider: Gitea, URL: "https://git.example", Targets: []string{"o/r"}, At: today.AddDate(0, 0, day),
		Items: []Item{}, Unknown: []Unknown{}, Findings: []Finding{}}
	for _, a := range admins {
		i.Items = append(i.Items, Item{Scope: "o/r", Kind: Admins, Name: a, Value: "admin"})
	}
	return i
}

func ledger(t *testing.T, db *store.DB) *Store {
	t.Helper()
	if err := db.Migrate(t.Context(), event.Migrations, Migrations); err != nil {
		t.Fatal(err)
	}
	return NewStore(db)
}

func told(t *testing.T, db *store.DB, kind event.Kind) (n int) {
	t.Helper()
	if err := db.View(t.Context(), func(tx *store.Tx) error {
		return tx.QueryRow(t.Context(), `SELECT COUNT(*) FROM event_pending WHERE kind = ?`, string(kind)).Scan(&n)
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestStoreHoldsRunsAgainstWhatWasAccepted(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, ctx := ledger(t, db), t.Context()
		add := func(i *Inventory) *Run {
			t.Helper()
			x, err := s.Add(ctx, "scanner", i)
			if err != nil {
				t.Fatal(err)
			}
			return x
		}
		first := add(stock(0, "alice"))
		if first.Drift.State != StateFirst {
			t.Errorf("nobody accepted anything, and the state is %q", first.Drift.State)
		}
		if again := add(stock(0, "alice")); again.ID != first.ID || told(t, db, event.InventoryScanned) != 1 {
			t.Error("the same document again is another run")
		}
		if _, err := s.Accept(ctx, "approver", first.ID, " "); !errors.Is(err, fault.Invalid) {
			t.Errorf("accepted without a reason: %v", err)
		}
		if _, err := s.Accept(ctx, "approver", first.ID, "looked at"); err != nil {
			t.Fatal(err)
		}
		if same := add(stock(1, "alice")); same.Drift.State != StateSame || same.Drift.Baseline != first.ID {
			t.Errorf("unchanged, and %+v", same.Drift)
		}
		changed := stock(2, "alice", "mallory")
		changed.Findings = []Finding{{"ci-admin", "o/r", "mallory", "why"}}
		drifted := add(changed)
		want := Drift{State: StateDrifted, Baseline: first.ID, Count: 2, Changes: []Change{{What: "new", Scope: "o/r", Kind: Admins, Name: "mallory", After: "admin"}},
			Findings: changed.Findings, Lost: []Unknown{}}
		if d := cmp.Diff(want, drifted.Drift); d != "" {
			t.Error(d)
		}
		changed.At = changed.At.Add(time.Hour)
		add(changed) // the same difference: told already
		if n := told(t, db, event.InventoryDrifted); n != 1 {
			t.Errorf("one difference was told %d times", n)
		}
		add(stock(3)) // another one
		if n := told(t, db, event.InventoryDrifted); n != 2 {
			t.Errorf("two differences were told %d times", n)
		}
		blind := stock(4)
		blind.Unknown = []Unknown{{Scope: "o/r", Part: Admins, Why: "403"}}
		if x := add(blind); x.Drift.State != StateUnknown || x.Drift.Count != 1 {
			t.Errorf("a run that may not look any more is %+v", x.Drift)
		}
		if _, err := s.Accept(ctx, "approver", drifted.ID, "mallory is ours"); err != nil {
			t.Fatal(err)
		}
		got, doc, err := s.Run(ctx, drifted.ID)
		if err != nil || !got.Current || got.AcceptedBy != "approver" || len(doc.Items) != 2 {
			t.Errorf("%+v %+v %v", got, doc, err)
		}
		if _, _, err := s.Run(ctx, "inv_none"); !errors.Is(err, fault.NotFound) {
			t.Errorf("a run that is not there: %v", err)
		}
		latest, err := s.Runs(ctx, Filter{Latest: true, Limit: 10})
		if err != nil || len(latest) != 1 || latest[0].Drift.Baseline != drifted.ID {
			t.Errorf("the newest of one estate, held against what was accepted after it: %+v %v", latest, err)
		}
		page, err := s.Runs(ctx, Filter{Limit: 4})
		if err != nil || len(page) != 4 {
			t.Fatalf("%d runs: %v", len(page), err)
		}
		rest, err := s.Runs(ctx, Filter{After: page[3].ID, Limit: 10})
		if err != nil || len(rest) != 2 || rest[1].ID != first.ID {
			t.Errorf("the rest is %d runs: %v", len(rest), err)
		}
	})
}

// A repository's own list is compared, though its organisation's is not asked.
func TestPartlyUnknownIsCompared(t *testing.T) {
	before, after := stock(0, "alice"), stock(1, "alice", "mallory")
	for _, i := range []*Inventory{before, after} {
		i.Unknown = []Unknown{{Scope: "o/r", Part: Admins, Why: "teams", Partial: true}}
	}
	d, err := DriftFrom(before, "inv_1", after)
	if err != nil || d.State != StateDrifted || len(d.Changes) != 1 || len(d.Lost) != 0 {
		t.Errorf("%+v %v", d, err)
	}
}

func TestStoreForgetsOldRunsAndNeverTheBaseline(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	s, ctx := ledger(t, db), t.Context()
	first, err := s.Add(ctx, "scanner", stock(0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Accept(ctx, "approver", first.ID, "looked at"); err != nil {
		t.Fatal(err)
	}
	for n := range keptRuns + 5 {
		if _, err := s.Add(ctx, "scanner", stock(n+1)); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.Runs(ctx, Filter{Limit: 1000})
	if err != nil || len(all) != keptRuns+1 || all[keptRuns].ID != first.ID {
		t.Errorf("%d runs are kept, want %d and the baseline: %v", len(all), keptRuns, err)
	}
}

// TestThreat_Store_BaselineWrittenOver: who writes the database does not choose
// what counts as usual unseen.
func TestThreat_Store_BaselineWrittenOver(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	s, ctx := ledger(t, db), t.Context()
	first, err := s.Add(ctx, "scanner", stock(0))
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.Add(ctx, "scanner", stock(1, "mallory"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Accept(ctx, "approver", first.ID, "looked at"); err != nil {
		t.Fatal(err)
	}
	if err := db.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE supply_scan SET body = (SELECT body FROM supply_scan WHERE id = ?) WHERE id = ?`, other.ID, first.ID)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add(ctx, "scanner", stock(2, "mallory")); !errors.Is(err, fault.Tampered) {
		t.Errorf("held against another baseline: %v", err)
	}
}

func TestThreat_Feed_HostileInventory(t *testing.T) {
	with := func(change func(*Inventory)) string {
		i := stock(0, "alice")
		change(i)
		b, err := json.Marshal(i)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, doc := range map[string]string{
		"not JSON":           `{`,
		"another version":    with(func(i *Inventory) { i.Version = 2 }),
		"twice":              strings.Replace(with(func(*Inventory) {}), `"version":1`, `"version":1,"version":1`, 1),
		"unknown member":     strings.Replace(with(func(*Inventory) {}), `"version":1`, `"version":1,"x":1`, 1),
		"no forge":           with(func(i *Inventory) { i.URL = "" }),
		"a user in the URL":  with(func(i *Inventory) { i.URL = "https://user:secret@git.example" }),
		"no targets":         with(func(i *Inventory) { i.Targets = nil }),
		"unsorted targets":   with(func(i *Inventory) { i.Targets = []string{"o/r", "a/b"} }),
		"a target twice":     with(func(i *Inventory) { i.Targets = []string{"o/r", "o/r"} }),
		"another kind":       with(func(i *Inventory) { i.Items[0].Kind = "x" }),
		"NUL":                with(func(i *Inventory) { i.Items[0].Name = "a\x00b" }),
		"a name without end": with(func(i *Inventory) { i.Items[0].Name = strings.Repeat("a", 1<<20) }),
		"depth":              strings.Repeat(`{"items":[`, 1000),
	} {
		if _, err := Read([]byte(doc)); !errors.Is(err, fault.Invalid) && !errors.Is(err, fault.TooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	many := stock(0)
	many.Items = make([]Item, maxItems+1)
	if err := many.Validate(); !errors.Is(err, fault.TooLarge) {
		t.Errorf("%d items: %v", len(many.Items), err)
	}
}

// FuzzRead: what is read is what would be written again.
func FuzzRead(f *testing.F) {
	b, _ := json.Marshal(stock(0, "alice"))
	f.Add(b)
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := Read(b)
		if err != nil {
			return
		}
		if i.estate() == "" || i.Validate() != nil {
			t.Errorf("%s was read, and does not hold", b)
		}
	})
}

func BenchmarkDriftOfALargeEstate(b *testing.B) {
	i := stock(0)
	for n := range 100_000 {
		i.Items = append(i.Items, Item{Scope: fmt.Sprintf("o/r%d", n/20), Kind: Secrets, Name: fmt.Sprint(n)})
	}
	for b.Loop() {
		if _, err := DriftFrom(i, "inv_1", i); err != nil {
			b.Fatal(err)
		}
	}
}
