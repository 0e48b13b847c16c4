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

	State     string    `json:"state,omitempty"`      // pending, active, retiring, retired; "" for keys that are never rotated
	TakesOver time.Time `json:"takes_over,omitzero"`  // of a pending key: when it begins to sign
	Rotates   time.Time `json:"rotates,omitzero"`     // of an active key: when the schedule makes the next one
	Expires   time.Time `json:"expires,omitzero"`     // of its certificate, or of the TUF root
	Reason    string    `json:"reason,omitempty"`     // compromised: why it, or the key before it, had to go
	Waits     string    `json:"waits,omitempty"`      // what keeps its rotation
	PublicKey []byte    `json:"public_key,omitempty"` // SubjectPublicKeyInfo in DER
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
