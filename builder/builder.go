// Package builder wraps a build: it runs the command, watches what went in and
// what came out, and states that as SLSA provenance, an in-toto link and, when
// it traced the build, a runtime trace. Nothing about a build is taken from what
// the build says of itself.
package builder

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
	ID        string   // from NewID; "" makes one
	Command   []string // argv; its first word is looked up in PATH
	Dir       string   // where it runs; "" is the current folder
	Materials []string // files, folders or patterns (internal/glob) that go in; none means the source commit alone
	Products  []string // files or patterns that come out; each file must be new or changed. None: what the build makes in its folder is found
	Env       []string // names of environment variables that may be recorded
	Tools     []string // programs to record beside those that the command line and the folder tell of
	Environ   []string // the build's whole environment; nil: our own without what lets it sign as us
	Stdin     io.Reader
	Stdout    io.Writer
	Stderr    io.Writer
	Clock     clock.Clock

	Trace     bool     // watch what the build opens, runs and connects to
	Toolchain []string // with Trace: patterns of files that belong to the machine and need no declaration; nil: those of DefaultToolchain
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
	Secrets    []string // names, never values, of variables that look like secrets and that the build could read; sorted
	Source     *Source  // nil outside a git work tree
	Tool       File     // the program that ran, by its resolved name
	Tools      []Tool   // other programs that are named, by name
	Materials  []File
	Products   []File // empty when the build failed
	Trace      *Trace // nil when none was asked for
	StartedOn  time.Time
	FinishedOn time.Time
	ExitCode   int      // 0 to 255; 128+n when signal n ended it, -1 when it did not start
	Failure    *Failure // nil when it went well

	dir      string // absolute
	products names
	before   map[string]os.FileInfo
}

// NewID makes a build's id.
func NewID() string { return "bld_" + uuid.Must(uuid.NewV7()).String() }

// Build runs the command and gives its record. When the build failed, the
// record says so in Failure and holds no products, and the error is
// [fault.Denied]: a failed build's files are never attested as good. An error
// without a record is one of how it was asked for; nothing ran.
func Build(ctx context.Context, o Options) (*Run, error) {
	run, err := prepare(ctx, &o)
	if err != nil {
		return nil, err
	}
	program, err := lookProgram(run.dir, o.Command[0])
	if err == nil {
		run.Tool, err = HashFile(filepath.Dir(program), filepath.Base(program))
	}
	if err != nil { // a build that cannot begin is a failed one, and is missed when nobody is told
		run.StartedOn = o.Clock().UTC()
		run.FinishedOn, run.ExitCode = run.StartedOn, -1
		return run, run.fail(FailedStart, "the build did not run: command %q: %w", o.Command[0], err)
	}
	var expected *declared
	if o.Trace {
		if expected, err = run.declare(ctx, o.Toolchain); err != nil {
			return nil, err
		}
	}
	// Asked beside the build, since some take their time to tell their version.
	tools := make(chan []Tool, 1)
	asking, stop := context.WithCancel(ctx)
	defer stop()
	go func() { tools <- toolsOf(asking, run.dir, program, o.Command, o.Tools) }()

	if o.Environ == nil {
		o.Environ = os.Environ()
	}
	env, secrets := buildEnv(o.Environ)
	run.Secrets = secrets
	run.StartedOn = o.Clock().UTC()
	end, err := execute(ctx, &o, program, run.dir, env, expected)
	run.FinishedOn = o.Clock().UTC()
	run.Tools, run.ExitCode = <-tools, end.code
	if o.Trace {
		run.Trace = run.compare(expected, end)
	}
	switch {
	case err != nil:
		run.ExitCode = -1
		return run, run.fail(FailedStart, "the build did not run: %w", err)
	case end.signal != 0:
		return run, run.fail(FailedSignal, "the build failed: %s was ended by signal %d (%s)", o.Command[0], end.signal, end.what)
	case end.code != 0:
		return run, run.fail(FailedExit, "the build failed: %s ended with exit code %d", o.Command[0], end.code)
	}
	return run, run.collect(ctx, o.Materials)
}

// prepare settles everything that can be settled before the build.
func prepare(ctx context.Context, o *Options) (*Run, error) {
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
	if o.ID == "" {
		o.ID = NewID()
	}
	run := &Run{ID: o.ID, Command: o.Command, Dir: ".", dir: dir}
	if err := publicArguments(o.Command); err != nil {
		return nil, err
	}
	if run.Env, err = allowedEnv(o.Env); err != nil {
		return nil, err
	}
	if run.products, err = parseProducts(o.Products); err != nil {
		return nil, err
	}
	if run.Source, err = describeSource(ctx, dir); err != nil {
		return nil, err
	}
	if run.Source != nil {
		if rel, err := filepath.Rel(run.Source.root, realPath(dir)); err == nil {
			run.Dir = filepath.ToSlash(rel)
		}
	}
	if run.Materials, err = hashTrees(dir, o.Materials, run.products); err != nil {
		return nil, fmt.Errorf("materials: %w", err)
	}
	if len(o.Products) == 0 {
		run.before, err = snapshot(dir)
	} else {
		run.before, err = run.products.stamps(dir)
	}
	return run, err
}

// collect hashes what came out and looks at what went in once more.
func (r *Run) collect(ctx context.Context, materials []string) error {
	if r.products.none() {
		if err := r.discover(ctx); err != nil {
			return err
		}
	}
	// A material that changed while the build ran is not what the build read.
	after, err := hashTrees(r.dir, materials, r.products)
	if d := firstDifference(r.Materials, after); err != nil || d != "" {
		return r.fail(FailedMaterial, "materials changed while the build ran (%s)", d)
	}
	products, err := r.written()
	if err != nil {
		return err
	}
	r.Products = products
	return nil
}

// Recheck looks whether the products are still what was hashed: a program that
// the build left behind may have changed one since. The error is
// [fault.Denied]; the record then says that the build failed.
func (r *Run) Recheck() error {
	for _, p := range r.Products {
		now, err := HashFile(r.dir, filepath.FromSlash(p.Name))
		if err == nil && now.Digest == p.Digest {
			continue
		}
		was := r.Products
		ferr := r.fail(FailedProduct, "product %s changed after the build had ended", p.Name)
		r.Failure.Files = append(was, r.Failure.Files...)
		return ferr
	}
	return nil
}

// realPath resolves links where that can be done, as git names its root.
func realPath(dir string) string {
	if r, err := filepath.EvalSymlinks(dir); err == nil {
		return r
	}
	return dir
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
