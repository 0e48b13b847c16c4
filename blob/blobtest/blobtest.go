// Package blobtest holds the suite that every [blob.Store] passes, and a store
// that fails on demand.
package blobtest

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"assay/artifact"
	"assay/blob"
	"assay/internal/fault"
)

// Run runs the suite. open gives a store over a place (a folder, or a name
// within a bucket); opening the same place again is a restart of the process.
func Run(t *testing.T, open func(t *testing.T, place string) blob.Store) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s blob.Store, reopen func() blob.Store)
	}{
		{"RoundTrip", roundTrip},
		{"Mismatch", mismatch},
		{"Algorithms", algorithms},
		{"ResumeHere", resumeHere},
		{"ResumeAfterRestart", resumeAfterRestart},
		{"OneHolder", oneHolder},
		{"Cancel", cancel},
		{"Ended", ended},
		{"HostileNames", hostileNames},
		{"SameContentAtOnce", sameContentAtOnce},
		{"ManyAtOnce", manyAtOnce},
		{"DeleteAndWalk", deleteAndWalk},
		{"ReadWhileDeleted", readWhileDeleted},
		{"CancelledContext", cancelledContext},
	} {
		t.Run(c.name, func(t *testing.T) {
			place := t.TempDir()
			c.test(t, open(t, place), func() blob.Store { return open(t, place) })
		})
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantKind(t testing.TB, what string, err error, kind *fault.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("%s: %v, want kind %v", what, err, kind)
	}
}

func read(t testing.TB, s blob.Store, d artifact.Digest) []byte {
	t.Helper()
	f := must(s.Open(t.Context(), d))(t)
	defer func() { _ = f.Close() }()
	b := must(io.ReadAll(f))(t)
	if f.Size() != int64(len(b)) {
		t.Fatalf("Size says %d, read %d bytes", f.Size(), len(b))
	}
	return b
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func roundTrip(t *testing.T, s blob.Store, reopen func() blob.Store) {
	for _, n := range []int{0, 1, 4096, 1 << 20, 3<<20 + 7} {
		want := random(n)
		d := must(blob.Put(t.Context(), s, want))(t)
		for _, s := range []blob.Store{s, reopen()} {
			if !bytes.Equal(read(t, s, d), want) {
				t.Fatalf("%d bytes came back changed", n)
			}
			info := must(s.Stat(t.Context(), d))(t)
			if info.Digest != d || info.Size != int64(n) || info.ModTime.IsZero() {
				t.Fatalf("Stat: %+v", info)
			}
		}
	}
	f := must(s.Open(t.Context(), artifact.SHA256Of(random(4096))))(t)
	defer func() { _ = f.Close() }()
	if _, err := f.Seek(-96, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	if b := must(io.ReadAll(f))(t); !bytes.Equal(b, random(4096)[4000:]) {
		t.Fatal("Seek leads elsewhere")
	}
}

func mismatch(t *testing.T, s blob.Store, _ func() blob.Store) {
	want := artifact.SHA256Of([]byte("promised"))
	w := must(s.Create(t.Context()))(t)
	must(w.Write([]byte("sent")))(t)
	wantKind(t, "commit of other bytes", w.Commit(t.Context(), want), fault.Invalid)
	_, err := s.Stat(t.Context(), want)
	wantKind(t, "the promised blob", err, fault.NotFound)
	_, err = s.Stat(t.Context(), artifact.SHA256Of([]byte("sent")))
	wantKind(t, "the sent blob", err, fault.NotFound)
	_, err = s.Resume(t.Context(), w.ID())
	wantKind(t, "the session", err, fault.NotFound)
}

func algorithms(t *testing.T, s blob.Store, reopen func() blob.Store) {
	b := random(100_000)
	sum := sha512.Sum512(b)
	d512 := artifact.NewDigest(artifact.SHA512, sum[:])
	for _, d := range []artifact.Digest{d512, artifact.SHA256Of(b)} {
		if err := blob.PutAs(t.Context(), s, b, d); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, reopen(), d), b) {
			t.Fatalf("%s came back changed", d.Algorithm())
		}
	}
	wantKind(t, "sha512 of other bytes", blob.PutAs(t.Context(), s, b[1:], d512), fault.Invalid)
	wantKind(t, "md5", blob.PutAs(t.Context(), s, b, "md5:00000000000000000000000000000000"), fault.Invalid)
}

func resumeHere(t *testing.T, s blob.Store, _ func() blob.Store) { resume(t, s, s, s) }

func resumeAfterRestart(t *testing.T, s blob.Store, reopen func() blob.Store) {
	resume(t, s, reopen(), reopen())
}

func resume(t *testing.T, stores ...blob.Store) {
	content := random(900_001)
	w := must(stores[0].Create(t.Context()))(t)
	id := w.ID()
	for i, s := range stores {
		if i > 0 {
			w = must(s.Resume(t.Context(), id))(t)
		}
		if w.ID() != id || w.Offset() != int64(i*300_000) {
			t.Fatalf("session %q at %d, want %q at %d", w.ID(), w.Offset(), id, i*300_000)
		}
		end := (i + 1) * 300_000
		if i == len(stores)-1 {
			end = len(content)
		}
		must(w.Write(content[i*300_000 : end]))(t)
		if i < len(stores)-1 {
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	d := artifact.SHA256Of(content)
	if err := w.Commit(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, stores[0], d), content) {
		t.Fatal("content came back changed")
	}
}

func oneHolder(t *testing.T, s blob.Store, _ func() blob.Store) {
	w := must(s.Create(t.Context()))(t)
	_, err := s.Resume(t.Context(), w.ID())
	wantKind(t, "second holder", err, fault.Conflict)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w = must(s.Resume(t.Context(), w.ID()))(t)
	if err := w.Cancel(); err != nil {
		t.Fatal(err)
	}
}

func cancel(t *testing.T, s blob.Store, reopen func() blob.Store) {
	w := must(s.Create(t.Context()))(t)
	must(w.Write(random(1000)))(t)
	if err := w.Cancel(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []blob.Store{s, reopen()} {
		_, err := s.Resume(t.Context(), w.ID())
		wantKind(t, "a cancelled session", err, fault.NotFound)
	}
}

func ended(t *testing.T, s blob.Store, _ func() blob.Store) {
	w := must(s.Create(t.Context()))(t)
	must(w.Write([]byte("x")))(t)
	d := artifact.SHA256Of([]byte("x"))
	if err := w.Commit(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	_, err := w.Write([]byte("y"))
	wantKind(t, "write after the end", err, fault.Invalid)
	wantKind(t, "commit after the end", w.Commit(t.Context(), d), fault.Invalid)
	if err := errors.Join(w.Close(), w.Cancel()); err != nil {
		t.Fatal(err)
	}
	if got := read(t, s, d); string(got) != "x" {
		t.Fatalf("the blob became %q", got)
	}
}

func hostileNames(t *testing.T, s blob.Store, _ func() blob.Store) {
	hex := artifact.SHA256Of(nil).Hex()
	for _, d := range []artifact.Digest{
		"", "sha256:", "sha256:../../../etc/passwd", artifact.Digest("sha256:" + hex[:63]), artifact.Digest("../sha256:" + hex),
		artifact.Digest("SHA256:" + hex), artifact.Digest("sha256:" + hex[:62] + "/.."), "uploads:x",
	} {
		_, err := s.Stat(t.Context(), d)
		wantKind(t, fmt.Sprintf("Stat(%q)", d), err, fault.Invalid)
		_, err = s.Open(t.Context(), d)
		wantKind(t, fmt.Sprintf("Open(%q)", d), err, fault.Invalid)
		wantKind(t, fmt.Sprintf("Delete(%q)", d), s.Delete(t.Context(), d), fault.Invalid)
	}
	for _, id := range []string{"", ".", "..", "../sha256", "/etc/passwd", "a\x00b", "AAAAAAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAAAA/.", string(random(100))} {
		_, err := s.Resume(t.Context(), id)
		wantKind(t, fmt.Sprintf("Resume(%q)", id), err, fault.NotFound)
	}
}

func sameContentAtOnce(t *testing.T, s blob.Store, _ func() blob.Store) {
	b := random(50_000)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := blob.Put(t.Context(), s, b); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	d := artifact.SHA256Of(b)
	if !bytes.Equal(read(t, s, d), b) {
		t.Fatal("content came back changed")
	}
	before := must(s.Stat(t.Context(), d))(t)
	must(blob.Put(t.Context(), s, b))(t)
	if after := must(s.Stat(t.Context(), d))(t); !after.ModTime.Equal(before.ModTime) {
		t.Fatal("an existing blob was written again")
	}
}

func manyAtOnce(t *testing.T, s blob.Store, reopen func() blob.Store) {
	digests := make([]artifact.Digest, 64)
	var wg sync.WaitGroup
	for i := range digests {
		wg.Go(func() {
			d, err := blob.Put(t.Context(), s, fmt.Appendf(nil, "blob %d", i))
			if err != nil {
				t.Error(err)
			}
			digests[i] = d
		})
	}
	wg.Wait()
	s = reopen()
	for i, d := range digests {
		if got := read(t, s, d); string(got) != fmt.Sprintf("blob %d", i) {
			t.Fatalf("%s is %q", d, got)
		}
	}
}

func deleteAndWalk(t *testing.T, s blob.Store, reopen func() blob.Store) {
	var want []artifact.Digest
	for i := range 10 {
		want = append(want, must(blob.Put(t.Context(), s, fmt.Appendf(nil, "%d", i)))(t))
	}
	w := must(s.Create(t.Context()))(t) // a session is no blob
	defer func() { _ = w.Cancel() }()
	if err := s.Delete(t.Context(), want[3]); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "second delete", s.Delete(t.Context(), want[3]), fault.NotFound)
	_, err := reopen().Open(t.Context(), want[3])
	wantKind(t, "the deleted blob", err, fault.NotFound)
	want = slices.Delete(want, 3, 4)
	slices.Sort(want)
	var got []artifact.Digest
	err = s.Walk(t.Context(), func(i blob.Info) error { got = append(got, i.Digest); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("Walk (-want +got):\n%s", diff)
	}
	stop := errors.New("enough")
	if err := s.Walk(t.Context(), func(blob.Info) error { return stop }); !errors.Is(err, stop) {
		t.Fatalf("Walk gave %v, want the function's own error", err)
	}
}

func readWhileDeleted(t *testing.T, s blob.Store, _ func() blob.Store) {
	b := random(300_000)
	d := must(blob.Put(t.Context(), s, b))(t)
	f := must(s.Open(t.Context(), d))(t)
	defer func() { _ = f.Close() }()
	if err := s.Delete(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if got := must(io.ReadAll(f))(t); !bytes.Equal(got, b) {
		t.Fatal("an open blob changed under its reader")
	}
	must(blob.Put(t.Context(), s, b))(t) // and it can come back
	if !bytes.Equal(read(t, s, d), b) {
		t.Fatal("content came back changed")
	}
}

func cancelledContext(t *testing.T, s blob.Store, _ func() blob.Store) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := s.Create(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Create: %v", err)
	}
	if _, err := s.Stat(ctx, artifact.SHA256Of(nil)); !errors.Is(err, context.Canceled) {
		t.Fatalf("Stat: %v", err)
	}
}

// Faulty is a store whose medium fails on demand: Fail is asked before each
// Write ("write"), Commit ("commit"), Create ("create") and Open ("open"), and
// what it gives is what the operation returns.
type Faulty struct {
	blob.Store
	Fail func(op string) error
}

// Create fails, or begins a session that can fail.
func (f *Faulty) Create(ctx context.Context) (blob.Writer, error) {
	if err := f.Fail("create"); err != nil {
		return nil, err
	}
	w, err := f.Store.Create(ctx)
	return &faultyWriter{w, f}, err
}

// Resume takes up a session that can fail.
func (f *Faulty) Resume(ctx context.Context, id string) (blob.Writer, error) {
	w, err := f.Store.Resume(ctx, id)
	if err != nil {
		return nil, err
	}
	return &faultyWriter{w, f}, nil
}

// Open fails, or opens.
func (f *Faulty) Open(ctx context.Context, d artifact.Digest) (blob.File, error) {
	if err := f.Fail("open"); err != nil {
		return nil, err
	}
	return f.Store.Open(ctx, d)
}

type faultyWriter struct {
	blob.Writer
	f *Faulty
}

func (w *faultyWriter) Write(b []byte) (int, error) {
	if err := w.f.Fail("write"); err != nil {
		return 0, err
	}
	return w.Writer.Write(b)
}

func (w *faultyWriter) Commit(ctx context.Context, d artifact.Digest) error {
	if err := w.f.Fail("commit"); err != nil {
		return errors.Join(err, w.Cancel())
	}
	return w.Writer.Commit(ctx, d)
}
