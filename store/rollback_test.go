package store_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
)

// Old and new binaries take turns on one database.
func TestRollback(t *testing.T) {
	steps := []string{
		`CREATE TABLE a (k TEXT NOT NULL PRIMARY KEY)`,
		`ALTER TABLE a ADD COLUMN v TEXT NOT NULL DEFAULT 'new'; CREATE TABLE a2 (k TEXT NOT NULL PRIMARY KEY)`,
		`CREATE INDEX a_v ON a (v)`,
		`DROP TABLE a2`,
		`CREATE TABLE a3 (k TEXT NOT NULL PRIMARY KEY)`,
	}
	set := func(n int) store.Migrations { return store.Migrations{Name: "a", Steps: steps[:n]} }
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		migrate := func(n int) {
			t.Helper()
			if err := db.Migrate(ctx, set(n)); err != nil {
				t.Fatalf("the binary with %d steps: %v", n, err)
			}
		}
		refused := func(n int) {
			t.Helper()
			if err := db.Migrate(ctx, set(n)); !errors.Is(err, fault.Conflict) {
				t.Fatalf("the binary with %d steps: %v, want conflict", n, err)
			}
		}
		migrate(1)
		migrate(3)
		// What a binary without expansions reads: its own one step.
		if d := cmp.Diff([]string{"a 1", "store 1"}, versions(t, db)); d != "" {
			t.Errorf("schema_version (-want +got):\n%s", d)
		}
		migrate(1)
		if err := db.Update(ctx, func(tx *store.Tx) error { _, err := tx.Exec(ctx, `INSERT INTO a (k) VALUES ('old')`); return err }); err != nil {
			t.Fatal(err)
		}
		migrate(2)
		migrate(3)
		migrate(4) // contracts
		refused(1)
		refused(3)
		if d := cmp.Diff([]string{"a 1", "a 2", "a 3", "a 4", "store 1"}, versions(t, db)); d != "" {
			t.Errorf("schema_version (-want +got):\n%s", d)
		}
		migrate(5)
		migrate(4)
		refused(3)
		var v string
		if err := db.View(ctx, func(tx *store.Tx) error { return tx.QueryRow(ctx, `SELECT v FROM a WHERE k = 'old'`).Scan(&v) }); err != nil || v != "new" {
			t.Fatalf("%q, %v", v, err)
		}
	})
	t.Run("a fresh database of the newer", func(t *testing.T) {
		storetest.Each(t, func(t *testing.T, db *store.DB) {
			ctx := context.Background()
			if err := db.Migrate(ctx, set(5)); err != nil {
				t.Fatal(err)
			}
			if err := db.Migrate(ctx, set(4)); err != nil {
				t.Fatal(err)
			}
			if err := db.Migrate(ctx, set(3)); !errors.Is(err, fault.Conflict) {
				t.Fatalf("%v, want conflict", err)
			}
		})
	})
}

// Rows come out of one database and go into the other unchanged.
func TestDump(t *testing.T) {
	set := store.Migrations{Name: "d", Steps: []string{`CREATE TABLE d (k TEXT NOT NULL, n BIGINT NOT NULL, b BYTES, f DOUBLE PRECISION, o TEXT, PRIMARY KEY (n, k))`}}
	var dumps [][]string
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		if err := db.Migrate(ctx, set); err != nil {
			t.Fatal(err)
		}
		if err := db.Update(ctx, func(tx *store.Tx) error {
			for _, row := range [][]any{
				{"b", int64(1), []byte{0, 255}, 0.1, "x"}, {"a", int64(-1 << 63), nil, nil, nil}, {"<>&\"\\\n\u2028é", int64(1<<63 - 1), []byte{}, -1e300, ""},
			} {
				if _, err := tx.Exec(ctx, `INSERT INTO d (k, n, b, f, o) VALUES (?, ?, ?, ?, ?)`, row...); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		first := dump(t, db)
		dumps = append(dumps, first)
		if err := db.Update(ctx, func(tx *store.Tx) error {
			tables, err := tx.Tables(ctx)
			if err != nil {
				return err
			}
			for _, table := range tables {
				if table.Name != "d" {
					continue
				}
				if err := tx.Delete(ctx, table); err != nil {
					return err
				}
				var lines [][]byte
				for _, l := range first {
					lines = append(lines, []byte(l))
				}
				if err := tx.Insert(ctx, table, lines); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(first, dump(t, db)); d != "" {
			t.Errorf("there and back (-want +got):\n%s", d)
		}
	})
	for _, d := range dumps[1:] {
		if diff := cmp.Diff(dumps[0], d); diff != "" {
			t.Errorf("the databases differ (-first +other):\n%s", diff)
		}
	}
}

func dump(t *testing.T, db *store.DB) []string {
	t.Helper()
	ctx := context.Background()
	var lines []string
	if err := db.View(ctx, func(tx *store.Tx) error {
		tables, err := tx.Tables(ctx)
		if err != nil {
			return err
		}
		for _, table := range tables {
			if table.Name != "d" {
				continue
			}
			want := store.Table{Name: "d", Columns: []store.Column{{Name: "k", Type: "TEXT"}, {Name: "n", Type: "BIGINT"}, {Name: "b", Type: "BYTES"}, {Name: "f", Type: "DOUBLE PRECISION"}, {Name: "o", Type: "TEXT"}}, Key: []string{"n", "k"}}
			if d := cmp.Diff(want, table); d != "" {
				t.Errorf("table (-want +got):\n%s", d)
			}
			if err := tx.Rows(ctx, table, func(line []byte) error { lines = append(lines, string(line)); return nil }); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return lines
}
