package tlog

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"assay/internal/durable"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
)

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func openStore(t testing.TB) *store.DB {
	t.Helper()
	db := storetest.Open(t, store.SQLite)
	migrate(t, db)
	return db
}

func migrate(t testing.TB, db *store.DB) {
	t.Helper()
	if err := db.Migrate(t.Context(), Migrations); err != nil {
		t.Fatal(err)
	}
}

const testOrigin = "log.example"

func options(t testing.TB, db *store.DB) Options {
	return Options{Dir: t.TempDir(), Origin: testOrigin, Signer: newKey(t), DB: db, Deduplicate: true}
}

func open(t testing.TB, o Options) *Log {
	t.Helper()
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func leafN(i int) []byte { return fmt.Appendf(nil, "entry %d", i) }

// add adds n entries from i on, at once, and checks each answer.
func add(t testing.TB, l *Log, from, n int) []Entry {
	t.Helper()
	out := make([]Entry, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			e, err := l.Add(t.Context(), leafN(from+i))
			if err != nil {
				t.Error(err)
				return
			}
			check(t, l, leafN(from+i), e)
			out[i] = e
		})
	}
	wg.Wait()
	return out
}

// check verifies an answer as a client does.
func check(t testing.TB, l *Log, leaf []byte, e Entry) {
	t.Helper()
	c, err := ParseCheckpoint(e.Checkpoint, l.Verifier())
	if err != nil {
		t.Error(err)
		return
	}
	h := LeafHash(leaf)
	if c.Size != e.TreeSize || c.Root != e.Root {
		t.Errorf("checkpoint of %d, %x; entry says %d, %x", c.Size, c.Root, e.TreeSize, e.Root)
	}
	if err := VerifyInclusion(e.Index, c.Size, h[:], e.Proof, c.Root[:]); err != nil {
		t.Error(err)
	}
}

func TestAdd(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		l := open(t, options(t, db))
		seen := map[uint64]bool{}
		for _, n := range []int{1, 1, 3, 250, 2, 700} {
			for _, e := range add(t, l, len(seen), n) {
				if seen[e.Index] {
					t.Errorf("index %d given twice", e.Index)
				}
				seen[e.Index] = true
			}
		}
		if got := l.Head().Size; got != uint64(len(seen)) {
			t.Errorf("size %d after %d entries", got, len(seen))
		}
		for i, e := range add(t, l, 0, 10) { // the same again
			if !e.Duplicate {
				t.Errorf("entry %d was logged twice, as %d", i, e.Index)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		for r, err := range l.Follow(ctx, 0) {
			if err != nil {
				break
			}
			if n++; n == len(seen) {
				cancel()
			}
			if r.Index != uint64(n-1) {
				t.Errorf("entry %d is %d", n-1, r.Index)
			}
		}
		if n != len(seen) {
			t.Errorf("followed %d of %d", n, len(seen))
		}
		cancel()
	})
}

func TestReadOnly(t *testing.T) {
	o := options(t, openStore(t))
	l := open(t, o)
	add(t, l, 0, 300)
	if i, err := l.Lookup(t.Context(), leafN(7)); err != nil || i >= 300 {
		t.Errorf("look-up: %d, %v", i, err)
	}
	if _, err := l.Lookup(t.Context(), leafN(300)); !errors.Is(err, fault.NotFound) {
		t.Errorf("look-up of what is not there: %v", err)
	}
	if _, err := l.Leaf(t.Context(), 300); !errors.Is(err, fault.NotFound) {
		t.Errorf("entry beyond the end: %v", err)
	}
	frozen := o // beside the writer: it takes no lock
	frozen.ReadOnly, frozen.DB = true, nil
	f := open(t, frozen)
	if _, err := f.Add(t.Context(), leafN(1)); !errors.Is(err, fault.Denied) {
		t.Errorf("add: %v, want denied", err)
	}
	if got, want := f.Head(), l.Head(); got.Root != want.Root {
		t.Errorf("root %x, want %x", got.Root, want.Root)
	}
	if leaf, err := f.Leaf(t.Context(), 299); err != nil || len(leaf) == 0 {
		t.Errorf("entry 299: %q, %v", leaf, err)
	}
	if _, err := f.Lookup(t.Context(), leafN(1)); !errors.Is(err, fault.Invalid) {
		t.Errorf("look-up without an index: %v", err)
	}
}

// TestModes: nobody but the owner reads the folder.
func TestModes(t *testing.T) {
	o := options(t, openStore(t))
	o.Dir = filepath.Join(o.Dir, "log")
	add(t, open(t, o), 0, 300)
	err := filepath.WalkDir(o.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return durable.CheckPrivate(path)
	})
	if err != nil {
		t.Error(err)
	}
}

// TestOldPartialsGo: one entry at a time leaves few versions of a bundle, and a
// reader of the bare files that is late still finds what it looks for.
func TestOldPartialsGo(t *testing.T) {
	o := options(t, openStore(t))
	l := open(t, o)
	count := func() (n int) {
		err := filepath.WalkDir(filepath.Join(o.Dir, "tile"), func(path string, d fs.DirEntry, err error) error {
			if err == nil && filepath.Ext(filepath.Dir(path)) == ".p" {
				n++
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	var late Checkpoint
	add(t, l, 0, 512)
	for i := 512; i < 600; i++ {
		if _, err := l.Add(t.Context(), leafN(i)); err != nil {
			t.Fatal(err)
		}
		if i == 520 {
			late = l.Head()
		}
	}
	mustSee := func(want int) {
		t.Helper()
		// The sweep follows the answer.
		for deadline := time.Now().Add(5 * time.Second); count() > want; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d partial files, want at most %d", count(), want)
			}
		}
	}
	mustSee(keepPartials + 3)
	tree, err := LoadTree(t.Context(), Dir{Path: o.Dir}, Plain{}, late)
	if err != nil {
		t.Fatalf("a reader of %d entries, of 600 by now: %v", late.Size, err)
	}
	if rs, err := tree.Records(t.Context(), 512, late.Size); err != nil || len(rs) != int(late.Size-512) {
		t.Errorf("%d entries, %v", len(rs), err)
	}
	mustClose(t, l)
	open(t, o)
	mustSee(3) // bundle, level 0, level 1
}
