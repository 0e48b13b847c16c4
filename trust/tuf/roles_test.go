package tuf_test

import (
	"crypto"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"assay/internal/fault"
	"assay/trust/trusttest"
	"assay/trust/tuf"
)

// One online key and one root key follow others while clients update all the
// time, from the first root and from what they have: none ever refuses, and what
// is served is vouched for by the root before as well, for whoever is in the
// middle of an update.
func TestKeysFollowWithoutRefusals(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	f.publish()
	first := f.read("1.root.json")
	old, next := f.roles, trusttest.NewKey(t)
	online := func(k crypto.Signer, root crypto.Signer, listed bool, others ...crypto.Signer) tuf.Roles {
		return tuf.Roles{Root: []crypto.Signer{root}, Targets: k, Snapshot: k, Timestamp: k, Cosigners: others, Listed: listed}
	}
	one := trusttest.NewKey(t)
	if err := f.repo.SetRoles(ctx, online(one, old.Root[0], false)); err != nil { // one key for all three, as servers have it
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			cache := t.TempDir()
			for {
				for _, dir := range []string{cache, t.TempDir()} {
					if _, err := f.client(dir, first); err != nil {
						t.Errorf("a client was refused: %v", err)
						return
					}
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	newRoot := trusttest.NewKey(t)
	for i, roles := range []tuf.Roles{
		online(one, old.Root[0], true, next),
		online(next, old.Root[0], true, one),
		online(next, old.Root[0], false),
		online(next, newRoot, false),
	} {
		before, err := os.ReadFile(filepath.Join(f.dir, "root.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := f.repo.SetRoles(ctx, roles); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		after := f.read("root.json")
		if err := f.repo.SetRoles(ctx, roles); err != nil || string(f.read("root.json")) != string(after) {
			t.Errorf("step %d: the same again is not the same: %v", i, err)
		}
		for _, root := range [][]byte{before, after} {
			vouched(t, i, f, root)
		}
	}
	close(stop)
	wg.Wait()
	// A start with the rows of the last step, and one after a crash between row
	// and root: the old root key is at hand, or it is not.
	for name, c := range map[string]struct {
		roles  tuf.Roles
		before []crypto.Signer
		want   error
	}{
		"as it is":               {online(next, newRoot, false), []crypto.Signer{old.Root[0]}, nil},
		"cut short":              {online(one, newRoot, true, next), []crypto.Signer{newRoot}, nil},
		"without the old key":    {online(next, trusttest.NewKey(t), false), []crypto.Signer{old.Root[0]}, fault.Conflict},
		"without any of the old": {online(next, trusttest.NewKey(t), false), nil, fault.Conflict},
	} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(f.dir)); err != nil {
			t.Fatal(err)
		}
		if _, err := tuf.NewRepository(ctx, tuf.Options{Dir: dir, Roles: c.roles, Before: c.before, Clock: f.clock}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// vouched checks what is served under a root.
func vouched(t *testing.T, step int, f *fixture, root []byte) {
	t.Helper()
	r, err := new(metadata.Metadata[metadata.RootType]).FromBytes(root)
	if err != nil {
		t.Fatal(err)
	}
	ts, err := new(metadata.Metadata[metadata.TimestampType]).FromBytes(f.read("timestamp.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.VerifyDelegate(metadata.TIMESTAMP, ts); err != nil {
		t.Errorf("step %d: timestamp under root %d: %v", step, r.Signed.Version, err)
	}
	sn, err := new(metadata.Metadata[metadata.SnapshotType]).FromBytes(f.read(strconv.FormatInt(ts.Signed.Meta["snapshot.json"].Version, 10) + ".snapshot.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.VerifyDelegate(metadata.SNAPSHOT, sn); err != nil {
		t.Errorf("step %d: snapshot under root %d: %v", step, r.Signed.Version, err)
	}
	tg, err := new(metadata.Metadata[metadata.TargetsType]).FromBytes(f.read(strconv.FormatInt(sn.Signed.Meta["targets.json"].Version, 10) + ".targets.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.VerifyDelegate(metadata.TARGETS, tg); err != nil {
		t.Errorf("step %d: targets under root %d: %v", step, r.Signed.Version, err)
	}
}
