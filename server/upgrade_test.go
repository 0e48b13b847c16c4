package server

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/config"
	"assay/event"
	"assay/identity"
	"assay/store"
	"assay/store/storetest"
)

// testdata/site-c3e5255.tar.gz is a data folder that Assay made at commit c3e5255
// on 2026-11-22, the last before migrations could expand: one signature, one
// pushed artifact. Its keys are of no other use.
var goldenTime = time.Date(2026, 11, 22, 21, 0, 0, 0, time.UTC)

// unpackGolden unpacks the folder.
func unpackGolden(t *testing.T, into string) {
	t.Helper()
	f, err := os.Open("testdata/site-c3e5255.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(into, 0o700); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(into)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		name := strings.Trim(strings.TrimPrefix(h.Name, "site"), "/")
		switch {
		case name == "":
		case h.Typeflag == tar.TypeDir:
			err = root.Mkdir(name, 0o700)
		default:
			var out *os.File
			if out, err = root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err == nil {
				_, err = io.Copy(out, r)
				err = errors.Join(err, out.Close())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// settled is what a binary of that commit reads of the versions: its own steps,
// by name, version and hash. It starts if this is what it knows, no more and no
// less, and looks at nothing else.
func settled(t *testing.T, db *store.DB) []string {
	t.Helper()
	var all []string
	if err := db.View(t.Context(), func(tx *store.Tx) error {
		rows, err := tx.Query(t.Context(), `SELECT name, version, hash FROM schema_version ORDER BY name, version`)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var name, version, hash string
			if err := rows.Scan(&name, &version, &hash); err != nil {
				return err
			}
			all = append(all, name+" "+version+" "+hash)
		}
		return rows.Err()
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// of keeps the lines of sets that were there before: new sets are not looked at.
func of(lines, before []string) []string {
	sets := map[string]bool{}
	for _, l := range before {
		name, _, _ := strings.Cut(l, " ")
		sets[name] = true
	}
	var out []string
	for _, l := range lines {
		if name, _, _ := strings.Cut(l, " "); sets[name] {
			out = append(out, l)
		}
	}
	return out
}

// This binary takes over a site of the version before, and leaves it so that the
// version before could take it back. TestRollback in e2e does it with that
// version's own binary.
func TestUpgradeAndBack(t *testing.T) {
	began := time.Now()
	var before []string
	s := newSiteWith(t, true, func(c *config.Config) {
		unpackGolden(t, c.Data)
		db := storetest.OpenDSN(t, "sqlite:"+filepath.Join(c.Data, "assay.db"))
		before = settled(t, db)
	}, func(o *Options) { o.Clock = func() time.Time { return goldenTime.Add(time.Since(began)) } })
	if len(before) < 8 {
		t.Fatalf("the golden site has the steps %v", before)
	}
	if d := cmp.Diff(before, of(settled(t, s.db), before)); d != "" {
		t.Errorf("the version before would refuse this database (-it knows +it finds):\n%s", d)
	}
	if s.tlog.Head().Size < 2 {
		t.Errorf("the log has %d entries", s.tlog.Head().Size)
	}
	if err := s.events.VerifyChain(t.Context(), 0, 0); err != nil {
		t.Error(err)
	}
	code, _, body := s.do("GET", "/v2/app/manifests/v1", map[string]string{"Authorization": "Bearer " + s.token("a@b.c", identity.AudienceRegistry)}, nil)
	if code != 200 || !strings.Contains(body, "schemaVersion") {
		t.Errorf("the artifact that was pushed: %d %.200s", code, body)
	}
	s.restart() // and again on what it upgraded
}

// The same on both databases: tables as that version made them, with its rows,
// brought up to date.
func TestUpgradeRows(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "site")
	unpackGolden(t, dir)
	old := storetest.OpenDSN(t, "sqlite:"+filepath.Join(dir, "assay.db"))
	steps, tables := goldenRows(t, old)
	sets, err := store.Upto(steps, migrations())
	if err != nil {
		t.Fatal(err)
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		if err := db.Migrate(ctx, sets...); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, tb := range tables {
			n += len(tb.lines)
			if err := db.Update(ctx, func(tx *store.Tx) error {
				if err := tx.Delete(ctx, tb.table); err != nil {
					return err
				}
				return tx.Insert(ctx, tb.table, tb.lines)
			}); err != nil {
				t.Fatal(err)
			}
		}
		if n < 20 {
			t.Fatalf("%d rows", n)
		}
		before := settled(t, db)
		if err := db.Migrate(ctx, migrations()...); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(before, of(settled(t, db), before)); d != "" {
			t.Errorf("the version before would refuse this database (-it knows +it finds):\n%s", d)
		}
		if err := event.NewLog(db, event.LogOptions{}).VerifyChain(ctx, 0, 0); err != nil {
			t.Error(err)
		}
		// The version before again, as far as a binary that knows expansions goes.
		if err := db.Migrate(ctx, sets...); err != nil {
			t.Errorf("rollback: %v", err)
		}
	})
}

type goldenTable struct {
	table store.Table
	lines [][]byte
}

func goldenRows(t *testing.T, db *store.DB) (steps []store.Step, tables []goldenTable) {
	t.Helper()
	if err := db.View(t.Context(), func(tx *store.Tx) error {
		steps = goldenSteps(t, tx)
		all, err := tx.Tables(t.Context())
		if err != nil {
			return err
		}
		for _, tb := range all {
			g := goldenTable{table: tb}
			if err := tx.Rows(t.Context(), tb, func(line []byte) error { g.lines = append(g.lines, []byte(string(line))); return nil }); err != nil {
				return err
			}
			tables = append(tables, g)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return steps, tables
}

// goldenSteps reads what [store.Tx.Steps] reads, from a database that has no
// table of expansions yet.
func goldenSteps(t *testing.T, tx *store.Tx) (steps []store.Step) {
	t.Helper()
	rows, err := tx.Query(context.Background(), `SELECT name, version, hash FROM schema_version ORDER BY name, version`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var s store.Step
		if err := rows.Scan(&s.Set, &s.Version, &s.Hash); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, s)
	}
	return steps
}
