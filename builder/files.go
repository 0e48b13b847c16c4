package builder

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/glob"
)

// lookProgram finds what will run, so that the file that is hashed and the one
// that runs are the same: a name in PATH, or a path relative to the build's
// folder. A relative folder in PATH is refused (exec.ErrDot).
func lookProgram(dir, name string) (string, error) {
	if strings.ContainsRune(filepath.ToSlash(name), '/') && !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	program, err := exec.LookPath(name)
	if err != nil {
		return "", err
	}
	return filepath.Abs(program)
}

// isPattern says that a name stands for many: it has a star, see internal/glob.
func isPattern(name string) bool { return strings.Contains(name, "*") }

// names are products: files by name, and patterns.
type names struct {
	files    []string // cleaned, slash-separated
	patterns []glob.Glob
}

// parseProducts reads the products' names.
func parseProducts(in []string) (names, error) {
	var out names
	for _, n := range in {
		clean := filepath.ToSlash(filepath.Clean(n))
		if n == "" || filepath.IsAbs(n) {
			return names{}, fault.Newf(fault.Invalid, "product %q: want a file's path relative to the build's folder", n)
		}
		if isPattern(clean) {
			if strings.HasPrefix(clean, "../") {
				return names{}, fault.Newf(fault.Invalid, "product %q: a pattern is looked for below the build's folder alone", n)
			}
			g, err := glob.Parse(clean)
			if err != nil {
				return names{}, fault.Newf(fault.Invalid, "product %q: %w", n, err)
			}
			out.patterns = append(out.patterns, g)
			continue
		}
		if slices.Contains(out.files, clean) {
			return names{}, fault.Newf(fault.Invalid, "product %s is named twice", clean)
		}
		out.files = append(out.files, clean)
	}
	return out, nil
}

// match says whether a file is a product.
func (n names) match(rel string) bool {
	return slices.Contains(n.files, rel) || slices.ContainsFunc(n.patterns, func(g glob.Glob) bool { return g.Match(rel) })
}

// find lists the products that are there, the named ones first, in their order,
// then those of patterns, by name. A named one that is absent is listed too.
func (n names) find(dir string) ([]string, error) {
	out := slices.Clone(n.files)
	if len(n.patterns) == 0 {
		return out, nil
	}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		switch {
		case err != nil && errors.Is(err, fs.ErrNotExist):
			return nil // gone meanwhile
		case err != nil:
			return err
		case d.IsDir() && d.Name() == ".git":
			return filepath.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if rel = filepath.ToSlash(rel); !slices.Contains(n.files, rel) && n.match(rel) {
			out = append(out, rel)
		}
		return nil
	})
	return out, err
}

// stamps remembers the products that are there before the build.
func (n names) stamps(dir string) (map[string]os.FileInfo, error) {
	found, err := n.find(dir)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "products: %w", err)
	}
	m := map[string]os.FileInfo{}
	for _, name := range found {
		if st, err := os.Stat(within(dir, filepath.FromSlash(name))); err == nil {
			m[name] = st
		}
	}
	return m, nil
}

// written hashes the products and refuses one that the build did not write.
func (r *Run) written() ([]File, error) {
	found, err := r.products.find(r.dir)
	if err != nil {
		return nil, r.fail(FailedMissing, "products: %w", err)
	}
	for _, g := range r.products.patterns {
		if !slices.ContainsFunc(found, g.Match) {
			return nil, r.fail(FailedMissing, "product %s: the build left no file of this form", g.String())
		}
	}
	var out []File
	for _, name := range found {
		f, err := HashFile(r.dir, filepath.FromSlash(name))
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil, r.fail(FailedMissing, "product %s: the build did not make it; products are named relative to the folder it runs in (--dir)", name)
			}
			return nil, r.fail(FailedMissing, "product %s: %w", name, err)
		}
		if unwritten(r.dir, name, r.before) {
			return nil, r.fail(FailedUnwritten, "product %s was there before and the build did not write it; remove it first, so that what is attested is what was built", name)
		}
		out = append(out, f)
	}
	return out, nil
}

// within is where a file lies: below dir, unless its name is absolute.
func within(dir, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

// HashFile hashes the regular file name below dir.
func HashFile(dir, name string) (File, error) {
	path := within(dir, name)
	// Asked before it is opened: opening a named pipe waits for its other end.
	if st, err := os.Stat(path); err != nil {
		return File{}, err
	} else if !st.Mode().IsRegular() {
		return File{}, fault.Newf(fault.Invalid, "%s: want a regular file", name)
	}
	f, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	d, n, err := artifact.SHA256Reader(f)
	return File{Name: filepath.ToSlash(name), Digest: d, Size: n}, err
}

// hashTrees hashes files, patterns' files and, recursively, folders, sorted by
// name; products are left out, since a build writes them. Symbolic links are not
// followed: what they point to is named on its own or not at all. A name that
// stands for no file at all is an error: provenance would say less than was
// asked for.
func hashTrees(dir string, in []string, products names) ([]File, error) {
	var out []File
	for _, n := range in {
		root, keep := within(dir, n), func(string) bool { return true }
		if isPattern(n) {
			slashed := filepath.ToSlash(filepath.Clean(n))
			g, err := glob.Parse(slashed)
			if err != nil {
				return nil, fault.Newf(fault.Invalid, "%s: %w", n, err)
			}
			fixed := slashed[:strings.IndexByte(slashed, '*')]
			root = within(dir, filepath.FromSlash(fixed[:strings.LastIndexByte(fixed, '/')+1]))
			keep = g.Match
			if filepath.IsAbs(n) {
				keep = func(rel string) bool { return g.Match(filepath.ToSlash(filepath.Join(dir, rel))) }
			}
		}
		files, err := hashTree(dir, root, keep, products)
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "%s: %w", n, err)
		}
		out = append(out, files...)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return slices.Compact(out), nil
}

func hashTree(dir, root string, keep func(rel string) bool, products names) ([]File, error) {
	var out []File
	found := 0
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == ".git" {
			return filepath.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if !keep(filepath.ToSlash(rel)) {
			return nil
		}
		found++
		if products.match(filepath.ToSlash(rel)) {
			return nil
		}
		f, err := HashFile(dir, rel)
		out = append(out, f)
		return err
	})
	if err == nil && found == 0 {
		err = errors.New("no regular file there; symbolic links are not followed")
	}
	return out, err
}

// firstDifference names the first file that is in one list only, or differs; ""
// when none does.
func firstDifference(a, b []File) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return min(a[i].Name, b[i].Name)
		}
	}
	if len(a) > len(b) {
		return a[len(b)].Name
	}
	if len(b) > len(a) {
		return b[len(a)].Name
	}
	return ""
}
