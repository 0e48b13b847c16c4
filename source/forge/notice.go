package forge

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/internal/strictjson"
)

// notice is what one delivery says, whatever the provider.
type notice struct {
	repository string
	push       *push
	change     *change
	review     *review // of change
	rules      bool    // the branch's protection changed: look at it
}

// push is a branch that moved.
type push struct {
	Ref, Before, After string
	Commit             string // that a tag names; "": the forge says no more than After
	Pusher             string
	Forced             *bool // nil: the forge does not say
	Files              []string
	Whole              bool // Files is the whole list
}

// change is a pull or merge request.
type change struct {
	Number   int64
	Branch   string // that it goes into
	Head     string
	Author   string // immutable id
	Pusher   string // immutable id of who moved the head to what it is; "": the notice is of something else
	Merged   bool
	Merge    string // commit that the branch got by it
	Opened   time.Time
	MergedAt time.Time
	Link     string
}

// review is one reviewer's word on a change.
type review struct {
	Reviewer string // immutable id
	Name     string
	Commit   string // that the reviewer saw
	State    string // approved, changes_requested, commented, dismissed
	At       time.Time
	Link     string
}

// proves says whether who sent the body knows the secret.
func proves(provider string, h http.Header, body, secret []byte) bool {
	var given string
	switch provider {
	case GitHub:
		var ok bool
		if given, ok = strings.CutPrefix(h.Get("X-Hub-Signature-256"), "sha256="); !ok {
			return false
		}
	case Gitea:
		given = h.Get("X-Gitea-Signature")
	default:
		return subtle.ConstantTimeCompare([]byte(h.Get("X-Gitlab-Token")), secret) == 1
	}
	mac, err := hex.DecodeString(given)
	sum := hmac.New(sha256.New, secret)
	sum.Write(body)
	return err == nil && hmac.Equal(mac, sum.Sum(nil))
}

func eventName(provider string, h http.Header) string {
	switch provider {
	case GitHub:
		return h.Get("X-Github-Event")
	case Gitea:
		return h.Get("X-Gitea-Event")
	}
	return h.Get("X-Gitlab-Event")
}

// parse reads a delivery; nil is one that says nothing of interest.
func parse(provider, event string, body []byte) (*notice, error) {
	var n *notice
	var err error
	switch provider {
	case GitHub, Gitea:
		n, err = parseGitHub(provider, event, body)
	case GitLab:
		n, err = parseGitLab(event, body)
	}
	if err != nil || n == nil {
		return nil, err
	}
	return n, n.validate()
}

func (n *notice) validate() error {
	bad := func(what, s string) error {
		return fault.Newf(fault.Invalid, "the notice: %s %.80q", what, s)
	}
	if p := n.push; p != nil {
		if !commitID(p.Before) || !commitID(p.After) || len(p.Ref) > 1024 || !strings.HasPrefix(p.Ref, "refs/") {
			return bad("want a ref and two commits, found", p.Ref)
		}
		if p.Commit != "" && !commitID(p.Commit) {
			return bad("want the id of a commit, found", p.Commit)
		}
	}
	if c := n.change; c != nil {
		if !commitID(c.Head) || c.Merge != "" && !commitID(c.Merge) || c.Number <= 0 || len(c.Branch) > 1024 {
			return bad("want a change with a number, a head and a branch, found head", c.Head)
		}
	}
	if r := n.review; r != nil {
		if !commitID(r.Commit) || r.Reviewer == "" || len(r.Reviewer) > 200 || len(r.Name) > 200 {
			return bad("want a review with a reviewer and a commit, found", r.Commit)
		}
	}
	return nil
}

func commitID(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

func zeroID(s string) bool { return strings.Trim(s, "0") == "" }

// maxBody is the largest notice. GitHub sends up to 25 MB; so long a push is
// told by its first and last commit, which the forge says again when asked.
const maxBody = 8 << 20

func read(body []byte, into any) error {
	if err := strictjson.Unmarshal(body, into, strictjson.WithMaxBytes(maxBody+1)); err != nil {
		return fault.Newf(fault.Invalid, "the notice: %w", err)
	}
	return nil
}

type user struct {
	ID       int64  `json:"id"`
	Login    string `json:"login"`
	Username string `json:"username"`
}

func (u user) id() string {
	if u.ID == 0 {
		return ""
	}
	return "user:" + strconv.FormatInt(u.ID, 10)
}

func (u user) name() string {
	if u.Login != "" {
		return u.Login
	}
	return u.Username
}

type files struct {
	Added    []string `json:"added"`
	Modified []string `json:"modified"`
	Removed  []string `json:"removed"`
}

func paths(commits []files) (out []string) {
	for _, c := range commits {
		out = append(append(append(out, c.Added...), c.Modified...), c.Removed...)
	}
	return out
}

// pullRequest is GitHub's and Gitea's.
type pullRequest struct {
	Number int64 `json:"number"`
	User   user  `json:"user"`
	Head   struct {
		SHA string `json:"sha"`
	} `json:"head"`
	Base struct {
		Ref string `json:"ref"`
	} `json:"base"`
	Merged   bool       `json:"merged"`
	Merge    string     `json:"merge_commit_sha"`
	Opened   time.Time  `json:"created_at"`
	MergedAt *time.Time `json:"merged_at"`
	Link     string     `json:"html_url"`
}

func (p *pullRequest) change() *change {
	c := &change{Number: p.Number, Branch: p.Base.Ref, Head: p.Head.SHA, Author: p.User.id(), Opened: p.Opened, Link: p.Link}
	if p.Merged || p.MergedAt != nil {
		c.Merged, c.Merge = true, p.Merge
		if p.MergedAt != nil {
			c.MergedAt = *p.MergedAt
		}
	}
	return c
}

// parseGitHub reads GitHub's events (GitHub Docs, "Webhook events and
// payloads"), and Gitea's, which are of the same shape.
func parseGitHub(provider, event string, body []byte) (*notice, error) {
	var d struct {
		Action     string `json:"action"`
		Repository struct {
			FullName string `json:"full_name"`
		} `json:"repository"`
		Sender user `json:"sender"`
		// Of push.
		Ref     string  `json:"ref"`
		Before  string  `json:"before"`
		After   string  `json:"after"`
		Forced  *bool   `json:"forced"`
		Commits []files `json:"commits"`
		Total   int     `json:"total_commits"` // Gitea's
		Head    *struct {
			ID string `json:"id"`
		} `json:"head_commit"`
		// Of pull requests.
		Pull   *pullRequest `json:"pull_request"`
		Review *struct {
			User   user       `json:"user"`
			State  string     `json:"state"`
			Commit string     `json:"commit_id"`
			At     *time.Time `json:"submitted_at"`
			Link   string     `json:"html_url"`
			Type   string     `json:"type"` // Gitea's
		} `json:"review"`
	}
	switch event {
	case "push", "pull_request", "pull_request_review", "branch_protection_rule", "branch_protection_configuration", "repository_ruleset",
		"pull_request_approved", "pull_request_rejected", "pull_request_comment", "pull_request_sync":
	default:
		return nil, nil
	}
	if err := read(body, &d); err != nil {
		return nil, err
	}
	n := &notice{repository: d.Repository.FullName}
	switch {
	case event == "push":
		// GitHub lists 2,048 commits at most, Gitea as many as it is told to.
		n.push = &push{Ref: d.Ref, Before: d.Before, After: d.After, Pusher: d.Sender.name(), Forced: d.Forced, Files: paths(d.Commits),
			Whole: len(d.Commits) < 2048 && d.Total <= len(d.Commits)}
		if d.Head != nil {
			n.push.Commit = d.Head.ID
		}
	case strings.HasPrefix(event, "branch_protection") || event == "repository_ruleset":
		n.rules = true
	case d.Pull == nil:
		return nil, fault.Newf(fault.Invalid, "the notice: %s without a pull_request", event)
	default:
		n.change = d.Pull.change()
		if d.Action == "synchronize" || d.Action == "synchronized" { // GitHub's word and Gitea's
			n.change.Pusher = d.Sender.id()
		}
		if d.Review == nil || provider == GitHub && event != "pull_request_review" {
			break
		}
		r := &review{Reviewer: d.Review.User.id(), Name: d.Review.User.name(), Commit: d.Review.Commit, State: strings.ToLower(d.Review.State), Link: d.Review.Link}
		if provider == Gitea { // the reviewer is the sender, who saw the head
			r.Reviewer, r.Name, r.Commit = d.Sender.id(), d.Sender.name(), d.Pull.Head.SHA
			r.State = map[string]string{"pull_request_approved": "approved", "pull_request_rejected": "changes_requested"}[event]
			// The event's name is outside of what is signed; the body says it again.
			for suffix, state := range map[string]string{"_approved": "approved", "_rejected": "changes_requested", "_comment": ""} {
				if strings.HasSuffix(d.Review.Type, suffix) && state != r.State {
					return nil, fault.Newf(fault.Invalid, "the notice: %.60q is a %.60q by its body", event, d.Review.Type)
				}
			}
		}
		if d.Review.At != nil {
			r.At = *d.Review.At
		}
		if d.Action == "dismissed" {
			r.State = "dismissed"
		}
		if r.State != "" {
			n.review = r
		}
	}
	return n, nil
}

// parseGitLab reads GitLab's events (GitLab Docs, "Webhook events").
func parseGitLab(event string, body []byte) (*notice, error) {
	if event != "Push Hook" && event != "Tag Push Hook" && event != "Merge Request Hook" {
		return nil, nil
	}
	var d struct {
		Project struct {
			Path string `json:"path_with_namespace"`
		} `json:"project"`
		Ref     string  `json:"ref"`
		Before  string  `json:"before"`
		After   string  `json:"after"`
		Commit  string  `json:"checkout_sha"` // of a tag: what it names; null when it is deleted
		Pusher  string  `json:"user_username"`
		Commits []files `json:"commits"`
		Total   int     `json:"total_commits_count"`
		User    user    `json:"user"`
		Attrs   struct {
			Number int64  `json:"iid"`
			Branch string `json:"target_branch"`
			Author int64  `json:"author_id"`
			State  string `json:"state"`
			Action string `json:"action"`
			OldRev string `json:"oldrev"` // of an update that moved the head
			Merge  string `json:"merge_commit_sha"`
			Opened string `json:"created_at"`
			Update string `json:"updated_at"`
			Link   string `json:"url"`
			Last   struct {
				ID string `json:"id"`
			} `json:"last_commit"`
		} `json:"object_attributes"`
	}
	if err := read(body, &d); err != nil {
		return nil, err
	}
	n := &notice{repository: d.Project.Path}
	if event != "Merge Request Hook" {
		n.push = &push{Ref: d.Ref, Before: d.Before, After: d.After, Commit: d.Commit, Pusher: d.Pusher, Files: paths(d.Commits), Whole: d.Total <= len(d.Commits)}
		return n, nil
	}
	a := d.Attrs
	c := &change{Number: a.Number, Branch: a.Branch, Head: a.Last.ID, Author: user{ID: a.Author}.id(), Opened: gitlabTime(a.Opened), Link: a.Link}
	if a.State == "merged" {
		c.Merged, c.MergedAt, c.Merge = true, gitlabTime(a.Update), a.Merge
		if c.Merge == "" { // fast-forwarded
			c.Merge = c.Head
		}
	}
	if a.Action == "update" && a.OldRev != "" {
		c.Pusher = d.User.id()
	}
	n.change = c
	if state := map[string]string{"approved": "approved", "approval": "approved", "unapproved": "dismissed", "unapproval": "dismissed"}[a.Action]; state != "" {
		n.review = &review{Reviewer: d.User.id(), Name: d.User.name(), Commit: c.Head, State: state, At: gitlabTime(a.Update), Link: a.Link}
	}
	return n, nil
}

// gitlabTime reads both forms that GitLab writes; zero is unknown.
func gitlabTime(s string) time.Time {
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05 MST", "2006-01-02 15:04:05 -0700"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC()
		}
	}
	return time.Time{}
}
