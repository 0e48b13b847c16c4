package blob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/resident"
)

// hasher is the running sha256 of a session and the number of bytes in it.
// Content that is committed under another algorithm is hashed once more then.
type hasher struct {
	sum hash.Hash
	n   int64
}

func newHasher() *hasher { return &hasher{sum: sha256.New()} }

// The buffers that uploads are copied through, and those for all who come when
// they are in use.
var (
	copyBuffers  = resident.Pool{Size: 256 << 10, Max: 8}
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}
)

// copyBuffer gives a buffer, and what takes it back.
func copyBuffer() (buf []byte, release func()) {
	if b := copyBuffers.Get(); b != nil {
		return b, func() { copyBuffers.Put(b) }
	}
	b := smallBuffers.Get().(*[]byte)
	return *b, func() { smallBuffers.Put(b) }
}

// hashFile hashes the first size bytes of f.
func hashFile(ctx context.Context, f *os.File, size int64) (*hasher, error) {
	h := newHasher()
	err := hashInto(ctx, h.sum, f, size)
	h.n = size
	return h, err
}

func hashInto(ctx context.Context, h hash.Hash, f *os.File, size int64) error {
	buf, release := copyBuffer()
	defer release()
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(int64(len(buf)), size-off)]
		n, err := f.ReadAt(b, off)
		h.Write(b[:n])
		off += int64(n)
		if err != nil && !(errors.Is(err, io.EOF) && off == size) {
			return err
		}
	}
	return nil
}

// writer is a session of a Dir.
type writer struct {
	d    *Dir
	id   string
	f    *os.File
	s    *session
	h    *hasher
	done bool
}

func (w *writer) ID() string    { return w.id }
func (w *writer) Offset() int64 { return w.h.n }

func (w *writer) Write(b []byte) (int, error) {
	if w.done {
		return 0, ended(w.id)
	}
	if err := w.d.inject("write"); err != nil {
		return 0, fmt.Errorf("write upload %s: %w", w.id, wrapIO(err))
	}
	// The position is given, so that a short write never leaves a hole.
	n, err := w.f.WriteAt(b, w.h.n)
	w.h.sum.Write(b[:n])
	w.h.n += int64(n)
	if err != nil {
		return n, fmt.Errorf("write upload %s at byte %d: %w", w.id, w.h.n, wrapIO(err))
	}
	return n, nil
}

// ReadFrom is Write with a large shared buffer, for io.Copy.
func (w *writer) ReadFrom(r io.Reader) (int64, error) {
	buf, release := copyBuffer()
	defer release()
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, buf)
}

func (w *writer) Close() error {
	if w.done {
		return nil
	}
	w.done = true
	err := w.f.Close()
	keep := w.h
	if err != nil {
		keep = nil // what reached the file is known only by reading it again
	}
	w.d.release(w.id, w.s, keep)
	return wrapIO(err)
}

func (w *writer) Cancel() error {
	if w.done {
		return nil
	}
	w.done = true
	err := errors.Join(w.f.Close(), w.remove())
	w.d.release(w.id, w.s, nil)
	return wrapIO(err)
}

func (w *writer) remove() error {
	err := w.d.root.Remove(path.Join(uploadsDir, w.id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (w *writer) Commit(ctx context.Context, want artifact.Digest) error {
	if w.done {
		return ended(w.id)
	}
	err := w.commit(ctx, want)
	// After a commit there is nothing to remove; on every other way the session
	// ends here, its file with it.
	if cerr := w.Cancel(); err == nil && cerr != nil {
		w.d.log.Warn("an upload's remains could not be removed", "upload", w.id, "error", cerr)
	}
	if err != nil {
		return fmt.Errorf("commit blob %s: %w", want, wrapIO(err))
	}
	return nil
}

func (w *writer) commit(ctx context.Context, want artifact.Digest) error {
	if err := want.Validate(); err != nil {
		return err
	}
	got, err := w.digest(ctx, want.Algorithm())
	if err != nil {
		return err
	}
	if got != want {
		return fault.Newf(fault.Invalid, "the %d bytes sent hash to %s: send the content that the digest names", w.h.n, got)
	}
	for {
		mine, other := w.d.begin(want)
		if mine != nil {
			defer w.d.finish(want, mine)
			return w.place(ctx, want)
		}
		select { // the same content, on its way in another session
		case <-other:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *writer) digest(ctx context.Context, alg string) (artifact.Digest, error) {
	if alg == artifact.SHA256 {
		return artifact.NewDigest(alg, w.h.sum.Sum(nil)), nil
	}
	h, ok := artifact.NewHash(alg)
	if !ok {
		return "", fault.Newf(fault.Invalid, "digest algorithm %.20q is not known here", alg)
	}
	if err := hashInto(ctx, h, w.f, w.h.n); err != nil {
		return "", err
	}
	return artifact.NewDigest(alg, h.Sum(nil)), nil
}

// begin claims the placing of d, or gives the channel that closes when the one
// who has claimed it is done.
func (d *Dir) begin(dg artifact.Digest) (mine, other chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ch := d.placing[dg]; ch != nil {
		return nil, ch
	}
	mine = make(chan struct{})
	d.placing[dg] = mine
	return mine, nil
}

func (d *Dir) finish(dg artifact.Digest, mine chan struct{}) {
	d.mu.Lock()
	delete(d.placing, dg)
	d.mu.Unlock()
	close(mine)
}

// place makes the session's file the blob want, durably; the caller holds the
// claim on want.
func (w *writer) place(ctx context.Context, want artifact.Digest) error {
	d, target := w.d, blobPath(want)
	if st, err := d.root.Lstat(target); err == nil && st.Mode().IsRegular() && st.Size() == w.h.n {
		// It is durable: NewDir synced what a former process left, and what this
		// one placed has been waited for. A file of another size is damaged, and
		// falls through to be replaced by good bytes.
		return nil
	}
	if err := d.ensureFan(path.Dir(target)); err != nil {
		return err
	}
	if err := d.inject("sync"); err != nil {
		return err
	}
	// An fsync that fails is not tried again: the kernel marks the pages clean
	// after reporting the error once, and a second fsync would succeed over lost
	// data (fsync(2), ERRORS, EIO; the kernel's errseq_t). The session ends.
	if err := w.f.Sync(); err != nil {
		return err
	}
	if err := d.inject("rename"); err != nil {
		return err
	}
	if err := d.root.Rename(path.Join(uploadsDir, w.id), target); err != nil {
		return err
	}
	// The name must not outlive a failed sync as if it were durable, and the
	// sync is not abandoned when the client goes away.
	if err := d.dirs.do(context.WithoutCancel(ctx), path.Dir(target)); err != nil {
		return errors.Join(err, d.root.Remove(target))
	}
	return nil
}

// ensureFan makes the folder <algorithm>/<hh>, durable in its parent.
func (d *Dir) ensureFan(name string) error {
	d.mu.Lock()
	known := d.fans[name]
	d.mu.Unlock()
	if known {
		return nil
	}
	if err := d.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Synced also when another goroutine has just made it: that one may not have
	// synced it yet.
	if err := d.dirs.do(context.Background(), path.Dir(name)); err != nil {
		return err
	}
	d.mu.Lock()
	d.fans[name] = true
	d.mu.Unlock()
	return nil
}

func ended(id string) error {
	return fault.Newf(fault.Invalid, "upload %s: this writer has ended; resume the session or begin another", id)
}
