// Package storetest gives tests fresh databases, and runs one suite on SQLite
// and on PostgreSQL.
//
// PostgreSQL is a throwaway cluster, made with initdb once in a test process
// and stopped when the process ends, however it ends. Where initdb is absent
// its tests are skipped with a message, or fail when ASSAY_REQUIRE_POSTGRES=1.
// ASSAY_POSTGRES_BIN names the folder of initdb when it is in no usual place.
package storetest

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"assay/store"
)

// Dialects are those that [Each] runs on.
var Dialects = []store.Dialect{store.SQLite, store.PostgreSQL}

// Each runs f as a subtest on a fresh database of each dialect. The store's
// own tables (leases) are there; the test migrates its domain's.
func Each(t *testing.T, f func(t *testing.T, db *store.DB), opts ...store.Option) {
	t.Helper()
	for _, d := range Dialects {
		t.Run(string(d), func(t *testing.T) { f(t, Open(t, d, opts...)) })
	}
}

// Open opens a fresh database of one dialect, closed when the test ends.
func Open(t testing.TB, d store.Dialect, opts ...store.Option) *store.DB {
	t.Helper()
	return OpenDSN(t, DSN(t, d), opts...)
}

// OpenDSN opens the database that dsn names, closed when the test ends: a
// second handle on what [DSN] made, or the same after a restart.
func OpenDSN(t testing.TB, dsn string, opts ...store.Option) *store.DB {
	t.Helper()
	ctx := context.Background()
	db, err := store.Open(ctx, dsn, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := db.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	return db
}

// DSN makes a fresh, empty database of one dialect and gives its data source
// name, for tests that open it more than once or from another process.
func DSN(t testing.TB, d store.Dialect) string {
	t.Helper()
	if d == store.PostgreSQL {
		return postgresDSN(t)
	}
	// t.TempDir is open to others, which the store refuses.
	dir := filepath.Join(t.TempDir(), "db")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return "sqlite:" + filepath.Join(dir, "assay.db")
}
