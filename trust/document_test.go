package trust_test

import (
	"errors"
	"testing"

	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
	"assay/trust"
)

func TestDocuments(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		if err := db.Migrate(ctx, trust.Migrations); err != nil {
			t.Fatal(err)
		}
		var epoch, revision int64
		// step runs one change and says how the two counters moved.
		step := func(name string, wantErr error, epochMoves, revisionMoves bool, fn func(tx *store.Tx) error) {
			t.Helper()
			err := db.Update(ctx, fn)
			if wantErr == nil && err != nil || wantErr != nil && !errors.Is(err, wantErr) {
				t.Fatalf("%s: %v, want %v", name, err, wantErr)
			}
			var e, r int64
			if err := db.View(ctx, func(tx *store.Tx) (err error) { e, r, err = trust.Revision(ctx, tx); return err }); err != nil {
				t.Fatal(err)
			}
			if (e > epoch) != epochMoves || (r > revision) != revisionMoves || e < epoch || r < revision {
				t.Fatalf("%s: epoch %d to %d, revision %d to %d", name, epoch, e, revision, r)
			}
			epoch, revision = e, r
		}
		put := func(v int64, body string) func(tx *store.Tx) error {
			return func(tx *store.Tx) error {
				_, err := trust.PutDocument(ctx, tx, trust.Document{Kind: trust.DocRoot, Name: "a", Version: v, Body: []byte(body)})
				return err
			}
		}
		remove := func(tx *store.Tx) error {
			_, err := trust.DeleteDocument(ctx, tx, trust.DocRoot, "a")
			return err
		}
		step("first", nil, true, true, put(1, "one"))
		step("the same version", fault.Conflict, false, false, put(1, "uno"))
		step("a later one", nil, true, true, put(3, "three"))
		step("an earlier one", fault.Conflict, false, false, put(2, "two"))
		step("no such kind", fault.Invalid, false, false, func(tx *store.Tx) error {
			_, err := trust.PutDocument(ctx, tx, trust.Document{Kind: "other", Name: "a", Version: 9, Body: []byte("x")})
			return err
		})
		step("empty", fault.Invalid, false, false, put(4, ""))
		step("renewed", nil, false, true, func(tx *store.Tx) error {
			return trust.RenewDocument(ctx, tx, trust.Document{Kind: trust.DocRoot, Name: "a", Version: 4, Body: []byte("three")})
		})
		step("nothing to renew", fault.NotFound, false, false, func(tx *store.Tx) error {
			return trust.RenewDocument(ctx, tx, trust.Document{Kind: trust.DocRoot, Name: "b", Version: 4, Body: []byte("three")})
		})
		step("deleted", nil, true, true, remove)
		step("deleted twice", fault.NotFound, false, false, remove)
		step("brought back with its old version", fault.Conflict, false, false, put(4, "three"))
		step("a new one in its place", nil, true, true, put(6, "six"))
		if err := db.View(ctx, func(tx *store.Tx) error {
			all, err := trust.Documents(ctx, tx, "")
			if err != nil || len(all) != 1 || string(all[0].Body) != "six" || all[0].Version != 6 || all[0].Applied.IsZero() {
				t.Errorf("documents: %+v, %v", all, err)
			}
			none, err := trust.Documents(ctx, tx, trust.DocDelegation)
			if err != nil || len(none) != 0 {
				t.Errorf("of another kind: %+v, %v", none, err)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
}
