package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Delivery is an event on its way to a webhook: GET /api/v1/webhooks/deliveries.
// One that was taken is no longer listed.
type Delivery struct {
	ID        string    `json:"id"` // idempotency key: the same at every attempt
	Hook      string    `json:"hook"`
	Event     string    `json:"event"`
	Kind      string    `json:"kind"`
	CreatedAt time.Time `json:"created_at"`
	DueAt     time.Time `json:"due_at"` // of the next attempt
	Attempts  int       `json:"attempts"`
	GivenUp   bool      `json:"given_up"`
	Problem   string    `json:"problem,omitempty"` // of the last attempt
}

// Redelivered is how many deliveries are sent again.
type Redelivered struct {
	Count int64 `json:"count"`
}

// Deliveries lists what webhooks have not taken; "" is any hook.
func (c *Client) Deliveries(ctx context.Context, hook string) ([]Delivery, error) {
	var out List[Delivery]
	err := c.call(ctx, http.MethodGet, "/api/v1/webhooks/deliveries", url.Values{"hook": {hook}}, nil, &out)
	return out.Items, err
}

// Redeliver sends what was given up again; "" is for every hook.
func (c *Client) Redeliver(ctx context.Context, hook string) (*Redelivered, error) {
	var out Redelivered
	err := c.call(ctx, http.MethodPost, "/api/v1/webhooks/redeliver", url.Values{"hook": {hook}}, nil, &out)
	return &out, err
}
