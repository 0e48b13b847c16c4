package store_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
)

func TestMigrate(t *testing.T) {
	a := store.Migrations{Name: "a", Steps: []string{
		`CREATE TABLE a (k TEXT NOT NULL PRIMARY KEY); INSERT INTO a (k) VALUES ('one')`,
		`ALTER TABLE a ADD COLUMN v TEXT NOT NULL DEFAULT 'new';`,
	}}
	b := store.Migrations{Name: "b", Steps: []string{
		`CREATE TABLE b (k TEXT NOT NULL PRIMARY KEY REFERENCES a (k)); INSERT INTO b (k) VALUES ('one')`,
	}}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		// In the given order: b needs a, so the other order fails and leaves nothing.
		if err := db.Migrate(ctx, b, a); err == nil {
			t.Fatal("b was migrated before a")
		}
		if err := db.Migrate(ctx, store.Migrations{Name: "a", Steps: a.Steps[:1]}); err != nil {
			t.Fatal(err)
		}
		if behind, err := db.Behind(ctx, a); err != nil || !behind {
			t.Errorf("a lacks a step: %v, %v", behind, err)
		}
		for range 2 { // the second time there is nothing to do
			if err := db.Migrate(ctx, a, b); err != nil {
				t.Fatal(err)
			}
		}
		if behind, err := db.Behind(ctx, a, b); err != nil || behind {
			t.Errorf("nothing is lacking: %v, %v", behind, err)
		}
		var v string
		err := db.View(ctx, func(tx *store.Tx) error {
			return tx.QueryRow(ctx, `SELECT a.v FROM a JOIN b ON a.k = b.k`).Scan(&v)
		})
		if err != nil || v != "new" {
			t.Errorf("got %q, %v", v, err)
		}
		// The second step of a only adds, and stands with the expansions.
		if d := cmp.Diff([]string{"a 1", "b 1", "store 1"}, versions(t, db)); d != "" {
			t.Errorf("versions (-want +got):\n%s", d)
		}
	})
}

func versions(t testing.TB, db *store.DB) []string {
	t.Helper()
	ctx := context.Background()
	var all []string
	err := db.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(ctx, `SELECT name, CAST(version AS TEXT) FROM schema_version ORDER BY name, version`)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var name, version string
			if err := rows.Scan(&name, &version); err != nil {
				return err
			}
			all = append(all, name+" "+version)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestMigrateRefuses(t *testing.T) {
	good := store.Migrations{Name: "a", Steps: []string{`CREATE TABLE a (k TEXT)`, `CREATE TABLE a2 (k TEXT); DELETE FROM a`}}
	tests := []struct {
		name string
		sets []store.Migrations
		want *fault.Kind
		say  string
	}{
		{"an older binary", []store.Migrations{{Name: "a", Steps: good.Steps[:1]}}, fault.Conflict, "newer binary"},
		{"an edited step", []store.Migrations{{Name: "a", Steps: []string{`CREATE TABLE a (k  TEXT)`, good.Steps[1]}}}, fault.Conflict, "never edited"},
		{"a step that fails", []store.Migrations{good, {Name: "b", Steps: []string{`CREATE TABLE b (k TEXT)`, `CREATE TABLE b (k TEXT)`}}}, fault.Internal, "step 2"},
		{"a step in one dialect only", []store.Migrations{good, {Name: "b", Steps: []string{`CREATE TABLE b (k TEXT) WITHOUT ROWID`}}}, fault.Internal, "column list"},
		{"a type that is not in the contract", []store.Migrations{good, {Name: "b", Steps: []string{`CREATE TABLE b (k NONSENSE)`}}}, fault.Internal, "step 1"},
		{"a placeholder", []store.Migrations{good, {Name: "b", Steps: []string{`DELETE FROM a WHERE k = ?`}}}, fault.Internal, "no arguments"},
		{"twice", []store.Migrations{good, good}, fault.Internal, "twice"},
		{"the store's own name", []store.Migrations{{Name: "store"}}, fault.Internal, "twice"},
		{"no name", []store.Migrations{{}}, fault.Internal, "no name"},
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		if err := db.Migrate(ctx, good); err != nil {
			t.Fatal(err)
		}
		before := versions(t, db)
		for _, tt := range tests {
			err := db.Migrate(ctx, tt.sets...)
			if fault.KindOf(err) != tt.want || err == nil || !strings.Contains(err.Error(), tt.say) {
				t.Errorf("%s: got %v, want %s with %q", tt.name, err, tt.want.Name(), tt.say)
			}
			if d := cmp.Diff(before, versions(t, db)); d != "" {
				t.Errorf("%s: versions changed (-before +after):\n%s", tt.name, d)
			}
		}
		if err := db.Migrate(ctx, good); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// TestMigrateAtOnce has handles race to make the same tables.
func TestMigrateAtOnce(t *testing.T) {
	set := store.Migrations{Name: "a", Steps: []string{
		`CREATE TABLE a (k TEXT NOT NULL PRIMARY KEY)`,
		`INSERT INTO a (k) VALUES ('once')`, // a second time would fail
	}}
	for _, d := range storetest.Dialects {
		t.Run(string(d), func(t *testing.T) {
			ctx := context.Background()
			dsn := storetest.DSN(t, d)
			var handles []*store.DB
			for range 4 {
				db, err := store.Open(ctx, dsn)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = db.Close() }()
				handles = append(handles, db)
			}
			errs := make([]error, 8)
			var wg sync.WaitGroup
			for i := range errs {
				wg.Go(func() { errs[i] = handles[i%len(handles)].Migrate(ctx, set) })
			}
			wg.Wait()
			if err := errors.Join(errs...); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff([]string{"a 1", "a 2", "store 1"}, versions(t, handles[0])); d != "" {
				t.Errorf("versions (-want +got):\n%s", d)
			}
		})
	}
}

// TestMigrateUnderReaders changes a table that other connections hold prepared
// statements for.
func TestMigrateUnderReaders(t *testing.T) {
	step1 := `CREATE TABLE a (k TEXT NOT NULL PRIMARY KEY); INSERT INTO a (k) VALUES ('x')`
	step2 := `ALTER TABLE a ADD COLUMN v TEXT NOT NULL DEFAULT 'y'`
	for _, d := range storetest.Dialects {
		t.Run(string(d), func(t *testing.T) {
			ctx := context.Background()
			dsn := storetest.DSN(t, d)
			old, migrator := storetest.OpenDSN(t, dsn), storetest.OpenDSN(t, dsn)
			if err := migrator.Migrate(ctx, store.Migrations{Name: "a", Steps: []string{step1}}); err != nil {
				t.Fatal(err)
			}
			use := func() {
				t.Helper()
				err := old.Update(ctx, func(tx *store.Tx) error {
					rows, err := tx.Query(ctx, `SELECT * FROM a`)
					if err != nil {
						return err
					}
					for rows.Next() {
					}
					return errors.Join(rows.Err(), rows.Close())
				})
				if err != nil {
					t.Error(err)
				}
			}
			use()
			if err := migrator.Migrate(ctx, store.Migrations{Name: "a", Steps: []string{step1, step2}}); err != nil {
				t.Fatal(err)
			}
			use()
		})
	}
}
