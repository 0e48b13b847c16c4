package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// TriageRequest has the site state whether a flaw concerns artifacts:
// POST /api/v1/vex/triage.
type TriageRequest struct {
	Vulnerability string    `json:"vulnerability"`           // CVE-2024-3094; its aliases are filled in from the feeds
	Products      []string  `json:"products"`                // digests, package URLs, or patterns of repositories; "**": all
	Components    []string  `json:"components,omitempty"`    // package URLs; absent: any
	Versions      string    `json:"versions,omitempty"`      // of the components: vers:npm/>=1.0|<2.0
	Status        string    `json:"status"`                  // not_affected, affected, fixed, under_investigation
	Justification string    `json:"justification,omitempty"` // of not_affected
	Reason        string    `json:"reason"`                  // 3 to 1,000 bytes, on record
	Until         time.Time `json:"until,omitzero"`          // when it ends; absent: it does not
}

// VEXStatements lists what the site states about flaws; out takes a
// List[vex.Entry].
func (c *Client) VEXStatements(ctx context.Context, after string, limit int, ended bool, out any) error {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	if after != "" {
		q.Set("after", after)
	}
	if ended {
		q.Set("ended", "true")
	}
	return c.call(ctx, http.MethodGet, "/api/v1/vex/statements", q, nil, out)
}

// VEXStatement is one of them; out takes a vex.Entry.
func (c *Client) VEXStatement(ctx context.Context, id string, out any) error {
	return c.call(ctx, http.MethodGet, "/api/v1/vex/statements/"+url.PathEscape(id), nil, nil, out)
}

// VEXBundle is what the site signed for it.
func (c *Client) VEXBundle(ctx context.Context, id string) ([]byte, error) {
	var b []byte
	return b, c.call(ctx, http.MethodGet, "/api/v1/vex/statements/"+url.PathEscape(id)+"/bundle", nil, nil, &b)
}

// Triage has the site state something; out takes a vex.Entry.
func (c *Client) Triage(ctx context.Context, r TriageRequest, out any) error {
	return c.call(ctx, http.MethodPost, "/api/v1/vex/triage", nil, r, out)
}

// ImportVEX has the site take another's document over; out takes a vex.Entry.
func (c *Client) ImportVEX(ctx context.Context, document []byte, reason string, until time.Time, out any) error {
	q := url.Values{"reason": {reason}}
	if !until.IsZero() {
		q.Set("until", until.UTC().Format(time.RFC3339))
	}
	return c.call(ctx, http.MethodPost, "/api/v1/vex/statements", q, Document{"application/json", document}, out)
}

// WithdrawVEX takes a statement of the site back; out takes a vex.Entry.
func (c *Client) WithdrawVEX(ctx context.Context, id, reason string, out any) error {
	return c.call(ctx, http.MethodDelete, "/api/v1/vex/statements/"+url.PathEscape(id), url.Values{"reason": {reason}}, nil, out)
}

// ExportVEX is all that the site states now, as one OpenVEX document.
func (c *Client) ExportVEX(ctx context.Context) (json.RawMessage, error) {
	var b []byte
	return b, c.call(ctx, http.MethodGet, "/api/v1/vex/export", nil, nil, &b)
}

// VEXProposals lists what waits for another person; out takes a List[vex.Proposal].
func (c *Client) VEXProposals(ctx context.Context, after string, limit int, ended bool, out any) error {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	if after != "" {
		q.Set("after", after)
	}
	if ended {
		q.Set("ended", "true")
	}
	return c.call(ctx, http.MethodGet, "/api/v1/vex/proposals", q, nil, out)
}

// ApproveVEX states what another person proposed; out takes a vex.Entry.
func (c *Client) ApproveVEX(ctx context.Context, id string, out any) error {
	return c.call(ctx, http.MethodPost, "/api/v1/vex/proposals/"+url.PathEscape(id), nil, nil, out)
}

// RefuseVEX refuses a proposal; out takes a vex.Proposal.
func (c *Client) RefuseVEX(ctx context.Context, id, reason string, out any) error {
	return c.call(ctx, http.MethodDelete, "/api/v1/vex/proposals/"+url.PathEscape(id), url.Values{"reason": {reason}}, nil, out)
}
