package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/glob"
	"assay/internal/strictjson"
)

// Harbor reads Harbor's API v2.
type Harbor struct {
	URL      string // https://HOST
	User     string // empty: as nobody
	Password string
	Client   *http.Client // nil: one that follows no redirects
}

// Inventory is what a Harbor holds and how it treats it.
type Inventory struct {
	Items    []Item
	Rules    []Rules
	Kept     []Keep
	NotTaken []string
}

// The parts of Harbor's API v2 that are read, as its swagger.yaml has them.
type (
	harborProject struct {
		ID       int64             `json:"project_id"`
		Name     string            `json:"name"`
		Metadata map[string]string `json:"metadata"`
	}
	harborRepository struct {
		Name string `json:"name"`
	}
	harborArtifact struct {
		Digest artifact.Digest `json:"digest"`
		Tags   []struct {
			Name string `json:"name"`
		} `json:"tags"`
	}
	harborSelector struct {
		Kind       string `json:"kind"`
		Decoration string `json:"decoration"`
		Pattern    string `json:"pattern"`
		Extras     string `json:"extras"` // of tags: {"untagged":true}
	}
	harborRule struct {
		Disabled bool                        `json:"disabled"`
		Action   string                      `json:"action"`
		Template string                      `json:"template"`
		Params   map[string]any              `json:"params"`
		Tags     []harborSelector            `json:"tag_selectors"`
		Scope    map[string][]harborSelector `json:"scope_selectors"`
	}
	harborRobot struct {
		Name    string `json:"name"`
		Level   string `json:"level"`
		Disable bool   `json:"disable"`
	}
)

// Inventory lists projects, repositories, artifacts and rules.
func (h *Harbor) Inventory(ctx context.Context, patterns []glob.Glob) (*Inventory, error) {
	inv := &Inventory{}
	var projects []harborProject
	if err := pages(ctx, h, "/api/v2.0/projects", &projects); err != nil {
		return nil, err
	}
	for i := range projects {
		if err := h.project(ctx, &projects[i], patterns, inv); err != nil {
			return nil, fmt.Errorf("project %.200s: %w", projects[i].Name, err)
		}
	}
	var robots []harborRobot
	if err := pages(ctx, h, "/api/v2.0/robots", &robots); errors.Is(err, fault.Denied) || errors.Is(err, fault.Unauthenticated) {
		inv.NotTaken = append(inv.NotTaken, "robot accounts: this login may not list them")
	} else if err != nil {
		return nil, err
	}
	for _, r := range robots {
		inv.NotTaken = append(inv.NotTaken, fmt.Sprintf("robot account %s (%s): secrets are not copied; make one with assay robot create", r.Name, r.Level))
	}
	return inv, nil
}

func (h *Harbor) project(ctx context.Context, p *harborProject, patterns []glob.Glob, inv *Inventory) error {
	base := "/api/v2.0/projects/" + url.PathEscape(p.Name)
	var repositories []harborRepository
	if err := pages(ctx, h, base+"/repositories", &repositories); err != nil {
		return err
	}
	taken := 0
	for _, r := range repositories {
		if !Match(patterns, r.Name) {
			continue
		}
		taken++
		rest, ok := strings.CutPrefix(r.Name, p.Name+"/")
		if !ok {
			return fault.Newf(fault.Invalid, "repository %.200q is not of project %.200q", r.Name, p.Name)
		}
		var artifacts []harborArtifact
		// A slash in the name is escaped twice (Harbor's API, "repository_name").
		if err := pages(ctx, h, base+"/repositories/"+url.PathEscape(url.PathEscape(rest))+"/artifacts?with_tag=true", &artifacts); err != nil {
			return err
		}
		for _, a := range artifacts {
			if err := a.Digest.Validate(); err != nil {
				return err
			}
			if len(a.Tags) == 0 {
				inv.Items = append(inv.Items, Item{Repository: r.Name, Digest: a.Digest})
			}
			for _, t := range a.Tags {
				inv.Items = append(inv.Items, Item{Repository: r.Name, Tag: t.Name, Digest: a.Digest})
			}
		}
	}
	if taken == 0 {
		return nil
	}
	return h.rules(ctx, p, base, inv)
}

func (h *Harbor) rules(ctx context.Context, p *harborProject, base string, inv *Inventory) error {
	whole := Rules{Pattern: p.Name + "/**", AnonymousPull: p.Metadata["public"] == "true"}
	byPattern := map[string]*Rules{whole.Pattern: &whole}
	var rules []harborRule
	if err := pages(ctx, h, base+"/immutabletagrules", &rules); err != nil {
		return err
	}
	for _, r := range rules {
		if r.Disabled {
			continue
		}
		repositories, ok := selected(r.Scope["repository"], "repoMatches")
		tags, tagsOK := selected(r.Tags, "matches")
		if !ok || !tagsOK {
			inv.NotTaken = append(inv.NotTaken, fmt.Sprintf("project %s: an immutability rule that excludes, or whose patterns have no like here: %s", p.Name, describe(&r)))
			continue
		}
		for _, repository := range repositories {
			pattern := p.Name + "/" + repository
			if byPattern[pattern] == nil {
				byPattern[pattern] = &Rules{Pattern: pattern, AnonymousPull: whole.AnonymousPull}
			}
			byPattern[pattern].Immutable = append(byPattern[pattern].Immutable, tags...)
		}
	}
	if id, err := strconv.ParseInt(p.Metadata["retention_id"], 10, 64); err == nil && id > 0 {
		var policy struct {
			Rules []harborRule `json:"rules"`
		}
		if _, err := h.get(ctx, "/api/v2.0/retentions/"+strconv.FormatInt(id, 10), &policy); err != nil {
			return err
		}
		kept, notes := keeps(p.Name, policy.Rules)
		inv.Kept = append(inv.Kept, kept...)
		for _, note := range notes {
			whole.Notes = append(whole.Notes, note)
			inv.NotTaken = append(inv.NotTaken, "project "+p.Name+": "+note)
		}
	}
	var names []string
	for pattern, r := range byPattern {
		names = append(names, pattern)
		// The most specific document holds alone here: it repeats the wider one.
		if pattern != whole.Pattern {
			r.Immutable = append(r.Immutable, whole.Immutable...)
		}
	}
	sort.Strings(names)
	for _, n := range names {
		inv.Rules = append(inv.Rules, *byPattern[n])
	}
	return nil
}

// selected reads selectors as globs of this house; false where they say what
// globs cannot.
func selected(list []harborSelector, decoration string) (out []string, ok bool) {
	for _, s := range list {
		if s.Kind != "doublestar" || s.Decoration != decoration {
			return nil, false
		}
		for _, p := range alternatives(s.Pattern) {
			if _, err := glob.Parse(p); err != nil {
				return nil, false
			}
			out = append(out, p)
		}
	}
	return out, len(out) > 0
}

// alternatives writes out one pair of braces, which is all that Harbor's forms
// make.
func alternatives(p string) []string {
	open := strings.IndexByte(p, '{')
	end := strings.IndexByte(p, '}')
	if open < 0 || end < open {
		return []string{p}
	}
	var out []string
	for a := range strings.SplitSeq(p[open+1:end], ",") {
		out = append(out, p[:open]+a+p[end+1:])
	}
	return out
}

func describe(r *harborRule) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", r.Action, r.Template)
	for k, v := range r.Params {
		fmt.Fprintf(&b, " %s=%v", k, v)
	}
	for _, s := range r.Scope["repository"] {
		fmt.Fprintf(&b, ", repositories %s %s", s.Decoration, s.Pattern)
	}
	for _, s := range r.Tags {
		fmt.Fprintf(&b, ", tags %s %s", s.Decoration, s.Pattern)
	}
	text := strings.TrimSpace(b.String())
	return text[:min(len(text), 500)]
}

const (
	pageSize   = 100
	maxPages   = 10_000
	maxAPIBody = 16 << 20
)

func pages[T any](ctx context.Context, h *Harbor, path string, out *[]T) error {
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	for n := 1; ; n++ {
		if n > maxPages {
			return fault.Newf(fault.TooLarge, "%s: has no end", path)
		}
		var page []T
		header, err := h.get(ctx, fmt.Sprintf("%s%spage=%d&page_size=%d", path, sep, n, pageSize), &page)
		if err != nil {
			return err
		}
		*out = append(*out, page...)
		// A server may give smaller pages than were asked for, and says then that
		// there is more.
		total, _ := strconv.Atoi(header.Get("X-Total-Count")) // 0: it does not say
		more := len(page) >= pageSize || total > len(*out) || strings.Contains(header.Get("Link"), `rel="next"`)
		if !more || len(page) == 0 {
			return nil
		}
	}
}

func (h *Harbor) get(ctx context.Context, path string, into any) (http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(h.URL, "/")+path, nil)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	req.Header.Set("Accept", "application/json")
	if h.User != "" {
		req.SetBasicAuth(h.User, h.Password)
	}
	c := h.Client
	if c == nil {
		c = &http.Client{Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "ask Harbor: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAPIBody+1))
	switch {
	case err != nil:
		return nil, fault.Newf(fault.Unavailable, "GET %s: %w", path, err)
	case len(b) > maxAPIBody:
		return nil, fault.Newf(fault.TooLarge, "GET %s: more than %d bytes", path, maxAPIBody)
	case resp.StatusCode == http.StatusUnauthorized:
		return nil, fault.Newf(fault.Unauthenticated, "GET %s: Harbor answers 401; log in first: docker login", path)
	case resp.StatusCode == http.StatusForbidden:
		return nil, fault.Newf(fault.Denied, "GET %s: Harbor answers 403", path)
	case resp.StatusCode != http.StatusOK:
		return nil, fault.Newf(fault.Unavailable, "GET %s: Harbor answers %d, want 200", path, resp.StatusCode)
	}
	if err := strictjson.Unmarshal(b, into, strictjson.WithMaxBytes(maxAPIBody+1)); err != nil {
		return nil, fault.Newf(fault.Invalid, "GET %s: %w", path, err)
	}
	return resp.Header, nil
}
