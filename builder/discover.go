package builder

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"assay/internal/fault"
)

// Bounds of looking for products where none was named.
const (
	maxDiscoverable = 200_000 // files in the build's folder
	maxDiscovered   = 64      // products
)

// intermediates are files and folders that builds leave for their next run.
var (
	intermediateSuffixes = []string{".o", ".obj", ".lo", ".d", ".pyc", ".gcda", ".gcno", ".tmp", ".log", ".tsbuildinfo"}
	intermediateFolders  = []string{".git", "node_modules", "__pycache__", ".cache", ".gradle", ".tox", ".venv", "CMakeFiles"}
)

// snapshot remembers the files of the build's folder, where products are not
// named and have to be found.
func snapshot(dir string) (map[string]os.FileInfo, error) {
	out := map[string]os.FileInfo{}
	err := eachFile(dir, func(rel string, d fs.DirEntry) error {
		if len(out) >= maxDiscoverable {
			return fault.Newf(fault.Invalid, "products: the build's folder holds more than %d files, too many to find out what it makes: name the products", maxDiscoverable)
		}
		st, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		out[rel] = st
		return err
	})
	return out, err
}

// isSite says whether a folder is the data of a server, which writes there while
// the build runs: "assay up" makes it where one stands.
func isSite(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, "run", "admin.sock"))
	return err == nil
}

// eachFile visits what could be a product.
func eachFile(dir string, visit func(rel string, d fs.DirEntry) error) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && errors.Is(err, fs.ErrNotExist):
			return nil // gone meanwhile
		case err != nil:
			return err
		case d.IsDir() && p != dir && (slices.Contains(intermediateFolders, d.Name()) || isSite(p)):
			return filepath.SkipDir
		case !d.Type().IsRegular(), slices.Contains(intermediateSuffixes, filepath.Ext(d.Name())):
			return nil
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		return visit(filepath.ToSlash(rel), d)
	})
}

// none says that no product was named.
func (n names) none() bool { return len(n.files)+len(n.patterns) == 0 }

// made lists the files that the build made or wrote anew, less those that git
// tracks, which are sources.
func (r *Run) made(ctx context.Context) ([]string, error) {
	tracked := map[string]bool{}
	if r.Source != nil {
		list, err := git(ctx, r.dir, "ls-files", "-z", "--cached")
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "products: which files does git track? %w", err)
		}
		for _, name := range strings.Split(list, "\x00") {
			tracked[name] = true
		}
	}
	var found []string
	err := eachFile(r.dir, func(rel string, _ fs.DirEntry) error {
		if tracked[rel] || unwritten(r.dir, rel, r.before) {
			return nil
		}
		if found = append(found, rel); len(found) > maxDiscovered {
			return fault.Newf(fault.Invalid, "the build made more than %d files, %s among them: name with --products which of them are to be attested", maxDiscovered, strings.Join(found[:3], ", "))
		}
		return nil
	})
	return found, err
}

// discover makes what the build made its products.
func (r *Run) discover(ctx context.Context) error {
	found, err := r.made(ctx)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return fault.Newf(fault.Invalid, "the build made no new file in its folder, of those that git does not track: name with --products what it makes, and build from clean where it was there before")
	}
	r.products.files = found
	r.Materials = slices.DeleteFunc(r.Materials, func(f File) bool { return slices.Contains(found, f.Name) })
	return nil
}
