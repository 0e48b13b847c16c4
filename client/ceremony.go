package client

import (
	"context"
	"encoding/json"
	"net/http"
)

// The steps of an offline root's ceremony that concern the server. They are
// served on the admin socket alone.

// OnlineKey gives the public half of the key that signs the site's TUF
// repository; fresh makes a new one, for the next root to name.
func (c *Client) OnlineKey(ctx context.Context, fresh bool) (*OnlineKey, error) {
	method := http.MethodGet
	if fresh {
		method = http.MethodPost
	}
	var k OnlineKey
	return &k, c.call(ctx, method, "/v1/trust/online-key", nil, nil, &k)
}

// NewestTUFRoot gives the root that is in force.
func (c *Client) NewestTUFRoot(ctx context.Context) ([]byte, error) {
	var b []byte
	return b, c.call(ctx, http.MethodGet, "/v1/trust/root", nil, nil, &b)
}

// ImportTUFRoot publishes a root that was signed offline; the answer is
// tuf.RootStatus.
func (c *Client) ImportTUFRoot(ctx context.Context, root []byte) (json.RawMessage, error) {
	var out json.RawMessage
	return out, c.call(ctx, http.MethodPost, "/v1/trust/root", nil, Document{"application/json", root}, &out)
}

// VKeys gives the keys of the site's log as witnesses know them.
func (c *Client) VKeys(ctx context.Context) ([]VKey, error) {
	var out []VKey
	return out, c.call(ctx, http.MethodGet, "/v1/log/vkeys", nil, nil, &out)
}
