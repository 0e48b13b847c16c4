//go:build linux

package blob

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"assay/artifact"
	"assay/internal/fault"
)

// A disk that is really full: a file system of two megabytes.
func TestThreat_Store_DiskFullForReal(t *testing.T) {
	path := t.TempDir()
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	d, err := NewDir(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	small, err := Put(t.Context(), d, []byte("acknowledged before"))
	if err != nil {
		t.Fatal(err)
	}
	big := make([]byte, 4<<20)
	if _, err := Put(t.Context(), d, big); !errors.Is(err, fault.NoSpace) {
		t.Fatalf("4 MiB into 2: %v, want no space", err)
	}
	if _, err := d.Stat(t.Context(), small); err != nil {
		t.Fatal(err)
	}
	if _, err := Put(t.Context(), d, big[:1<<20]); err != nil {
		t.Fatalf("1 MiB after the failure: %v; its space was not freed", err)
	}
}

// BenchmarkCommit compares what Dir does (each commit fsyncs its file at once
// with the others, folder syncs are gathered) with one syncfs(2) for a batch of
// files and one for their names.
func BenchmarkCommit(b *testing.B) {
	for _, size := range []int{4 << 10, 1 << 20} {
		for _, clients := range []int{1, 10, 50} {
			name := fmt.Sprintf("%dKiB/%dclients/", size>>10, clients)
			b.Run(name+"fsync", func(b *testing.B) {
				d, _ := newDir(b, Options{})
				parallel(b, clients, size, func(content []byte) error {
					_, err := Put(context.Background(), d, content)
					return err
				})
			})
			b.Run(name+"syncfs", func(b *testing.B) {
				d, path := newDir(b, Options{})
				root, err := os.Open(path)
				if err != nil {
					b.Fatal(err)
				}
				defer func() { _ = root.Close() }()
				batch := &dirSyncer{sync: func(string) error { return unix.Syncfs(int(root.Fd())) }}
				parallel(b, clients, size, func(content []byte) error { return putSyncfs(d, path, batch, content) })
			})
		}
	}
}

func parallel(b *testing.B, clients, size int, put func([]byte) error) {
	b.SetBytes(int64(size))
	b.SetParallelism(max(clients/2, 1)) // times GOMAXPROCS, which is 2 where this was measured
	var n atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		content := make([]byte, size)
		_, _ = rand.Read(content)
		for pb.Next() {
			copy(content, fmt.Sprint(n.Add(1)))
			if err := put(content); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func putSyncfs(d *Dir, path string, batch *dirSyncer, content []byte) error {
	w, err := d.Create(context.Background())
	if err != nil {
		return err
	}
	if _, err := w.Write(content); err != nil {
		return err
	}
	target := filepath.Join(path, filepath.FromSlash(blobPath(artifact.SHA256Of(content))))
	if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return batch.do(context.Background(), "all") },
		func() error { return os.Rename(filepath.Join(path, uploadsDir, w.ID()), target) },
		func() error { return batch.do(context.Background(), "all") },
		w.Cancel,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
