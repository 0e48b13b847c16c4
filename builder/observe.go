package builder

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // git's name of a file's content, beside its SHA-256
	"encoding/hex"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"assay/artifact"
	"assay/builder/trace"
	"assay/internal/fault"
	"assay/internal/glob"
	"assay/policy"
)

// Trace is what was seen of a build, compared with what was declared.
type Trace struct {
	Traced bool
	Reason string // why not
	Log    trace.Log

	// Undeclared are inputs and programs that no material, no tracked file of the
	// source commit and no pattern of the toolchain covers, by the name that Show
	// gives; sorted.
	Undeclared []string
	// Changed are materials, and tracked files, that the build wrote to, replaced,
	// or read with other content than was declared; sorted.
	Changed []string

	Toolchain []string // the patterns that were used
	show      func(path string) string
}

// DefaultToolchain are the folders of the machine itself, and the one of the Go
// toolchain that is in PATH where it lies elsewhere.
func DefaultToolchain(dir string) []string {
	patterns := policy.MachineFiles()
	path, err := lookProgram(dir, "go")
	if err != nil {
		return patterns
	}
	root := filepath.Dir(filepath.Dir(toolPath(path)))
	if g, err := glob.Parse("/usr/**"); root == "/" || err == nil && g.Match(root) {
		return patterns
	}
	return append(patterns, root+"/**")
}

// declared is what a build may read, worked out before it.
type declared struct {
	dir, root, home string // absolute and real; root and home may be ""
	materials       map[string]artifact.Digest
	tracked         map[string]string // path to git's object name
	dirty           map[string]bool   // tracked files that differ from the commit
	products        names
	toolchain       []glob.Glob
	patterns        []string
	newHash         func() hash.Hash
}

// declare lists what the build is expected to read.
func (r *Run) declare(ctx context.Context, toolchain []string) (*declared, error) {
	d := &declared{dir: realPath(r.dir), materials: map[string]artifact.Digest{}, products: r.products}
	if home, err := os.UserHomeDir(); err == nil && filepath.IsAbs(home) && home != "/" {
		d.home = realPath(home)
	}
	if toolchain == nil {
		toolchain = DefaultToolchain(r.dir)
	}
	for _, p := range toolchain {
		full := p
		if rest, ok := strings.CutPrefix(p, "~/"); ok && d.home != "" {
			full = d.home + "/" + rest
		}
		g, err := glob.Parse(full)
		if err != nil || !strings.HasPrefix(full, "/") {
			return nil, fault.Newf(fault.Invalid, "toolchain %q: want an absolute pattern, or one that begins with ~/ (%v)", p, err)
		}
		d.toolchain = append(d.toolchain, g)
		d.patterns = append(d.patterns, d.show(full))
	}
	for _, m := range r.Materials {
		d.materials[within(d.dir, filepath.FromSlash(m.Name))] = m.Digest
	}
	if r.Source != nil {
		d.root = realPath(r.Source.root)
		if err := d.track(ctx); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// track lists the source commit's files.
func (d *declared) track(ctx context.Context) error {
	out, err := gitBytes(ctx, d.root, "ls-tree", "-r", "-z", "--full-tree", "HEAD")
	if err != nil {
		return fmt.Errorf("git ls-tree: %w", err)
	}
	d.tracked, d.newHash = map[string]string{}, sha1.New
	for entry := range bytes.SplitSeq(out, []byte{0}) {
		// mode SP type SP object TAB path
		head, path, ok := bytes.Cut(entry, []byte{'\t'})
		fields := bytes.Fields(head)
		if ok && len(fields) == 3 && string(fields[1]) == "blob" && len(fields[2]) == 2*sha1.Size {
			d.tracked[filepath.Join(d.root, filepath.FromSlash(string(path)))] = string(fields[2])
		}
	}
	status, err := gitBytes(ctx, d.root, "diff", "--name-only", "--no-ext-diff", "-z", "HEAD")
	if err != nil {
		return fmt.Errorf("git diff: %w", err)
	}
	d.dirty = map[string]bool{}
	for path := range bytes.SplitSeq(status, []byte{0}) {
		if len(path) > 0 {
			d.dirty[filepath.Join(d.root, filepath.FromSlash(string(path)))] = true
		}
	}
	return nil
}

// gitObject works out git's name of a file's content.
type gitObject struct{ hash.Hash }

// Hex is the object's name.
func (g gitObject) Hex() string { return hex.EncodeToString(g.Sum(nil)) }

// hasher gives the second digest of tracked files.
func (d *declared) hasher() func(string, int64) trace.Hash {
	if d.newHash == nil {
		return nil
	}
	return func(path string, size int64) trace.Hash {
		if _, ok := d.tracked[path]; !ok {
			return nil
		}
		h := d.newHash()
		fmt.Fprintf(h, "blob %d\x00", size)
		return gitObject{h}
	}
}

// show names a file for others: relative to the build's folder, to the source's
// root (with ".." as it takes), to the home folder ("~"), else absolute.
func (d *declared) show(path string) string {
	for _, base := range []string{d.dir, d.root} {
		if base != "" && strings.HasPrefix(path, base+"/") {
			if rel, err := filepath.Rel(d.dir, path); err == nil {
				return filepath.ToSlash(rel)
			}
		}
	}
	if d.home != "" && strings.HasPrefix(path, d.home+"/") {
		return "~" + strings.TrimPrefix(path, d.home)
	}
	return path
}

// product says whether a file is a product by its absolute path.
func (d *declared) product(path string) bool {
	rel, err := filepath.Rel(d.dir, path)
	return err == nil && d.products.match(filepath.ToSlash(rel))
}

// machine says whether a file needs no declaration: it is the machine's own, or
// git's own about the source.
func (d *declared) machine(path string) bool {
	if d.root != "" && strings.HasPrefix(path, d.root+"/.git/") {
		return true
	}
	return slices.ContainsFunc(d.toolchain, func(g glob.Glob) bool { return g.Match(path) })
}

// compare makes the trace's report.
func (r *Run) compare(d *declared, end ending) *Trace {
	t := &Trace{Toolchain: d.patterns, show: d.show}
	if end.log == nil {
		t.Reason = "the build did not run"
		if end.denied != nil {
			t.Reason = oneLine(end.denied)
		}
		return t
	}
	t.Traced, t.Log = true, *end.log
	undeclared, changed := map[string]bool{}, map[string]bool{}
	for _, f := range t.Log.Files {
		if d.product(f.Path) {
			// A product that was there before is an input as well, and none that was
			// declared.
			if f.Read {
				undeclared[d.show(f.Path)] = true
			}
			continue
		}
		switch d.judge(&f) {
		case isChanged:
			changed[d.show(f.Path)] = true
		case isUndeclared:
			undeclared[d.show(f.Path)] = true
		}
	}
	for _, p := range t.Log.Programs {
		_, material := d.materials[p.Path]
		_, tracked := d.tracked[p.Path]
		if !p.Made && !material && !tracked && !d.machine(p.Path) {
			undeclared[d.show(p.Path)] = true
		}
	}
	t.Undeclared, t.Changed = sorted(undeclared), sorted(changed)
	return t
}

type judgement int

const (
	isFine judgement = iota
	isChanged
	isUndeclared
)

// judge compares one file with what was declared about it.
func (d *declared) judge(f *trace.File) judgement {
	if want, ok := d.materials[f.Path]; ok {
		if f.Written || f.Changing || f.Read && f.Digest != want {
			return isChanged
		}
		return isFine
	}
	if object, ok := d.tracked[f.Path]; ok {
		switch {
		case d.dirty[f.Path] && f.Read && f.Also != object:
			return isUndeclared // the commit does not say what was in it
		case f.Written || f.Changing || f.Read && f.Also != object:
			return isChanged
		}
		return isFine
	}
	if !f.Read || d.machine(f.Path) {
		return isFine
	}
	return isUndeclared
}

func sorted(set map[string]bool) []string {
	out := make([]string, 0, len(set))
	for k := range set {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// platform is what machine the build ran on.
func platform() map[string]any { return map[string]any{"os": runtime.GOOS, "arch": runtime.GOARCH} }
