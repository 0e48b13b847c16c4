package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"assay/artifact"
)

// PromoteRequest makes a manifest active by hand: POST /api/v1/registry/promote.
type PromoteRequest struct {
	Repository string          `json:"repository"`
	Digest     artifact.Digest `json:"digest"`
	Reason     string          `json:"reason"`            // 3 to 1,000 bytes, on record
	Seconds    int64           `json:"seconds,omitempty"` // how long it holds: 60 to 90 days; default 7 days
}

// BlockRequest quarantines, releases or revokes a digest in all repositories:
// POST /api/v1/registry/quarantine, release, revoke.
type BlockRequest struct {
	Digest artifact.Digest `json:"digest"`
	Reason string          `json:"reason"` // 3 to 1,000 bytes, on record
}

// Pulls is who pulled what; More says that the list was cut.
type Pulls[T any] struct {
	Items []T  `json:"items"`
	More  bool `json:"more"`
}

// RegistryStatus asks what a manifest is; out takes a gate.ManifestStatus, as the API
// describes it.
func (c *Client) RegistryStatus(ctx context.Context, repository, reference string, out any) error {
	return c.call(ctx, http.MethodGet, "/api/v1/registry/status", url.Values{"repository": {repository}, "reference": {reference}}, nil, out)
}

// RegistryHistory asks for the moves of a tag; out takes a
// List[gate.TagMove].
func (c *Client) RegistryHistory(ctx context.Context, repository, tag, after string, limit int, proofs bool, out any) error {
	q := url.Values{"repository": {repository}, "tag": {tag}, "limit": {strconv.Itoa(limit)}}
	if after != "" {
		q.Set("after", after)
	}
	if proofs {
		q.Set("proofs", "true")
	}
	return c.call(ctx, http.MethodGet, "/api/v1/registry/history", q, nil, out)
}

// RegistryPromote makes a manifest active by hand; out takes its gate.ManifestStatus.
func (c *Client) RegistryPromote(ctx context.Context, r PromoteRequest, out any) error {
	return c.call(ctx, http.MethodPost, "/api/v1/registry/promote", nil, r, out)
}

// RegistryBlock does quarantine, release or revoke; out takes a gate.Blocking.
func (c *Client) RegistryBlock(ctx context.Context, verb string, r BlockRequest, out any) error {
	return c.call(ctx, http.MethodPost, "/api/v1/registry/"+url.PathEscape(verb), nil, r, out)
}

// RegistryBlocks lists what is quarantined or revoked; out takes a
// List[gate.Block].
func (c *Client) RegistryBlocks(ctx context.Context, after string, out any) error {
	q := url.Values{}
	if after != "" {
		q.Set("after", after)
	}
	return c.call(ctx, http.MethodGet, "/api/v1/registry/blocks", q, nil, out)
}

// RegistryPulls lists who pulled a digest; out takes a Pulls[gate.Pull].
func (c *Client) RegistryPulls(ctx context.Context, d artifact.Digest, out any) error {
	return c.call(ctx, http.MethodGet, "/api/v1/registry/pulls", url.Values{"digest": {string(d)}}, nil, out)
}
