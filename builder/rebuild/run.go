package rebuild

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"assay/artifact"
	"assay/builder"
	"assay/internal/clock"
	"assay/internal/fault"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/uuid"
)

// Options say where to build.
type Options struct {
	Plan      *Plan
	Repo      string   // a git repository on this machine to clone, in place of the source's address
	Pass      []string // names of variables that the build gets from this machine, such as GOPROXY
	Originals []string // files that were built the first time, to tell what differs; found by their digests
	// Find gives the path of such a file where Originals have it not; "" or nil:
	// there is none. It is asked only for what differs.
	Find   func(artifact.Digest) string
	Stdout io.Writer
	Stderr io.Writer
	Clock  clock.Clock
	Keep   string // leave the source and the products in this new folder; "" removes them
}

// Run checks the source out, runs the plan's command in a clean folder with a
// clean environment, and compares. It executes what the provenance says: the
// caller has verified whose it is, and asked. The record says whether the same
// came out; a build that fails is [fault.Denied].
func Run(ctx context.Context, o Options) (*Rebuild, error) {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	root, remove, err := folder(o.Keep)
	if err != nil {
		return nil, err
	}
	defer remove()
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	p := o.Plan
	r := &Rebuild{
		InvocationID: "rbd_" + id.String(), Of: p.Of, BuildType: p.BuildType, Source: p.Source, Command: p.Command, Dir: p.Dir,
		Env: sortedKeys(p.Env), OS: runtime.GOOS, Arch: runtime.GOARCH,
	}
	src := filepath.Join(root, "source")
	if err := checkout(ctx, &o, root, src); err != nil {
		return nil, err
	}
	env, err := environment(&o, root, r)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(p.Files))
	for i, e := range p.Files {
		names[i] = filepath.FromSlash(e.Name)
	}
	r.StartedOn = o.Clock().UTC().Truncate(1e9)
	run, err := builder.Build(ctx, builder.Options{
		Command: p.Command, Dir: filepath.Join(src, filepath.FromSlash(p.Dir)), Products: names, Environ: env,
		Tools: toolNames(p), Stdout: o.Stdout, Stderr: o.Stderr, Clock: o.Clock,
	})
	if err != nil {
		return nil, err
	}
	r.FinishedOn = o.Clock().UTC().Truncate(1e9)
	r.tools(p, run)
	dir := filepath.Join(src, filepath.FromSlash(p.Dir))
	for _, e := range p.Files {
		if err := r.product(&o, dir, e, run); err != nil {
			return nil, err
		}
	}
	if err := r.images(p, run, dir); err != nil {
		return nil, err
	}
	return r, r.Validate()
}

func folder(keep string) (dir string, remove func(), err error) {
	if keep != "" {
		if err := os.Mkdir(keep, 0o700); err != nil {
			return "", nil, fault.Newf(fault.Invalid, "the folder to keep must not be there yet: %w", err)
		}
		dir, err = filepath.Abs(keep)
		return dir, func() {}, err
	}
	if dir, err = os.MkdirTemp("", "assay-rebuild-"); err != nil {
		return "", nil, err
	}
	return dir, func() { removeAll(dir) }, nil
}

// removeAll removes also what a build wrote read-only, as Go's module cache does.
func removeAll(dir string) {
	_ = filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(p, 0o700) //nolint:gosec // a folder of ours that is removed
		}
		return nil
	})
	_ = os.RemoveAll(dir)
}

// checkout clones and checks out exactly the commit. Git works out the names of
// all objects from their content as they arrive (a local repository is not
// copied, but read as if it were far away), so that what lies there is what the
// commit names.
func checkout(ctx context.Context, o *Options, root, src string) error {
	from, allow := o.Plan.Source.URI, "https:ssh"
	if o.Repo != "" {
		abs, err := filepath.Abs(o.Repo)
		if err != nil {
			return err
		}
		from, allow = "file://"+abs, "file"
	}
	if from == "" {
		return fault.Newf(fault.Invalid, "the provenance names no address of the source: give --repo DIR")
	}
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "transfer.fsckObjects=true", "-c", "core.autocrlf=false"}, args...)...)
		cmd.Dir = root
		cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "GIT_") }),
			"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL="+allow, "GIT_LFS_SKIP_SMUDGE=1")
		var out, errOut bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errOut
		if err := cmd.Run(); err != nil {
			text := strings.TrimSpace(errOut.String())
			return "", fault.Newf(fault.Unavailable, "git %s: %s", args[0], clip(text[max(0, len(text)-400):]))
		}
		return strings.TrimSpace(out.String()), nil
	}
	want := o.Plan.Source.Commit
	if _, err := git("clone", "--quiet", "--no-checkout", "--no-local", "--", from, src); err != nil {
		return err
	}
	if _, err := git("-C", src, "cat-file", "-e", want+"^{commit}"); err != nil {
		// Not on any branch of it: some servers give a commit by its name.
		if _, err := git("-C", src, "fetch", "--quiet", "origin", want); err != nil {
			return fault.Newf(fault.NotFound, "commit %s is not in %s", want, clip(from))
		}
	}
	if _, err := git("-C", src, "checkout", "--quiet", "--detach", want); err != nil {
		return err
	}
	got, err := git("-C", src, "rev-parse", "--verify", "HEAD^{commit}")
	if err != nil {
		return err
	}
	if got != want {
		return fault.Newf(fault.Tampered, "git checked out %s in place of %s", clip(got), want)
	}
	status, err := git("-C", src, "status", "--porcelain", "--untracked-files=all")
	if err != nil {
		return err
	}
	if status != "" {
		return fault.Newf(fault.Tampered, "what was checked out is not the commit: %s", clip(status))
	}
	return nil
}

// environment is the build's whole environment: what was recorded, what is
// passed on by name, and folders of its own.
func environment(o *Options, root string, r *Rebuild) ([]string, error) {
	env := map[string]string{"PATH": os.Getenv("PATH"), "HOME": filepath.Join(root, "home"), "TMPDIR": filepath.Join(root, "tmp"), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
	for _, dir := range []string{env["HOME"], env["TMPDIR"]} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
	}
	for _, n := range o.Pass {
		if v, ok := os.LookupEnv(n); ok {
			env[n] = v
			r.Passed = append(r.Passed, clip(n))
		}
	}
	for k, v := range o.Plan.Env {
		env[k] = v
	}
	var out []string
	for _, k := range sortedKeys(env) {
		out = append(out, k+"="+env[k])
	}
	return out, nil
}

func toolNames(p *Plan) (out []string) {
	for _, n := range sortedKeys(p.Tools) {
		if _, err := exec.LookPath(n); err == nil && !strings.Contains(n, "/") {
			out = append(out, n)
		}
	}
	return out
}

// tools compares the programs that the provenance names with those of here.
func (r *Rebuild) tools(p *Plan, run *builder.Run) {
	here := map[string]artifact.Digest{clip(run.Tool.Name): run.Tool.Digest}
	for _, t := range run.Tools {
		here[clip(t.Name)] = t.Digest
	}
	for _, n := range sortedKeys(p.Tools, here) {
		if len(r.Tools) < maxTools {
			r.Tools = append(r.Tools, Tool{Name: n, Expected: p.Tools[n], Got: here[n]})
		}
	}
}

// product compares one file.
func (r *Rebuild) product(o *Options, dir string, e Expected, run *builder.Run) error {
	p := Product{Name: clip(e.Name), Expected: e.Digest}
	for _, f := range run.Products {
		if f.Name == e.Name {
			p.Got = f.Digest
		}
	}
	if !p.Identical() && p.Got != "" {
		original, err := originalOf(o.Originals, e.Digest)
		if err != nil {
			return err
		}
		if original == "" && o.Find != nil {
			original = o.Find(e.Digest)
		}
		if original == "" {
			p.Differences = []Difference{{What: "bytes", Name: "the first build's file is not at hand: its digest differs, and in what is unknown"}}
		} else {
			if p.Differences, p.More, err = Compare(original, filepath.Join(dir, filepath.FromSlash(e.Name))); err != nil {
				return fmt.Errorf("compare %s: %w", e.Name, err)
			}
		}
	}
	r.Products = append(r.Products, p)
	return nil
}

// originalOf finds the file with a digest.
func originalOf(files []string, want artifact.Digest) (string, error) {
	for _, f := range files {
		got, err := builder.HashFile("", f)
		if err != nil {
			return "", fault.Newf(fault.Invalid, "original %s: %w", f, err)
		}
		if got.Digest == want {
			return f, nil
		}
	}
	return "", nil
}

// images makes the images of the products again, which depend on nothing else.
func (r *Rebuild) images(p *Plan, run *builder.Run, dir string) error {
	if len(p.Images) == 0 {
		return nil
	}
	var made []artifact.Digest
	for _, of := range []func() (v1.Image, error){func() (v1.Image, error) { return run.Image(dir) }, run.Artifact} {
		img, err := of()
		if err != nil {
			return err
		}
		d, err := img.Digest()
		if err != nil {
			return err
		}
		made = append(made, artifact.Digest(d.String()))
	}
	for _, e := range p.Images {
		product := Product{Name: clip(e.Name), Expected: e.Digest, Got: made[0]}
		if slices.Contains(made, e.Digest) {
			product.Got = e.Digest
		} else {
			product.Differences = []Difference{{What: "image", Name: "made of products that differ, or otherwise than assay run does"}}
		}
		r.Products = append(r.Products, product)
	}
	return nil
}
