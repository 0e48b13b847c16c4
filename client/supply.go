package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// SupplyScan is a scan of a forge that was handed in, and how it differs from the
// baseline of its estate.
type SupplyScan struct {
	ID         string      `json:"id"`     // inv_…
	Estate     string      `json:"estate"` // estate_…: what was scanned
	Provider   string      `json:"provider"`
	URL        string      `json:"url"`
	Targets    []string    `json:"targets"`
	Actor      string      `json:"actor"`      // who handed it in; what it says is their word
	ClaimedAt  time.Time   `json:"claimed_at"` // when the scan says it was
	TakenAt    time.Time   `json:"taken_at"`   // when it was handed in
	Items      int         `json:"items"`
	Findings   int         `json:"findings"`
	Unknown    int         `json:"unknown"`
	Drift      SupplyDrift `json:"drift"`
	Baseline   bool        `json:"is_baseline"`           // later ones are held against it
	AcceptedBy string      `json:"accepted_by,omitempty"` // who said that it is as it should be
	AcceptedAt *time.Time  `json:"accepted_at,omitempty"`
	Reason     string      `json:"reason,omitempty"`
}

// SupplyDrift is how a scan differs from a baseline.
type SupplyDrift struct {
	State    string          `json:"state"`              // first, same, drifted or unknown
	Baseline string          `json:"baseline,omitempty"` // inv_…
	Count    int             `json:"count"`              // of all; at most 1000 of each kind are listed
	Changes  []SupplyChange  `json:"changes"`
	Findings []SupplyFinding `json:"findings"` // that the baseline has not
	Lost     []SupplyUnknown `json:"lost"`     // parts that the baseline knew and the scan does not
}

// SupplyChange is one difference.
type SupplyChange struct {
	What   string `json:"what"` // new, gone or changed
	Scope  string `json:"scope"`
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// SupplyFinding is a problem by one of the rules of docs/inventory.md.
type SupplyFinding struct {
	Rule  string `json:"rule"`
	Scope string `json:"scope"`
	Name  string `json:"name"`
	Text  string `json:"text"`
}

// SupplyUnknown is a part that the forge did not tell, and why.
type SupplyUnknown struct {
	Scope string `json:"scope"`
	Part  string `json:"part"`
	Why   string `json:"why"`
	// Partial: what is listed of the part is all there is in the place that was asked.
	Partial bool `json:"partial,omitempty"`
}

// SupplyAccept says that a scan is as its estate should be.
type SupplyAccept struct {
	ID     string `json:"id"` // inv_…
	Reason string `json:"reason"`
}

// SupplyFilter says which scans are wanted.
type SupplyFilter struct {
	Estate string
	Latest bool // of each estate the newest only
	After  string
	Limit  int
}

// AddSupplyScan hands in what assay inventory scan found.
func (c *Client) AddSupplyScan(ctx context.Context, inventory []byte) (*SupplyScan, error) {
	var out SupplyScan
	err := c.call(ctx, http.MethodPost, "/api/v1/supply/scans", nil, Document{MediaType: "application/json", Bytes: inventory}, &out)
	return &out, err
}

// SupplyScans lists scans, the newest first.
func (c *Client) SupplyScans(ctx context.Context, f SupplyFilter) (*List[SupplyScan], error) {
	v := url.Values{}
	if f.Estate != "" {
		v.Set("estate", f.Estate)
	}
	if f.Latest {
		v.Set("latest", "true")
	}
	if f.After != "" {
		v.Set("after", f.After)
	}
	if f.Limit > 0 {
		v.Set("limit", strconv.Itoa(f.Limit))
	}
	var out List[SupplyScan]
	err := c.call(ctx, http.MethodGet, "/api/v1/supply/scans", v, nil, &out)
	return &out, err
}

// SupplyScan gives one.
func (c *Client) SupplyScan(ctx context.Context, id string) (*SupplyScan, error) {
	var out SupplyScan
	err := c.call(ctx, http.MethodGet, "/api/v1/supply/scans/"+url.PathEscape(id), nil, nil, &out)
	return &out, err
}

// AcceptSupply says that a scan is as its estate should be.
func (c *Client) AcceptSupply(ctx context.Context, q SupplyAccept) (*SupplyScan, error) {
	var out SupplyScan
	err := c.call(ctx, http.MethodPost, "/api/v1/supply/accept", nil, q, &out)
	return &out, err
}
