package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

// ForeignRoot is an imported root of trust.
type ForeignRoot struct {
	Name         string    `json:"name"`
	Version      int64     `json:"version"`
	Type         string    `json:"type"` // sigstore, keys, x509, notation
	Namespaces   []string  `json:"namespaces"`
	NotBefore    time.Time `json:"not_before,omitzero"`
	NotAfter     time.Time `json:"not_after,omitzero"`
	SCT          *int      `json:"min_sct,omitempty"` // thresholds, where they are its own
	Log          *int      `json:"min_log,omitempty"`
	TSA          *int      `json:"min_tsa,omitempty"`
	Fingerprints []string  `json:"fingerprints"`         // of its trust anchors' keys
	Revocation   string    `json:"revocation"`           // "not_configured": it brings no list of revocations
	ImportedAt   time.Time `json:"imported_at,omitzero"` //
	Reason       string    `json:"reason,omitempty"`
}

// Delegation is what was handed to a team or a vendor.
type Delegation struct {
	Name           string     `json:"name"`
	Version        int64      `json:"version"`
	Chain          []string   `json:"chain"` // from the root's delegation to this one
	Patterns       []string   `json:"patterns,omitempty"`
	PredicateTypes []string   `json:"predicate_types,omitempty"`
	Delegates      []Delegate `json:"delegates,omitempty"`
	NotBefore      time.Time  `json:"not_before,omitzero"`
	Expires        time.Time  `json:"expires,omitzero"`
	Depth          int        `json:"depth,omitzero"`
	SignedBy       string     `json:"signed_by"`
	SignedAt       time.Time  `json:"signed_at,omitzero"`
	LogIndex       int64      `json:"log_index"`
	State          string     `json:"state"` // "holds", "expired", "invalid", "removed"
	Problem        string     `json:"problem,omitempty"`
	Reason         string     `json:"reason,omitempty"`
}

// Delegate is one identity or key of a delegation.
type Delegate struct {
	Issuer        string `json:"issuer,omitempty"`
	Subject       string `json:"subject,omitempty"`
	SubjectRegexp string `json:"subject_regexp,omitempty"`
	Key           string `json:"key,omitempty"` // fingerprint
}

// ImportRoot imports a foreign root, or changes one of the same name; doc is a
// document of package trust/foreign, whose version the server gives.
func (c *Client) ImportRoot(ctx context.Context, doc []byte) (*ForeignRoot, error) {
	var r ForeignRoot
	return &r, c.call(ctx, http.MethodPost, "/api/v1/trust/roots", nil, Document{"application/json", doc}, &r)
}

// ForeignRoots lists the imported roots.
func (c *Client) ForeignRoots(ctx context.Context) (*List[ForeignRoot], error) {
	var l List[ForeignRoot]
	return &l, c.call(ctx, http.MethodGet, "/api/v1/trust/roots", nil, nil, &l)
}

// ForeignRoot gives one imported root's document.
func (c *Client) ForeignRoot(ctx context.Context, name string) (json.RawMessage, error) {
	var b []byte
	err := c.call(ctx, http.MethodGet, "/api/v1/trust/roots/"+url.PathEscape(name), nil, nil, &b)
	return b, err
}

// RemoveRoot ends an imported root.
func (c *Client) RemoveRoot(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/api/v1/trust/roots/"+url.PathEscape(name), nil, nil, nil)
}

// ForeignRootsExport fetches foreign_roots.json for offline verifiers.
func (c *Client) ForeignRootsExport(ctx context.Context) ([]byte, error) {
	var b []byte
	return b, c.call(ctx, http.MethodGet, "/api/v1/trust/foreign-roots", nil, nil, &b)
}

// Delegate lets the organisation's key sign a delegation: doc is a document of
// package trust/delegation, whose version the server gives.
func (c *Client) Delegate(ctx context.Context, doc []byte) (*Delegation, error) {
	var d Delegation
	return &d, c.call(ctx, http.MethodPost, "/api/v1/trust/delegations", nil, Document{"application/json", doc}, &d)
}

// HandOn brings a delegation that a delegate signed.
func (c *Client) HandOn(ctx context.Context, bundle []byte) (*Delegation, error) {
	var d Delegation
	return &d, c.call(ctx, http.MethodPost, "/api/v1/trust/delegations/signed", nil, Document{"application/json", bundle}, &d)
}

// Delegations lists all delegations.
func (c *Client) Delegations(ctx context.Context) (*List[Delegation], error) {
	var l List[Delegation]
	return &l, c.call(ctx, http.MethodGet, "/api/v1/trust/delegations", nil, nil, &l)
}

// RemoveDelegation ends a delegation.
func (c *Client) RemoveDelegation(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/api/v1/trust/delegations", url.Values{"name": {name}}, nil, nil)
}

// DelegationsExport fetches delegations.json for offline verifiers.
func (c *Client) DelegationsExport(ctx context.Context) ([]byte, error) {
	var b []byte
	return b, c.call(ctx, http.MethodGet, "/api/v1/trust/delegations/export", nil, nil, &b)
}
