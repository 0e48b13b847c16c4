package client

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"assay/artifact"
)

// Contract is what evidence is owed of what is pushed: GET /api/v1/contracts.
type Contract struct {
	Name          string             `json:"name"`
	Version       int                `json:"version"`
	Hash          string             `json:"hash"` // of the whole document
	Repositories  []string           `json:"repositories"`
	Workflows     []string           `json:"workflows,omitempty"`
	WithinSeconds int                `json:"within_seconds"`
	Evidence      []ContractEvidence `json:"evidence"`
}

// ContractEvidence is one piece that is owed.
type ContractEvidence struct {
	Name          string `json:"name"`
	PredicateType string `json:"predicate_type"` // "signature" for a signature over the artifact itself
}

// ContractStatus is what there is of what an artifact owes.
type ContractStatus struct {
	Digest     artifact.Digest `json:"digest"`
	Repository string          `json:"repository"`
	Contract   string          `json:"contract"`
	Version    int             `json:"version"`
	Build      string          `json:"build,omitempty"`
	State      string          `json:"state,omitempty"` // pending, complete or missing; absent when its push was not seen
	Pushed     *time.Time      `json:"pushed,omitempty"`
	Due        *time.Time      `json:"due,omitempty"` // when all must be there
	Complete   bool            `json:"complete"`
	Items      []ContractItem  `json:"items"`
}

// ContractItem is one piece that is owed, and what there is of it.
type ContractItem struct {
	Name          string   `json:"name"`
	PredicateType string   `json:"predicate_type"`
	Present       bool     `json:"present"`
	Late          bool     `json:"late,omitempty"`
	Attestations  []string `json:"attestations,omitempty"`
	Reason        string   `json:"reason,omitempty"` // why it does not count
}

// EvidenceCoverage is how much of what is owed is there, of one repository and
// type: GET /api/v1/coverage.
type EvidenceCoverage struct {
	Repository    string `json:"repository"`
	PredicateType string `json:"predicate_type"`
	Expected      int    `json:"expected"`
	Present       int    `json:"present"` // in time
	Late          int    `json:"late"`
	Missing       int    `json:"missing"`
	Pending       int    `json:"pending"` // its time is not over
}

// BuildStart tells of the start of a build.
type BuildStart struct {
	Repository string `json:"repository"`         // that its product will be pushed to
	Workflow   string `json:"workflow,omitempty"` // as the token names it; only the data folder's owner may say another
}

// BuildFinish tells of a build's end.
type BuildFinish struct {
	Outcome    string         `json:"outcome"` // passed or failed
	Invocation string         `json:"invocation,omitempty"`
	Products   []BuildProduct `json:"products,omitempty"`
}

// BuildProduct is what a build made.
type BuildProduct struct {
	Name   string          `json:"name,omitempty"`
	Digest artifact.Digest `json:"digest"`
}

// Build is a build that was told of.
type Build struct {
	ID         string             `json:"id"`
	Repository string             `json:"repository"`
	Workflow   string             `json:"workflow,omitempty"`
	Contract   string             `json:"contract,omitempty"`
	Version    int                `json:"version,omitempty"`
	Actor      string             `json:"actor"`
	Invocation string             `json:"invocation,omitempty"`
	Started    time.Time          `json:"started"`
	Finished   *time.Time         `json:"finished,omitempty"`
	Outcome    string             `json:"outcome,omitempty"`
	Expects    []ContractEvidence `json:"expects,omitempty"` // in the answer to its start
}

// Contracts lists the contracts.
func (c *Client) Contracts(ctx context.Context) ([]Contract, error) {
	var out List[Contract]
	err := c.call(ctx, http.MethodGet, "/api/v1/contracts", nil, nil, &out)
	return out.Items, err
}

// CheckContract says what there is of what an artifact owes.
func (c *Client) CheckContract(ctx context.Context, d artifact.Digest, repository string) (*ContractStatus, error) {
	var out ContractStatus
	err := c.call(ctx, http.MethodGet, "/api/v1/contracts/check", url.Values{"digest": {string(d)}, "repository": {repository}}, nil, &out)
	return &out, err
}

// EvidenceCoverage counts owed evidence; a zero since is 30 days ago.
func (c *Client) EvidenceCoverage(ctx context.Context, repository string, since time.Time) ([]EvidenceCoverage, error) {
	q := url.Values{}
	if repository != "" {
		q.Set("repository", repository)
	}
	if !since.IsZero() {
		q.Set("since", since.UTC().Format(time.RFC3339))
	}
	var out List[EvidenceCoverage]
	err := c.call(ctx, http.MethodGet, "/api/v1/coverage", q, nil, &out)
	return out.Items, err
}

// StartBuild tells of the start of a build.
func (c *Client) StartBuild(ctx context.Context, b BuildStart) (*Build, error) {
	var out Build
	err := c.call(ctx, http.MethodPost, "/api/v1/builds", nil, b, &out)
	return &out, err
}

// FinishBuild tells of its end.
func (c *Client) FinishBuild(ctx context.Context, id string, b BuildFinish) (*Build, error) {
	var out Build
	err := c.call(ctx, http.MethodPost, "/api/v1/builds/"+url.PathEscape(id)+"/finish", nil, b, &out)
	return &out, err
}
