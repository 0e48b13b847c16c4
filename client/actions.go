package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// Actions lists what the site would do by itself and waits with; out takes a
// List[action.Entry].
func (c *Client) Actions(ctx context.Context, all bool, after string, limit int, out any) error {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	if all {
		q.Set("all", "true")
	}
	if after != "" {
		q.Set("after", after)
	}
	return c.call(ctx, http.MethodGet, "/api/v1/actions", q, nil, out)
}

// Action is one of them; out takes an action.Entry.
func (c *Client) Action(ctx context.Context, id string, out any) error {
	return c.call(ctx, http.MethodGet, "/api/v1/actions/"+url.PathEscape(id), nil, nil, out)
}

// AnswerAction approves or refuses one, by the verb; out takes an action.Entry.
func (c *Client) AnswerAction(ctx context.Context, id, verb, reason string, out any) error {
	return c.call(ctx, http.MethodPost, "/api/v1/actions/"+url.PathEscape(id)+"/"+verb, nil, Answer{reason}, out)
}
