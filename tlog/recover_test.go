package tlog

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
)

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

func mustClose(t *testing.T, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// record is the database's row, to be put back as a restored backup would.
type record struct {
	size, indexed int64
	root, note    []byte
}

func saveRecord(t *testing.T, db *store.DB) (r record) {
	t.Helper()
	if err := db.View(t.Context(), func(tx *store.Tx) error {
		return tx.QueryRow(t.Context(), `SELECT size, indexed, root, note FROM tlog_checkpoint WHERE origin = ?`, testOrigin).
			Scan(&r.size, &r.indexed, &r.root, &r.note)
	}); err != nil {
		t.Fatal(err)
	}
	return r
}

func execSQL(t *testing.T, db *store.DB, q string, args ...any) {
	t.Helper()
	if err := db.Update(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), q, args...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func restoreRecord(t *testing.T, db *store.DB, r record) {
	t.Helper()
	execSQL(t, db, `UPDATE tlog_checkpoint SET size = ?, indexed = ?, root = ?, note = ? WHERE origin = ?`, r.size, r.indexed, r.root, r.note, testOrigin)
	execSQL(t, db, `DELETE FROM tlog_leaf WHERE idx >= ?`, r.indexed)
}

func refused(t *testing.T, o Options, kind *fault.Kind, says string) {
	t.Helper()
	l, err := Open(t.Context(), o)
	if err == nil {
		_ = l.Close()
	}
	if !errors.Is(err, kind) || !strings.Contains(err.Error(), says) {
		t.Errorf("open: %v; want %v that says %q", err, kind, says)
	}
}

func TestRestart(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		o := options(t, db)
		total := 0
		var before Checkpoint
		for _, n := range []int{0, 1, 255, 1, 300} {
			l := open(t, o)
			if got := l.Head(); total > 0 && string(got.Note) != string(before.Note) {
				t.Errorf("the restart changed the checkpoint:\n%s\n%s", before.Note, got.Note)
			}
			add(t, l, total, n)
			total += n
			before = l.Head()
			mustClose(t, l)
		}
	})
}

func TestThreat_Store_TwoWriters(t *testing.T) {
	db := openStore(t)
	o := options(t, db)
	l := open(t, o)
	add(t, l, 0, 10)
	refused(t, o, fault.Conflict, "another process holds it")

	// A copy of the folder has a lock of its own, but one record.
	twin := o
	twin.Dir = t.TempDir()
	copyDir(t, o.Dir, twin.Dir)
	m := open(t, twin)
	add(t, l, 10, 1)
	for i := range 3 {
		if _, err := m.Add(t.Context(), leafN(100+i)); !errors.Is(err, fault.Tampered) && !errors.Is(err, fault.Conflict) {
			t.Errorf("the second writer: %v, want it refused", err)
		}
	}
	if got := m.Head().Size; got != 10 {
		t.Errorf("the second writer shows %d entries, want the 10 that it opened with", got)
	}
	add(t, l, 11, 5) // the first goes on
}

func TestThreat_Store_RestoredOlderFolder(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		o := options(t, db)
		backup := filepath.Join(t.TempDir(), "backup")
		for _, n := range []int{0, 5, 300} {
			l := open(t, o)
			size := int(l.Head().Size)
			add(t, l, size, n)
			mustClose(t, l)
			copyDir(t, o.Dir, backup)
			l = open(t, o)
			add(t, l, size+n, 3)
			mustClose(t, l)
			newer := filepath.Join(t.TempDir(), "newer")
			copyDir(t, o.Dir, newer)
			copyDir(t, backup, o.Dir)
			refused(t, o, fault.Tampered, "Restore the folder as new as the database")
			refused(t, o, fault.Tampered, "fork") // and again: a refusal changes nothing
			copyDir(t, newer, o.Dir)
			mustClose(t, open(t, o)) // the advice helps
		}
		if err := os.RemoveAll(o.Dir); err != nil {
			t.Fatal(err)
		}
		refused(t, o, fault.Tampered, "does not hold the log")
	})
}

func TestThreat_Store_RestoredOlderDatabase(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		o := options(t, db)
		l := open(t, o)
		add(t, l, 0, 300)
		mustClose(t, l)
		old := saveRecord(t, db)
		l = open(t, o)
		add(t, l, 300, 300)
		mustClose(t, l)
		restoreRecord(t, db, old)

		l = open(t, o) // the folder extends the record: it catches up
		if got := l.Head().Size; got != 600 {
			t.Fatalf("%d entries, want 600", got)
		}
		if got := saveRecord(t, db); got.size != 600 {
			t.Errorf("the database records %d entries, want 600", got.size)
		}
		awaitIndex(t, db, 600)
		for _, i := range []int{0, 299, 300, 599} { // and knows every entry again
			if e := add(t, l, i, 1)[0]; !e.Duplicate {
				t.Errorf("entry %d was logged again", i)
			}
		}
		mustClose(t, l)

		execSQL(t, db, `DELETE FROM tlog_checkpoint WHERE origin = ?`, testOrigin) // a new database
		execSQL(t, db, `DELETE FROM tlog_leaf WHERE origin = ?`, testOrigin)
		l = open(t, o)
		awaitIndex(t, db, 600)
		if e := add(t, l, 450, 1)[0]; !e.Duplicate || e.TreeSize != 600 {
			t.Errorf("after the database was lost: %+v", e)
		}
	})
}

func awaitIndex(t *testing.T, db *store.DB, want int64) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); saveRecord(t, db).indexed != want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the index knows %d entries, want %d", saveRecord(t, db).indexed, want)
		}
	}
}

func TestDamagedIndexIsMadeAgain(t *testing.T) {
	db := openStore(t)
	o := options(t, db)
	l := open(t, o)
	add(t, l, 0, 700)
	mustClose(t, l)
	execSQL(t, db, `DELETE FROM tlog_leaf`)
	l = open(t, o)
	awaitIndex(t, db, 700)
	for _, i := range []int{0, 350, 699} {
		if e := add(t, l, i, 1)[0]; !e.Duplicate {
			t.Errorf("entry %d was logged again", i)
		}
	}
}

// TestThreat_Store_ForkedLog: two histories under one key, whichever is longer.
func TestThreat_Store_ForkedLog(t *testing.T) {
	db, other := openStore(t), openStore(t)
	o := options(t, db)
	l := open(t, o)
	add(t, l, 0, 10)
	mustClose(t, l)
	fork := o
	fork.Dir, fork.DB = t.TempDir(), other
	copyDir(t, o.Dir, fork.Dir)
	l = open(t, o)
	add(t, l, 10, 5)
	mustClose(t, l)
	f := open(t, fork)
	add(t, f, 100, 5)
	mustClose(t, f)

	mixed := o // the record of one, the folder of the other
	mixed.Dir = fork.Dir
	refused(t, mixed, fault.Tampered, "forked")
	f = open(t, fork)
	add(t, f, 200, 300)
	mustClose(t, f)
	refused(t, mixed, fault.Tampered, "does not extend")
	mixed = fork
	mixed.Dir = o.Dir
	refused(t, mixed, fault.Tampered, "does not hold the log")
}

func TestThreat_Store_OtherKey(t *testing.T) {
	o := options(t, openStore(t))
	l := open(t, o)
	add(t, l, 0, 3)
	mustClose(t, l)
	bad := o
	bad.Signer = newKey(t)
	refused(t, bad, fault.Tampered, "use the key")
	bad = o
	bad.Origin = "other.example"
	refused(t, bad, fault.Tampered, "use the key")
	bad = o
	bad.DB = openStore(t)
	bad.Dir = t.TempDir()
	if err := os.MkdirAll(filepath.Join(bad.Dir, "tile", "0"), 0o700); err != nil {
		t.Fatal(err)
	}
	refused(t, bad, fault.Tampered, "neither it nor the database has a checkpoint")
}

// TestThreat_Store_BitFlips flips one bit in each file of the folder, at several
// places: either the log does not open, or what it gives is right or refused.
func TestThreat_Store_BitFlips(t *testing.T) {
	db := openStore(t)
	o := options(t, db)
	l := open(t, o)
	want := map[uint64]string{}
	for i, e := range add(t, l, 0, 600) {
		want[e.Index] = string(leafN(i))
	}
	head := l.Head()
	mustClose(t, l)
	mustClose(t, open(t, o)) // sweeps what nothing needs: from here on each file counts
	var files []string
	if err := filepath.WalkDir(o.Dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() != "lock" {
			files = append(files, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	noticed := 0
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int{0, len(b) / 2, len(b) - 1} {
			bad := append([]byte(nil), b...)
			bad[at] ^= 0x10
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if flipped(t, o, want, head) {
				noticed++
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	// checkpoint; three bundles; three tiles of level 0, one of level 1
	if len(files) != 8 || noticed != 3*len(files) {
		t.Errorf("%d of %d flips were noticed, in %q", noticed, 3*len(files), files)
	}
}

// flipped reads the whole damaged log and says whether it was noticed.
func flipped(t *testing.T, o Options, want map[uint64]string, head Checkpoint) bool {
	t.Helper()
	l, err := Open(t.Context(), o)
	if err != nil {
		if !errors.Is(err, fault.Tampered) {
			t.Errorf("open: %v, want tampered", err)
		}
		return true
	}
	defer l.Close()
	if l.Head().Root != head.Root {
		t.Error("another root")
	}
	noticed := false
	judge := func(err error) {
		if err != nil {
			noticed = true
			if !errors.Is(err, fault.Tampered) {
				t.Errorf("%v, want tampered", err)
			}
		}
	}
	for from := uint64(0); from < head.Size; from += tileWidth {
		rs, err := l.Tree().Records(t.Context(), from, head.Size)
		judge(err)
		for _, r := range rs {
			if string(r.Leaf) != want[r.Index] {
				t.Errorf("entry %d is %q", r.Index, r.Leaf)
			}
		}
	}
	for _, i := range []uint64{0, 100, 255, 256, 300, 511, 512, 599} {
		p, err := l.InclusionProof(t.Context(), i, head.Size)
		judge(err)
		h := LeafHash([]byte(want[i]))
		if err == nil && VerifyInclusion(i, head.Size, h[:], p, head.Root[:]) != nil {
			t.Errorf("a wrong proof of entry %d", i)
		}
	}
	return noticed
}
