package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// PolicyModeRequest asks for another mode of a policy in force:
// POST /api/v1/policies/{name}/mode. Before it is carried out, what was decided
// in the last Days is judged again as it would be then.
type PolicyModeRequest struct {
	Rules []string `json:"rules,omitempty"` // names of checks, all below one ("signatures/*"); default all
	// Scope is where, by the lists of a policy's scope: "namespaces": ["prod"]; default
	// wherever the policy holds.
	Scope  map[string][]string `json:"scope,omitempty"`
	Mode   string              `json:"mode"`             // audit, warn or enforce
	Days   int                 `json:"days,omitempty"`   // 1 to 400; default 30
	Accept []string            `json:"accept,omitempty"` // causes of new refusals that are known and wanted, as a replay names them
	Reason string              `json:"reason"`           // 3 to 1,000 bytes, on record
}

// PolicyReplay judges what was recorded in the last days again: by the policies
// in force, with those of the documents added or put in the place of those of
// the same name; alone, by those of the documents and no other. Roll-outs are in
// the stage that they are in at an instant; zero: now. out takes a
// replay.Comparison.
func (c *Client) PolicyReplay(ctx context.Context, documents []byte, days int, alone bool, at time.Time, out any) error {
	q := url.Values{"days": {strconv.Itoa(days)}}
	if alone {
		q.Set("alone", "true")
	}
	if !at.IsZero() {
		q.Set("at", at.UTC().Format(time.RFC3339))
	}
	return c.call(ctx, http.MethodPost, "/api/v1/policies/replay", q, Document{"application/yaml", documents}, out)
}

// PolicyMode changes what a denial by a policy does, if nothing is refused by it
// that was not accepted. out takes a replay.Comparison, also where the answer is a
// refusal.
func (c *Client) PolicyMode(ctx context.Context, name string, r PolicyModeRequest, out any) error {
	return c.call(ctx, http.MethodPost, "/api/v1/policies/"+url.PathEscape(name)+"/mode", nil, r, out)
}

// DecisionFacts asks for the facts that a decision rests on, byte for byte as
// they were recorded.
func (c *Client) DecisionFacts(ctx context.Context, id string) ([]byte, error) {
	var b []byte
	return b, c.call(ctx, http.MethodGet, "/api/v1/decisions/"+url.PathEscape(id)+"/facts", nil, nil, &b)
}
