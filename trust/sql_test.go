package trust_test

import (
	"errors"
	"sync"
	"testing"

	"assay/store"
	"assay/store/storetest"
	"assay/trust"
)

func TestEpoch(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		if err := db.Migrate(ctx, trust.Migrations); err != nil {
			t.Fatal(err)
		}
		read := func() (e int64) {
			if err := db.View(ctx, func(tx *store.Tx) (err error) { e, err = trust.Epoch(ctx, tx); return err }); err != nil {
				t.Fatal(err)
			}
			return e
		}
		if e := read(); e != 0 {
			t.Fatalf("first epoch %d, want 0", e)
		}
		const n = 20
		seen := make([]int64, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				if err := db.Update(ctx, func(tx *store.Tx) (err error) { seen[i], err = trust.RaiseEpoch(ctx, tx, "a test"); return err }); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		once := map[int64]bool{}
		for _, e := range seen {
			once[e] = true
		}
		if e := read(); e != n || len(once) != n {
			t.Errorf("after %d raises: epoch %d, %d distinct, want %d of each", n, e, len(once), n)
		}
		// A transaction that fails raises nothing.
		_ = db.Update(ctx, func(tx *store.Tx) error {
			if _, err := trust.RaiseEpoch(ctx, tx, "undone"); err != nil {
				return err
			}
			return errors.New("undone")
		})
		if e := read(); e != n {
			t.Errorf("epoch after a rolled-back raise: %d, want %d", e, n)
		}
	})
}
