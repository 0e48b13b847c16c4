package source

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"assay/internal/fault"
)

// RefUpdate is one line of a hook's standard input (githooks(5), pre-receive).
type RefUpdate struct {
	Old, New, Ref string
}

// Refusal is a ref whose update is refused, and why.
type Refusal struct {
	Ref     string
	Reasons []string
}

const maxUpdates = 10_000

// ParseUpdates reads what git gives a pre-receive hook.
func ParseUpdates(in io.Reader) (out []RefUpdate, err error) {
	s := bufio.NewScanner(io.LimitReader(in, 16<<20))
	for s.Scan() {
		f := strings.SplitN(s.Text(), " ", 3)
		if len(f) != 3 || !validID(f[0]) || !validID(f[1]) || !strings.HasPrefix(f[2], "refs/") {
			return nil, fault.Newf(fault.Invalid, "line %d of the hook's input is %.200q, want OLD NEW REF", len(out)+1, s.Text())
		}
		if out = append(out, RefUpdate{f[0], f[1], f[2]}); len(out) > maxUpdates {
			return nil, fault.Newf(fault.TooLarge, "a push of more than %d refs", maxUpdates)
		}
	}
	return out, s.Err()
}

func zero(id string) bool { return strings.Trim(id, "0") == "" }

// Receive judges a push before git takes it: updates of the protected branch,
// and of tags. The policy is that of the protected branch as it is before the
// push. A push that cannot be judged is refused. Other branches are let pass:
// what is on them is judged when it comes to the protected one.
func Receive(ctx context.Context, r *Repository, c Checker, branch string, updates []RefUpdate) ([]Refusal, error) {
	p, protected, err := r.policyAtTip(ctx, branch)
	if err != nil {
		return nil, err
	}
	c.Policy = p
	var out []Refusal
	for _, u := range updates {
		var why []string
		switch {
		case u.Ref == p.Branch():
			why, err = receiveBranch(ctx, r, &c, u, protected)
		case strings.HasPrefix(u.Ref, "refs/tags/"):
			why, err = receiveTag(ctx, r, &c, u)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", u.Ref, err)
		}
		if len(why) > 0 {
			out = append(out, Refusal{u.Ref, why})
		}
	}
	return out, nil
}

// policyAtTip reads the policy of the protected branch of a bare repository.
func (r *Repository) policyAtTip(ctx context.Context, branch string) (*Policy, string, error) {
	if branch == "" {
		head, err := r.git(ctx, 4096, "symbolic-ref", "--quiet", "HEAD")
		if err != nil {
			return nil, "", fault.Newf(fault.Undecided, "HEAD names no branch; give --branch")
		}
		branch = strings.TrimPrefix(head, "refs/heads/")
	}
	if !validBranch(branch) {
		return nil, "", fault.Newf(fault.Invalid, "branch %.80q is no branch's name", branch)
	}
	tip, err := r.CommitOf(ctx, "refs/heads/"+branch)
	if errors.Is(err, fault.NotFound) {
		return nil, "", fault.Newf(fault.Undecided, "branch %s does not exist yet: push its first commit, with %s, before the hook is set up", branch, PolicyPath)
	}
	if err != nil {
		return nil, "", err
	}
	b, err := r.File(ctx, tip, PolicyPath, maxPolicy)
	if err != nil {
		return nil, "", fault.Newf(fault.Undecided, "branch %s: %w", branch, err)
	}
	p, err := ParsePolicy(ctx, b, func(ctx context.Context, path string) ([]byte, error) { return r.File(ctx, tip, path, maxSignersFile) })
	if err == nil && p.Spec.Branch != branch {
		err = fault.Newf(fault.Invalid, "the policy in %s protects %s", branch, p.Spec.Branch)
	}
	return p, tip, err
}

// maxReasons bounds what a pusher is told.
const maxReasons = 20

func receiveBranch(ctx context.Context, r *Repository, c *Checker, u RefUpdate, protected string) (why []string, err error) {
	if zero(u.New) {
		return []string{"the protected branch cannot be deleted"}, nil
	}
	on, err := r.Ancestor(ctx, protected, u.New)
	if err != nil {
		return nil, err
	}
	if !on {
		return []string{"a force push: the new commit does not have " + protected + " among its ancestors; rebase on it"}, nil
	}
	ids, err := r.Range(ctx, u.New, protected)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		o, err := r.Object(ctx, id, MaxObject)
		if err != nil && !errors.Is(err, fault.TooLarge) && !errors.Is(err, fault.Tampered) {
			return nil, err
		}
		s := Signature{Status: Malformed}
		if err != nil {
			s.Reason = err.Error()
		} else {
			_, s = c.Commit(ctx, o.Raw, false)
		}
		if why = refuse(why, "commit "+id[:12], s); len(why) == maxReasons {
			break
		}
	}
	return why, nil
}

func refuse(why []string, what string, s Signature) []string {
	switch s.Status {
	case Good:
		return why
	case Unsigned:
		return append(why, what+" is not signed; sign it: git commit --amend -S, or git rebase --exec for several")
	}
	return append(why, fmt.Sprintf("%s: %s: %s", what, s.Status, s.Reason))
}

// receiveTag lets a tag be made, signed, and neither moved nor deleted.
func receiveTag(ctx context.Context, r *Repository, c *Checker, u RefUpdate) ([]string, error) {
	if !zero(u.Old) {
		return []string{"a tag is neither moved nor deleted; make another one"}, nil
	}
	o, err := r.Object(ctx, u.New, MaxObject)
	if err != nil {
		return nil, err
	}
	name := strings.TrimPrefix(u.Ref, "refs/tags/")
	if o.Type != "tag" {
		return []string{"a lightweight tag cannot be signed; make it with git tag -s " + name}, nil
	}
	t, s := c.Tag(ctx, o.Raw, false)
	if s.Status == Good && t.Name != name {
		s.Status, s.Reason = Bad, fmt.Sprintf("the signed object is tag %.80q", t.Name)
	}
	return refuse(nil, "tag "+name, s), nil
}
