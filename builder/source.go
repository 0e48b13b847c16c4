package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"assay/internal/giturl"
)

// Source is the git commit that a build starts from.
type Source struct {
	URI    string // git+https://… of the remote origin without credentials; "" where there is none
	Commit string // hex of the commit object
	Ref    string // refs/heads/… or refs/tags/…; the one tag when detached there; else ""
	Dirty  bool   // files differ from the commit

	root string
}

// describeSource asks git; outside a work tree, or without git, there is no
// source and no error.
func describeSource(ctx context.Context, dir string) (*Source, error) {
	root, err := git(ctx, dir, "rev-parse", "--show-toplevel")
	if err != nil {
		return nil, nil //nolint:nilerr // not a work tree: a fact, not a failure
	}
	s := &Source{root: root}
	if s.Commit, err = git(ctx, dir, "rev-parse", "--verify", "HEAD"); err != nil {
		return nil, nil //nolint:nilerr // no commit yet
	}
	if s.Ref, _ = git(ctx, dir, "symbolic-ref", "-q", "HEAD"); s.Ref == "" {
		// Of several tags nobody says which was meant.
		if tag, err := git(ctx, dir, "tag", "--points-at", "HEAD"); err == nil && tag != "" && !strings.ContainsAny(tag, " \n") {
			s.Ref = "refs/tags/" + tag
		}
	}
	if remote, err := git(ctx, dir, "config", "--get", "remote.origin.url"); err == nil {
		s.URI = remoteURI(remote)
	}
	status, err := git(ctx, dir, "status", "--porcelain", "--untracked-files=normal", "--ignore-submodules=none")
	if err != nil {
		return nil, fmt.Errorf("git status: %w", err)
	}
	s.Dirty = status != ""
	if !s.Dirty {
		if s.Dirty, err = assumed(ctx, root); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// assumed says whether the index has files whose changes git was told not to look
// at (git update-index --assume-unchanged): what they hold, nobody knows.
func assumed(ctx context.Context, root string) (bool, error) {
	out, err := gitBytes(ctx, root, "ls-files", "-v", "-z")
	if err != nil {
		return false, fmt.Errorf("git ls-files: %w", err)
	}
	for line := range bytes.SplitSeq(out, []byte{0}) {
		if len(line) > 1 && line[0] >= 'a' && line[0] <= 'z' {
			return true, nil
		}
	}
	return false, nil
}

func remoteURI(remote string) string { return giturl.URI(remote) }

// address is the source's URI with its ref; "" where there is no URI.
func (s *Source) address() string {
	if s.URI == "" || s.Ref == "" {
		return s.URI
	}
	return s.URI + "@" + s.Ref
}

func git(ctx context.Context, dir string, args ...string) (string, error) {
	out, err := gitBytes(ctx, dir, args...)
	return strings.TrimSpace(string(out)), err
}

func gitBytes(ctx context.Context, dir string, args ...string) ([]byte, error) {
	// Looking must not write: status would refresh the index (git-status(1)). Nor
	// may the repository's configuration say what has changed, or run what it likes;
	// what it runs all the same, filters, gets no more than the build does.
	cmd := exec.CommandContext(ctx, "git", append([]string{
		"--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=" + os.DevNull,
		"-c", "core.ignoreStat=false", "-c", "core.checkStat=default", "-c", "core.trustctime=true",
	}, args...)...)
	cmd.Dir = dir
	cmd.Env, _ = buildEnv(os.Environ())
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return nil, errors.New(strings.TrimSpace(errOut.String()))
	}
	return out.Bytes(), nil
}
