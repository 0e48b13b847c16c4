package storetest_test

import (
	"context"
	"testing"

	"assay/store"
	"assay/store/storetest"
)

func TestEach(t *testing.T) {
	seen := map[store.Dialect]bool{}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := context.Background()
		seen[db.Dialect()] = true
		if err := db.Migrate(ctx, store.Migrations{Name: "x", Steps: []string{`CREATE TABLE x (a TEXT NOT NULL PRIMARY KEY, b BIGINT NOT NULL, c BYTES)`}}); err != nil {
			t.Fatal(err)
		}
		err := db.Update(ctx, func(tx *store.Tx) error {
			n, err := tx.Exec(ctx, `INSERT INTO x (a, b, c) VALUES (?, ?, ?)`, "k", true, []byte{1})
			if n != 1 {
				t.Errorf("rows affected: got %d, want 1", n)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		err = db.View(ctx, func(tx *store.Tx) error {
			var n int
			if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM x WHERE a = ?`, "k").Scan(&n); err != nil {
				return err
			}
			if n != 1 {
				t.Errorf("rows: got %d, want 1", n)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	if !seen[store.SQLite] {
		t.Error("Each did not run on SQLite")
	}
}
