package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
)

// Heads gives heads of the audit chain after a batch, at most a thousand, as
// event.Head has them.
func (c *Client) Heads(ctx context.Context, after int64) ([]json.RawMessage, error) {
	var l List[json.RawMessage]
	q := url.Values{"after": {strconv.FormatInt(after, 10)}, "limit": {"1000"}}
	return l.Items, c.call(ctx, http.MethodGet, "/api/v1/heads", q, nil, &l)
}
