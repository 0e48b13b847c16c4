package tlog

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"sync"
	"testing"

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
