package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// RotateKeyRequest asks for the key that follows the present one of a role:
// POST /api/v1/keys/{role}/rotate.
type RotateKeyRequest struct {
	// Now does not wait until every client could have learnt of the new key.
	Now bool `json:"now,omitempty"`
	// Reason is "" or "compromised": the present key's window then ends at Since,
	// and there is no waiting.
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since,omitzero"` // zero: now
	// Place is where the new key is made, the URI of a KMS key or of a key of a
	// PKCS #11 token; "": where the configuration says.
	Place string `json:"place,omitempty"`
}

// RotateKey has the key of a role followed by another, and gives that one.
func (c *Client) RotateKey(ctx context.Context, role string, q RotateKeyRequest) (*Key, error) {
	out := &Key{}
	return out, c.call(ctx, http.MethodPost, "/api/v1/keys/"+url.PathEscape(role)+"/rotate", nil, q, out)
}
