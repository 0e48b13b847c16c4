// Package builder wraps a build: it runs the command, watches what went in and
// what came out, and states that as SLSA provenance. Nothing about a build is
// taken from what the build says of itself.
package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/clock"
	"assay/internal/fault"

	"github.com/google/uuid"
)

// BuildType says how externalParameters are to be read: the command line, the
// folder below the source's root, and the environment that was let through.
// docs/provenance.md describes it.
const BuildType = "https://assay.dev/buildtypes/command/v1"

// Options say what to run and what to look at.
type Options struct {
	Command   []string // argv; its first word is looked up in PATH
	Dir       string   // where it runs; "" is the current folder
	Materials []string // files or folders that go in; "" means the source commit alone
	Products  []string // files that come out; each must exist and be new or changed
	Env       []string // names of environment variables that may be recorded
	Stdin     io.Reader
	Stdout    io.Writer
	Stderr    io.Writer
	Clock     clock.Clock
}

// File is a file by name, relative to the build's folder, and content.
type File struct {
	Name   string          `json:"name"`
	Digest artifact.Digest `json:"digest"`
	Size   int64           `json:"size"` // bytes
}

// Run is the record of one build.
type Run struct {
	ID         string // UUIDv7 with the prefix bld_; provenance's invocationId
	Command    []string
	Dir        string // relative to the source's root, slash-separated
	Env        map[string]string
	Source     *Source // nil outside a git work tree
	Tool       File    // the program that ran, by its resolved name
	Materials  []File
	Products   []File
	StartedOn  time.Time
	FinishedOn time.Time
	ExitCode   int
}

// Build runs the command and gives its record. When the command fails, the
// record says so, holds no products, and the error is [fault.Denied]: a failed
// build's files are never attested as good.
func Build(ctx context.Context, o Options) (*Run, error) {
	if len(o.Command) == 0 {
		return nil, fault.Newf(fault.Invalid, "no command: assay run [flags] -- COMMAND [ARG …]")
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	run := &Run{ID: "bld_" + id.String(), Command: o.Command}
	if err := publicArguments(o.Command); err != nil {
		return nil, err
	}
	if run.Env, err = allowedEnv(o.Env); err != nil {
		return nil, err
	}
	products, err := productNames(o.Products)
	if err != nil {
		return nil, err
	}
	if run.Source, err = describeSource(ctx, dir); err != nil {
		return nil, err
	}
	run.Dir = "."
	if run.Source != nil {
		if rel, err := filepath.Rel(run.Source.root, dir); err == nil {
			run.Dir = filepath.ToSlash(rel)
		}
	}
	program, err := lookProgram(dir, o.Command[0])
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "command %q: %w", o.Command[0], err)
	}
	if run.Tool, err = HashFile(filepath.Dir(program), filepath.Base(program)); err != nil {
		return nil, err
	}
	if run.Materials, err = hashTrees(dir, o.Materials, products); err != nil {
		return nil, fmt.Errorf("materials: %w", err)
	}
	before := stamps(dir, products)

	run.StartedOn = o.Clock().UTC()
	cmd := exec.CommandContext(ctx, program, o.Command[1:]...)
	cmd.Args[0] = o.Command[0]
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, o.Stdin, o.Stdout, o.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	err = cmd.Run()
	run.FinishedOn = o.Clock().UTC()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		run.ExitCode = exit.ExitCode()
		return run, fault.Newf(fault.Denied, "the build failed: %s ended with exit code %d; nothing is attested", o.Command[0], run.ExitCode)
	case err != nil:
		run.ExitCode = -1
		return run, fault.Newf(fault.Denied, "the build did not run: %w; nothing is attested", err)
	}
	if run.Products, err = written(dir, products, before); err != nil {
		return run, err
	}
	// A material that changed while the build ran is not what the build read.
	after, err := hashTrees(dir, o.Materials, products)
	if err != nil || !slices.Equal(after, run.Materials) {
		run.Products = nil
		return run, fault.Newf(fault.Denied, "materials changed while the build ran (%s); nothing is attested", firstDifference(run.Materials, after))
	}
	return run, nil
}

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

// productNames cleans the products' names, each of which stands for one file.
func productNames(names []string) ([]string, error) {
	var out []string
	for _, n := range names {
		clean := filepath.Clean(n)
		if n == "" || filepath.IsAbs(clean) {
			return nil, fault.Newf(fault.Invalid, "product %q: want a file's path relative to the build's folder", n)
		}
		if slices.Contains(out, clean) {
			return nil, fault.Newf(fault.Invalid, "product %s is named twice", clean)
		}
		out = append(out, clean)
	}
	return out, nil
}

// written hashes the products and refuses one that the build did not write.
func written(dir string, products []string, before map[string]os.FileInfo) ([]File, error) {
	var out []File
	for _, p := range products {
		f, err := HashFile(dir, p)
		if err != nil {
			return nil, fault.Newf(fault.Denied, "product %s: %w; nothing is attested", p, err)
		}
		st, err := os.Stat(within(dir, p))
		if err != nil {
			return nil, fault.Newf(fault.Denied, "product %s: %w; nothing is attested", p, err)
		}
		if was := before[p]; was != nil && os.SameFile(was, st) && was.Size() == st.Size() && was.ModTime().Equal(st.ModTime()) {
			return nil, fault.Newf(fault.Denied, "product %s was there before and the build did not write it; remove it first, so that what is attested is what was built", p)
		}
		out = append(out, f)
	}
	return out, nil
}

func stamps(dir string, names []string) map[string]os.FileInfo {
	m := map[string]os.FileInfo{}
	for _, n := range names {
		if st, err := os.Stat(within(dir, n)); err == nil {
			m[n] = st
		}
	}
	return m
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

// hashTrees hashes files and, recursively, folders, sorted by name; products
// are left out, since a build writes them. Symbolic links are not followed: what
// they point to is named on its own or not at all. A name that stands for no
// file at all is an error: provenance would say less than was asked for.
func hashTrees(dir string, names, products []string) ([]File, error) {
	var out []File
	for _, n := range names {
		found := 0
		err := filepath.WalkDir(within(dir, n), func(p string, d os.DirEntry, err error) error {
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
			found++
			if slices.Contains(products, rel) {
				return nil
			}
			f, err := HashFile(dir, rel)
			out = append(out, f)
			return err
		})
		if err == nil && found == 0 {
			err = errors.New("no regular file there; symbolic links are not followed")
		}
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "%s: %w", n, err)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return slices.Compact(out), nil
}

func firstDifference(a, b []File) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return a[i].Name
		}
	}
	if len(a) > len(b) {
		return a[len(b)].Name
	}
	if len(b) > len(a) {
		return b[len(a)].Name
	}
	return "unreadable"
}
