package feed

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/event"
	"assay/internal/fault"
	"assay/internal/vectors"
	"assay/store"
	"assay/store/storetest"
	"assay/vuln"

	"github.com/google/go-cmp/cmp"
)

func open(t testing.TB, db *store.DB) *Store {
	t.Helper()
	if err := db.Migrate(t.Context(), event.Migrations, Migrations); err != nil {
		t.Fatal(err)
	}
	s, err := NewStore(db, DefaultLimits(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func record(id, name, modified string, fixed string) string {
	return fmt.Sprintf(`{"id": %q, "modified": %q, "affected": [{"package": {"ecosystem": "npm", "name": %q}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}, {"fixed": %q}]}]}]}`, id, modified, name, fixed)
}

// archive writes a zip of records by file name.
func archive(t testing.TB, records map[string]string) string {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, body := range records {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "all.zip")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func bring(t testing.TB, s *Store, path string, o Options) (Operation, error) {
	t.Helper()
	a, err := OpenZip(path)
	if err != nil {
		return Operation{}, err
	}
	defer a.Close()
	if o.Name == "" {
		o.Name, o.Ecosystem = "osv", "npm"
	}
	o.Actor = "system:test"
	return s.Import(t.Context(), a, o)
}

func counts(o Operation) string {
	return fmt.Sprintf("%s +%d ~%d w%d -%d =%d", o.State, o.Added, o.Changed, o.Withdrawn, o.Removed, o.Unchanged)
}

func TestOperations(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		base := map[string]string{}
		for i := range 20 {
			id := fmt.Sprintf("X-%d", i)
			base[id+".json"] = record(id, fmt.Sprintf("p%d", i), "2024-01-01T00:00:00Z", "1.0.0")
		}
		op, err := bring(t, s, archive(t, base), Options{})
		if err != nil || counts(op) != "in_force +20 ~0 w0 -0 =0" {
			t.Fatalf("first: %s, %v", counts(op), err)
		}
		first := archive(t, base)
		// The order in a zip differs, the records do not.
		if op, err = bring(t, s, first, Options{}); err != nil || op.Added+op.Changed+op.Removed != 0 || op.Unchanged != 20 {
			t.Fatalf("again: %s, %v", counts(op), err)
		}
		next := map[string]string{}
		for k, v := range base {
			next[k] = v
		}
		delete(next, "X-0.json")
		next["X-1.json"] = record("X-1", "p1", "0001-01-01T00:00:00Z", "2.0.0") // a modified of the year 1 is as good as any
		next["X-2.json"] = strings.Replace(next["X-2.json"], `"modified"`, `"withdrawn": "2024-02-01T00:00:00Z", "modified"`, 1)
		next["X-20.json"] = record("X-20", "p20", "2999-01-01T00:00:00Z", "1.0.0")
		second := archive(t, next)
		op, err = bring(t, s, second, Options{})
		if err != nil || counts(op) != "in_force +1 ~2 w1 -1 =17" {
			t.Fatalf("second: %s, %v", counts(op), err)
		}
		var changes []string
		if err := s.Changed(t.Context(), op.ID, func(c Change) error {
			word := c.ID
			switch {
			case c.Before == nil:
				word += " added"
			case c.After == nil:
				word += " removed"
			default:
				word += " changed from " + c.Before.Affected[0].Ranges[0].Events[1].Fixed + " to " + c.After.Affected[0].Ranges[0].Events[1].Fixed
			}
			changes = append(changes, word)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"X-0 removed", "X-1 changed from 1.0.0 to 2.0.0", "X-2 changed from 1.0.0 to 1.0.0", "X-20 added"}, changes); diff != "" {
			t.Error(diff)
		}
		if _, err := s.Get(t.Context(), "X-0"); !errors.Is(err, fault.NotFound) {
			t.Errorf("a removed record: %v", err)
		}
		for pkg, want := range map[string]int{"p0": 0, "p1": 1, "p2": 1, "p20": 1, "p21": 0} {
			got, err := s.ByPackage(t.Context(), vuln.Package{Ecosystem: "npm", Name: pkg})
			if err != nil || len(got) != want {
				t.Errorf("records about %s: %d, %v; want %d", pkg, len(got), err, want)
			}
			if pkg == "p1" && got[0].Affected[0].Ranges[0].Events[1].Fixed != "2.0.0" {
				t.Error("p1 is the old one")
			}
		}
		// It was removed, and comes back. Its archive may be the first one, to the
		// byte: the order of a map says so.
		op, err = bring(t, s, archive(t, base), Options{AllowDowngrade: true, Reason: "a test"})
		if err != nil || counts(op) != "in_force +1 ~2 w0 -1 =17" {
			t.Fatalf("back: %s, %v", counts(op), err)
		}
		if all, err := s.Get(t.Context(), "X-0"); err != nil || len(all) != 1 {
			t.Errorf("it is back: %v, %v", all, err)
		}
		ghsa := strings.Replace(record("GHSA-1", "p30", "2024-01-01T00:00:00Z", "1.0.0"), `"modified"`, `"aliases": ["X-0", "CVE-2024-1"], "modified"`, 1)
		if _, err := bring(t, s, archive(t, map[string]string{"GHSA-1.json": ghsa}), Options{Name: "github", Ecosystem: "npm"}); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]int{"X-0": 2, "CVE-2024-1": 1, "GHSA-1": 1, "X-99": 0} {
			if all, err := s.ByAlias(t.Context(), name); err != nil || len(all) != want {
				t.Errorf("records about %s: %d, %v; want %d", name, len(all), err, want)
			}
		}
		src, err := s.Source(t.Context(), "osv", "npm")
		if err != nil || src.Records != 20 || src.Problem != "" || src.Checked.IsZero() {
			t.Errorf("%+v, %v", src, err)
		}
	})
}

// TestThreat_Feed_Refused: what is corrupt, cut short, too large, older or empty
// is refused with its reason; the old one stays, and shows that.
func TestThreat_Feed_Refused(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		s.lim = Limits{Records: 100, Bytes: 1 << 20}
		good, old := map[string]string{}, map[string]string{}
		for i := range 20 {
			id := fmt.Sprintf("X-%d", i)
			good[id+".json"] = record(id, "p", "2024-06-01T00:00:00Z", "2.0.0")
			old[id+".json"] = record(id, "p", "2024-01-01T00:00:00Z", "1.0.0")
		}
		if _, err := bring(t, s, archive(t, good), Options{}); err != nil {
			t.Fatal(err)
		}
		with := func(name, body string) map[string]string {
			m := map[string]string{name: body}
			for k, v := range good {
				m[k] = v
			}
			return m
		}
		many := map[string]string{}
		for i := range 101 {
			many[fmt.Sprintf("%d.json", i)] = record(fmt.Sprintf("Y-%d", i), "p", "2024-06-01T00:00:00Z", "2.0.0")
		}
		half := map[string]string{}
		for i := range 9 {
			half[fmt.Sprintf("X-%d.json", i)] = good[fmt.Sprintf("X-%d.json", i)]
		}
		tests := map[string]struct {
			records map[string]string
			kind    error
			word    string
		}{
			"older":        {old, fault.Conflict, "older than what is in force"},
			"most gone":    {half, fault.Conflict, "lacks 11 of the 20 records"},
			"empty":        {map[string]string{"README": "x"}, fault.Invalid, "holds no record"},
			"named twice":  {with("X-0-again.json", record("X-0", "q", "2024-06-01T00:00:00Z", "3.0.0")), fault.Invalid, "two records are named X-0"},
			"corrupt":      {with("a.json", "{"), nil, ""},
			"more corrupt": {map[string]string{"a.json": "{", "b.json": "{", "X-1.json": good["X-1.json"]}, fault.Invalid, "cannot be read"},
			"too many":     {many, fault.TooLarge, "more than 100 records"},
			"bomb":         {with("bomb.json", strings.Repeat(" ", 1<<20)), fault.TooLarge, "unpacks to more than its limit"},
		}
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				op, err := bring(t, s, archive(t, tt.records), Options{})
				if tt.kind == nil {
					// One record of many that cannot be read is shown, and no reason to go without the others.
					if err != nil || len(op.Skipped) != 1 {
						t.Fatalf("%v, %v", op.Skipped, err)
					}
					return
				}
				if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.word) {
					t.Fatalf("%v", err)
				}
				src, err := s.Source(t.Context(), "osv", "npm")
				if err != nil || !strings.Contains(src.Problem, tt.word) || src.Records != 20 {
					t.Errorf("%+v, %v", src, err)
				}
				all, err := s.ByPackage(t.Context(), vuln.Package{Ecosystem: "npm", Name: "p"})
				if err != nil || len(all) != 20 || all[0].Affected[0].Ranges[0].Events[1].Fixed != "2.0.0" {
					t.Errorf("%d records, %v", len(all), err)
				}
			})
		}
		if op, err := bring(t, s, archive(t, old), Options{AllowDowngrade: true, Reason: "test"}); err != nil || op.Changed != 20 {
			t.Errorf("allowed: %s, %v", counts(op), err)
		}
		// Cut short anywhere.
		whole, err := os.ReadFile(archive(t, good))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{0, 10, len(whole) / 2, len(whole) - 1} {
			path := filepath.Join(t.TempDir(), "cut.zip")
			if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := bring(t, s, path, Options{}); !errors.Is(err, fault.Invalid) {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
		// A bit that flipped is found by the checksum of its member.
		flipped := bytes.Clone(whole)
		flipped[60] ^= 1
		path := filepath.Join(t.TempDir(), "flipped.zip")
		if err := os.WriteFile(path, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		if op, err := bring(t, s, path, Options{AllowDowngrade: true, Reason: "test"}); err == nil && len(op.Skipped) == 0 {
			t.Errorf("a flipped bit: %s", counts(op))
		}
	})
}

// TestInterrupted: an import that ends in the middle leaves what was in force,
// and nothing behind once the next one was made.
func TestInterrupted(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		good := map[string]string{}
		for i := range 1200 {
			id := fmt.Sprintf("X-%d", i)
			good[id+".json"] = record(id, "p", "2024-06-01T00:00:00Z", "2.0.0")
		}
		path := archive(t, good)
		a, err := OpenZip(path)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		_, err = s.Import(ctx, &stopping{Archive: a, after: 700, stop: cancel}, Options{Name: "osv", Ecosystem: "npm", Actor: "system:test"})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("%v", err)
		}
		if all, err := s.ByPackage(t.Context(), vuln.Package{Ecosystem: "npm", Name: "p"}); err != nil || len(all) != 0 {
			t.Errorf("%d records of an operation that never ended, %v", len(all), err)
		}
		if op, err := bring(t, s, path, Options{}); err != nil || op.Added != 1200 {
			t.Fatalf("%s, %v", counts(op), err)
		}
		var rows int
		if err := db.View(t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(t.Context(), `SELECT COUNT(*) FROM feed_record`).Scan(&rows)
		}); err != nil || rows != 1200 {
			t.Errorf("%d rows, %v", rows, err)
		}
	})
}

type stopping struct {
	Archive
	after int
	stop  func()
}

func (s *stopping) Each(lim Limits, fn func(string, []byte) error) error {
	n := 0
	return s.Archive.Each(lim, func(name string, b []byte) error {
		if n++; n == s.after {
			s.stop()
		}
		return fn(name, b)
	})
}

// TestBefore: who guards the feed may refuse it, seeing what would change.
func TestBefore(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		saw := 0
		s.Before = func(ctx context.Context, op Operation) error {
			if err := s.Changed(ctx, op.ID, func(Change) error { saw++; return nil }); err != nil {
				return err
			}
			return fault.Newf(fault.Denied, "a canary came out clean")
		}
		op, err := bring(t, s, archive(t, map[string]string{"X-1.json": record("X-1", "p", "2024-01-01T00:00:00Z", "1.0.0")}), Options{})
		if !errors.Is(err, fault.Denied) || saw != 1 || op.State != "refused" {
			t.Errorf("%v, %d changes seen, %s", err, saw, op.State)
		}
		if _, err := s.Get(t.Context(), "X-1"); !errors.Is(err, fault.NotFound) {
			t.Error(err)
		}
	})
}

func TestFind(t *testing.T) {
	dir := vectors.Shared(t, "osv")
	found, err := Find(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range found {
		if f.List {
			f.Ecosystem = "list " + filepath.Base(f.Path)
		}
		names = append(names, f.Ecosystem)
	}
	if diff := cmp.Diff([]string{"AlmaLinux", "Go", "Hackage", "Packagist", "PyPI", "crates.io", "npm", "list kev.json"}, names); diff != "" {
		t.Error(diff)
	}
	if one, err := Find(filepath.Join(dir, "npm", "all.zip")); err != nil || len(one) != 1 || one[0].Ecosystem != "npm" {
		t.Errorf("%v, %v", one, err)
	}
	if one, err := Find(filepath.Join(dir, "npm")); err != nil || len(one) != 1 || one[0].Ecosystem != "npm" || !one[0].Zip {
		t.Errorf("one ecosystem of a tree: %v, %v", one, err)
	}
	if one, err := Find(filepath.Join(dir, "kev.json")); err != nil || len(one) != 1 || !one[0].List {
		t.Errorf("a list: %v, %v", one, err)
	}
	if _, err := Find(t.TempDir()); !errors.Is(err, fault.Invalid) {
		t.Errorf("an empty folder: %v", err)
	}
}

// BenchmarkImport is the whole of the real feeds, into a fresh SQLite database,
// and again unchanged.
func BenchmarkImport(b *testing.B) {
	found, err := Find(vectors.Shared(b, "osv"))
	if err != nil {
		b.Fatal(err)
	}
	run := func(b *testing.B, s *Store, forget bool) {
		for _, f := range found {
			if f.List {
				continue
			}
			a, err := f.Open()
			if err != nil {
				b.Fatal(err)
			}
			if forget {
				a = unnamed{a}
			}
			if _, err := s.Import(b.Context(), a, Options{Name: "osv", Ecosystem: f.Ecosystem, Actor: "system:bench"}); err != nil {
				b.Fatal(err)
			}
			a.Close()
		}
	}
	b.Run("first", func(b *testing.B) {
		for range b.N {
			b.StopTimer()
			s := open(b, storetest.Open(b, store.SQLite))
			b.StartTimer()
			run(b, s, false)
		}
	})
	s := open(b, storetest.Open(b, store.SQLite))
	run(b, s, false)
	b.Run("unchanged", func(b *testing.B) {
		for range b.N {
			run(b, s, false)
		}
	})
	b.Run("unchanged records in another archive", func(b *testing.B) {
		for range b.N {
			run(b, s, true)
		}
	})
}

type unnamed struct{ Archive }

func (unnamed) Digest() string { return "" }
