package client

import (
	"context"
	"net/http"
	"time"
)

// Key is one of a site's own keys, without its private half.
type Key struct {
	Name        string    `json:"name"`
	Role        string    `json:"role"`        // what it signs: ca, tsa, oidc, log, ct, audit, …
	Algorithm   string    `json:"algorithm"`   // "ECDSA P-256", "RSA 2048"
	Fingerprint string    `json:"fingerprint"` // "sha256:" and hex, over its SubjectPublicKeyInfo
	Where       string    `json:"where"`       // "file", "file, sealed", "offline", "retired", or a URI
	Created     time.Time `json:"created"`
	Age         int64     `json:"age_seconds"`
	Window      KeyWindow `json:"window,omitzero"`
}

// KeyWindow is the time in which what a key signs counts; a zero End is open.
type KeyWindow struct {
	Start time.Time `json:"start,omitzero"`
	End   time.Time `json:"end,omitzero"`
}

// Keys lists the site's own keys.
func (c *Client) Keys(ctx context.Context) (*List[Key], error) {
	out := &List[Key]{}
	return out, c.call(ctx, http.MethodGet, "/api/v1/keys", nil, nil, out)
}
