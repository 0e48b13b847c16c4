package blob

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"assay/artifact"
	"assay/internal/fault"
)

func newDir(t testing.TB, o Options) (*Dir, string) {
	t.Helper()
	path := t.TempDir()
	d, err := NewDir(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d, path
}

// TestThreat_Store_DiskFullAndBroken lets each step of a write fail as a full
// and as a broken disk, and demands the kind that the door answers 507 or 503
// to, nothing half-done to be seen, no space kept, and success afterwards.
func TestThreat_Store_DiskFullAndBroken(t *testing.T) {
	for _, step := range []string{"create", "write", "sync", "rename", "syncdir"} {
		for _, c := range []struct {
			err  error
			kind *fault.Kind
		}{{syscall.ENOSPC, fault.NoSpace}, {syscall.EDQUOT, fault.NoSpace}, {syscall.EIO, fault.Unavailable}} {
			t.Run(step+"/"+c.err.Error(), func(t *testing.T) {
				d, path := newDir(t, Options{})
				kept, err := Put(t.Context(), d, []byte("acknowledged before"))
				if err != nil {
					t.Fatal(err)
				}
				d.fault = func(op string) error {
					if op == step {
						return c.err
					}
					return nil
				}
				content := []byte("content in the way of trouble")
				want := artifact.SHA256Of(content)
				if _, err := Put(t.Context(), d, content); !errors.Is(err, c.kind) {
					t.Fatalf("Put: %v, want kind %v", err, c.kind)
				}
				if _, err := d.Stat(t.Context(), want); !errors.Is(err, fault.NotFound) {
					t.Fatalf("after the failure Stat gives %v, want not found", err)
				}
				if left, _ := os.ReadDir(filepath.Join(path, uploadsDir)); len(left) != 0 {
					t.Fatalf("the failure left %v", left)
				}
				d.fault = nil
				if _, err := d.Stat(t.Context(), kept); err != nil {
					t.Fatalf("the blob acknowledged before: %v", err)
				}
				if _, err := Put(t.Context(), d, content); err != nil {
					t.Fatalf("Put once the disk is well again: %v", err)
				}
			})
		}
	}
}

// A session survives a full disk: what was taken counts, and the rest can
// follow once there is room.
func TestSessionGoesOnAfterDiskFull(t *testing.T) {
	d, _ := newDir(t, Options{})
	w, err := d.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("first,")); err != nil {
		t.Fatal(err)
	}
	d.fault = func(op string) error { return syscall.ENOSPC }
	if _, err := w.Write([]byte("second")); !errors.Is(err, fault.NoSpace) {
		t.Fatalf("Write: %v, want no space", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	d.fault = nil
	if w, err = d.Resume(t.Context(), w.ID()); err != nil || w.Offset() != 6 {
		t.Fatalf("Resume: offset %d, %v; want 6", w.Offset(), err)
	}
	if _, err := w.Write([]byte("second")); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), artifact.SHA256Of([]byte("first,second"))); err != nil {
		t.Fatal(err)
	}
}

// Between rename and folder sync a blob is not yet durable: nobody may see it,
// or they would build on what a power cut takes away.
func TestBlobIsSeenOnlyWhenDurable(t *testing.T) {
	d, _ := newDir(t, Options{})
	content := []byte("renamed, not yet synced")
	want := artifact.SHA256Of(content)
	if err := d.ensureFan(filepath.Dir(blobPath(want))); err != nil {
		t.Fatal(err)
	}
	reached, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	d.fault = func(op string) error {
		if op == "syncdir" {
			once.Do(func() { close(reached); <-release })
		}
		return nil
	}
	put := make(chan error, 1)
	go func() { put <- PutAs(context.Background(), d, content, want) }()
	<-reached
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer stop()
	if _, err := d.Stat(ctx, want); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Stat before the folder's sync: %v, want it to wait", err)
	}
	seen := make(chan error, 1)
	go func() { _, err := d.Stat(context.Background(), want); seen <- err }()
	close(release)
	if err := errors.Join(<-put, <-seen); err != nil {
		t.Fatal(err)
	}
}

// Folder syncs that wait at one time are one sync.
func TestFolderSyncsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		count := map[string]int{}
		s := &dirSyncer{sync: func(dir string) error {
			mu.Lock()
			count[dir]++
			mu.Unlock()
			time.Sleep(time.Second)
			if dir == "bad" {
				return syscall.EIO
			}
			return nil
		}}
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if err := s.do(t.Context(), "one"); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if err := s.do(t.Context(), "bad"); !errors.Is(err, syscall.EIO) {
					t.Errorf("%v, want EIO for everybody who shared the sync", err)
				}
			})
		}
		wg.Wait()
		if count["one"] > 2 || count["bad"] > 2 {
			t.Fatalf("200 requests made %v syncs, want at most two for a folder", count)
		}
	})
}

func TestAbandonedUploadsExpire(t *testing.T) {
	now := time.Now()
	d, path := newDir(t, Options{Clock: func() time.Time { return now }, UploadTTL: time.Hour})
	ids := map[string]string{}
	for _, name := range []string{"abandoned", "held", "young"} {
		w, err := d.Create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = w.ID()
		if name == "held" {
			defer func() { _ = w.Cancel() }()
		} else if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if name != "young" {
			old := now.Add(-2 * time.Hour)
			if err := os.Chtimes(filepath.Join(path, uploadsDir, w.ID()), old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n, err := d.Expire(t.Context()); n != 1 || err != nil {
		t.Fatalf("Expire: %d, %v; want 1", n, err)
	}
	if _, err := d.Resume(t.Context(), ids["abandoned"]); !errors.Is(err, fault.NotFound) {
		t.Fatalf("the abandoned session: %v, want not found", err)
	}
	if w, err := d.Resume(t.Context(), ids["young"]); err != nil {
		t.Fatal(err)
	} else if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	now = now.Add(3 * time.Hour) // the sweep in Create sees the young one old
	w, err := d.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Cancel() }()
	if _, err := d.Resume(t.Context(), ids["young"]); !errors.Is(err, fault.NotFound) {
		t.Fatalf("after three hours: %v, want not found", err)
	}
}

// A file under a blob's name that has not the content's length is damage; good
// bytes that come again mend it.
func TestPushMendsTruncatedBlob(t *testing.T) {
	d, path := newDir(t, Options{})
	content := []byte(strings.Repeat("x", 1000))
	dg, err := Put(t.Context(), d, content)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(path, filepath.FromSlash(blobPath(dg)))
	if err := os.Truncate(file, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := Put(t.Context(), d, content); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(file); string(got) != string(content) {
		t.Fatalf("the file has %d bytes, want %d", len(got), len(content))
	}
}

func TestThreat_Archive_SymlinkLeadsOut(t *testing.T) {
	d, path := newDir(t, Options{})
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("not yours"), 0o600); err != nil {
		t.Fatal(err)
	}
	dg := artifact.SHA256Of([]byte("x"))
	link := filepath.Join(path, filepath.FromSlash(blobPath(dg)))
	if err := os.MkdirAll(filepath.Dir(link), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, link); err != nil {
		t.Skip(err)
	}
	if f, err := d.Open(t.Context(), dg); err == nil {
		_ = f.Close()
		t.Fatal("a symbolic link out of the folder was followed")
	}
}

func TestModesArePrivate(t *testing.T) {
	d, path := newDir(t, Options{})
	if _, err := Put(t.Context(), d, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := filepath.WalkDir(filepath.Join(path, "sha256"), func(p string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v, want nothing for group and others", p, info.Mode())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
