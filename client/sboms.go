package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"assay/artifact"
)

// SBOM is one stored bill of materials: GET /api/v1/sboms.
type SBOM struct {
	ID          int64           `json:"id"`
	Attestation string          `json:"attestation"` // evidence that holds it
	Subject     artifact.Digest `json:"subject"`
	Issuer      string          `json:"issuer,omitempty"`   // of the signer
	Identity    string          `json:"identity,omitempty"` // the signer
	Format      string          `json:"format,omitempty"`
	SpecVersion string          `json:"spec_version,omitempty"`
	Document    string          `json:"document,omitempty"` // its own name
	Name        string          `json:"name,omitempty"`
	Created     *time.Time      `json:"created,omitempty"` // as it claims
	IngestedAt  time.Time       `json:"ingested_at"`
	Packages    int             `json:"packages"`
	Quality     SBOMQuality     `json:"quality"`
	Problem     string          `json:"problem,omitempty"` // why it counts as absent
}

// SBOMQuality says how far a document can be relied on, and why.
type SBOMQuality struct {
	Score      int               `json:"score"` // 0 to 100
	Parts      []SBOMQualityPart `json:"parts,omitempty"`
	Incomplete []string          `json:"incomplete,omitempty"` // never counts as clean
}

// SBOMQualityPart is one thing that a score is made of.
type SBOMQualityPart struct {
	Name   string `json:"name"`
	Weight int    `json:"weight"`
	Have   int    `json:"have"`
	Of     int    `json:"of"`
	Reason string `json:"reason,omitempty"`
}

// ComponentQuery is what is looked for in stored bills of materials; all that is
// given must hold, and something must be.
type ComponentQuery struct {
	PURL     string
	Name     string // whole, or with "*" at its end
	Version  string
	License  string // of the document or of an overlay
	Owner    string // as an overlay names it
	Supplier string
	Digest   string
	Subject  string // only in what this artifact holds
	After    string
	Limit    int
}

// Component is a component in an artifact: GET /api/v1/components.
type Component struct {
	Component   string          `json:"component"` // canonical package URL, or name:TYPE:NAME@VERSION
	Name        string          `json:"name"`
	Version     string          `json:"version,omitempty"`
	License     string          `json:"license,omitempty"`
	Dependency  string          `json:"dependency"` // direct, transitive or unknown
	Subject     artifact.Digest `json:"subject"`
	Attestation string          `json:"attestation"`
	Added       []ComponentFact `json:"added,omitempty"` // by overlays about the artifact
}

// ComponentFact is what an overlay says of a component: GET /api/v1/components/added.
type ComponentFact struct {
	Component   string `json:"component"`
	Field       string `json:"field"` // owner, supplier, license, endOfLife or published
	Value       string `json:"value"`
	Source      string `json:"source"`             // where the signer has it from
	Signer      string `json:"signer"`             // identity, or fingerprint of the key
	Attestation string `json:"attestation"`        // the overlay
	Disputed    bool   `json:"disputed,omitempty"` // another overlay says something else
}

// Added is what overlays add to an artifact's components, by these signers or,
// where none is given, by all.
func (c *Client) Added(ctx context.Context, subject artifact.Digest, signers []string, after string) (*List[ComponentFact], error) {
	v := url.Values{"digest": {string(subject)}, "limit": {"1000"}}
	if len(signers) > 0 {
		v["signer"] = signers
	}
	if after != "" {
		v.Set("after", after)
	}
	var out List[ComponentFact]
	err := c.call(ctx, http.MethodGet, "/api/v1/components/added", v, nil, &out)
	return &out, err
}

// SBOMs lists the bills of materials about an artifact, the newest first.
func (c *Client) SBOMs(ctx context.Context, subject artifact.Digest) ([]SBOM, error) {
	var out List[SBOM]
	err := c.call(ctx, http.MethodGet, "/api/v1/sboms", url.Values{"digest": {string(subject)}}, nil, &out)
	return out.Items, err
}

// Components finds components.
func (c *Client) Components(ctx context.Context, q ComponentQuery) (*List[Component], error) {
	v := url.Values{}
	for name, value := range map[string]string{
		"purl": q.PURL, "name": q.Name, "version": q.Version, "license": q.License, "owner": q.Owner, "supplier": q.Supplier, "component_digest": q.Digest, "digest": q.Subject, "after": q.After,
	} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	var out List[Component]
	err := c.call(ctx, http.MethodGet, "/api/v1/components", v, nil, &out)
	return &out, err
}
