package feed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
	"assay/vuln"

	"github.com/google/go-cmp/cmp"
)

// told gives the kinds of events so far, in order.
func told(t testing.TB, db *store.DB, kinds ...event.Kind) (out []string) {
	t.Helper()
	if err := db.View(t.Context(), func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(t.Context(), `SELECT kind FROM event_pending ORDER BY time, ord`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var k string
			if err := rows.Scan(&k); err != nil {
				return err
			}
			for _, want := range kinds {
				if string(want) == k {
					out = append(out, k)
				}
			}
		}
		return rows.Err()
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func some(n int, modified, fixed string) map[string]string {
	out := map[string]string{}
	for i := range n {
		id := fmt.Sprintf("X-%03d", i)
		out[id+".json"] = record(id, "p"+id, modified, fixed)
	}
	return out
}

// TestBlocked: what is held back is not in force, the same bytes again are not
// told again, and a person can accept it.
func TestBlocked(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		if _, err := bring(t, s, archive(t, some(20, "2024-01-01T00:00:00Z", "1.0.0")), Options{}); err != nil {
			t.Fatal(err)
		}
		s.Before = func(ctx context.Context, op Operation) error {
			a, err := s.Preview(op).Record(ctx, "X-003")
			if err != nil || a.Affected[0].Ranges[0].Events[1].Fixed != "0.5.0" {
				t.Errorf("the preview shows %+v, %v", a, err)
			}
			if all, err := s.Preview(op).ByPackage(ctx, vuln.Package{Ecosystem: "npm", Name: "pX-003"}); err != nil || len(all) != 1 || all[0].Operation != op.ID {
				t.Errorf("%d records of the package, %v", len(all), err)
			}
			return &BlockError{Reason: "the canary came out clean"}
		}
		next := archive(t, some(20, "2024-02-01T00:00:00Z", "0.5.0"))
		op, err := bring(t, s, next, Options{})
		if !errors.Is(err, fault.Conflict) || op.State != Blocked || !strings.Contains(err.Error(), "assay feed accept 2") {
			t.Fatalf("%+v, %v", op, err)
		}
		again, err := bring(t, s, next, Options{})
		if !errors.Is(err, fault.Conflict) || again.ID != op.ID {
			t.Errorf("again: %+v, %v", again, err)
		}
		if a, err := s.InForce(t.Context(), "osv", "npm", "X-003"); err != nil || a.Affected[0].Ranges[0].Events[1].Fixed != "1.0.0" {
			t.Errorf("in force: %+v, %v", a, err)
		}
		if src, err := s.Source(t.Context(), "osv", "npm"); err != nil || src.Operation != 1 || !strings.Contains(src.Problem, "canary") {
			t.Errorf("%+v, %v", src, err)
		}
		if _, err := s.Accept(t.Context(), op.ID, "alice", "  "); !errors.Is(err, fault.Invalid) {
			t.Errorf("without a reason: %v", err)
		}
		if _, err := s.Accept(t.Context(), 1, "alice", "why not"); !errors.Is(err, fault.Conflict) {
			t.Errorf("one that is not blocked: %v", err)
		}
		op, err = s.Accept(t.Context(), op.ID, "alice", "looked at it")
		if err != nil || op.State != "in_force" || op.Changed != 20 || op.Reason != "looked at it" {
			t.Errorf("%+v, %v", op, err)
		}
		if a, err := s.InForce(t.Context(), "osv", "npm", "X-003"); err != nil || a.Affected[0].Ranges[0].Events[1].Fixed != "0.5.0" {
			t.Errorf("accepted: %+v, %v", a, err)
		}
		if diff := cmp.Diff([]string{"feed.imported", "feed.refused", "feed.accepted", "feed.imported"},
			told(t, db, event.FeedImported, event.FeedRefused, event.FeedAccepted)); diff != "" {
			t.Error(diff)
		}
		// What is in force may come into doubt, and out of it.
		if err := s.Doubt(t.Context(), "osv", "npm", "the matcher is another"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Accept(t.Context(), op.ID, "alice", "still right"); err != nil {
			t.Error(err)
		}
		if src, _ := s.Source(t.Context(), "osv", "npm"); src.Blocked != "" || src.Records != 20 {
			t.Errorf("%+v", src)
		}
	})
}

// TestPartial: what a partial archive does not name stays.
func TestPartial(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		if _, err := bring(t, s, archive(t, some(30, "2024-01-01T00:00:00Z", "1.0.0")), Options{}); err != nil {
			t.Fatal(err)
		}
		op, err := bring(t, s, archive(t, map[string]string{
			"X-001.json": record("X-001", "p", "2024-02-01T00:00:00Z", "2.0.0"), "Y-1.json": record("Y-1", "y", "2024-02-01T00:00:00Z", "2.0.0"),
		}), Options{Partial: true})
		if err != nil || counts(op) != "in_force +1 ~1 w0 -0 =0" {
			t.Fatalf("%s, %v", counts(op), err)
		}
		if src, err := s.Source(t.Context(), "osv", "npm"); err != nil || src.Records != 31 {
			t.Errorf("%+v, %v", src, err)
		}
	})
}

// TestThreat_Feed_PlayedBack: bytes that were in force once, and others after
// them, are an old snapshot; so is what goes back without anything new.
func TestThreat_Feed_PlayedBack(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		first := archive(t, some(20, "2024-01-01T00:00:00Z", "1.0.0"))
		newer := some(20, "2024-01-01T00:00:00Z", "1.0.0")
		newer["X-001.json"] = record("X-001", "p", "2024-02-01T00:00:00Z", "2.0.0")
		newer["Y-1.json"] = record("Y-1", "y", "2024-02-01T00:00:00Z", "2.0.0")
		newer["Y-2.json"] = record("Y-2", "y", "2024-02-01T00:00:00Z", "2.0.0")
		for _, path := range []string{first, archive(t, newer)} {
			if _, err := bring(t, s, path, Options{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := bring(t, s, first, Options{}); !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "older") {
			t.Errorf("played back: %v", err)
		}
		// Some more of the same age, so that the bytes are others, and little went back.
		mixed := some(20, "2024-01-01T00:00:00Z", "1.0.0")
		for _, id := range []string{"Y-1", "Y-2", "Y-3"} {
			mixed[id+".json"] = record(id, "y", "2024-02-01T00:00:00Z", "2.0.0")
		}
		if _, err := bring(t, s, archive(t, mixed), Options{}); err != nil {
			t.Errorf("one record that goes back among new ones: %v", err)
		}
		lost := some(14, "2024-01-01T00:00:00Z", "1.0.0")
		if _, err := bring(t, s, archive(t, lost), Options{}); !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "lacks 9 of the 23") {
			t.Errorf("a third of it vanished: %v", err)
		}
		if _, err := bring(t, s, archive(t, lost), Options{AllowDowngrade: true}); !errors.Is(err, fault.Invalid) {
			t.Errorf("without a reason: %v", err)
		}
		if op, err := bring(t, s, archive(t, lost), Options{AllowDowngrade: true, Reason: "upstream cleaned up"}); err != nil || op.Reason == "" {
			t.Errorf("%+v, %v", op, err)
		}
	})
}

// TestFailing: a feed that cannot be fetched is told of when that begins, and
// when it has become stale.
func TestFailing(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(private(t), "assay.db"), store.WithClock(func() time.Time { return now }))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := open(t, db)
	if _, err := bring(t, s, archive(t, some(3, "2024-01-01T00:00:00Z", "1.0.0")), Options{}); err != nil {
		t.Fatal(err)
	}
	for _, age := range []time.Duration{time.Hour, 2 * time.Hour, 60 * time.Hour, 61 * time.Hour} {
		now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(age)
		if err := s.Failed(t.Context(), "osv", "npm", fault.Newf(fault.Unavailable, "no route after %s", age), "system:vuln"); err != nil {
			t.Fatal(err)
		}
		if err := s.TellStale(t.Context(), 48*time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Renew(t.Context(), "osv", "npm", `"e"`); err != nil {
		t.Fatal(err)
	}
	if src, _ := s.Source(t.Context(), "osv", "npm"); !src.Checked.Equal(now) || src.Problem != "" {
		t.Errorf("%+v", src)
	}
	if diff := cmp.Diff([]string{"feed.failed", "feed.stale"}, told(t, db, event.FeedFailed, event.FeedStale)); diff != "" {
		t.Error(diff)
	}
}

// slowly gives its records over a pipe, one for each byte that is asked for.
type slowly struct {
	Archive
	in io.Reader
}

func (a slowly) Each(lim Limits, fn func(string, []byte) error) error {
	n := 0
	return a.Archive.Each(lim, func(name string, b []byte) error {
		if n++; n == 1500 { // after some transactions
			fmt.Println("in the middle")
			_, _ = io.ReadFull(a.in, make([]byte, 1))
		}
		return fn(name, b)
	})
}

// TestThreat_Feed_KilledImport kills a process in the middle of an import: the
// feed that was in force stays, whole, and the next import goes through.
func TestThreat_Feed_KilledImport(t *testing.T) {
	if dir := os.Getenv("ASSAY_TEST_KILLED_IMPORT"); dir != "" {
		db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(dir, "assay.db"))
		if err != nil {
			t.Fatal(err)
		}
		a, err := OpenZip(filepath.Join(dir, "new.zip"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = open(t, db).Import(t.Context(), slowly{a, os.Stdin}, Options{Name: "osv", Ecosystem: "npm", Actor: "system:test"})
		t.Fatalf("it was not killed: %v", err)
	}
	dir := private(t)
	opened := func() (*Store, *store.DB) {
		db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(dir, "assay.db"), store.WithClock(func() time.Time { return time.Now().Add(time.Hour) }))
		if err != nil {
			t.Fatal(err)
		}
		return open(t, db), db
	}
	s, db := opened()
	if _, err := bring(t, s, archive(t, some(2000, "2024-01-01T00:00:00Z", "1.0.0")), Options{}); err != nil {
		t.Fatal(err)
	}
	db.Close()
	next := archive(t, some(2000, "2024-02-01T00:00:00Z", "3.0.0"))
	b, err := os.ReadFile(next)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "new.zip"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestThreat_Feed_KilledImport$")
	cmd.Env = append(os.Environ(), "ASSAY_TEST_KILLED_IMPORT="+dir)
	in, _ := cmd.StdinPipe()
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, len("in the middle"))
	if _, err := io.ReadFull(out, head); err != nil || string(head) != "in the middle" {
		t.Fatalf("%q, %v", head, err)
	}
	if err := cmd.Process.Kill(); err != nil { // SIGKILL
		t.Fatal(err)
	}
	_ = cmd.Wait()

	s, db = opened()
	defer db.Close()
	var half int
	if err := db.View(t.Context(), func(tx *store.Tx) error {
		return tx.QueryRow(t.Context(), `SELECT COUNT(*) FROM feed_record WHERE operation = 2`).Scan(&half)
	}); err != nil || half == 0 || half >= 2000 {
		t.Fatalf("it was not killed in the middle: %d rows, %v", half, err)
	}
	for _, id := range []string{"X-000", "X-1999"} {
		if a, err := s.InForce(t.Context(), "osv", "npm", id); err != nil || a == nil || a.Affected[0].Ranges[0].Events[1].Fixed != "1.0.0" {
			t.Errorf("%s after the kill: %+v, %v", id, a, err)
		}
	}
	if all, err := s.ByPackage(t.Context(), vuln.Package{Ecosystem: "npm", Name: "pX-001"}); err != nil || len(all) != 1 || all[0].Operation != 1 {
		t.Errorf("%+v, %v", all, err)
	}
	op, err := bring(t, s, next, Options{})
	if err != nil || op.Changed != 2000 {
		t.Fatalf("the next import: %+v, %v", op, err)
	}
	if all, err := s.Operations(t.Context(), "osv", "npm", 10); err != nil || len(all) != 3 || all[1].Problem != "it was interrupted" {
		t.Errorf("%+v, %v", all, err)
	}
}

// private is a folder that the store agrees to.
func private(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}
