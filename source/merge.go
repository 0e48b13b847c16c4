package source

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"assay/internal/excerpt"
	"assay/internal/fault"
)

// What a merge commit holds beside what git makes of its parents.
const (
	MergeClean    = "clean"    // nothing
	MergeResolved = "resolved" // its parents conflict, and files that do were settled by hand
	MergeChanged  = "changed"  // changes that none of its parents brings, hidden from who looks at those
	MergeUnknown  = "unknown"  // it cannot be made again here
)

// The policies on merges.
const (
	MergesResolved = "resolved" // files in conflict may be settled by hand, and nothing else
	MergesClean    = "clean"    // not even those
)

// MergeVerdict is what came of making a merge commit again.
type MergeVerdict struct {
	Commit string   `json:"commit"`
	State  string   `json:"state"`
	Files  []string `json:"files,omitempty"` // that are not what git makes of the parents, at most 20
	More   int      `json:"more,omitempty"`  // such files that are not listed
	Reason string   `json:"reason,omitempty"`
}

const (
	maxMerges     = 200 // that are made again in one verification
	maxMergeFiles = 20  // that are listed of one
	mergeOutput   = 4 << 20
	mergeTime     = 30 * time.Second
)

// remaker makes merges again, in a repository of its own that borrows the
// objects: nothing is written to the one that is judged, and no merge driver or
// other program that its configuration names is run.
type remaker struct {
	dir string
	env []string
}

func (r *Repository) remaker(ctx context.Context, idLength int) (*remaker, error) {
	dir, err := os.MkdirTemp("", "assay-merge-")
	if err != nil {
		return nil, err
	}
	m := &remaker{dir: dir}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "GIT_") {
			m.env = append(m.env, e)
		}
	}
	m.env = append(m.env, "GIT_DIR="+dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_ATTR_NOSYSTEM=1", "GIT_NO_REPLACE_OBJECTS=1",
		"GIT_NO_LAZY_FETCH=1", "GIT_ALLOW_PROTOCOL=none", "GIT_GRAFT_FILE="+os.DevNull, "GIT_TERMINAL_PROMPT=0", "LC_ALL=C", "GIT_AUTHOR_NAME=x", "GIT_AUTHOR_EMAIL=x", "GIT_COMMITTER_NAME=x", "GIT_COMMITTER_EMAIL=x")
	format := "sha1"
	if idLength == 64 {
		format = "sha256"
	}
	if _, _, err := m.git(ctx, "init", "-q", "--bare", "--template=", "--object-format="+format); err != nil {
		m.close()
		return nil, err
	}
	objects, err := r.git(ctx, 4096, "rev-parse", "--git-path", "objects")
	if err != nil {
		m.close()
		return nil, err
	}
	folders := []string{objects}
	for _, e := range append(os.Environ(), r.env...) { // what a hook was given
		if list, ok := strings.CutPrefix(e, "GIT_ALTERNATE_OBJECT_DIRECTORIES="); ok {
			folders = append(folders, filepath.SplitList(list)...)
		}
	}
	var text strings.Builder
	for _, f := range folders {
		if !filepath.IsAbs(f) {
			f = filepath.Join(r.dir, f)
		}
		if f, err = filepath.Abs(f); err != nil || strings.ContainsAny(f, "\n\"") {
			m.close()
			return nil, fault.Newf(fault.Undecided, "the folder of objects has a name that git cannot borrow from")
		}
		text.WriteString(f + "\n")
	}
	if err = os.MkdirAll(filepath.Join(dir, "objects", "info"), 0o700); err == nil {
		err = os.WriteFile(filepath.Join(dir, "objects", "info", "alternates"), []byte(text.String()), 0o600)
	}
	if err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

func (m *remaker) close() { _ = os.RemoveAll(m.dir) }

// git gives the output and the exit code, 0 or 1; another one is an error.
func (m *remaker) git(ctx context.Context, args ...string) (string, int, error) {
	ctx, cancel := context.WithTimeout(ctx, mergeTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Env = m.dir, m.env
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &capped{w: &out, left: mergeOutput}, &limited{w: &errOut, left: 4096}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return out.String(), 0, nil
	case errors.As(err, &exit) && exit.ExitCode() == 1:
		return out.String(), 1, nil
	}
	return "", 0, fault.Newf(fault.Undecided, "git %s: %w: %s", args[0], err, excerpt.Line(strings.TrimSpace(errOut.String()), 200, '?'))
}

// capped takes what fits, and then ends the program that writes.
type capped struct {
	w    io.Writer
	left int
}

func (c *capped) Write(p []byte) (int, error) {
	if len(p) > c.left {
		return 0, fault.Newf(fault.TooLarge, "more than %d bytes of output", mergeOutput)
	}
	c.left -= len(p)
	return c.w.Write(p)
}

// remake says what a merge commit holds beside its parents' changes.
func (m *remaker) remake(ctx context.Context, id, tree string, parents []string) (MergeVerdict, error) {
	v := MergeVerdict{Commit: id, State: MergeUnknown}
	if len(parents) != 2 {
		v.Reason = "it has more than two parents, which git merges in no single way"
		return v, nil
	}
	out, code, err := m.git(ctx, "merge-tree", "--write-tree", "--no-messages", "--name-only", "-z", parents[0], parents[1])
	if err != nil {
		v.Reason = err.Error() + " (git 2.38 or later is wanted, and the whole history of both parents)"
		return v, ctx.Err()
	}
	words := strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
	made, conflicts := words[0], []string{}
	if code == 1 {
		conflicts = words[1:]
	}
	if code == 0 && made == tree {
		v.State = MergeClean
		return v, nil
	}
	diff, _, err := m.git(ctx, "diff-tree", "-r", "--name-only", "--no-renames", "-z", made, tree)
	if err != nil {
		v.Reason = err.Error()
		return v, ctx.Err()
	}
	v.State = MergeResolved
	for _, f := range strings.Split(strings.TrimSuffix(diff, "\x00"), "\x00") {
		if f == "" {
			continue
		}
		if !slices.Contains(conflicts, f) {
			v.State = MergeChanged
		}
		if len(v.Files) == maxMergeFiles {
			v.More++
			continue
		}
		v.Files = append(v.Files, excerpt.Line(f, 300, '?'))
	}
	return v, nil
}

// merges makes the merge commits again that are judged.
func (w *walk) merges(ctx context.Context) error {
	var m *remaker
	n := 0
	for _, c := range w.many {
		v := MergeVerdict{Commit: c.id, State: MergeUnknown, Reason: "more merges than are made again at once"}
		var err error
		if m == nil {
			if m, err = w.repo.remaker(ctx, len(c.id)); err != nil {
				return err
			}
			defer m.close()
		}
		if n++; n <= maxMerges {
			if v, err = m.remake(ctx, c.id, c.Tree, c.Parents); err != nil {
				return err
			}
		}
		w.out.Merges = append(w.out.Merges, v)
		w.judgeMerge(&v)
	}
	return nil
}

// merge is a commit of several parents.
type merge struct {
	*Commit
	id string
}

func (w *walk) judgeMerge(v *MergeVerdict) {
	before := len(w.out.Findings)
	defer func() { w.ofMerges += len(w.out.Findings) - before }()
	want := w.check.Policy.Spec.Merges
	files := strings.Join(v.Files[:min(len(v.Files), 5)], ", ")
	switch {
	case want == "" || v.State == MergeClean || v.State == MergeResolved && want == MergesResolved:
	case v.State == MergeUnknown:
		w.undecided = true
		w.finding("merge %s cannot be made again: %s", v.Commit, v.Reason)
	case v.State == MergeResolved:
		w.badMerge = true
		w.finding("merge %s: conflicts were settled by hand in %s", v.Commit, files)
	default:
		w.badMerge = true
		w.finding("merge %s holds changes that none of its parents brings, in %s", v.Commit, files)
	}
}
