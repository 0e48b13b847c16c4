package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"assay/artifact"
)

// AdvisoryRecord is an advisory of a feed in force: GET /api/v1/advisories/{id}.
type AdvisoryRecord struct {
	Feed      string          `json:"feed"`
	Ecosystem string          `json:"ecosystem,omitempty"` // of the feed
	Record    json.RawMessage `json:"record"`              // in OSV's schema, as far as it is kept
}

// Advisory gives the advisories in force about a flaw, by any of its names.
func (c *Client) Advisory(ctx context.Context, id string) (*List[AdvisoryRecord], error) {
	var out List[AdvisoryRecord]
	return &out, c.call(ctx, http.MethodGet, "/api/v1/advisories/"+url.PathEscape(id), nil, nil, &out)
}

// Expose enters for how long a finding was open at a time.
func (f *Finding) Expose(now time.Time) {
	if !f.FirstSeen.IsZero() {
		f.Exposed = max(0, int(now.Sub(f.FirstSeen)/(24*time.Hour)))
	}
}

// FindingsAt says what was known of an artifact at a time; Findings what is now.
func (c *Client) FindingsAt(ctx context.Context, subject artifact.Digest, repository string, at time.Time) (*Findings, error) {
	q := url.Values{"digest": {string(subject)}, "at": {at.UTC().Format(time.RFC3339)}}
	if repository != "" {
		q.Set("repository", repository)
	}
	var out Findings
	return &out, c.call(ctx, http.MethodGet, "/api/v1/findings", q, nil, &out)
}

// FindingsDiff is what differs between two answers about findings. A flaw of a
// package is one, whichever versions of the package are affected.
type FindingsDiff struct {
	Before   artifact.Digest `json:"before,omitempty"`
	After    artifact.Digest `json:"after,omitempty"`
	Opened   []Finding       `json:"opened"`   // in the second alone
	Resolved []Finding       `json:"resolved"` // in the first alone; or a statement took it away, which then stands with it
	Changed  []FindingChange `json:"changed"`  // in both, and rated or judged otherwise
	Kept     int             `json:"kept"`     // in both, changed or not
	Coverage FindingCoverage `json:"coverage"` // of the second: what is not known may hide more
}

// FindingChange is a finding that is rated or judged otherwise than before.
type FindingChange struct {
	Before Finding  `json:"before"`
	After  Finding  `json:"after"`
	What   []string `json:"what"` // severity, status, fixed, exploited, version, dependency
}

// Against compares findings with those before. What a statement takes away counts
// as not there.
func (f *Findings) Against(before *Findings) *FindingsDiff {
	d := &FindingsDiff{Before: before.Subject, After: f.Subject, Opened: []Finding{}, Resolved: []Finding{}, Changed: []FindingChange{}, Coverage: f.Coverage}
	old, now := byFlaw(before.Items), byFlaw(f.Items)
	for _, key := range now.order {
		one := now.of[key]
		was := old.of[key]
		switch {
		case one.Settled():
		case was == nil || was.Settled():
			d.Opened = append(d.Opened, *one)
		default:
			d.Kept++
			if what := changed(was, one); len(what) > 0 {
				d.Changed = append(d.Changed, FindingChange{*was, *one, what})
			}
		}
	}
	for _, key := range old.order {
		was, one := old.of[key], now.of[key]
		switch {
		case was.Settled():
		case one == nil:
			d.Resolved = append(d.Resolved, *was)
		case one.Settled():
			d.Resolved = append(d.Resolved, *one)
		}
	}
	return d
}

type flawSet struct {
	of    map[string]*Finding
	order []string
}

// byFlaw groups findings by flaw and package: of several versions the one that is
// not settled stands for all.
func byFlaw(all []Finding) flawSet {
	s := flawSet{of: map[string]*Finding{}}
	for i := range all {
		f := &all[i]
		key := f.Name + "\x00" + packageOf(f.Component)
		at := s.of[key]
		if at == nil {
			s.order = append(s.order, key)
		}
		if at == nil || at.Settled() && !f.Settled() {
			s.of[key] = f
		}
	}
	return s
}

// packageOf is a package URL without version, qualifiers and subpath.
func packageOf(component string) string {
	if i := strings.IndexAny(component, "?#"); i >= 0 {
		component = component[:i]
	}
	// An @ before the last slash is a scope's (pkg:npm/@scope/name), if it was not encoded.
	if i := strings.LastIndexByte(component, '@'); i > strings.LastIndexByte(component, '/') {
		component = component[:i]
	}
	return component
}

func changed(was, now *Finding) (what []string) {
	for _, c := range []struct {
		name string
		is   bool
	}{
		{"severity", was.Severity != now.Severity || was.Score != now.Score},
		{"status", was.Status != now.Status},
		{"fixed", was.Fixed != now.Fixed},
		{"exploited", was.KEV != now.KEV || was.Malicious != now.Malicious},
		{"version", was.Version != now.Version},
		{"dependency", was.Direct != now.Direct || !slices.Equal(was.Path, now.Path) && was.Version == now.Version},
	} {
		if c.is {
			what = append(what, c.name)
		}
	}
	return what
}
