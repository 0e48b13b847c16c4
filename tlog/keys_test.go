package tlog

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
)

func newLogKey(t *testing.T) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func signedBy(t *testing.T, note []byte, key crypto.Signer) bool {
	t.Helper()
	v, err := NewVerifier("log.example", key.Public())
	if err != nil {
		t.Fatal(err)
	}
	_, err = ParseCheckpoint(note, v)
	return err == nil
}

// One log under three keys, one after the other, while entries go in: the tree
// goes on, every answer is signed by the key that it names, and the log opens
// again at every stage.
func TestKeysFollowOneAnother(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		if err := db.Migrate(ctx, Migrations); err != nil {
			t.Fatal(err)
		}
		a, b := newLogKey(t), newLogKey(t)
		opts := Options{Dir: t.TempDir(), Origin: "log.example", Signer: a, DB: db, Deduplicate: true}
		l, err := Open(ctx, opts)
		if err != nil {
			t.Fatal(err)
		}
		first, err := l.Add(ctx, []byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		ids := map[Hash]crypto.Signer{}
		for _, k := range []crypto.Signer{a, b} {
			id, _, err := KeyID("log.example", k.Public())
			if err != nil {
				t.Fatal(err)
			}
			ids[id] = k
		}
		load, stop := context.WithCancel(ctx)
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				for i := 0; load.Err() == nil; i++ {
					e, err := l.Add(ctx, fmt.Appendf(nil, "%d/%d", g, i))
					if err != nil {
						t.Errorf("entry during the change: %v", err)
						return
					}
					if !signedBy(t, e.Checkpoint, ids[e.KeyID]) {
						t.Errorf("entry %d names key %x, which has not signed its checkpoint", e.Index, e.KeyID)
						return
					}
				}
			})
		}
		steps := []struct {
			keys Keys
			by   []crypto.Signer
		}{
			{Keys{Signer: a, Cosigners: []crypto.Signer{b}}, []crypto.Signer{a, b}},
			{Keys{Signer: b, Cosigners: []crypto.Signer{a}}, []crypto.Signer{a, b}},
			{Keys{Signer: b, Past: []crypto.PublicKey{a.Public()}}, []crypto.Signer{b}},
		}
		for i, s := range steps {
			if err := l.SetKeys(ctx, s.keys); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
			cp, err := l.Checkpoint(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range s.by {
				if !signedBy(t, cp, k) {
					t.Errorf("step %d: a key that signs has not signed", i)
				}
			}
			if id, _, _ := KeyID("log.example", s.keys.Signer.Public()); l.KeyID() != id {
				t.Errorf("step %d: answers are not given under the new key", i)
			}
		}
		stop()
		wg.Wait()
		last, err := l.Add(ctx, []byte("after"))
		if err != nil {
			t.Fatal(err)
		}
		if signedBy(t, last.Checkpoint, a) {
			t.Error("the key that went still signs")
		}
		path, err := l.ConsistencyProof(ctx, first.TreeSize, last.TreeSize)
		if err != nil {
			t.Fatal(err)
		}
		if err := VerifyConsistency(first.TreeSize, last.TreeSize, path, first.Root[:], last.Root[:]); err != nil {
			t.Errorf("the tree did not go on: %v", err)
		}
		dup, err := l.Add(ctx, []byte("before"))
		if err != nil || !dup.Duplicate || !signedBy(t, dup.Checkpoint, b) || dup.KeyID != l.KeyID() {
			t.Errorf("an old entry under the new key: %+v, %v", dup, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		reopen(t, opts, a, b, last.TreeSize)
	})
}

// reopen opens the log that b signed last: not with a alone, and with both, or
// with a third that knows b as past.
func reopen(t *testing.T, opts Options, a, b crypto.Signer, size uint64) {
	t.Helper()
	ctx := t.Context()
	if l, err := Open(ctx, opts); !errors.Is(err, fault.Tampered) || !strings.Contains(err.Error(), "key") {
		if err == nil {
			_ = l.Close()
		}
		t.Fatalf("opened under a key that is not the log's: %v", err)
	}
	c := newLogKey(t)
	for i, k := range []Keys{{Signer: b}, {Signer: a, Cosigners: []crypto.Signer{b}}, {Signer: c, Past: []crypto.PublicKey{b.Public(), a.Public()}}} {
		opts.Signer, opts.Cosigners, opts.Past = k.Signer, k.Cosigners, k.Past
		l, err := Open(ctx, opts)
		if err != nil {
			t.Fatalf("reopen %d: %v", i, err)
		}
		if got := l.Head().Size; got != size {
			t.Errorf("reopen %d: %d entries, want %d", i, got, size)
		}
		for _, s := range append([]crypto.Signer{k.Signer}, k.Cosigners...) {
			if !signedBy(t, l.Head().Note, s) {
				t.Errorf("reopen %d: the checkpoint is not signed by who signs now", i)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
