package client

import (
	"context"
	"net/http"
)

// NodeQuestion asks whether a node may pull an image: POST /api/v1/admission/node.
type NodeQuestion struct {
	Reference string `json:"reference"` // whole, with the digest that is pulled
	Cluster   string `json:"cluster"`
	// Namespace is that as which it is decided what no Pod of the cluster was decided
	// about.
	Namespace   string `json:"namespace"`
	Environment string `json:"environment,omitempty"`
	Node        string `json:"node"` // its name, as it says
}

// JudgeNode asks; out takes the reply.
func (c *Client) JudgeNode(ctx context.Context, q NodeQuestion, out any) error {
	return c.call(ctx, http.MethodPost, "/api/v1/admission/node", nil, q, out)
}
