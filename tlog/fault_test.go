package tlog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"assay/internal/fault"
)

// trip fails one kind of operation, at its n-th time and from then on until it
// is mended.
type trip struct {
	mu    sync.Mutex
	op    string
	after int
	err   error
}

func (f *trip) check(op, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil || op != f.op {
		return nil
	}
	if f.after--; f.after >= 0 {
		return nil
	}
	return &os.PathError{Op: op, Path: path, Err: f.err}
}

func (f *trip) set(op string, after int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.op, f.after, f.err = op, after, err
}

// openFaulty opens a log whose disk and ledger fail at will.
func openFaulty(t *testing.T, o Options) (*Log, *trip, *faultyLedger) {
	t.Helper()
	l, err := newLog(o)
	if err != nil {
		t.Fatal(err)
	}
	tr := &trip{}
	fl := &faultyLedger{ledger: l.ledger}
	l.disk.fault, l.ledger = tr.check, fl
	l.lock = nopCloser{}
	if err := l.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, tr, fl
}

type nopCloser struct{}

func (nopCloser) Close() error { return nil }

// faultyLedger fails swaps, before or after they are committed.
type faultyLedger struct {
	ledger
	mu            sync.Mutex
	before, after error
	lastErr       error
}

func (f *faultyLedger) set(before, after, last error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.after, f.lastErr = before, after, last
}

func (f *faultyLedger) get() (before, after, last error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.before, f.after, f.lastErr
}

func (f *faultyLedger) swap(ctx context.Context, old, next Checkpoint, added []Hash) error {
	before, after, _ := f.get()
	if before != nil {
		return before
	}
	if err := f.ledger.swap(ctx, old, next, added); err != nil {
		return err
	}
	return after
}

func (f *faultyLedger) last(ctx context.Context) ([]byte, uint64, error) {
	if _, _, last := f.get(); last != nil {
		return nil, 0, last
	}
	return f.ledger.last(ctx)
}

// audit checks that the log holds what was acknowledged, and extends every
// checkpoint that was given out.
func audit(t *testing.T, l *Log, acked map[uint64][]byte, seen []Entry) {
	t.Helper()
	for i, want := range acked {
		got, err := l.Leaf(t.Context(), i)
		if err != nil || string(got) != string(want) {
			t.Errorf("entry %d is %q (%v), acknowledged was %q", i, got, err, want)
		}
	}
	head := l.Head()
	for _, e := range seen {
		p, err := l.ConsistencyProof(t.Context(), e.TreeSize, head.Size)
		if err == nil {
			err = VerifyConsistency(e.TreeSize, head.Size, p, e.Root[:], head.Root[:])
		}
		if err != nil {
			t.Errorf("the checkpoint of %d that was given out is not in the log of %d: %v", e.TreeSize, head.Size, err)
		}
	}
}

// TestThreat_Store_DiskFull fails every kind of write at every place of a
// commit: the answer says what is wrong, the log goes on without a restart once
// it is mended, nothing acknowledged is lost, and a restart agrees.
func TestThreat_Store_DiskFull(t *testing.T) {
	kinds := map[error]*fault.Kind{syscall.ENOSPC: fault.NoSpace, syscall.EIO: fault.Unavailable, syscall.EMFILE: fault.Unavailable}
	for errno, kind := range kinds {
		t.Run(errno.Error(), func(t *testing.T) {
			o := options(t, openStore(t))
			l, tr, _ := openFaulty(t, o)
			acked := map[uint64][]byte{}
			var seen []Entry
			for i, e := range add(t, l, 0, 250) { // so that the failures cross the end of a tile
				acked[e.Index], seen = leafN(i), append(seen, e)
			}
			n := 250
			put := func() error {
				leaf := leafN(n)
				n++
				e, err := l.Add(t.Context(), leaf)
				if err == nil {
					check(t, l, leaf, e)
					acked[e.Index], seen = leaf, append(seen, e)
				}
				return err
			}
			for _, op := range []string{"mkdir", "write", "sync", "rename", "syncdir"} {
				for after := range 5 {
					tr.set(op, after, errno)
					for range 2 {
						if err := put(); err != nil && !errors.Is(err, kind) {
							t.Errorf("%s %d: %v, want it to be %v", op, after, err, kind)
						}
					}
					tr.set("", 0, nil)
					if err := put(); err != nil {
						t.Errorf("%s %d: after it was mended: %v", op, after, err)
					}
				}
			}
			audit(t, l, acked, seen)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			audit(t, open(t, o), acked, seen)
		})
	}
}

// TestThreat_Store_CheckpointFileFails: the entry is recorded, the file is not
// written; nobody is told that it is logged before it is.
func TestThreat_Store_CheckpointFileFails(t *testing.T) {
	o := options(t, openStore(t))
	l, tr, _ := openFaulty(t, o)
	add(t, l, 0, 3)
	l.disk.fault = func(op, path string) error {
		if filepath.Base(path) == "checkpoint" {
			return tr.check(op, path)
		}
		return nil
	}
	tr.set("write", 0, syscall.ENOSPC)
	if _, err := l.Add(t.Context(), leafN(3)); !errors.Is(err, fault.NoSpace) {
		t.Fatalf("got %v, want no space", err)
	}
	tr.set("", 0, nil)
	e, err := l.Add(t.Context(), leafN(3))
	if err != nil || e.Index != 3 || !e.Duplicate {
		t.Fatalf("asked again: %+v, %v; want the entry that is there", e, err)
	}
	b, err := os.ReadFile(filepath.Join(o.Dir, "checkpoint"))
	if err != nil || string(b) != string(e.Checkpoint) {
		t.Errorf("the file holds %q (%v), given out was %q", b, err, e.Checkpoint)
	}
	// Nobody need ask: the log mends itself.
	tr.set("write", 0, syscall.EIO)
	if _, err := l.Add(t.Context(), leafN(4)); !errors.Is(err, fault.Unavailable) {
		t.Fatal(err)
	}
	tr.set("", 0, nil)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := l.readPublished(t.Context())
		if err == nil && c.Size == 5 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the checkpoint file still has %d entries", c.Size)
		}
	}
}

// TestThreat_Store_CommitOfUnknownEnd: the database says no although it
// committed, or dies before. The log finds out which before it writes on.
func TestThreat_Store_CommitOfUnknownEnd(t *testing.T) {
	o := options(t, openStore(t))
	l, _, fl := openFaulty(t, o)
	acked := map[uint64][]byte{}
	var seen []Entry
	for i, e := range add(t, l, 0, 300) {
		acked[e.Index], seen = leafN(i), append(seen, e)
	}
	broken := fault.Newf(fault.Unavailable, "connection lost")
	for i, set := range [][3]error{{broken, nil, nil}, {nil, broken, nil}, {broken, nil, broken}, {nil, broken, broken}} {
		fl.set(set[0], set[1], set[2])
		for j := range 3 {
			if _, err := l.Add(t.Context(), leafN(1000+10*i+j)); !errors.Is(err, fault.Unavailable) && set[2] != nil {
				t.Errorf("case %d: %v, want unavailable", i, err)
			}
		}
		fl.set(nil, nil, nil)
		leaf := fmt.Appendf(nil, "after %d", i)
		e, err := l.Add(t.Context(), leaf)
		if err != nil {
			t.Fatalf("case %d: after it was mended: %v", i, err)
		}
		check(t, l, leaf, e)
		acked[e.Index], seen = leaf, append(seen, e)
	}
	audit(t, l, acked, seen)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	audit(t, open(t, o), acked, seen)
}

func TestBackpressure(t *testing.T) {
	o := options(t, openStore(t))
	o.MaxPending = 4
	l, _, fl := openFaulty(t, o)
	hold := make(chan struct{})
	l.ledger = blocked{fl, hold}
	var wg sync.WaitGroup
	results := make(chan error, 64)
	for i := range 64 {
		wg.Go(func() {
			_, err := l.Add(t.Context(), leafN(i))
			results <- err
		})
	}
	refused := 0
	for range 59 { // 1 to 4 are in the commit that hangs, 4 wait
		if err := <-results; errors.Is(err, fault.TooMany) {
			refused++
		} else {
			t.Errorf("%v, want too many", err)
		}
		if refused == 56 {
			break
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := l.Add(ctx, leafN(99))
	if !errors.Is(err, fault.TooMany) && !errors.Is(err, fault.Unavailable) {
		t.Errorf("%v", err)
	}
	close(hold)
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Add(t.Context(), leafN(100)); !errors.Is(err, fault.Unavailable) {
		t.Errorf("add to a closed log: %v", err)
	}
	if _, err := l.Add(t.Context(), make([]byte, MaxLeaf+1)); !errors.Is(err, fault.TooLarge) {
		t.Errorf("a large entry: %v", err)
	}
}

// blocked is a ledger whose look-ups wait.
type blocked struct {
	*faultyLedger
	hold chan struct{}
}

func (b blocked) lookup(ctx context.Context, hashes []Hash) (map[Hash]uint64, error) {
	select {
	case <-b.hold:
	case <-ctx.Done():
	}
	return b.faultyLedger.lookup(ctx, hashes)
}
