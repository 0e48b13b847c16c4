package source

import (
	"bytes"
	"context"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"

	"assay/internal/fault"
)

// maxFetched bounds the error text of git that is repeated.
const maxFetched = 400

// Fetch brings one revision of a remote repository into a fresh bare one below
// dir, and gives the id that it had there: of the tag itself where it is
// annotated, else of the commit. A revision is a branch, a tag (refs/…, or its
// short name) or a commit's id, where the remote gives those. Neither the
// machine's git configuration nor its hooks are read; transports are https, ssh
// and, for remotes that are named so, file.
func Fetch(ctx context.Context, dir, remote, revision string) (*Repository, string, error) {
	u, err := url.Parse(remote)
	if err != nil || !slices.Contains([]string{"https", "ssh", "file"}, u.Scheme) {
		return nil, "", fault.Newf(fault.Invalid, "git repository %.120q: want https://, ssh:// or file://", remote)
	}
	if revision == "" || strings.HasPrefix(revision, "-") || strings.ContainsAny(revision, " :\n\x00*^~?[\\") {
		return nil, "", fault.Newf(fault.Invalid, "revision %.80q: want a branch, a tag or a commit", revision)
	}
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "core.hooksPath=" + os.DevNull, "-c", "core.fsmonitor=false", "-c", "transfer.fsckObjects=true", "-c", "protocol.file.allow=always"}, args...)...)
		cmd.Dir = dir
		cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "GIT_") && !strings.HasPrefix(kv, "GIT_SSH") }),
			"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL="+u.Scheme, "LC_ALL=C")
		var out, errOut bytes.Buffer
		cmd.Stdout, cmd.Stderr = &limited{w: &out, left: 4096}, &limited{w: &errOut, left: 4096}
		if err := cmd.Run(); err != nil {
			text := strings.TrimSpace(errOut.String())
			return "", fault.Newf(fault.Unavailable, "git %s: %s", args[0], clipPath(text[max(0, len(text)-maxFetched):]))
		}
		return strings.TrimSpace(out.String()), nil
	}
	if _, err := exec.LookPath("git"); err != nil {
		return nil, "", fault.Newf(fault.Undecided, "git is not installed here, and fetches the repository: install it")
	}
	if _, err := git("init", "--quiet", "--bare", "."); err != nil {
		return nil, "", err
	}
	// A tag of that name before a branch, as git describe has it.
	var names []string
	if strings.HasPrefix(revision, "refs/") || validID(revision) {
		names = []string{revision}
	} else {
		names = []string{"refs/tags/" + revision, "refs/heads/" + revision}
	}
	var last error
	for _, name := range names {
		if _, last = git("fetch", "--quiet", "--depth=1", "--no-tags", "--", remote, name+":refs/assay/fetched"); last == nil {
			break
		}
	}
	if last != nil {
		return nil, "", last
	}
	r, err := OpenRepository(ctx, dir)
	if err != nil {
		return nil, "", err
	}
	id, err := r.Resolve(ctx, "refs/assay/fetched")
	if err == nil && validID(revision) && id != revision {
		err = fault.Newf(fault.Tampered, "%s gave %s for commit %s", u.Redacted(), id, revision)
	}
	if err != nil {
		_ = r.Close()
		return nil, "", err
	}
	return r, id, nil
}

// Files reads the plain files below a folder ("" is all) as a commit has them,
// by their paths within it: at most count files and most bytes together. Links
// and submodules are fault.Invalid.
func (r *Repository) Files(ctx context.Context, commit, under string, count int, most int64) (map[string][]byte, error) {
	tree, err := r.tree(ctx, commit)
	if err != nil {
		return nil, err
	}
	if under = strings.Trim(under, "/"); under != "" {
		under += "/"
	}
	files := map[string][]byte{}
	for name, e := range tree {
		rest, in := strings.CutPrefix(name, under)
		if !in {
			continue
		}
		if e.mode != "100644" && e.mode != "100755" {
			return nil, fault.Newf(fault.Invalid, "%s of commit %s is a link or a submodule: want plain files", clipPath(name), commit)
		}
		if len(files) >= count {
			return nil, fault.Newf(fault.TooLarge, "more than %d files below %q of commit %s: name the folder", count, under, commit)
		}
		o, err := r.Object(ctx, e.id, most)
		if err != nil {
			return nil, err
		}
		most -= int64(len(o.Raw))
		files[rest] = o.Raw
	}
	if len(files) == 0 {
		return nil, fault.Newf(fault.NotFound, "commit %s has no file below %q", commit, under)
	}
	return files, nil
}

// SignedBy says who signed a commit or an annotated tag, by an allowed-signers
// file (ssh-keygen(1)). What is not signed by one whom the file names is
// fault.Unverified.
func (r *Repository) SignedBy(ctx context.Context, id string, allowed []byte) (string, error) {
	p, err := ParsePolicy(ctx, []byte("apiVersion: assay/v1\nkind: SourcePolicy\nspec: {branch: main, allowedSigners: allowed_signers}\n"),
		func(context.Context, string) ([]byte, error) { return allowed, nil })
	if err != nil {
		return "", err
	}
	o, err := r.Object(ctx, id, 1<<20)
	if err != nil {
		return "", err
	}
	c := &Checker{Policy: p}
	var s Signature
	switch o.Type {
	case "commit":
		_, s = c.Commit(ctx, o.Raw, true)
	case "tag":
		_, s = c.Tag(ctx, o.Raw, true)
	default:
		return "", fault.Newf(fault.Invalid, "object %s is a %s: want a commit or a tag", id, o.Type)
	}
	if s.Status != Good {
		return "", fault.Newf(fault.Unverified, "%s %s is not signed by anybody whom the allowed signers name: %s %s", o.Type, id, s.Status, s.Reason)
	}
	return s.Signer, nil
}
