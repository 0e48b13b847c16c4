package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"assay/internal/durable"
	"assay/internal/fault"
)

// Repo is where backups lie: named objects. Put is durable when it returns and
// replaces whole objects; an absent object is [fault.NotFound]; names have "/"
// between their parts. Methods may be called at once. blob/s3.Objects is one.
type Repo interface {
	Put(ctx context.Context, name string, b []byte) error
	Get(ctx context.Context, name string, limit int64) ([]byte, error)
	List(ctx context.Context, under string, fn func(name string, size int64, at time.Time) error) error
	Delete(ctx context.Context, name string) error
	Close() error
}

// Folder is a [Repo] in a local folder of mode 0700.
type Folder struct {
	path string
	root *os.Root
}

// OpenFolder opens a folder, with create also one that is not there.
func OpenFolder(dir string, create bool) (*Folder, error) {
	if create {
		if err := durable.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Newf(fault.NotFound, "backups in %s: there is no such folder", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("backups in %s: %w", dir, err)
	}
	if err := durable.CheckPrivate(dir); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &Folder{path: dir, root: root}, nil
}

// Close lets go of the folder.
func (f *Folder) Close() error { return f.root.Close() }

// Put implements [Repo].
func (f *Folder) Put(_ context.Context, name string, b []byte) error {
	if !filepath.IsLocal(name) {
		return fault.Newf(fault.Invalid, "object name %q leads out of the repository", name)
	}
	dir := path.Dir(name)
	if err := f.root.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	// WriteFile and MkdirAll sync what they make; the folders of MkdirAll above are
	// synced with the first file in them.
	full := filepath.Join(f.path, filepath.FromSlash(name))
	if err := durable.WriteFile(full, b, 0o600); err != nil {
		return diskError(err)
	}
	return durable.SyncDir(filepath.Dir(filepath.Dir(full)))
}

// Get implements [Repo].
func (f *Folder) Get(_ context.Context, name string, limit int64) ([]byte, error) {
	r, err := f.root.Open(filepath.FromSlash(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Newf(fault.NotFound, "read %s: there is no such object", name)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, fault.Newf(fault.TooLarge, "read %s: more than %d bytes", name, limit)
	}
	return b, nil
}

// List implements [Repo].
func (f *Folder) List(ctx context.Context, under string, fn func(name string, size int64, at time.Time) error) error {
	err := fs.WalkDir(f.root.FS(), strings.TrimSuffix(under, "/"), func(name string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") || !e.Type().IsRegular() {
			return ctx.Err()
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		return fn(name, st.Size(), st.ModTime())
	})
	if err != nil {
		return fmt.Errorf("list %s: %w", under, err)
	}
	return nil
}

// Delete implements [Repo].
func (f *Folder) Delete(_ context.Context, name string) error {
	if err := f.root.Remove(filepath.FromSlash(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}

func diskError(err error) error {
	if fault.KindOf(err) == fault.Internal {
		return fault.Wrap(fault.Unavailable, err)
	}
	return err
}
