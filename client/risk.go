package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"assay/artifact"
)

// RiskList ranks artifacts: GET /api/v1/risk. Its risk, count and findings are
// those of all, also where fewer are listed.
type RiskList struct {
	Service    string         `json:"service,omitempty"`
	Risk       float64        `json:"risk"`
	Count      int            `json:"artifacts"`
	Findings   int            `json:"findings"`
	Production int            `json:"production"` // artifacts with a finding that run in production
	Items      []ArtifactRisk `json:"items"`
	Upgrades   []Upgrade      `json:"upgrades,omitempty"` // that take most of it away
	AsOf       time.Time      `json:"as_of"`              // a large site makes the list at most once a minute
}

// ArtifactRisk is the sum of what its findings count for.
type ArtifactRisk struct {
	Digest     artifact.Digest `json:"digest"`
	Risk       float64         `json:"risk"`
	Worst      float64         `json:"worst"` // of its findings
	Findings   int             `json:"findings"`
	Services   []string        `json:"services,omitempty"` // the most critical first
	Team       string          `json:"team,omitempty"`
	Unowned    bool            `json:"unowned,omitempty"`
	Tier       int             `json:"tier"`
	Classified bool            `json:"classified"`
	Exposure   string          `json:"exposure"`
	Running    bool            `json:"running"`
	Production bool            `json:"production"`
	Parts      []RiskPart      `json:"parts"` // that all its findings share
	// Coverage is what is not known of it: its risk may be greater.
	Coverage FindingCoverage `json:"coverage"`
}

// RiskPart is one factor of a score, from 0 to 1, and why it is that.
type RiskPart struct {
	Name   string  `json:"name"`
	Factor float64 `json:"factor"`
	Why    string  `json:"why"`
}

// RiskDetail is an artifact's risk finding by finding: GET /api/v1/risk/artifact.
type RiskDetail struct {
	Artifact ArtifactRisk  `json:"artifact"`
	Items    []FindingRisk `json:"items"`
}

// FindingRisk is a finding with its score.
type FindingRisk struct {
	Name      string     `json:"name"`
	Component string     `json:"component"`
	Status    string     `json:"status"`
	Severity  string     `json:"severity"`
	Fixed     string     `json:"fixed,omitempty"`
	Direct    string     `json:"dependency"`
	Risk      float64    `json:"risk"` // 0 to 100: 100 times the product of the parts
	Parts     []RiskPart `json:"parts"`
}

// Upgrade is another version of a component, with what it takes away.
type Upgrade struct {
	Component string   `json:"component"` // what is there
	From      string   `json:"from"`
	To        string   `json:"to"` // the smallest version that mends what can be mended
	Risk      float64  `json:"risk"`
	Flaws     []string `json:"flaws"`          // that it mends, the worst first
	Left      []string `json:"left,omitempty"` // that it does not mend
	Artifacts int      `json:"artifacts"`
	Direct    int      `json:"direct"` // artifacts that need it themselves
	Services  []string `json:"services,omitempty"`
}

// ServiceRisk is what a service's artifacts add up to: GET /api/v1/risk/services.
type ServiceRisk struct {
	Service   string  `json:"service"` // "" for what belongs to none
	Risk      float64 `json:"risk"`
	Artifacts int     `json:"artifacts"`
	Findings  int     `json:"findings"`
}

func riskQuery(service string, digest artifact.Digest, limit int) url.Values {
	q := url.Values{}
	for k, v := range map[string]string{"service": service, "digest": string(digest)} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return q
}

// Risk ranks artifacts, of a service where one is named.
func (c *Client) Risk(ctx context.Context, service string, limit int) (*RiskList, error) {
	var out RiskList
	return &out, c.call(ctx, http.MethodGet, "/api/v1/risk", riskQuery(service, "", limit), nil, &out)
}

// RiskOfArtifact explains the risk of one artifact.
func (c *Client) RiskOfArtifact(ctx context.Context, digest artifact.Digest, repository string) (*RiskDetail, error) {
	q := riskQuery("", digest, 0)
	if repository != "" {
		q.Set("repository", repository)
	}
	var out RiskDetail
	return &out, c.call(ctx, http.MethodGet, "/api/v1/risk/artifact", q, nil, &out)
}

// RiskOfServices adds up the risk of each service.
func (c *Client) RiskOfServices(ctx context.Context) (*List[ServiceRisk], error) {
	var out List[ServiceRisk]
	return &out, c.call(ctx, http.MethodGet, "/api/v1/risk/services", nil, nil, &out)
}

// FixFirst ranks upgrades by what they take away.
func (c *Client) FixFirst(ctx context.Context, service string, digest artifact.Digest, limit int) (*List[Upgrade], error) {
	var out List[Upgrade]
	return &out, c.call(ctx, http.MethodGet, "/api/v1/risk/upgrades", riskQuery(service, digest, limit), nil, &out)
}
