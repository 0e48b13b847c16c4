package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"assay/internal/excerpt"
	"assay/internal/fault"
)

// Commit is a commit of a forge that is told of a check, with what the pipeline may
// write to it.
type Commit struct {
	Forge   string // github or gitlab
	URL     string // of its API: https://api.github.com, https://gitlab.example/api/v4
	Project string // OWNER/NAME; of GitLab also a number
	SHA     string
	Token   string
	HTTP    *http.Client
}

// The forges.
const (
	GitHub = "github"
	GitLab = "gitlab"
)

var (
	shaRE     = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)
	projectRE = regexp.MustCompile(`^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$`)
)

// maxForge bounds an answer of a forge.
const maxForge = 4 << 20

// Validate says what is wrong with a commit; fault.Invalid.
func (c *Commit) Validate() error {
	u, err := url.Parse(c.URL)
	switch {
	case c.Forge != GitHub && c.Forge != GitLab:
		return fault.Newf(fault.Invalid, "forge %.40q: want %s or %s", c.Forge, GitHub, GitLab)
	case err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http":
		return fault.Newf(fault.Invalid, "address of the forge's API %.120q: want a URL such as https://api.github.com", c.URL)
	case u.Scheme == "http" && u.Hostname() != "127.0.0.1" && u.Hostname() != "localhost":
		return fault.Newf(fault.Invalid, "address of the forge's API %.120q: the token would cross the network in the clear; want https", c.URL)
	case !projectRE.MatchString(c.Project) || strings.Contains(c.Project, "..") || c.Forge == GitHub && strings.Count(c.Project, "/") != 1:
		return fault.Newf(fault.Invalid, "project %.120q: want OWNER/NAME", c.Project)
	case !shaRE.MatchString(c.SHA):
		return fault.Newf(fault.Invalid, "commit %.80q: want its whole id, 40 or 64 hexadecimal digits", c.SHA)
	case c.Token == "":
		return fault.Newf(fault.Invalid, "no token for the forge: set ASSAY_FORGE_TOKEN, GITHUB_TOKEN or GITLAB_TOKEN")
	}
	return nil
}

// Status is what a commit is told.
type Status struct {
	Verdict string // allow, deny, undecided, slow-lane
	Name    string // of the status, one for each check of a commit
	Title   string // one line
	Body    string // Markdown, of the comment
	URL     string // of more; "" none
}

// marker finds the comment of a check again.
func (s *Status) marker() string { return "<!-- " + s.Name + " -->" }

// Post sets the commit's status, and writes one comment or renews it.
func (c *Commit) Post(ctx context.Context, s *Status) error {
	states := map[string][2]string{Allow: {"success", "success"}, SlowLane: {"success", "success"}, Deny: {"failure", "failed"}}
	state, known := states[s.Verdict]
	if !known {
		state = [2]string{"error", "failed"}
	}
	body := excerpt.Text(s.Body, 60_000) + "\n\n" + s.marker()
	title := excerpt.Line(s.Title, 140, ' ') // GitHub's bound of a description
	if c.Forge == GitLab {
		base := strings.TrimSuffix(c.URL, "/") + "/projects/" + url.PathEscape(c.Project)
		set := map[string]string{"state": state[1], "name": s.Name, "description": title}
		if s.URL != "" {
			set["target_url"] = s.URL
		}
		if err := c.status(ctx, base+"/statuses/"+c.SHA, set); err != nil {
			return err
		}
		return c.noteGitLab(ctx, base+"/repository/commits/"+c.SHA, s, body)
	}
	base := strings.TrimSuffix(c.URL, "/") + "/repos/" + c.Project
	set := map[string]string{"state": state[0], "context": s.Name, "description": title}
	if s.URL != "" {
		set["target_url"] = s.URL
	}
	if err := c.status(ctx, base+"/statuses/"+c.SHA, set); err != nil {
		return err
	}
	return c.commentGitHub(ctx, base, s, body)
}

func (c *Commit) status(ctx context.Context, to string, set map[string]string) error {
	if err := c.call(ctx, http.MethodPost, to, set, nil); err != nil {
		return fmt.Errorf("set the commit's status: %w", err)
	}
	return nil
}

// commentGitHub renews the check's comment on the commit, or makes it.
func (c *Commit) commentGitHub(ctx context.Context, base string, s *Status, body string) error {
	for page := 1; page <= 10; page++ {
		var have []struct {
			ID   int64  `json:"id"`
			Body string `json:"body"`
		}
		if err := c.call(ctx, http.MethodGet, base+"/commits/"+c.SHA+"/comments?per_page=100&page="+strconv.Itoa(page), nil, &have); err != nil {
			return fmt.Errorf("read the commit's comments: %w", err)
		}
		for _, one := range have {
			if !strings.HasSuffix(strings.TrimSpace(one.Body), s.marker()) {
				continue
			}
			err := c.call(ctx, http.MethodPatch, base+"/comments/"+strconv.FormatInt(one.ID, 10), map[string]string{"body": body}, nil)
			if err == nil {
				return nil
			}
			// Somebody else wrote what looks like ours: that is theirs, ours is new.
			if !errors.Is(err, fault.Denied) && !errors.Is(err, fault.NotFound) {
				return fmt.Errorf("renew the comment: %w", err)
			}
		}
		if len(have) < 100 {
			break
		}
	}
	if err := c.call(ctx, http.MethodPost, base+"/commits/"+c.SHA+"/comments", map[string]string{"body": body}, nil); err != nil {
		return fmt.Errorf("comment on the commit: %w", err)
	}
	return nil
}

// noteGitLab writes a comment unless the same stands there: comments on commits
// cannot be renewed in GitLab's API.
func (c *Commit) noteGitLab(ctx context.Context, commit string, s *Status, body string) error {
	var have []struct {
		Note string `json:"note"`
	}
	if err := c.call(ctx, http.MethodGet, commit+"/comments?per_page=100", nil, &have); err != nil {
		return fmt.Errorf("read the commit's comments: %w", err)
	}
	for i := len(have) - 1; i >= 0; i-- {
		if strings.HasSuffix(strings.TrimSpace(have[i].Note), s.marker()) {
			if strings.TrimSpace(have[i].Note) == strings.TrimSpace(body) {
				return nil
			}
			break
		}
	}
	if err := c.call(ctx, http.MethodPost, commit+"/comments", map[string]string{"note": body}, nil); err != nil {
		return fmt.Errorf("comment on the commit: %w", err)
	}
	return nil
}

func (c *Commit) call(ctx context.Context, method, to string, in, out any) error {
	var b []byte
	if in != nil {
		var err error
		if b, err = json.Marshal(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "assay")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.Forge == GitLab {
		req.Header.Set("PRIVATE-TOKEN", c.Token)
	} else {
		req.Header.Set("Authorization", "Bearer "+c.Token)
		req.Header.Set("Accept", "application/vnd.github+json")
		req.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	}
	// A forge that sends elsewhere gets no token there.
	bound := *c.HTTP
	bound.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := bound.Do(req)
	if err != nil {
		return fault.Wrap(fault.Unavailable, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxForge))
	if err != nil {
		return fault.Wrap(fault.Unavailable, err)
	}
	if resp.StatusCode/100 != 2 {
		kind := fault.Unavailable
		switch resp.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			kind = fault.Denied
		case http.StatusNotFound:
			kind = fault.NotFound
		}
		return fault.Newf(kind, "the forge answered %d: %s", resp.StatusCode, excerpt.Line(string(answer), 200, ' '))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fault.Newf(fault.Unavailable, "the forge's answer cannot be read: %w", err)
	}
	return nil
}
