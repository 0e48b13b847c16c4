package client

import (
	"context"
	"net/http"
	"net/url"
)

// Ask puts a question whose answer is JSON: a path below /api/v1/, with pairs of a
// parameter's name and value; pairs without a value are left out.
func (c *Client) Ask(ctx context.Context, path string, out any, query ...string) error {
	q := url.Values{}
	for i := 0; i+1 < len(query); i += 2 {
		if query[i+1] != "" {
			q.Add(query[i], query[i+1])
		}
	}
	return c.call(ctx, http.MethodGet, "/api/v1/"+path, q, nil, out)
}

// RecordProbe records that a defence was tried, or an exercise held; probe and out
// are readiness.Probe.
func (c *Client) RecordProbe(ctx context.Context, probe, out any) error {
	return c.call(ctx, http.MethodPost, "/api/v1/readiness/probes", nil, probe, out)
}
