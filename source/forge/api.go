package forge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/internal/netguard"
	"assay/internal/strictjson"
	"assay/source"
	"assay/telemetry"
)

// answers are what a forge says of a push when it is asked.
type answers struct {
	forced  *bool
	change  *change
	reviews []review
}

// client has checked addresses and follows no redirect: the token goes to the
// configured host and nowhere else (CVE-2026-33540, CVE-2026-54450).
func (r *Recorder) client(private bool) *http.Client {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.conns[private]; c != nil {
		return c
	}
	d := &net.Dialer{Timeout: 5 * time.Second, Control: netguard.Control(private)}
	c := &http.Client{
		Timeout:       20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: telemetry.Transport(&http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: d.DialContext, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: 5 * time.Second, MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
		}),
	}
	r.conns[private] = c
	return c
}

const maxAnswer = 4 << 20

// get asks the API; absent is fault.NotFound.
func (r *Recorder) get(ctx context.Context, s *Source, path string, query url.Values, into any) error {
	token, err := r.o.Secret(s.Token)
	if err != nil || len(token) == 0 {
		return fault.Newf(fault.Unavailable, "source %s: the token cannot be read", s.Name)
	}
	u := s.api.String() + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	switch s.Provider {
	case GitLab:
		req.Header.Set("PRIVATE-TOKEN", string(token))
	case GitHub:
		req.Header.Set("Authorization", "Bearer "+string(token))
		req.Header.Set("Accept", "application/vnd.github+json")
		req.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	default:
		req.Header.Set("Authorization", "token "+string(token))
	}
	res, err := r.client(s.AllowPrivate).Do(req)
	if err != nil {
		return fault.Newf(fault.Unavailable, "source %s: %w", s.Name, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil || len(body) > maxAnswer:
		return fault.Newf(fault.Unavailable, "source %s: the answer ended early, or is over %d bytes", s.Name, maxAnswer)
	case res.StatusCode == http.StatusNotFound:
		return fault.Newf(fault.NotFound, "source %s: %s is not there", s.Name, path)
	case res.StatusCode != http.StatusOK:
		return fault.Newf(fault.Unavailable, "source %s: %s answered %s", s.Name, s.api.Host, res.Status)
	}
	if err := strictjson.Unmarshal(body, into, strictjson.WithMaxBytes(maxAnswer+1)); err != nil {
		return fault.Newf(fault.Unavailable, "source %s: the answer of %s: %w", s.Name, path, err)
	}
	return nil
}

// project is the repository's place in the API.
func (s *Source) project() string {
	if s.Provider == GitLab {
		return "/projects/" + url.PathEscape(s.Path())
	}
	return "/repos/" + s.Path()
}

// ask asks the forge for the change that brought a push, and its reviews.
func (r *Recorder) ask(ctx context.Context, s *Source, p *pushRow) (*answers, error) {
	a := &answers{}
	var err error
	if p.forced < 0 && !zeroID(p.before) {
		if a.forced, err = r.rewritten(ctx, s, p); err != nil {
			return nil, err
		}
	}
	if s.Provider == GitLab {
		err = r.askGitLab(ctx, s, p, a)
	} else {
		err = r.askGitHub(ctx, s, p, a)
	}
	if errors.Is(err, fault.NotFound) {
		err = nil
	}
	return a, err
}

// rewritten says whether the branch no longer holds what it held before.
func (r *Recorder) rewritten(ctx context.Context, s *Source, p *pushRow) (*bool, error) {
	var no, yes = false, true
	if s.Provider == GitLab {
		var base struct {
			ID string `json:"id"`
		}
		err := r.get(ctx, s, s.project()+"/repository/merge_base", url.Values{"refs[]": {p.before, p.after}}, &base)
		switch {
		case errors.Is(err, fault.NotFound): // no common history
			return &yes, nil
		case err != nil:
			return nil, err
		case base.ID == p.before:
			return &no, nil
		}
		return &yes, nil
	}
	// What lies in before and not in after was taken away (GitHub's and Gitea's
	// compare is by three dots).
	var diff struct {
		Total   *int `json:"total_commits"`
		Commits []struct {
			SHA string `json:"sha"`
		} `json:"commits"`
	}
	err := r.get(ctx, s, s.project()+"/compare/"+p.after+"..."+p.before, nil, &diff)
	switch {
	case errors.Is(err, fault.NotFound): // before is gone altogether
		return &yes, nil
	case err != nil:
		return nil, err
	case len(diff.Commits) > 0 || diff.Total != nil && *diff.Total > 0:
		return &yes, nil
	}
	return &no, nil
}

func (r *Recorder) askGitHub(ctx context.Context, s *Source, p *pushRow, a *answers) error {
	var found []pullRequest
	if s.Provider == Gitea {
		var one pullRequest
		if err := r.get(ctx, s, s.project()+"/commits/"+p.after+"/pull", nil, &one); err != nil {
			return err
		}
		found = append(found, one)
	} else if err := r.get(ctx, s, s.project()+"/commits/"+p.after+"/pulls", nil, &found); err != nil {
		return err
	}
	for i := range found {
		c := found[i].change()
		if !c.Merged || c.Branch != s.Branch || c.Merge != p.after || !commitID(c.Head) {
			continue
		}
		a.change = c
		var list []struct {
			User   user      `json:"user"`
			State  string    `json:"state"`
			Commit string    `json:"commit_id"`
			At     time.Time `json:"submitted_at"`
			Link   string    `json:"html_url"`
		}
		if err := r.get(ctx, s, s.project()+"/pulls/"+strconv.FormatInt(c.Number, 10)+"/reviews", url.Values{"per_page": {"100"}, "limit": {"100"}}, &list); err != nil {
			return err
		}
		for _, v := range list {
			state := strings.ToLower(v.State)
			if state == "request_changes" { // Gitea's word
				state = "changes_requested"
			}
			if v.User.id() != "" && commitID(v.Commit) && (state == "approved" || state == "changes_requested" || state == "dismissed") {
				a.reviews = append(a.reviews, review{v.User.id(), clip(v.User.name()), v.Commit, state, v.At, v.Link})
			}
		}
		return nil
	}
	return nil
}

func (r *Recorder) askGitLab(ctx context.Context, s *Source, p *pushRow, a *answers) error {
	var list []struct {
		Number   int64     `json:"iid"`
		Branch   string    `json:"target_branch"`
		State    string    `json:"state"`
		SHA      string    `json:"sha"`
		Merge    string    `json:"merge_commit_sha"`
		Squash   string    `json:"squash_commit_sha"`
		Author   user      `json:"author"`
		Opened   time.Time `json:"created_at"`
		MergedAt time.Time `json:"merged_at"`
		Link     string    `json:"web_url"`
	}
	if err := r.get(ctx, s, s.project()+"/repository/commits/"+p.after+"/merge_requests", nil, &list); err != nil {
		return err
	}
	for _, m := range list {
		if m.State != "merged" || m.Branch != s.Branch || !commitID(m.SHA) || p.after != m.Merge && p.after != m.Squash && p.after != m.SHA {
			continue
		}
		// Who approved GitLab tells without the commit: that is known of notices alone.
		a.change = &change{Number: m.Number, Branch: m.Branch, Head: m.SHA, Author: m.Author.id(), Merged: true, Merge: p.after, Opened: m.Opened, MergedAt: m.MergedAt, Link: m.Link}
		return nil
	}
	return nil
}

// controls asks how the protected branch is protected. One without protection
// has none of them, which is an answer.
func (r *Recorder) controls(ctx context.Context, s *Source) (*source.Controls, error) {
	switch s.Provider {
	case GitHub:
		return r.controlsGitHub(ctx, s)
	case GitLab:
		return r.controlsGitLab(ctx, s)
	}
	return r.controlsGitea(ctx, s)
}

func (r *Recorder) controlsGitHub(ctx context.Context, s *Source) (*source.Controls, error) {
	c := &source.Controls{Source: "forge"}
	type enabled struct {
		Enabled bool `json:"enabled"`
	}
	var classic struct {
		ForcePushes enabled `json:"allow_force_pushes"`
		Deletions   enabled `json:"allow_deletions"`
		Admins      enabled `json:"enforce_admins"`
		Signatures  enabled `json:"required_signatures"`
		Checks      *struct {
			Contexts []string `json:"contexts"`
			Checks   []any    `json:"checks"`
		} `json:"required_status_checks"`
		Reviews *struct {
			Count   int  `json:"required_approving_review_count"`
			Dismiss bool `json:"dismiss_stale_reviews"`
		} `json:"required_pull_request_reviews"`
	}
	branch := url.PathEscape(s.Branch)
	err := r.get(ctx, s, s.project()+"/branches/"+branch+"/protection", nil, &classic)
	if err == nil {
		c.NoForcePush, c.NoDeletion, c.Administrators, c.SignedCommits = !classic.ForcePushes.Enabled, !classic.Deletions.Enabled, classic.Admins.Enabled, classic.Signatures.Enabled
		c.StatusChecks = classic.Checks != nil && len(classic.Checks.Contexts)+len(classic.Checks.Checks) > 0
		if v := classic.Reviews; v != nil {
			c.Reviews, c.DismissStale = v.Count, v.Dismiss
		}
	} else if !errors.Is(err, fault.NotFound) {
		return nil, err
	}
	// Rulesets, which bind everybody but those whom they let by; who that is only
	// administrators are told, so that a ruleset alone does not say "nobody".
	var rules []struct {
		Type       string `json:"type"`
		Parameters struct {
			Count   int  `json:"required_approving_review_count"`
			Dismiss bool `json:"dismiss_stale_reviews_on_push"`
		} `json:"parameters"`
	}
	if err := r.get(ctx, s, s.project()+"/rules/branches/"+branch, nil, &rules); err != nil && !errors.Is(err, fault.NotFound) {
		return nil, err
	}
	for _, rule := range rules {
		switch rule.Type {
		case "non_fast_forward":
			c.NoForcePush = true
		case "deletion":
			c.NoDeletion = true
		case "required_signatures":
			c.SignedCommits = true
		case "required_status_checks":
			c.StatusChecks = true
		case "pull_request":
			c.Reviews, c.DismissStale = max(c.Reviews, rule.Parameters.Count), c.DismissStale || rule.Parameters.Dismiss
		}
	}
	return c, nil
}

func (r *Recorder) controlsGitLab(ctx context.Context, s *Source) (*source.Controls, error) {
	c := &source.Controls{Source: "forge"}
	var p struct {
		Force bool `json:"allow_force_push"`
		Push  []struct {
			Level *int `json:"access_level"`
		} `json:"push_access_levels"`
	}
	err := r.get(ctx, s, s.project()+"/protected_branches/"+url.PathEscape(s.Branch), nil, &p)
	if errors.Is(err, fault.NotFound) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	// A protected branch of GitLab cannot be deleted by git; level 0 is nobody, and
	// then everybody, maintainers too, comes by a merge request.
	c.NoForcePush, c.NoDeletion = !p.Force, true
	c.Administrators = len(p.Push) > 0
	for _, l := range p.Push {
		c.Administrators = c.Administrators && l.Level != nil && *l.Level == 0
	}
	var approvals struct {
		Before int  `json:"approvals_before_merge"`
		Reset  bool `json:"reset_approvals_on_push"`
	}
	if err := r.get(ctx, s, s.project()+"/approvals", nil, &approvals); err == nil {
		c.Reviews, c.DismissStale = approvals.Before, approvals.Reset
	} else if !errors.Is(err, fault.NotFound) {
		return nil, err
	}
	var rules []struct {
		Required int `json:"approvals_required"`
	}
	if err := r.get(ctx, s, s.project()+"/approval_rules", nil, &rules); err != nil && !errors.Is(err, fault.NotFound) {
		return nil, err
	}
	for _, rule := range rules {
		c.Reviews = max(c.Reviews, rule.Required)
	}
	var project struct {
		Pipeline bool `json:"only_allow_merge_if_pipeline_succeeds"`
	}
	if err := r.get(ctx, s, s.project(), nil, &project); err != nil {
		return nil, err
	}
	c.StatusChecks = project.Pipeline
	var push struct {
		Signed bool `json:"reject_unsigned_commits"`
	}
	if err := r.get(ctx, s, s.project()+"/push_rule", nil, &push); err == nil {
		c.SignedCommits = push.Signed
	} else if !errors.Is(err, fault.NotFound) {
		return nil, err
	}
	return c, nil
}

func (r *Recorder) controlsGitea(ctx context.Context, s *Source) (*source.Controls, error) {
	c := &source.Controls{Source: "forge"}
	var p struct {
		Force   bool `json:"enable_force_push"`
		Count   int  `json:"required_approvals"`
		Dismiss bool `json:"dismiss_stale_approvals"`
		Signed  bool `json:"require_signed_commits"`
		Checks  bool `json:"enable_status_check"`
		Admins  bool `json:"block_admin_merge_override"`
	}
	err := r.get(ctx, s, s.project()+"/branch_protections/"+url.PathEscape(s.Branch), nil, &p)
	if errors.Is(err, fault.NotFound) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("branch protection: %w", err)
	}
	c.NoForcePush, c.NoDeletion = !p.Force, true // Gitea deletes no protected branch
	c.Reviews, c.DismissStale, c.SignedCommits, c.StatusChecks, c.Administrators = p.Count, p.Dismiss, p.Signed, p.Checks, p.Admins
	return c, nil
}
