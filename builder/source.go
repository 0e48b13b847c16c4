package builder

import (
	"bytes"
	"context"
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
func describeSource(ctx context.Context, dir string) (*Source, error) {
	root, err := git(ctx, dir, "rev-parse", "--show-toplevel")
	if err != nil {
		return nil, nil //nolint:nilerr // not a work tree: a fact, not a failure
	}
	s := &Source{root: root}
	if s.Commit, err = git(ctx, dir, "rev-parse", "--verify", "HEAD"); err != nil {
		return nil, nil //nolint:nilerr // no commit yet
	}
	s.Ref, _ = git(ctx, dir, "symbolic-ref", "-q", "HEAD")
	if remote, err := git(ctx, dir, "config", "--get", "remote.origin.url"); err == nil {
		s.URI = remoteURI(remote)
	}
	status, err := git(ctx, dir, "status", "--porcelain", "--untracked-files=normal")
	if err != nil {
		return nil, fmt.Errorf("git status: %w", err)
	}
	s.Dirty = status != ""
	return s, nil
}

// remoteURI gives a remote as SPDX's git+ form, without user, password and
// query, which may hold a token. "" is the answer to what has no such form, and
// to whatever cannot be read for certain: it is published.
func remoteURI(remote string) string {
	if strings.Contains(remote, "://") {
		u, err := url.Parse(remote)
		if err != nil || u.Host == "" || u.Scheme == "file" {
			return "" // unreadable, or a folder of this machine
		}
		u.User, u.RawQuery, u.Fragment = nil, "", ""
		return "git+" + u.String()
	}
	// scp-like: [user@]host:path (gitrepository-layout; git-clone(1), GIT URLS).
	// A slash before the colon makes it a local path, and so does one letter
	// before it: a drive.
	host, path, ok := strings.Cut(remote, ":")
	if strings.Contains(host, "[") { // [user@][IPv6]:path, or user@[IPv6]:path
		if i := strings.Index(remote, "]:"); i >= 0 {
			host, path = remote[:i+1], remote[i+2:]
		}
	}
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		host = host[i+1:]
	}
	u, err := url.Parse("ssh://" + host + "/" + strings.TrimPrefix(path, "/"))
	if !ok || strings.Contains(host, "/") || len(host) < 2 || path == "" || err != nil || u.User != nil {
		return "" // a local folder says nothing to others
	}
	u.RawQuery, u.Fragment = "", ""
	return "git+" + u.String()
}

func git(ctx context.Context, dir string, args ...string) (string, error) {
	// Looking must not write: status would refresh the index (git-status(1)).
	cmd := exec.CommandContext(ctx, "git", append([]string{"--no-optional-locks"}, args...)...)
	cmd.Dir = dir
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", errors.New(strings.TrimSpace(errOut.String()))
	}
	return strings.TrimSpace(out.String()), nil
}
