package source

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"assay/internal/fault"
)

// Controls are what is known of how the protected branch is guarded. Whoever
// found it out stands behind it: a forge's answer that Assay recorded, or the
// configuration of the bare repository that a hook runs in.
type Controls struct {
	Source         string    `json:"source"`                  // "forge", "git-config"
	Evidence       string    `json:"evidence,omitempty"`      // id of the attestation that says so
	Since          time.Time `json:"since,omitzero"`          // since when they hold without a gap, as far as is recorded
	NoForcePush    bool      `json:"no_force_push,omitzero"`  // the branch's history cannot be rewritten
	NoDeletion     bool      `json:"no_deletion,omitzero"`    // nor the branch removed
	SignedCommits  bool      `json:"signed_commits,omitzero"` // unsigned commits are refused
	Reviews        int       `json:"reviews,omitzero"`        // approvals that a change needs
	DismissStale   bool      `json:"dismiss_stale,omitzero"`  // an approval ends when the change changes
	StatusChecks   bool      `json:"status_checks,omitzero"`  // checks must pass before a merge
	Administrators bool      `json:"administrators,omitzero"` // nobody is exempt
}

// CommitVerdict is one commit with what came of its signature.
type CommitVerdict struct {
	Commit    string    `json:"commit"`
	Title     string    `json:"title,omitempty"` // first line of the message
	Author    string    `json:"author,omitempty"`
	Committer string    `json:"committer,omitempty"`
	Signature Signature `json:"signature"`
}

// TagVerdict is an annotated tag with what came of its signature.
type TagVerdict struct {
	Name      string    `json:"name"`
	Tag       string    `json:"tag"` // id of the tag object; "" for a lightweight tag
	Commit    string    `json:"commit"`
	Signature Signature `json:"signature"`
}

// Next says what keeps a higher level away.
type Next struct {
	Level   int      `json:"level"`
	Missing []string `json:"missing"`
}

// Report is the outcome of a verification.
type Report struct {
	Branch       string          `json:"branch"`             // full ref of the protected branch
	Head         string          `json:"head"`               // what was judged
	Base         string          `json:"base,omitempty"`     // not judged, with all before it
	Merged       bool            `json:"merged"`             // head is in the protected branch already
	Policy       string          `json:"policy"`             // where the policy came from
	PolicyDigest string          `json:"policy_digest"`      // of its bytes and the allowed signers
	Commits      []CommitVerdict `json:"commits"`            // parents first
	Merges       []MergeVerdict  `json:"merges,omitempty"`   // commits of several parents, made again
	Tag          *TagVerdict     `json:"tag,omitempty"`      //
	Controls     *Controls       `json:"controls,omitempty"` //
	Verdict      string          `json:"verdict"`            // "passed", "failed" or "undecided"
	Level        int             `json:"level"`              // SLSA source level, 0 to 3
	Wanted       int             `json:"wanted"`             // by the policy
	Next         *Next           `json:"next,omitempty"`     //
	Findings     []string        `json:"findings,omitempty"` // why it failed, or is undecided
}

// The verdicts of a report.
const (
	Passed      = "passed"
	Failed      = "failed"
	NotDecided  = "undecided"
	maxFindings = 50
)

// Request is what to verify.
type Request struct {
	Range string // "BASE..HEAD", a commit, a branch, a tag; "": what HEAD adds to the protected branch
	// Branch is the protected branch's name; "": what origin calls its HEAD, else
	// main or master.
	Branch string
	// Policy is "", a file (PolicyFile) or a ref whose policy counts (PolicyRef).
	PolicyFile []byte
	PolicyName string // of the file, for people
	PolicyRef  string
	// Controls finds out how the protected branch is guarded; nil: nobody knows.
	// It is asked when the policy wants level 2, or with Levels.
	Controls func(ctx context.Context, ref string) (*Controls, error)
	Levels   bool
}

// Verify judges a range of commits. An error is that it could not be asked:
// what could be is in the report.
func Verify(ctx context.Context, r *Repository, c Checker, q Request) (*Report, error) {
	w := &walk{repo: r, check: c, q: q, out: &Report{}}
	if err := w.settle(ctx); err != nil {
		return nil, err
	}
	if err := w.loadPolicy(ctx); err != nil {
		return nil, err
	}
	if err := w.commits(ctx); err != nil {
		return nil, err
	}
	if err := w.merges(ctx); err != nil {
		return nil, err
	}
	if err := w.tag(ctx); err != nil {
		return nil, err
	}
	if q.Controls != nil && (q.Levels || w.out.Wanted > 1) {
		var err error
		if w.out.Controls, err = q.Controls(ctx, w.out.Branch); err != nil {
			return nil, err
		}
	}
	w.conclude()
	return w.out, nil
}

type walk struct {
	repo      *Repository
	check     Checker
	q         Request
	out       *Report
	protected string // tip of the protected branch
	tagName   string
	tagID     string
	undecided bool
	many      []merge // commits of several parents, of which the policy asks
	badMerge  bool
	ofMerges  int // findings about merges
}

func (w *walk) finding(format string, args ...any) {
	if len(w.out.Findings) < maxFindings {
		w.out.Findings = append(w.out.Findings, fmt.Sprintf(format, args...))
	}
}

// settle finds the protected branch, head and base.
func (w *walk) settle(ctx context.Context) error {
	var err error
	if w.out.Branch, w.protected, err = w.repo.Protected(ctx, w.q.Branch); err != nil {
		return err
	}
	base, head, isRange := strings.Cut(w.q.Range, "..")
	if !isRange {
		base, head = "", w.q.Range
	}
	if head == "" {
		head = "HEAD"
	}
	if strings.HasPrefix(head, ".") {
		return fault.Newf(fault.Invalid, "range %.120q: want BASE..HEAD with two dots", w.q.Range)
	}
	if id, err := w.repo.Resolve(ctx, "refs/tags/"+strings.TrimPrefix(head, "refs/tags/")); err == nil && !isRange {
		w.tagName, w.tagID = strings.TrimPrefix(head, "refs/tags/"), id
		head = id
	}
	if w.out.Head, err = w.repo.CommitOf(ctx, head); err != nil {
		return err
	}
	if w.out.Merged, err = w.repo.Ancestor(ctx, w.out.Head, w.protected); err != nil {
		return err
	}
	switch {
	case base != "":
		if w.out.Base, err = w.repo.CommitOf(ctx, base); err != nil {
			return err
		}
		in, err := w.repo.Ancestor(ctx, w.out.Base, w.protected)
		if err != nil {
			return err
		}
		if !in {
			return fault.Newf(fault.Invalid, "range begins at %s, which is not in %s as it is known here (%s; git fetch brings the newest): what lies between would be judged by nobody; begin at a commit of the branch", w.out.Base, w.out.Branch, w.protected)
		}
	case !w.out.Merged:
		w.out.Base = w.protected
	default: // merged: the change that brought head
		if id, err := w.repo.CommitOf(ctx, w.out.Head+"^1"); err == nil {
			w.out.Base = id
		}
	}
	return nil
}

// Protected finds the protected branch: its full name and its tip here, or as
// origin has it, which is what others agreed on.
func (r *Repository) Protected(ctx context.Context, name string) (ref, tip string, err error) {
	if name != "" && !validBranch(name) {
		return "", "", fault.Newf(fault.Invalid, "branch %.80q is no branch's name", name)
	}
	names := []string{name}
	if name == "" {
		names = []string{"main", "master"}
		if at, err := r.git(ctx, 4096, "symbolic-ref", "--quiet", "refs/remotes/origin/HEAD"); err == nil {
			names = []string{strings.TrimPrefix(at, "refs/remotes/origin/")}
		} else if at, err := r.git(ctx, 4096, "config", "--get", "assay.protectedBranch"); err == nil && validBranch(at) {
			names = []string{at}
		}
	}
	for _, n := range names {
		for _, full := range []string{"refs/remotes/origin/" + n, "refs/heads/" + n} {
			if id, err := r.CommitOf(ctx, full); err == nil {
				return "refs/heads/" + n, id, nil
			}
		}
	}
	return "", "", fault.Newf(fault.Undecided, "the protected branch %s is not in the repository: name it with --branch, or fetch it", strings.Join(names, " or "))
}

// loadPolicy reads the policy as it was before the range.
func (w *walk) loadPolicy(ctx context.Context) error {
	at := w.protected
	switch {
	case w.q.PolicyFile != nil:
		p, err := ParsePolicy(ctx, w.q.PolicyFile, func(ctx context.Context, path string) ([]byte, error) {
			return w.repo.File(ctx, w.protected, path, maxSignersFile)
		})
		if err != nil {
			return err
		}
		w.take(p, "file "+w.q.PolicyName)
		return w.sameBranch()
	case w.q.PolicyRef != "":
		id, err := w.repo.CommitOf(ctx, w.q.PolicyRef)
		if err != nil {
			return err
		}
		at = id
	case w.out.Merged:
		if at = w.out.Base; at == "" {
			return fault.Newf(fault.Undecided, "commit %s begins the history, so no policy stood before it: name one with --policy FILE", w.out.Head)
		}
	}
	b, err := w.repo.File(ctx, at, PolicyPath, maxPolicy)
	if errors.Is(err, fault.NotFound) {
		return fault.Newf(fault.Undecided, "no policy in %s at %s, before what is judged: commit %s there first, or name one with --policy FILE", w.out.Branch, at, PolicyPath)
	}
	if err != nil {
		return err
	}
	p, err := ParsePolicy(ctx, b, func(ctx context.Context, path string) ([]byte, error) {
		return w.repo.File(ctx, at, path, maxSignersFile)
	})
	if err != nil {
		return err
	}
	w.take(p, at+":"+PolicyPath)
	return w.sameBranch()
}

func (w *walk) take(p *Policy, from string) {
	w.check.Policy, w.out.Policy, w.out.PolicyDigest, w.out.Wanted = p, from, string(p.Digest()), p.Spec.Level
}

func (w *walk) sameBranch() error {
	if p := w.check.Policy; p.Branch() != w.out.Branch {
		return fault.Newf(fault.Invalid, "the policy protects %s, and %s is judged: give --branch %s", p.Branch(), w.out.Branch, p.Spec.Branch)
	}
	return nil
}

func (w *walk) commits(ctx context.Context) error {
	not := []string{}
	if w.out.Base != "" {
		not = append(not, w.out.Base)
	}
	ids, err := w.repo.Range(ctx, w.out.Head, not...)
	if err != nil {
		return err
	}
	if len(ids) == 0 {
		return fault.Newf(fault.Undecided, "nothing to judge: %s adds no commit to %s", w.out.Head, w.out.Base)
	}
	before := map[string]bool{}
	if b := w.check.Policy.Spec.Baseline; b != "" {
		if _, err := w.repo.CommitOf(ctx, b); err == nil {
			old, err := w.repo.Range(ctx, b, not...)
			if err != nil {
				return err
			}
			for _, id := range old {
				before[id] = true
			}
		}
	}
	for _, id := range ids {
		o, err := w.repo.Object(ctx, id, MaxObject)
		v := CommitVerdict{Commit: id}
		var commit *Commit
		switch {
		case errors.Is(err, fault.TooLarge), errors.Is(err, fault.Tampered):
			v.Signature = Signature{Status: Malformed, Reason: err.Error()}
		case err != nil:
			return err
		case before[id]:
			commit, _ = ParseCommit(o.Raw)
			v.Signature = Signature{Status: Baseline}
		default:
			commit, v.Signature = w.check.Commit(ctx, o.Raw, w.out.Merged)
		}
		if commit != nil {
			if len(commit.Parents) > 1 && !before[id] {
				w.many = append(w.many, merge{commit, id})
			}
			v.Title, v.Author, v.Committer = firstLine(commit.Message), commit.Author.Email, commit.Committer.Email
		}
		w.judge("commit "+id, v.Signature)
		w.out.Commits = append(w.out.Commits, v)
	}
	return ctx.Err()
}

func (w *walk) judge(what string, s Signature) {
	switch s.Status {
	case Good, Baseline:
	case Undecided:
		w.undecided = true
		w.finding("%s: %s", what, s.Reason)
	case Unsigned:
		w.finding("%s is not signed", what)
	default:
		w.finding("%s: %s: %s", what, s.Status, s.Reason)
	}
}

func (w *walk) tag(ctx context.Context) error {
	if w.tagName == "" {
		return nil
	}
	w.out.Tag = &TagVerdict{Name: w.tagName, Commit: w.out.Head}
	o, err := w.repo.Object(ctx, w.tagID, MaxObject)
	if err != nil {
		return err
	}
	if o.Type != "tag" {
		w.out.Tag.Signature = Signature{Status: Unsigned, Reason: "a lightweight tag, which is a name and no object"}
		w.finding("tag %s is lightweight and cannot be signed: git tag -s", w.tagName)
		return nil
	}
	w.out.Tag.Tag = o.ID
	t, s := w.check.Tag(ctx, o.Raw, false)
	if s.Status == Good && t.Name != w.tagName {
		s.Status, s.Reason = Bad, fmt.Sprintf("the signed object is tag %.80q, found under the name %.80q", t.Name, w.tagName)
	}
	if s.Status == Good && t.Object != w.out.Head {
		s.Status, s.Reason = Bad, "the tag names another object than the commit: a tag of a tag"
	}
	w.out.Tag.Signature = s
	w.judge("tag "+w.tagName, s)
	return nil
}

func (w *walk) conclude() {
	signed := len(w.out.Findings) == w.ofMerges
	w.out.Level, w.out.Next = Level(w.out.Controls, signed, w.out.Commits[0].Signature.Time, w.out.Branch)
	switch {
	case !signed && w.undecided && w.onlyUndecided() && !w.badMerge:
		w.out.Verdict = NotDecided
	case !signed || w.badMerge:
		w.out.Verdict = Failed
	case w.undecided: // a merge that cannot be made again
		w.out.Verdict = NotDecided
	case w.out.Level < w.out.Wanted:
		w.out.Verdict = Failed
		w.finding("source level is %d, the policy wants %d: %s", w.out.Level, w.out.Wanted, strings.Join(w.out.Next.Missing, "; "))
	default:
		w.out.Verdict = Passed
	}
}

func (w *walk) onlyUndecided() bool {
	for _, c := range w.out.Commits {
		switch c.Signature.Status {
		case Good, Baseline, Undecided:
		default:
			return false
		}
	}
	return w.out.Tag == nil || w.out.Tag.Signature.Status == Good || w.out.Tag.Signature.Status == Undecided
}

// Level is the SLSA 1.2 source level that is shown, and what keeps the next one
// away. signed says that every change is by an identity that the policy names;
// since is the time of the oldest change, zero where it is not known.
//
//   - 1, version controlled: a revision of a repository, named by its content.
//   - 2, history: the branch cannot be rewritten or removed, and every change is
//     attributed to an identity.
//   - 3, continuous technical controls: rules are enforced on everybody, and have
//     been since before the change.
func Level(c *Controls, signed bool, since time.Time, branch string) (int, *Next) {
	next := &Next{Level: 2}
	need := func(ok bool, format string, args ...any) {
		if !ok {
			next.Missing = append(next.Missing, fmt.Sprintf(format, args...))
		}
	}
	need(signed, "every commit signed by an identity of the policy")
	need(c != nil, "a record of how %s is protected: connect the forge (a document of kind Source), or run assay source hook pre-receive on the git server", branch)
	if c != nil {
		need(c.NoForcePush, "%s protected against force pushes", branch)
		need(c.NoDeletion, "%s protected against deletion", branch)
	}
	if len(next.Missing) > 0 {
		return 1, next
	}
	next.Level = 3
	need(c.Administrators, "rules that bind administrators too")
	need(c.SignedCommits || c.Reviews > 0 || c.StatusChecks, "a technical control on every change: required reviews, required checks or required signatures")
	need(!c.Since.IsZero() && !since.IsZero() && !c.Since.After(since), "the rules recorded since before the change; they are known since %s", stampOr(c.Since, "no time"))
	if len(next.Missing) > 0 {
		return 2, next
	}
	return 3, nil
}

func stampOr(t time.Time, none string) string {
	if t.IsZero() {
		return none
	}
	return t.UTC().Format(time.RFC3339)
}

func firstLine(s string) string {
	l, _, _ := strings.Cut(s, "\n")
	if len(l) > 200 {
		l = strings.ToValidUTF8(l[:200], "") + "…"
	}
	return l
}
