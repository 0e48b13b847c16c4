package client

import (
	"context"
	"net/http"
)

// RetentionPlan asks what the rules would delete; out takes a retention.Outcome.
func (c *Client) RetentionPlan(ctx context.Context, out any) error {
	return c.call(ctx, http.MethodGet, "/api/v1/retention", nil, nil, out)
}

// RetentionRun carries the rules out; out takes a retention.Outcome.
func (c *Client) RetentionRun(ctx context.Context, out any) error {
	return c.call(ctx, http.MethodPost, "/api/v1/retention", nil, nil, out)
}
