package builder

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
)

// Source is the git commit that a build starts from.
type Source struct {
	URI    string // git+https://… of the remote origin without credentials; "" where there is none
	Commit string // hex of the commit object
	Ref    string // refs/heads/… or refs/tags/…; "" when detached
	Dirty  bool   // files differ from the commit

	root string
}

// describeSource asks git; outside a work tree, or without git, there is no
// source and no error.
func describeSource(dir string) (*Source, error) {
	root, err := git(dir, "rev-parse", "--show-toplevel")
	if err != nil {
		return nil, nil //nolint:nilerr // not a work tree: a fact, not a failure
	}
	s := &Source{root: root}
	if s.Commit, err = git(dir, "rev-parse", "--verify", "HEAD"); err != nil {
		return nil, nil //nolint:nilerr // no commit yet
	}
	s.Ref, _ = git(dir, "symbolic-ref", "-q", "HEAD")
	if remote, err := git(dir, "config", "--get", "remote.origin.url"); err == nil {
		s.URI = remoteURI(remote)
	}
	status, err := git(dir, "status", "--porcelain", "--untracked-files=normal")
	if err != nil {
		return nil, fmt.Errorf("git status: %w", err)
	}
	s.Dirty = status != ""
	return s, nil
}

// remoteURI gives a remote as SPDX's git+ form, without user and password.
func remoteURI(remote string) string {
	if u, err := url.Parse(remote); err == nil && u.Scheme != "" && u.Host != "" {
		u.User = nil
		return "git+" + u.String()
	}
	// scp-like: user@host:path
	if host, path, ok := strings.Cut(remote, ":"); ok && !strings.Contains(host, "/") {
		if _, h, hasUser := strings.Cut(host, "@"); hasUser {
			host = h
		}
		return "git+ssh://" + host + "/" + strings.TrimPrefix(path, "/")
	}
	return "" // a local folder says nothing to others
}

func git(dir string, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", errors.New(strings.TrimSpace(errOut.String()))
	}
	return strings.TrimSpace(out.String()), nil
}
