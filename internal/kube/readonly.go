package kube

import (
	"net/http"

	"assay/internal/fault"
)

// ReadOnly is the same client, which sends nothing but GET, whatever it is asked
// for: what only looks cannot change anything by a mistake.
func (c *Client) ReadOnly() *Client {
	h := *c.http
	next := h.Transport
	if next == nil {
		next = http.DefaultTransport
	}
	h.Transport = readOnly{next}
	return &Client{base: c.base, http: &h, token: c.token}
}

type readOnly struct{ next http.RoundTripper }

func (r readOnly) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodGet {
		return nil, fault.Newf(fault.Internal, "%s to the API server: this client only reads", req.Method)
	}
	return r.next.RoundTrip(req)
}
