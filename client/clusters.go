package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// GuardReport is what guards a cluster, as it was seen there: POST
// /api/v1/inventory/guards.
type GuardReport struct {
	Cluster string         `json:"cluster"`
	Guards  []ClusterGuard `json:"guards"`
}

// ClusterGuard is a webhook configuration or policy of "assay admission manifests".
type ClusterGuard struct {
	Kind        string `json:"kind"` // resource
	Name        string `json:"name"`
	Fingerprint string `json:"fingerprint"` // hex SHA-256 over what it says
}

// RunningImage is an image of one namespace, and whether it may run: GET
// /api/v1/inventory/running.
type RunningImage struct {
	Cluster   string `json:"cluster"`
	Namespace string `json:"namespace,omitempty"`
	Image     string `json:"image"`
	Digest    string `json:"digest,omitempty"`
	State     string `json:"state"`           // allowed, denied, drifted or unknown
	Cause     string `json:"cause,omitempty"` // digest, undecided, revoked or denied
	Reason    string `json:"reason,omitempty"`
	Decision  string `json:"decision,omitempty"`
	Since     string `json:"since"` // RFC 3339
}

// RunningTally counts the images that run in a cluster by whether they may: GET
// /api/v1/inventory/running/summary.
type RunningTally struct {
	Cluster string `json:"cluster"`
	Allowed int    `json:"allowed"`
	Denied  int    `json:"denied"`
	Drifted int    `json:"drifted"`
	Unknown int    `json:"unknown"`
}

// RunningSummary counts what runs, by cluster.
func (c *Client) RunningSummary(ctx context.Context) (*List[RunningTally], error) {
	var out List[RunningTally]
	return &out, c.call(ctx, http.MethodGet, "/api/v1/inventory/running/summary", nil, nil, &out)
}

// ReportGuards says what guards a cluster.
func (c *Client) ReportGuards(ctx context.Context, r GuardReport) error {
	return c.call(ctx, http.MethodPost, "/api/v1/inventory/guards", nil, r, nil)
}

// RunningImages lists the images that run in a cluster ("": in all) and are in a
// state ("": in any), a page of them: after is the cursor of the page before, and
// limit 0 the most, 10,000.
func (c *Client) RunningImages(ctx context.Context, cluster, state, after string, limit int) (*List[RunningImage], error) {
	q := url.Values{}
	if after != "" {
		q.Set("after", after)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	if cluster != "" {
		q.Set("cluster", cluster)
	}
	if state != "" {
		q.Set("state", state)
	}
	var out List[RunningImage]
	return &out, c.call(ctx, http.MethodGet, "/api/v1/inventory/running", q, nil, &out)
}
