package source

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // the name that git gives its objects
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"assay/internal/fault"
	"assay/internal/giturl"
)

// Repository reads a git repository by the git executable. It is safe for use by
// one goroutine. Close it.
type Repository struct {
	dir   string
	env   []string
	batch *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
}

// OpenRepository opens the repository of a work tree or a bare one. env is added to the
// environment of git: what a hook was given names the quarantined objects.
func OpenRepository(ctx context.Context, dir string, env ...string) (*Repository, error) {
	r := &Repository{dir: dir, env: append([]string{
		"GIT_NO_REPLACE_OBJECTS=1", // refs/replace would show other objects than their names say
		"GIT_NO_LAZY_FETCH=1",      // a promisor remote would run its helper
		"GIT_ALLOW_PROTOCOL=none",  // as would any other transport, also with a git that does not know the former
		"GIT_TERMINAL_PROMPT=0", "GIT_OPTIONAL_LOCKS=0", "LC_ALL=C",
	}, env...)}
	if _, err := exec.LookPath("git"); err != nil {
		return nil, fault.Newf(fault.Undecided, "git is not installed here, and reads the repository: install it")
	}
	if _, err := r.git(ctx, 256, "rev-parse", "--git-dir"); err != nil {
		return nil, fault.Newf(fault.Invalid, "%s is no git repository that can be read: %w", dir, err)
	}
	return r, nil
}

func (r *Repository) command(ctx context.Context, args ...string) *exec.Cmd {
	// A grafts file would change what the parents of a commit are said to be.
	cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "core.fsmonitor=false", "-c", "core.hooksPath=" + os.DevNull}, args...)...)
	cmd.Dir = r.dir
	cmd.Env = append(append(os.Environ(), "GIT_GRAFT_FILE="+os.DevNull), r.env...)
	return cmd
}

// git runs a command whose output has at most most bytes.
func (r *Repository) git(ctx context.Context, most int64, args ...string) (string, error) {
	cmd := r.command(ctx, args...)
	var errOut bytes.Buffer
	cmd.Stderr = &limited{w: &errOut, left: 4096}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	b, rerr := io.ReadAll(io.LimitReader(out, most+1))
	if int64(len(b)) > most {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return "", fault.Newf(fault.TooLarge, "git %s: more than %d bytes of output", args[0], most)
	}
	if err := cmd.Wait(); err != nil {
		msg := strings.TrimSpace(errOut.String())
		if msg == "" {
			msg = err.Error()
		}
		return "", errors.New(msg)
	}
	return strings.TrimSpace(string(b)), rerr
}

// limited takes what fits and drops the rest.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	if _, err := l.w.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close ends the process that reads objects.
func (r *Repository) Close() error {
	if r.batch == nil {
		return nil
	}
	err := r.in.Close()
	_ = r.batch.Wait()
	r.batch = nil
	return err
}

// Object is one object: its type and raw bytes, whose hash is its id.
type Object struct {
	ID, Type string
	Raw      []byte
}

// Object reads an object by its id, at most most bytes of it, and checks that
// it hashes to that id. Absent is fault.NotFound, another hash fault.Tampered.
func (r *Repository) Object(ctx context.Context, id string, most int64) (*Object, error) {
	if !validID(id) {
		return nil, fault.Newf(fault.Invalid, "object %.80q: want its id, 40 or 64 hex digits", id)
	}
	if err := r.start(ctx); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(r.in, id+"\n"); err != nil {
		return nil, fault.Newf(fault.Undecided, "git cat-file ended: %w", err)
	}
	head, err := r.out.ReadString('\n')
	if err != nil {
		return nil, fault.Newf(fault.Undecided, "git cat-file ended: %w", err)
	}
	f := strings.Fields(head)
	if len(f) == 2 && f[1] == "missing" {
		return nil, fault.Newf(fault.NotFound, "object %s is not in the repository; a shallow clone lacks history: git fetch --unshallow", id)
	}
	if len(f) != 3 || f[0] != id {
		return nil, fault.Newf(fault.Undecided, "git cat-file answered %.120q", head)
	}
	size, err := strconv.ParseInt(f[2], 10, 64)
	if err != nil || size < 0 {
		return nil, fault.Newf(fault.Undecided, "git cat-file answered %.120q", head)
	}
	if size > most {
		if _, err := io.CopyN(io.Discard, r.out, size+1); err != nil {
			return nil, err
		}
		return nil, fault.Newf(fault.TooLarge, "object %s has %d bytes, at most %d are looked at", id, size, most)
	}
	o := &Object{ID: id, Type: f[1], Raw: make([]byte, size)}
	if _, err := io.ReadFull(r.out, o.Raw); err != nil {
		return nil, err
	}
	if _, err := r.out.Discard(1); err != nil {
		return nil, err
	}
	if got := objectID(o.Type, o.Raw, len(id)); got != id {
		return nil, fault.Newf(fault.Tampered, "object %s of the repository hashes to %s", id, got)
	}
	return o, nil
}

// objectID is the name that git gives to raw bytes: the hash of the type, the
// length and the bytes, by SHA-1 for 40 digits, else SHA-256.
func objectID(kind string, raw []byte, digits int) string {
	h := newObjectHash(digits)
	fmt.Fprintf(h, "%s %d\x00", kind, len(raw))
	h.Write(raw)
	return hex.EncodeToString(h.Sum(nil))
}

func newObjectHash(digits int) hash.Hash {
	if digits == 40 {
		return sha1.New() //nolint:gosec // as git does
	}
	return sha256.New()
}

func (r *Repository) start(ctx context.Context) error {
	if r.batch != nil {
		return nil
	}
	cmd := r.command(ctx, "cat-file", "--batch")
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	r.batch, r.in, r.out = cmd, in, bufio.NewReaderSize(out, 64<<10)
	return nil
}

// Resolve finds the id that a name of the repository stands for now: of the
// object itself, a tag's own where it is annotated. Unknown is fault.NotFound.
func (r *Repository) Resolve(ctx context.Context, name string) (string, error) {
	if name == "" || strings.HasPrefix(name, "-") || strings.ContainsAny(name, "\n\x00") {
		return "", fault.Newf(fault.Invalid, "revision %.80q is no name", name)
	}
	id, err := r.git(ctx, 256, "rev-parse", "--verify", "--quiet", "--end-of-options", name)
	if err != nil || !validID(id) {
		return "", fault.Newf(fault.NotFound, "the repository has no %.120q", name)
	}
	return id, nil
}

// CommitOf gives the id of the commit that a name stands for, through tags.
func (r *Repository) CommitOf(ctx context.Context, name string) (string, error) {
	return r.Resolve(ctx, name+"^{commit}")
}

// maxRange is how many commits one verification looks at.
const maxRange = 100_000

// Range lists the commits that are reachable from head and from none of not,
// parents first. More than 100,000 is fault.TooLarge.
func (r *Repository) Range(ctx context.Context, head string, not ...string) ([]string, error) {
	args := append([]string{"rev-list", "--topo-order", "--reverse", "--max-count=" + strconv.Itoa(maxRange+1), head, "--not"}, not...)
	out, err := r.git(ctx, 66*(maxRange+1), args...)
	if err != nil {
		return nil, fault.Newf(fault.Undecided, "list the commits: %w", err)
	}
	ids := strings.Fields(out)
	if len(ids) > maxRange {
		return nil, fault.Newf(fault.TooLarge, "more than %d commits; name a smaller range: BASE..HEAD", maxRange)
	}
	return ids, nil
}

// Ancestor says whether old is reachable from young.
func (r *Repository) Ancestor(ctx context.Context, old, young string) (bool, error) {
	cmd := r.command(ctx, "merge-base", "--is-ancestor", old, young)
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 {
		return false, nil
	}
	if err != nil {
		return false, fault.Newf(fault.Undecided, "ask for the history between %s and %s: %w", old, young, err)
	}
	return true, nil
}

// File reads a file as a commit has it; fault.NotFound where it has none.
func (r *Repository) File(ctx context.Context, commit, path string, most int64) ([]byte, error) {
	out, err := r.git(ctx, 4096, "ls-tree", "-z", "--full-tree", "--end-of-options", commit, "--", path)
	if err != nil {
		return nil, fault.Newf(fault.Undecided, "look for %s in %s: %w", path, commit, err)
	}
	head, name, _ := strings.Cut(strings.TrimSuffix(out, "\x00"), "\t")
	f := strings.Fields(head)
	if len(f) != 3 || name != path || f[1] != "blob" || f[0] == "120000" {
		return nil, fault.Newf(fault.NotFound, "commit %s has no file %s", commit, path)
	}
	o, err := r.Object(ctx, f[2], most)
	if err != nil {
		return nil, err
	}
	return o.Raw, nil
}

// Config is a value of the repository's configuration, "" where it has none.
func (r *Repository) Config(ctx context.Context, key string) string {
	v, err := r.git(ctx, 4096, "config", "--get", key)
	if err != nil {
		return ""
	}
	return v
}

// URI is the repository's remote origin as others know it, in SPDX's git+ form
// and without credentials; "" where it has none, or one on this machine.
func (r *Repository) URI(ctx context.Context) string {
	return giturl.URI(r.Config(ctx, "remote.origin.url"))
}
