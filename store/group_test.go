package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/internal/fault"
)

// openLite opens a fresh file for tests that look inside.
func openLite(t *testing.T, opts ...Option) (*DB, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db", "assay.db")
	db, err := Open(context.Background(), "sqlite:"+path, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	err = db.Migrate(context.Background(), Migrations{Name: "t", Steps: []string{`
		CREATE TABLE parent (k TEXT NOT NULL PRIMARY KEY);
		CREATE TABLE item (k TEXT NOT NULL PRIMARY KEY, b BYTES,
			parent TEXT REFERENCES parent (k) DEFERRABLE INITIALLY DEFERRED)`}})
	if err != nil {
		t.Fatal(err)
	}
	return db, path
}

// hold keeps the writer busy, so that what is started meanwhile forms a group.
func hold(t *testing.T, db *DB) (release func()) {
	t.Helper()
	inside, out := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	var once sync.Once // it may run again with its group
	wg.Go(func() {
		err := db.Update(context.Background(), func(*Tx) error { once.Do(func() { close(inside) }); <-out; return nil })
		if err != nil {
			t.Error(err)
		}
	})
	<-inside
	return func() {
		w := db.backend.(*liteDB).writer
		for len(w.queue) < 32 {
			time.Sleep(100 * time.Microsecond)
		}
		close(out)
		wg.Wait()
	}
}

// group runs 32 updates that the writer gets at once, and gives their errors.
func group(t *testing.T, db *DB, fn func(tx *Tx, i int) error) []error {
	t.Helper()
	release := hold(t, db)
	errs := make([]error, 32)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = db.Update(context.Background(), func(tx *Tx) error { return fn(tx, i) }) })
	}
	release()
	wg.Wait()
	return errs
}

func rows(t *testing.T, db *DB) (n int) {
	t.Helper()
	err := db.View(context.Background(), func(tx *Tx) error {
		return tx.QueryRow(context.Background(), `SELECT COUNT(*) FROM item`).Scan(&n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestGroupCommit(t *testing.T) {
	r := prometheus.NewRegistry()
	db, _ := openLite(t, WithRegisterer(r))
	ctx := context.Background()
	for i, err := range group(t, db, func(tx *Tx, i int) error {
		_, err := tx.Exec(ctx, `INSERT INTO item (k) VALUES (?)`, fmt.Sprint(i))
		return err
	}) {
		if err != nil {
			t.Errorf("update %d: %v", i, err)
		}
	}
	if n := rows(t, db); n != 32 {
		t.Errorf("rows: got %d, want 32", n)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "assay_store_group_size" {
			h := f.GetMetric()[0].GetHistogram()
			// The migration, the one that held, and the 32.
			if h.GetSampleSum() != 34 || h.GetSampleCount() > 6 {
				t.Errorf("%d commits for %v updates: they were not grouped", h.GetSampleCount(), h.GetSampleSum())
			}
		}
	}
}

// TestGroupCommitFailureIsTheCulpritsAlone breaks a deferred constraint, which
// SQLite notices at COMMIT, for the whole group.
func TestGroupCommitFailureIsTheCulpritsAlone(t *testing.T) {
	db, _ := openLite(t)
	ctx := context.Background()
	own := errors.New("own")
	errs := group(t, db, func(tx *Tx, i int) error {
		var parent any
		switch i {
		case 7:
			parent = "none"
		case 9:
			return own
		}
		_, err := tx.Exec(ctx, `INSERT INTO item (k, parent) VALUES (?, ?)`, fmt.Sprint(i), parent)
		return err
	})
	for i, err := range errs {
		switch {
		case i == 7 && !errors.Is(err, fault.Conflict), i == 9 && err != own, i != 7 && i != 9 && err != nil:
			t.Errorf("update %d: %v", i, err)
		}
	}
	if n := rows(t, db); n != 30 {
		t.Errorf("rows: got %d, want 30", n)
	}
}

// TestFullDiskWithinAGroup fills the file in the middle of a group: SQLite may
// end the whole transaction, and the neighbours run again.
func TestFullDiskWithinAGroup(t *testing.T) {
	db, _ := openLite(t)
	ctx := context.Background()
	w := db.backend.(*liteDB).writer
	// The writer's connection, while it runs nothing.
	if _, err := w.sess.conn.ExecContext(ctx, `PRAGMA max_page_count = 200`); err != nil {
		t.Fatal(err)
	}
	errs := group(t, db, func(tx *Tx, i int) error {
		b := []byte{1}
		if i%8 == 3 {
			b = make([]byte, 4<<20)
		}
		_, err := tx.Exec(ctx, `INSERT INTO item (k, b) VALUES (?, ?)`, fmt.Sprint(i), b)
		return err
	})
	for i, err := range errs {
		if i%8 == 3 != errors.Is(err, fault.NoSpace) || i%8 != 3 && err != nil {
			t.Errorf("update %d: %v", i, err)
		}
	}
	if n := rows(t, db); n != 28 {
		t.Errorf("rows: got %d, want 28", n)
	}
	if err := db.Check(ctx); err != nil {
		t.Error(err)
	}
}

// TestLostConnection closes the writer's connection under it: the next update
// may fail, those after it have a new one.
func TestLostConnection(t *testing.T) {
	db, _ := openLite(t)
	ctx := context.Background()
	if err := db.backend.(*liteDB).writer.sess.conn.Close(); err != nil {
		t.Fatal(err)
	}
	_ = db.Update(ctx, func(*Tx) error { return nil })
	if err := db.Update(ctx, func(tx *Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO item (k) VALUES ('a')`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// TestOtherProcessHoldsTheLock: an update waits, and then answers "unavailable".
func TestOtherProcessHoldsTheLock(t *testing.T) {
	db, path := openLite(t)
	ctx := context.Background()
	lite := db.backend.(*liteDB)
	other, err := lite.connect(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.close() }()
	if err := other.run(stBeginImmediate); err != nil {
		t.Fatal(err)
	}
	if _, err := lite.writer.sess.conn.ExecContext(ctx, `PRAGMA busy_timeout = 30`); err != nil {
		t.Fatal(err)
	}
	if err := db.Update(ctx, func(*Tx) error { return nil }); !errors.Is(err, fault.Unavailable) {
		t.Errorf("while %s is locked: got %v, want unavailable", path, err)
	}
	if n := rows(t, db); n != 0 {
		t.Errorf("a view beside a writer: %d rows", n)
	}
	if err := other.run(stRollback); err != nil {
		t.Fatal(err)
	}
	if err := db.Update(ctx, func(*Tx) error { return nil }); err != nil {
		t.Errorf("after the lock is gone: %v", err)
	}
}

func TestFilesArePrivate(t *testing.T) {
	db, path := openLite(t)
	if err := db.Update(context.Background(), func(tx *Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]os.FileMode{filepath.Dir(path): 0o700, path: 0o600, path + "-wal": 0o600, path + "-shm": 0o600} {
		st, err := os.Stat(p)
		if err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: got %v, %v; want mode %o", p, st.Mode(), err, want)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, loose := range []struct {
		path string
		mode os.FileMode
	}{{path, 0o640}, {path, 0o604}, {filepath.Dir(path), 0o755}} {
		before, err := os.Stat(loose.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(loose.path, loose.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(context.Background(), "sqlite:"+path); !errors.Is(err, fault.Denied) {
			t.Errorf("%s with mode %o: got %v, want denied", loose.path, loose.mode, err)
		}
		if err := os.Chmod(loose.path, before.Mode()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestThreat_Store_BitFlips damages the file in several places: what cannot be
// read is "tampered", never a wrong answer that passes for a right one, and
// Check finds it.
func TestThreat_Store_BitFlips(t *testing.T) {
	db, path := openLite(t)
	ctx := context.Background()
	err := db.Update(ctx, func(tx *Tx) error {
		for i := range 2000 {
			if _, err := tx.Exec(ctx, `INSERT INTO item (k, b) VALUES (?, ?)`, fmt.Sprintf("%06d", i), []byte(strings.Repeat("x", 50))); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damage := map[string]func(b []byte) []byte{
		"magic":          func(b []byte) []byte { b[0] ^= 1; return b },
		"a b-tree page":  func(b []byte) []byte { clear(b[5*4096 : 5*4096+16]); return b },
		"all inner data": func(b []byte) []byte { clear(b[4096:]); return b },
		"cut short":      func(b []byte) []byte { return b[:3*4096] },
	}
	for name, f := range damage {
		if err := os.WriteFile(path, f(append([]byte(nil), sound...)), 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := Open(ctx, "sqlite:"+path)
		if err == nil {
			if err = db.Check(ctx); err == nil {
				t.Errorf("%s: Check found nothing", name)
			}
			_ = db.Close()
		}
		if !errors.Is(err, fault.Tampered) {
			t.Errorf("%s: got %v, want tampered", name, err)
		}
	}
}

func TestParseDSN(t *testing.T) {
	tests := []struct {
		dsn  string
		want string // "" is an error
	}{
		{"sqlite:/var/lib/assay/assay.db", "/var/lib/assay/assay.db"},
		{"sqlite:///var/lib/a b#%41.db", "/var/lib/a b#%41.db"},
		{"sqlite:assay.db", ""},
		{"sqlite:./assay.db", ""},
		{"sqlite://host/assay.db", ""},
		{"sqlite:/a/../b.db", ""},
		{"sqlite:/a/b.db?mode=memory", ""},
		{"sqlite:/", ""},
		{"sqlite::memory:", ""},
		{"sqlite:", ""},
		{"", ""},
		{"mysql://x/y", ""},
		{"/var/lib/assay.db", ""},
		{"file:/a.db", ""},
		{"postgres://u@localhost/db", "localhost disable"},
		{"postgres:///db?host=/run/postgresql&user=u", "/run/postgresql disable"},
		{"postgresql://u@db.example.com/db", "db.example.com verify-full"},
		{"postgres://u@10.0.0.7/db?sslmode=disable", "10.0.0.7 disable"},
		{"postgres://u@h/db?options=-c%20fsync%3Doff", ""},
		{"postgres://u@h/db?synchronous_commit=off", ""},
		{"postgres://u@h/db?sslmode=disable&sslmode=require", ""},
		{"postgres://u@h/", ""},
		{"postgres://u@h/db#x", ""},
		{"postgres:db", ""},
		{"postgres://u:secret@h/db?sslmode=nonsense", ""},
		{"postgres://u:secret@h:port/db", ""},
	}
	for _, tt := range tests {
		got, err := parseDSN(tt.dsn)
		if tt.want == "" {
			if !errors.Is(err, fault.Invalid) {
				t.Errorf("%s: got %+v, %v; want invalid", tt.dsn, got, err)
			} else if strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: the message tells the password: %v", tt.dsn, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.dsn, err)
			continue
		}
		found := got.path
		if got.pg != nil {
			mode := "disable"
			if got.pg.TLSConfig != nil && got.pg.TLSConfig.ServerName == got.pg.Host {
				mode = "verify-full"
			}
			if len(got.pg.Fallbacks) > 0 && got.pg.TLSConfig != nil && !got.pg.TLSConfig.InsecureSkipVerify {
				mode += " with fallbacks"
			}
			if got.pg.TLSConfig != nil && got.pg.TLSConfig.InsecureSkipVerify {
				mode = "disable" // "prefer", the default on this machine itself
			}
			found = got.pg.Host + " " + mode
			if got.pg.RuntimeParams["synchronous_commit"] != "on" {
				t.Errorf("%s: synchronous_commit is not on", tt.dsn)
			}
		}
		if found != tt.want {
			t.Errorf("%s: got %q, want %q", tt.dsn, found, tt.want)
		}
	}
}
