package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// Answer is what somebody says to a request for an exception, or of one that they
// end: POST /api/v1/exceptions/{id}/approve, …/reject and …/withdraw.
type Answer struct {
	Reason string `json:"reason,omitempty"`
}

// Exceptions lists what may run although checks fail; out takes a
// List[exception.Entry].
func (c *Client) Exceptions(ctx context.Context, digest string, ended bool, after string, limit int, out any) error {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	if digest != "" {
		q.Set("digest", digest)
	}
	if ended {
		q.Set("ended", "true")
	}
	if after != "" {
		q.Set("after", after)
	}
	return c.call(ctx, http.MethodGet, "/api/v1/exceptions", q, nil, out)
}

// Exception is one of them; out takes an exception.Entry.
func (c *Client) Exception(ctx context.Context, id string, out any) error {
	return c.call(ctx, http.MethodGet, "/api/v1/exceptions/"+url.PathEscape(id), nil, nil, out)
}

// ExceptionBundle is what the site signed for one.
func (c *Client) ExceptionBundle(ctx context.Context, id string) ([]byte, error) {
	var b []byte
	return b, c.call(ctx, http.MethodGet, "/api/v1/exceptions/"+url.PathEscape(id)+"/bundle", nil, nil, &b)
}

// RequestException asks for one; terms is an exception.Terms, out takes an
// exception.Entry.
func (c *Client) RequestException(ctx context.Context, repository string, terms, out any) error {
	q := url.Values{}
	if repository != "" {
		q.Set("repository", repository)
	}
	return c.call(ctx, http.MethodPost, "/api/v1/exceptions", q, terms, out)
}

// AnswerException approves, rejects or withdraws one, by the verb; out takes an
// exception.Entry.
func (c *Client) AnswerException(ctx context.Context, id, verb, reason string, out any) error {
	return c.call(ctx, http.MethodPost, "/api/v1/exceptions/"+url.PathEscape(id)+"/"+verb, nil, Answer{reason}, out)
}
