package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"assay/artifact"
)

// Feed is an advisory feed: GET /api/v1/feeds.
type Feed struct {
	Name      string     `json:"name"`
	Ecosystem string     `json:"ecosystem"`
	Operation int64      `json:"operation"` // in force; 0: none was ever
	Records   int64      `json:"records"`
	Checked   *time.Time `json:"checked,omitempty"` // last looked at with success
	Changed   *time.Time `json:"changed,omitempty"` // since when the operation is in force
	Archive   string     `json:"archive,omitempty"` // digest of its bytes
	Problem   string     `json:"problem,omitempty"` // why the last attempt failed
	Blocked   string     `json:"blocked,omitempty"` // why what is in force is not believed
	Stale     bool       `json:"stale,omitempty"`   // not looked at with success for too long, or not believed
}

// FeedOperation is one import: POST /api/v1/feeds, GET /api/v1/feeds/operations.
type FeedOperation struct {
	ID        int64      `json:"id"`
	Name      string     `json:"name"`
	Ecosystem string     `json:"ecosystem"`
	State     string     `json:"state"` // reading, in_force, refused, superseded, blocked
	Started   *time.Time `json:"started,omitempty"`
	Finished  *time.Time `json:"finished,omitempty"`
	Added     int64      `json:"added"`
	Changed   int64      `json:"changed"` // withdrawn ones among them
	Withdrawn int64      `json:"withdrawn"`
	Removed   int64      `json:"removed"`
	Unchanged int64      `json:"unchanged,omitempty"`
	Skipped   []string   `json:"skipped,omitempty"` // records that could not be read
	Archive   string     `json:"archive,omitempty"`
	Problem   string     `json:"problem,omitempty"`
	Reason    string     `json:"reason,omitempty"` // why it was taken all the same
}

// Findings is what advisories say about an artifact: GET /api/v1/findings.
type Findings struct {
	Subject  artifact.Digest `json:"subject,omitempty"`
	Items    []Finding       `json:"items"`
	Coverage FindingCoverage `json:"coverage"`
}

// FindingCoverage is what is not known about an artifact: none of it counts as
// clean.
type FindingCoverage struct {
	SBOM           bool     `json:"sbom"`    // there is one in force
	Scanned        bool     `json:"scanned"` // all of them are looked up
	Components     int      `json:"components"`
	Unmatched      int      `json:"unmatched"`            // of a kind that no feed knows
	ReleaseMissing int      `json:"release_missing"`      // of a distribution whose release is not known
	Unnamed        []string `json:"unnamed,omitempty"`    // some of those two, at most twenty
	Incomplete     []string `json:"incomplete,omitempty"` // what the bills of materials do not hold, by their own word
	FeedsMissing   []string `json:"feeds_missing,omitempty"`
	FeedsStale     []string `json:"feeds_stale,omitempty"`
	KEV            bool     `json:"kev"`  // the catalog of known exploited vulnerabilities is in force, and fresh
	EPSS           bool     `json:"epss"` // the exploit prediction scores are
}

// Complete says that nothing is left to know.
func (c FindingCoverage) Complete() bool {
	return c.SBOM && c.Scanned && c.Unmatched+c.ReleaseMissing+len(c.Incomplete) == 0 && len(c.FeedsMissing)+len(c.FeedsStale) == 0
}

// Finding is one flaw in one component.
type Finding struct {
	Name      string          `json:"name"` // CVE where there is one
	Component string          `json:"component"`
	Version   string          `json:"version,omitempty"`
	Status    string          `json:"status"` // affected, unknown, or by a statement: not_affected, fixed, under_investigation
	Reason    string          `json:"reason,omitempty"`
	Severity  string          `json:"severity"` // critical, high, medium, low, none, unknown
	Score     float64         `json:"score,omitempty"`
	Fixed     string          `json:"fixed,omitempty"`
	Direct    string          `json:"dependency"` // direct, transitive, unknown
	Via       string          `json:"via,omitempty"`
	Path      []string        `json:"path,omitempty"` // from what the root needs itself to the component
	FirstSeen time.Time       `json:"first_seen"`
	Exposed   int             `json:"exposure_days"` // whole days since then
	Summary   string          `json:"summary,omitempty"`
	Malicious bool            `json:"malicious,omitempty"`
	KEV       string          `json:"kev,omitempty"`  // since when it is known to be exploited (CISA)
	EPSS      float64         `json:"epss,omitempty"` // probability of exploitation within 30 days; absent: no score
	Records   []FindingRecord `json:"records"`
	// Reachability is what govulncheck says of a Go module's flaw, where it was
	// asked: called, imported (not called) or required (not imported).
	Reachability string   `json:"reachability,omitempty"`
	Trace        []string `json:"trace,omitempty"` // from the program's own code to the symbol
	// Statement is what the site states about it.
	Statement *FindingStatement `json:"statement,omitempty"`
}

// Settled says that a statement takes the finding away.
func (f *Finding) Settled() bool { return f.Status == "not_affected" || f.Status == "fixed" }

// FindingStatement is whose word it is that a finding is otherwise than advisories
// say, and why.
type FindingStatement struct {
	ID            string    `json:"id"` // vex_...
	Author        string    `json:"author"`
	Status        string    `json:"status"`
	Justification string    `json:"justification,omitempty"`
	Impact        string    `json:"impact,omitempty"`
	Until         time.Time `json:"until,omitzero"`
}

// ScanRequest asks what advisories say about components that are not stored:
// POST /api/v1/scan.
type ScanRequest struct {
	Components []ScanComponent `json:"components"`
	Incomplete []string        `json:"incomplete,omitempty"`
	Repository string          `json:"repository,omitempty"` // where it is to lie, for statements about repositories
}

// ScanComponent is one of a bill of materials.
type ScanComponent struct {
	PURL          string `json:"purl,omitempty"`
	Name          string `json:"name,omitempty"`
	Version       string `json:"version,omitempty"`
	SourceName    string `json:"source_name,omitempty"`
	SourceVersion string `json:"source_version,omitempty"`
	Direct        string `json:"dependency,omitempty"`
	Via           string `json:"via,omitempty"`
}

// FindingRecord is a feed's record by which a finding was made.
type FindingRecord struct {
	Feed string `json:"feed"`
	ID   string `json:"id"`
}

// AffectedSubject is one that an advisory affects: GET /api/v1/vulnerabilities/{id}/artifacts.
type AffectedSubject struct {
	Subject   artifact.Digest `json:"subject"`
	Component string          `json:"component"`
	Status    string          `json:"status"`
	Fixed     string          `json:"fixed,omitempty"`
	Direct    string          `json:"dependency"`
	Record    string          `json:"record"`
	Name      string          `json:"name,omitempty"` // of the artifact, by its bill of materials' word
}

// ExploitList is a list of exploited flaws: GET, POST /api/v1/exploits.
type ExploitList struct {
	Name    string    `json:"name"`  // kev, epss
	Dated   string    `json:"dated"` // by its own word
	Records int       `json:"records"`
	Digest  string    `json:"digest"`
	Checked time.Time `json:"checked"`
	Stale   bool      `json:"stale,omitempty"`
	Same    bool      `json:"same,omitempty"` // of an import: it was in force already
}

// Exploits lists the lists of exploited flaws.
func (c *Client) Exploits(ctx context.Context) (*List[ExploitList], error) {
	var out List[ExploitList]
	return &out, c.call(ctx, http.MethodGet, "/api/v1/exploits", nil, nil, &out)
}

// ImportExploits takes in CISA's catalog or EPSS's scores; downgrade is why one is
// taken that goes back.
func (c *Client) ImportExploits(ctx context.Context, downgrade string, list io.Reader) (*ExploitList, error) {
	q := url.Values{}
	if downgrade != "" {
		q.Set("downgrade", downgrade)
	}
	var out ExploitList
	return &out, c.upload(ctx, "/api/v1/exploits", q, list, "application/octet-stream", &out)
}

// Feeds lists the feeds.
func (c *Client) Feeds(ctx context.Context) (*List[Feed], error) {
	var out List[Feed]
	return &out, c.call(ctx, http.MethodGet, "/api/v1/feeds", nil, nil, &out)
}

// FeedOperations lists the imports of a feed, newest first.
func (c *Client) FeedOperations(ctx context.Context, name, ecosystem string) (*List[FeedOperation], error) {
	var out List[FeedOperation]
	return &out, c.call(ctx, http.MethodGet, "/api/v1/feeds/operations", url.Values{"name": {name}, "ecosystem": {ecosystem}}, nil, &out)
}

// ImportFeed streams a zip of OSV records; downgrade is why one is taken that goes
// back.
func (c *Client) ImportFeed(ctx context.Context, name, ecosystem string, downgrade string, zip io.Reader) (*FeedOperation, error) {
	q := url.Values{"name": {name}, "ecosystem": {ecosystem}}
	if downgrade != "" {
		q.Set("downgrade", downgrade)
	}
	var out FeedOperation
	return &out, c.upload(ctx, "/api/v1/feeds", q, zip, "application/zip", &out)
}

// Findings says what advisories say about an artifact.
func (c *Client) Findings(ctx context.Context, subject artifact.Digest, repository string) (*Findings, error) {
	q := url.Values{"digest": {string(subject)}}
	if repository != "" {
		q.Set("repository", repository)
	}
	var out Findings
	return &out, c.call(ctx, http.MethodGet, "/api/v1/findings", q, nil, &out)
}

// Scan says what advisories say about components that are not stored.
func (c *Client) Scan(ctx context.Context, q ScanRequest) (*Findings, error) {
	var out Findings
	return &out, c.call(ctx, http.MethodPost, "/api/v1/scan", nil, q, &out)
}

// Affected lists the artifacts that hold what an advisory affects, by any of its
// names.
func (c *Client) Affected(ctx context.Context, id string, limit int) (*List[AffectedSubject], error) {
	var out List[AffectedSubject]
	return &out, c.call(ctx, http.MethodGet, "/api/v1/vulnerabilities/"+url.PathEscape(id)+"/artifacts", url.Values{"limit": {strconv.Itoa(limit)}}, nil, &out)
}
