// Package durable writes files that are still there after a power cut, and
// locks folders that one process may own.
package durable

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"assay/internal/fault"
)

// WriteFile replaces path by data, or leaves what was there: a temporary file
// beside it, fsync, rename, fsync of the folder. rename(2) is atomic, but the
// new name is durable only once its folder has been synced (fsync(2), NOTES).
func WriteFile(path string, data []byte, perm os.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), f.Close(), os.Remove(f.Name()))
		}
	}()
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// CreateFile writes a new file durably and refuses to replace one
// ([fault.Conflict]): the way to write a key.
func CreateFile(path string, data []byte, perm os.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, werr := f.Write(data)
	if err := errors.Join(werr, f.Chmod(perm), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	// link(2) fails with EEXIST where rename(2) would replace.
	if err := os.Link(f.Name(), path); err != nil {
		if errors.Is(err, os.ErrExist) {
			return fault.Newf(fault.Conflict, "create %s: it exists already and is not replaced", path)
		}
		return fmt.Errorf("create %s: %w", path, err)
	}
	return SyncDir(dir)
}

// MkdirAll makes a folder and its parents, each durable in its own parent.
func MkdirAll(path string, perm os.FileMode) error {
	if st, err := os.Stat(path); err == nil {
		if !st.IsDir() {
			return fault.Newf(fault.Conflict, "make folder %s: a file of that name is in the way", path)
		}
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make folder %s: %w", path, err)
	}
	return SyncDir(parent)
}

// SyncDir makes the names in a folder durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(syncDir(d), d.Close())
}

// Lock takes the one lock of a file, creating it. A second holder, in this
// process or another, gets [fault.Conflict] at once. The lock ends with Close
// or with the process, however it dies.
func Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := flock(f); err != nil {
		_ = f.Close()
		if errors.Is(err, errLocked) {
			return nil, fault.Newf(fault.Conflict, "lock %s: another process holds it; stop that one first, or use another data folder", path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// CheckPrivate refuses a file or folder that group or others can reach.
func CheckPrivate(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if loose := st.Mode().Perm() & 0o077; loose != 0 && modesMatter {
		return fault.Newf(fault.Denied, "%s has mode %04o, want no access for group and others: chmod go= %s", path, st.Mode().Perm(), path)
	}
	return nil
}
