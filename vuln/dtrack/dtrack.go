// Package dtrack reads a Dependency-Track: its projects, their bills of materials
// and what people decided about findings (https://docs.dependencytrack.org, API v1).
package dtrack

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/sbom"
)

// Client asks one server.
type Client struct {
	URL  string // https://dtrack.example
	Key  string // API key with VIEW_PORTFOLIO and VIEW_VULNERABILITY
	HTTP *http.Client
}

// Project is one of them.
type Project struct {
	UUID    string `json:"uuid"`
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Bounds of what a server may answer.
const (
	maxAnswer   = 256 << 20
	maxProjects = 200_000
	page        = 100
)

// Projects lists all.
func (c *Client) Projects(ctx context.Context) (all []Project, err error) {
	for n := 1; len(all) < maxProjects; n++ {
		var some []Project
		if err := c.json(ctx, "/api/v1/project", url.Values{"pageNumber": {fmt.Sprint(n)}, "pageSize": {fmt.Sprint(page)}}, &some); err != nil {
			return nil, err
		}
		for _, p := range some {
			if p.UUID == "" || p.Name == "" || strings.ContainsAny(p.UUID, "/?#. ") {
				return nil, fault.Newf(fault.Invalid, "project %d of the answer has no name, or no number that can be asked about", len(all)+1)
			}
		}
		if all = append(all, some...); len(some) < page {
			return all, nil
		}
	}
	return nil, fault.Newf(fault.TooLarge, "more than %d projects", maxProjects)
}

// BOM exports a project's bill of materials: CycloneDX JSON, nil when it has none.
func (c *Client) BOM(ctx context.Context, p Project) ([]byte, error) {
	b, status, err := c.get(ctx, "/api/v1/bom/cyclonedx/project/"+p.UUID, url.Values{"format": {"json"}, "variant": {"inventory"}})
	if err != nil || status == http.StatusNoContent || status == http.StatusNotFound {
		return nil, err
	}
	return b, nil
}

// Finding is a flaw of a project's component, with what was decided about it.
type Finding struct {
	Component struct {
		UUID    string `json:"uuid"`
		Name    string `json:"name"`
		Version string `json:"version"`
		PURL    string `json:"purl"`
	} `json:"component"`
	Vulnerability struct {
		UUID string `json:"uuid"`
		ID   string `json:"vulnId"`
	} `json:"vulnerability"`
	Analysis Analysis `json:"analysis"`
}

// Analysis is what was decided about a finding. A list of findings has the state
// and the suppression alone; [Client.Decided] has all.
type Analysis struct {
	State         string
	Justification string
	Details       string
	Suppressed    bool
	Until         time.Time // end of the suppression; zero: none
}

// UnmarshalJSON reads both forms: a finding's and an analysis trail's.
func (a *Analysis) UnmarshalJSON(b []byte) error {
	var in struct {
		State      string `json:"state"`
		Trail      string `json:"analysisState"`
		Why        string `json:"analysisJustification"`
		Details    string `json:"analysisDetails"`
		Suppressed bool   `json:"isSuppressed"`
		Until      int64  `json:"suppressionExpiration"` // milliseconds
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	*a = Analysis{State: in.State, Justification: in.Why, Details: in.Details, Suppressed: in.Suppressed}
	if in.Trail != "" {
		a.State = in.Trail
	}
	if in.Until > 0 {
		a.Until = time.UnixMilli(in.Until).UTC()
	}
	return nil
}

// IsDecided says whether anything was decided.
func (a *Analysis) IsDecided() bool { return a.State != "" && a.State != "NOT_SET" || a.Suppressed }

// Decided reads the whole of what was decided about a finding: the list of them
// leaves out why.
func (c *Client) Decided(ctx context.Context, p Project, f *Finding) error {
	if !f.Analysis.IsDecided() {
		return nil
	}
	for _, id := range []string{f.Component.UUID, f.Vulnerability.UUID} {
		if id == "" || len(id) > 64 {
			return fault.Newf(fault.Invalid, "finding %s of %s has no number that can be asked about", f.Vulnerability.ID, f.Component.Name)
		}
	}
	var all Analysis
	if err := c.json(ctx, "/api/v1/analysis", url.Values{"project": {p.UUID}, "component": {f.Component.UUID}, "vulnerability": {f.Vulnerability.UUID}}, &all); err != nil {
		return fmt.Errorf("why %s of %s was decided: %w", f.Vulnerability.ID, f.Component.Name, err)
	}
	f.Analysis = all
	return nil
}

// Findings lists a project's, suppressed ones too.
func (c *Client) Findings(ctx context.Context, p Project) (all []Finding, err error) {
	return all, c.json(ctx, "/api/v1/finding/project/"+p.UUID, url.Values{"suppressed": {"true"}}, &all)
}

func (c *Client) json(ctx context.Context, path string, q url.Values, out any) error {
	b, status, err := c.get(ctx, path, q)
	if err != nil {
		return err
	}
	if status == http.StatusNotFound {
		return fault.Newf(fault.NotFound, "%s%s is not there: is it a Dependency-Track?", c.URL, path)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fault.Newf(fault.Invalid, "%s%s: %w; is it a Dependency-Track?", c.URL, path, err)
	}
	return nil
}

// get reads an answer. Two attempts more follow what may pass.
func (c *Client) get(ctx context.Context, path string, q url.Values) (b []byte, status int, err error) {
	for try := range 3 {
		if try > 0 {
			select {
			case <-ctx.Done():
				return nil, 0, ctx.Err()
			case <-time.After(time.Duration(try) * time.Second):
			}
		}
		if b, status, err = c.once(ctx, path, q); err == nil && status < 500 {
			break
		}
	}
	switch {
	case err != nil:
		return nil, status, err
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return nil, status, fault.Newf(fault.Denied, "%s%s answered %d: want an API key of a team with VIEW_PORTFOLIO and VIEW_VULNERABILITY", c.URL, path, status)
	case status/100 != 2 && status != http.StatusNotFound:
		return nil, status, fault.Newf(fault.Unavailable, "%s%s answered %d", c.URL, path, status)
	}
	return b, status, nil
}

func (c *Client) once(ctx context.Context, path string, q url.Values) ([]byte, int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.URL, "/")+path+"?"+q.Encode(), nil)
	if err != nil {
		return nil, 0, fault.Wrap(fault.Invalid, err)
	}
	req.Header.Set("X-Api-Key", c.Key)
	req.Header.Set("Accept", "application/json, application/vnd.cyclonedx+json")
	h := *http.DefaultClient
	if c.HTTP != nil {
		h = *c.HTTP
	}
	h.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // the key is for this server
	res, err := h.Do(req)
	if err != nil {
		return nil, 0, fault.Wrap(fault.Unavailable, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, 0, fault.Wrap(fault.Unavailable, err)
	}
	if len(b) > maxAnswer {
		return nil, 0, fault.Newf(fault.TooLarge, "%s%s answered more than %d bytes", c.URL, path, maxAnswer)
	}
	return b, res.StatusCode, nil
}

// Statement is one of OpenVEX 0.2.0.
type Statement struct {
	Vulnerability map[string]string `json:"vulnerability"`
	Products      []Product         `json:"products"`
	Status        string            `json:"status"`
	Justification string            `json:"justification,omitempty"`
	Impact        string            `json:"impact_statement,omitempty"`
	Action        string            `json:"action_statement,omitempty"`
	Until         string            `json:"urn:assay:until,omitempty"` // RFC 3339
}

// Product is what a statement is about.
type Product struct {
	ID            string            `json:"@id"`
	Hashes        map[string]string `json:"hashes,omitempty"`
	Subcomponents []Product         `json:"subcomponents,omitempty"`
}

// justifications are Dependency-Track's (which are CycloneDX's) in OpenVEX's words,
// where those say the same.
var justifications = map[string]string{
	"CODE_NOT_PRESENT": "vulnerable_code_not_present", "CODE_NOT_REACHABLE": "vulnerable_code_not_in_execute_path",
	"REQUIRES_CONFIGURATION": "vulnerable_code_cannot_be_controlled_by_adversary", "REQUIRES_DEPENDENCY": "vulnerable_code_cannot_be_controlled_by_adversary",
	"REQUIRES_ENVIRONMENT": "vulnerable_code_cannot_be_controlled_by_adversary", "PROTECTED_BY_COMPILER": "inline_mitigations_already_exist",
	"PROTECTED_AT_RUNTIME": "inline_mitigations_already_exist", "PROTECTED_AT_PERIMETER": "inline_mitigations_already_exist",
	"PROTECTED_BY_MITIGATING_CONTROL": "inline_mitigations_already_exist",
}

// Convert makes a statement of what was decided about a finding: of the project,
// as what is handed in for it is known here, and of repositories beside it. why
// says why there is none; both are empty where nothing was decided.
func Convert(p Project, f Finding, repositories ...string) (s *Statement, why string) {
	a := f.Analysis
	if !a.IsDecided() {
		return nil, ""
	}
	purl, err := artifact.ParsePURL(f.Component.PURL)
	if err != nil || f.Vulnerability.ID == "" {
		return nil, "its component has no package URL, or its flaw no name"
	}
	product, err := artifact.NewPURL("generic", "", p.Name, p.Version, nil, "")
	if err != nil {
		return nil, "the project's name makes no package URL: " + err.Error()
	}
	within := []Product{{ID: purl.String()}}
	_, digest, _ := strings.Cut(string(sbom.ProjectSubject(p.Name, p.Version)), ":")
	s = &Statement{Vulnerability: map[string]string{"name": f.Vulnerability.ID}, Products: []Product{{ID: product.String(), Hashes: map[string]string{"sha-256": digest}, Subcomponents: within}}}
	for _, r := range repositories {
		s.Products = append(s.Products, Product{ID: "urn:assay:repository:" + r, Subcomponents: within})
	}
	if !a.Until.IsZero() {
		s.Until = a.Until.Format(time.RFC3339)
	}
	switch a.State {
	case "NOT_AFFECTED", "FALSE_POSITIVE":
		s.Status, s.Justification, s.Impact = "not_affected", justifications[a.Justification], a.Details
		if a.State == "FALSE_POSITIVE" && s.Justification == "" && s.Impact == "" {
			s.Impact = "decided to be a false positive in Dependency-Track"
		}
		if s.Justification == "" && s.Impact == "" {
			return nil, "it is said not to be affected, and not why"
		}
	case "EXPLOITABLE":
		s.Status, s.Action = "affected", a.Details
		if s.Action == "" {
			s.Action = "decided to be exploitable in Dependency-Track"
		}
	case "RESOLVED":
		s.Status = "fixed"
	case "IN_TRIAGE":
		s.Status = "under_investigation"
	default:
		return nil, "it is suppressed, and nobody said why: decide it again"
	}
	if a.Suppressed && s.Status != "not_affected" && s.Status != "fixed" {
		return nil, "it is suppressed, and said to be " + s.Status + ": decide it again"
	}
	return s, ""
}
