package integrity

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"assay/artifact"
	"assay/blob"
	"assay/blob/sweep"
	"assay/event"
	"assay/registry"
	"assay/store"
	"assay/store/storetest"
)

type noGate struct{}

func (noGate) QuarantineDamaged(context.Context, *store.Tx, artifact.Digest, string) error {
	return nil
}

func (noGate) ReleaseRepaired(context.Context, *store.Tx, artifact.Digest, string) error { return nil }

// TestTurn: one process makes a round, goes on after the cursor of the one
// before, and begins none before it is due.
func TestTurn(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx, dir := t.Context(), t.TempDir()
		if err := db.Migrate(ctx, event.Migrations, sweep.Migrations, registry.Migrations, Migrations); err != nil {
			t.Fatal(err)
		}
		blobs, err := blob.NewDir(dir, blob.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = blobs.Close() })
		var lowest, highest artifact.Digest
		for i := range 10 {
			d, err := blob.Put(ctx, blobs, []byte(fmt.Sprint(i)))
			if err != nil {
				t.Fatal(err)
			}
			if lowest == "" || d < lowest {
				lowest = d
			}
			highest = max(highest, d)
		}
		for _, d := range []artifact.Digest{lowest, highest} {
			p := filepath.Join(dir, d.Algorithm(), d.Hex()[:2], d.Hex())
			if err := os.Chmod(p, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, []byte("!"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		now := time.Now()
		c, err := New(Options{DB: db, Blobs: blobs, Gate: noGate{}, Every: time.Hour, Clock: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		turn := func(what string, want int) {
			t.Helper()
			if err := c.turn(ctx); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			found, err := c.Damaged(ctx)
			if err != nil || len(found) != want {
				t.Fatalf("%s: %v, %v; want %d", what, found, err, want)
			}
		}
		if held, _, err := db.Lease(ctx, leaseName, "another", time.Hour); err != nil || !held {
			t.Fatal(held, err)
		}
		turn("while another process has the lease", 0)
		if err := db.Release(ctx, leaseName, "another"); err != nil {
			t.Fatal(err)
		}
		// A round that stopped after the lowest.
		if err := db.Update(ctx, func(tx *store.Tx) error {
			if err := setMark(ctx, tx, markBegun, fmt.Sprint(store.Micros(now))); err != nil {
				return err
			}
			return setMark(ctx, tx, markCursor, string(lowest))
		}); err != nil {
			t.Fatal(err)
		}
		turn("the rest of a round", 1)
		turn("none is due", 1)
		now = now.Add(time.Hour)
		turn("the next", 2)
	})
}
