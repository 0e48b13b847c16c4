package client

import (
	"context"
	"net/http"
	"net/url"

	"assay/artifact"
)

// Scrubbed is what hashing stored blobs found: POST /api/v1/registry/scrub.
type Scrubbed struct {
	Blobs    int64     `json:"blobs"`
	Bytes    int64     `json:"bytes"`
	Findings []Damaged `json:"findings"`
}

// Damaged is a blob whose stored bytes are not what its digest names.
type Damaged struct {
	Digest artifact.Digest `json:"digest"`
	Found  string          `json:"found"` // the digest of the stored bytes, or absent
}

// Scrub hashes one blob, or ("") all of them.
func (c *Client) Scrub(ctx context.Context, d artifact.Digest) (*Scrubbed, error) {
	q := url.Values{}
	if d != "" {
		q.Set("digest", string(d))
	}
	var out Scrubbed
	return &out, c.call(ctx, http.MethodPost, "/api/v1/registry/scrub", q, nil, &out)
}
