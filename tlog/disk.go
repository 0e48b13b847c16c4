package tlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"assay/internal/durable"
)

// disk writes the log's files. A commit is: every file whole and synced under
// a temporary name, renamed into place, every folder synced. fsync(2) says why
// the folders: a name is durable only once its folder has been synced. Only
// the sequencer writes.
type disk struct {
	root  string
	known map[string]bool // folders that are durable
	// fault, in tests, fails an operation ("mkdir", "write", "sync", "rename",
	// "syncdir", "remove") on a path as the kernel would.
	fault func(op, path string) error
}

func newDisk(root string) *disk { return &disk{root: root, known: make(map[string]bool)} }

const tmpDir = "tmp" // on the same file system, for rename

// file is one to be written: its path below the root, "/" between the parts.
type file struct {
	path string
	data []byte
}

// writers bounds the files of a commit that are synced at once: the kernel
// joins their journal commits.
const writers = 16

// clean removes what an earlier process left half written. A start that finds
// nothing to do syncs nothing.
func (d *disk) clean() error {
	tmp := filepath.Join(d.root, tmpDir)
	if err := durable.MkdirAll(tmp, 0o700); err != nil {
		return err
	}
	names, err := os.ReadDir(tmp)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := os.RemoveAll(filepath.Join(tmp, n.Name())); err != nil {
			return err
		}
	}
	return nil
}

// commit makes files durable under their names, replacing others.
func (d *disk) commit(files []file) error {
	dirs := make(map[string]bool)
	for _, f := range files {
		dir := filepath.Dir(d.abs(f.path))
		if !dirs[dir] {
			if err := d.mkdir(dir); err != nil {
				return err
			}
			dirs[dir] = true
		}
	}
	if err := each(len(files), func(i int) error { return d.write(i, files[i]) }); err != nil {
		return err
	}
	list := make([]string, 0, len(dirs))
	for dir := range dirs {
		list = append(list, dir)
	}
	return each(len(list), func(i int) error {
		if err := d.check("syncdir", list[i]); err != nil {
			return err
		}
		return durable.SyncDir(list[i])
	})
}

func (d *disk) abs(path string) string { return filepath.Join(d.root, filepath.FromSlash(path)) }

func (d *disk) check(op, path string) error {
	if d.fault == nil {
		return nil
	}
	return d.fault(op, path)
}

func (d *disk) mkdir(dir string) error {
	if d.known[dir] {
		return nil
	}
	if err := d.check("mkdir", dir); err != nil {
		return err
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if len(d.known) > 4096 {
		clear(d.known)
	}
	d.known[dir] = true
	return nil
}

// write makes one file durable under a temporary name and gives it its own.
func (d *disk) write(i int, f file) (err error) {
	path := d.abs(f.path)
	tmp := filepath.Join(d.root, tmpDir, strconv.Itoa(i))
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, err)
			_ = os.Remove(tmp) // room again on a full disk; clean takes what stays
		}
	}()
	if err := d.check("write", path); err != nil {
		return err
	}
	w, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(f.data)
	if err == nil {
		err = d.check("sync", path)
	}
	if err == nil {
		err = w.Sync()
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	if err := d.check("rename", path); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// remove removes a file, removeAll a folder with all in it; what is absent is
// removed already. Neither is synced: they take only what nothing needs.
func (d *disk) remove(path string) error {
	if err := d.check("remove", path); err != nil {
		return err
	}
	if err := os.Remove(d.abs(path)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (d *disk) removeAll(path string) error {
	if err := d.check("remove", path); err != nil {
		return err
	}
	delete(d.known, d.abs(path))
	return os.RemoveAll(d.abs(path))
}

// each runs f for 0 to n-1, a few at once, and joins the errors.
func each(n int, f func(i int) error) error {
	if n == 1 {
		return f(0)
	}
	errs := make([]error, n)
	var wg sync.WaitGroup
	slots := make(chan struct{}, writers)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			errs[i] = f(i)
			<-slots
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
