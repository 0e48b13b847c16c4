package blob

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"sort"
	"strings"
	"sync"
	"time"

	"assay/artifact"
	"assay/internal/clock"
	"assay/internal/durable"
	"assay/internal/fault"
)

// DefaultUploadTTL is how long an upload session that nobody writes to is kept.
const DefaultUploadTTL = 24 * time.Hour

// Options of a [Dir]; the zero value is good.
type Options struct {
	Clock     clock.Clock   // nil: clock.System
	Logger    *slog.Logger  // nil: discard
	UploadTTL time.Duration // 0: DefaultUploadTTL
}

// Dir is a [Store] in a local folder of mode 0700:
//
//	<algorithm>/<first two hex digits>/<hex>   blobs, mode 0600
//	uploads/<id>                               sessions: the bytes so far
//
// A session's whole state is its file: the offset is the file's size, and the
// hash is computed again when another process resumes it. All paths go through
// an os.Root, so that no name and no symbolic link leads out of the folder.
//
// Durability. Commit fsyncs the session's file, renames it into place, and
// fsyncs the folder that has the new name, since fsync(2) of a file "does not
// necessarily ensure that the entry in the directory containing the file has
// also reached disk" (fsync(2), DESCRIPTION). Concurrent commits share this
// work: file syncs run at once, which a journalling file system joins into one
// journal commit, and folder syncs are gathered by [dirSyncer], one fsync for
// all names that wait. One syncfs(2) for a whole batch was measured too
// (BenchmarkCommit, ext4, a busy two-core machine): the same within the noise up
// to ten clients, up to 1.4 times the speed at fifty with 1 MiB each. It is not
// used because it waits for everybody else's dirty pages on a shared disk, and
// fails for everybody else's errors (syncfs(2), ERRORS, EIO).
type Dir struct {
	root *os.Root
	// beneath is the folder itself, for what takes a descriptor of it; nil where it
	// cannot be opened.
	beneath *os.File
	now     clock.Clock
	log     *slog.Logger
	ttl     time.Duration
	dirs    *dirSyncer
	fault   func(op string) error // set by tests: what the medium answers

	mu        sync.Mutex
	sessions  map[string]*session               // held, or with a hash worth keeping
	placing   map[artifact.Digest]chan struct{} // renamed or about to be, not yet durable
	fans      map[string]bool                   // folders <algorithm>/<hh> known to exist durably
	lastSweep time.Time
}

// session is what this process knows of an upload beside its file.
type session struct {
	held   bool
	state  *hasher
	closed time.Time
}

const (
	uploadsDir = "uploads"
	// Hash states kept in memory between the requests of one upload. Beyond
	// this the oldest is dropped and recomputed from its file if needed.
	maxKeptStates = 4096
	idLen         = 26 // of crypto/rand.Text
)

var algorithms = []string{artifact.SHA256, artifact.SHA384, artifact.SHA512}

// NewDir opens the store in folder dir, making it when it is absent. Everything
// that a lookup can find from then on is durable: names that a killed process
// left unsynced are synced first.
func NewDir(dir string, o Options) (*Dir, error) {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.UploadTTL <= 0 {
		o.UploadTTL = DefaultUploadTTL
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open blob store: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open blob store: %w", err)
	}
	d := &Dir{
		root: root, now: o.Clock, log: o.Logger, ttl: o.UploadTTL,
		sessions: map[string]*session{},
		placing:  map[artifact.Digest]chan struct{}{},
		fans:     map[string]bool{},
	}
	d.dirs = &dirSyncer{sync: d.syncDir}
	if err := d.prepare(); err != nil {
		_ = root.Close()
		return nil, fmt.Errorf("open blob store %s: %w", dir, wrapIO(err))
	}
	if f, err := root.Open("."); err == nil {
		d.beneath = f
	}
	return d, nil
}

func (d *Dir) prepare() error {
	for _, name := range append([]string{uploadsDir}, algorithms...) {
		if err := d.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if err := d.syncDir("."); err != nil {
		return err
	}
	for _, alg := range algorithms {
		fans, err := d.readDir(alg)
		if err != nil {
			return err
		}
		for _, e := range fans {
			name := path.Join(alg, e.Name())
			if err := d.syncDir(name); err != nil {
				return err
			}
			d.fans[name] = true
		}
		if err := d.syncDir(alg); err != nil {
			return err
		}
	}
	return nil
}

// Close lets go of the folder. Writers and files that are open stay usable.
func (d *Dir) Close() error {
	if d.beneath == nil {
		return d.root.Close()
	}
	return errors.Join(d.beneath.Close(), d.root.Close())
}

// Create begins a session.
func (d *Dir) Create(ctx context.Context) (Writer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.sweepWhenDue(ctx)
	id := rand.Text()
	if err := d.inject("create"); err != nil {
		return nil, fmt.Errorf("begin upload: %w", wrapIO(err))
	}
	f, err := d.root.OpenFile(path.Join(uploadsDir, id), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("begin upload: %w", wrapIO(err))
	}
	s := &session{held: true, state: newHasher()}
	d.mu.Lock()
	d.sessions[id] = s
	d.mu.Unlock()
	return &writer{d: d, id: id, f: f, s: s, h: s.state}, nil
}

// Resume takes a session up.
func (d *Dir) Resume(ctx context.Context, id string) (_ Writer, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !validID(id) {
		return nil, fault.Newf(fault.NotFound, "upload %.40q: no such session; begin a new upload", id)
	}
	s, err := d.hold(id)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.release(id, s, nil)
		}
	}()
	f, err := d.root.OpenFile(path.Join(uploadsDir, id), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Newf(fault.NotFound, "upload %s: no such session: it was finished, cancelled or has expired; begin a new upload", id)
	}
	if err != nil {
		return nil, fmt.Errorf("resume upload: %w", wrapIO(err))
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil && (s.state == nil || s.state.n != size) {
		s.state, err = hashFile(ctx, f, size)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("resume upload: %w", wrapIO(err))
	}
	return &writer{d: d, id: id, f: f, s: s, h: s.state}, nil
}

// hold makes the caller the one holder of session id.
func (d *Dir) hold(id string) (*session, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.sessions[id]
	if s == nil {
		s = &session{}
		d.sessions[id] = s
	}
	if s.held {
		return nil, fault.Newf(fault.Conflict, "upload %s: another request is writing to it; wait for that one to end", id)
	}
	s.held = true
	return s, nil
}

// release ends the hold; a state that is not nil is kept for the next Resume.
func (d *Dir) release(id string, s *session, keep *hasher) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.held, s.state, s.closed = false, keep, d.now()
	if keep == nil {
		delete(d.sessions, id)
		return
	}
	if len(d.sessions) <= maxKeptStates {
		return
	}
	for other, o := range d.sessions { // any one will do: the cost is a re-hash
		if !o.held && other != id {
			delete(d.sessions, other)
			return
		}
	}
}

// Open reads a blob.
func (d *Dir) Open(ctx context.Context, dg artifact.Digest) (File, error) {
	if err := d.await(ctx, dg); err != nil {
		return nil, err
	}
	f, err := d.open(blobPath(dg))
	if err != nil {
		return nil, notFound(dg, "open", err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("it is a %s, want a regular file", st.Mode().Type())
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open blob %s: %w", dg, wrapIO(err))
	}
	return &file{File: f, info: st}, nil
}

// Stat describes a blob.
func (d *Dir) Stat(ctx context.Context, dg artifact.Digest) (Info, error) {
	if err := d.await(ctx, dg); err != nil {
		return Info{}, err
	}
	st, err := d.root.Lstat(blobPath(dg))
	if err != nil {
		return Info{}, notFound(dg, "find", err)
	}
	return Info{Digest: dg, Size: st.Size(), ModTime: st.ModTime()}, nil
}

// Delete removes a blob.
func (d *Dir) Delete(ctx context.Context, dg artifact.Digest) error {
	if err := d.await(ctx, dg); err != nil {
		return err
	}
	p := blobPath(dg)
	if err := d.root.Remove(p); err != nil {
		return notFound(dg, "delete", err)
	}
	if err := d.dirs.do(ctx, path.Dir(p)); err != nil {
		return fmt.Errorf("delete blob %s: %w", dg, wrapIO(err))
	}
	return nil
}

// Walk visits every blob. Files whose names are no digests are passed over.
func (d *Dir) Walk(ctx context.Context, fn func(Info) error) error {
	for _, alg := range algorithms {
		fans, err := d.readDir(alg)
		if err != nil {
			return fmt.Errorf("walk blobs: %w", wrapIO(err))
		}
		for _, fan := range fans {
			entries, err := d.readDir(path.Join(alg, fan.Name()))
			if err != nil {
				return fmt.Errorf("walk blobs: %w", wrapIO(err))
			}
			for _, e := range entries {
				if err := ctx.Err(); err != nil {
					return err
				}
				dg, err := artifact.ParseDigest(alg + ":" + e.Name())
				if err != nil || dg.Hex()[:2] != fan.Name() {
					continue
				}
				info, err := d.Stat(ctx, dg)
				if errors.Is(err, fault.NotFound) {
					continue // deleted since the folder was read
				}
				if err != nil {
					return err
				}
				if err := fn(info); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Expire frees the sessions that nobody has written to for the upload TTL, and
// says how many. Create calls it too, at most once an hour.
func (d *Dir) Expire(ctx context.Context) (int, error) {
	entries, err := d.readDir(uploadsDir)
	if err != nil {
		return 0, fmt.Errorf("expire uploads: %w", wrapIO(err))
	}
	limit, n := d.now().Add(-d.ttl), 0
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		st, err := e.Info()
		if err != nil || st.ModTime().After(limit) {
			continue // gone already, or young
		}
		id := e.Name()
		s, err := d.hold(id)
		if err != nil {
			continue // somebody writes to it right now
		}
		err = d.root.Remove(path.Join(uploadsDir, id))
		d.release(id, s, nil)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return n, fmt.Errorf("expire upload %.40q: %w", id, wrapIO(err))
		}
		n++
	}
	return n, nil
}

func (d *Dir) sweepWhenDue(ctx context.Context) {
	now := d.now()
	d.mu.Lock()
	due := now.Sub(d.lastSweep) >= time.Hour
	if due {
		d.lastSweep = now
	}
	d.mu.Unlock()
	if !due {
		return
	}
	n, err := d.Expire(ctx)
	if err != nil {
		d.log.Warn("abandoned uploads could not be freed", "error", err)
	} else if n > 0 {
		d.log.Info("abandoned uploads freed", "count", n)
	}
}

// await waits until dg is not between its rename and its folder's sync, so that
// nobody builds on a blob that a power cut could still take away.
func (d *Dir) await(ctx context.Context, dg artifact.Digest) error {
	if err := dg.Validate(); err != nil {
		return err
	}
	d.mu.Lock()
	ch := d.placing[dg]
	d.mu.Unlock()
	if ch == nil {
		return ctx.Err()
	}
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *Dir) inject(op string) error {
	if d.fault == nil {
		return nil
	}
	return d.fault(op)
}

func (d *Dir) readDir(name string) ([]fs.DirEntry, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	sort.Slice(entries, func(i, j int) bool { return entries[i].Name() < entries[j].Name() })
	return entries, err
}

func (d *Dir) syncDir(name string) error {
	if err := d.inject("syncdir"); err != nil {
		return err
	}
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(syncDirFile(f), f.Close())
}

func blobPath(d artifact.Digest) string {
	hex := d.Hex()
	return d.Algorithm() + "/" + hex[:2] + "/" + hex
}

func notFound(d artifact.Digest, verb string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fault.Newf(fault.NotFound, "%s blob %s: it is not stored here", verb, d)
	}
	return fmt.Errorf("%s blob %s: %w", verb, d, wrapIO(err))
}

// validID says whether id can have come from crypto/rand.Text: base32, no
// separator, no dot.
func validID(id string) bool {
	return len(id) == idLen && strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// file is an open blob.
type file struct {
	*os.File
	info fs.FileInfo
}

func (f *file) Size() int64        { return f.info.Size() }
func (f *file) ModTime() time.Time { return f.info.ModTime() }
func (f *file) OS() *os.File       { return f.File }

// Changed is when the stored bytes last changed, as far as the system knows.
func (f *file) Changed() time.Time { return changed(f.info) }
