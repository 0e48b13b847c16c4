package client

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"assay/artifact"
)

// HoldRequest puts something on legal hold: POST /api/v1/holds.
type HoldRequest struct {
	Repository string          `json:"repository,omitempty"` // empty: the digest, wherever it lies
	Tag        string          `json:"tag,omitempty"`        // what it names now is held
	Digest     artifact.Digest `json:"digest,omitempty"`     // neither tag nor digest: all of the repository
	Reason     string          `json:"reason"`               // 3 to 1,000 bytes, on record
	Until      *time.Time      `json:"until,omitempty"`      // absent: until it is removed
}

// AddHold puts something on hold; out takes a retention.Hold.
func (c *Client) AddHold(ctx context.Context, q HoldRequest, out any) error {
	return c.call(ctx, http.MethodPost, "/api/v1/holds", nil, q, out)
}

// Holds lists what is on hold; out takes a List[retention.Hold].
func (c *Client) Holds(ctx context.Context, ended bool, out any) error {
	q := url.Values{}
	if ended {
		q.Set("ended", "true")
	}
	return c.call(ctx, http.MethodGet, "/api/v1/holds", q, nil, out)
}

// RemoveHold ends a hold; out takes a retention.Hold.
func (c *Client) RemoveHold(ctx context.Context, id, reason string, out any) error {
	return c.call(ctx, http.MethodDelete, "/api/v1/holds/"+url.PathEscape(id), url.Values{"reason": {reason}}, nil, out)
}
