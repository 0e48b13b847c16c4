package client

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"time"

	"assay/artifact"
	"assay/internal/fault"
)

// Damage is a damaged blob that waits for repair: GET /api/v1/registry/damage.
type Damage struct {
	Digest       artifact.Digest `json:"digest"`
	Found        string          `json:"found"` // the digest of the stored bytes, or absent
	FoundAt      time.Time       `json:"found_at"`
	Manifest     bool            `json:"manifest"`     // it is a manifest, not a layer or the like
	Size         int64           `json:"size"`         // bytes that it should have; -1: not known
	Repositories []string        `json:"repositories"` // that need it
}

// RepairRequest asks for the repair of damaged blobs: POST /api/v1/registry/repair.
type RepairRequest struct {
	Digests []artifact.Digest `json:"digests,omitempty"`
	All     bool              `json:"all,omitempty"` // that are known to be damaged
}

// Repair is what came of the repair of one blob.
type Repair struct {
	Digest artifact.Digest `json:"digest"`
	State  string          `json:"state"` // repaired, whole (there was nothing to do), damaged (no source served)
	Source string          `json:"source,omitempty"`
	Tried  []RepairTry     `json:"tried,omitempty"` // that did not serve
}

// RepairTry is a source that did not serve, and why.
type RepairTry struct {
	Source string `json:"source"`
	Error  string `json:"error"`
}

// Damages lists what waits for repair.
func (c *Client) Damages(ctx context.Context) ([]Damage, error) {
	var out List[Damage]
	err := c.call(ctx, http.MethodGet, "/api/v1/registry/damage", nil, nil, &out)
	return out.Items, err
}

// Repair has the server repair out of the sources that it knows.
func (c *Client) Repair(ctx context.Context, q RepairRequest) ([]Repair, error) {
	var out List[Repair]
	err := c.patient().call(ctx, http.MethodPost, "/api/v1/registry/repair", nil, q, &out)
	return out.Items, err
}

// RepairWith brings the server the right bytes of a damaged blob.
func (c *Client) RepairWith(ctx context.Context, d artifact.Digest, source string, bytes io.Reader) (*Repair, error) {
	path := "/api/v1/registry/repair/" + url.PathEscape(string(d))
	resp, err := c.patient().stream(ctx, http.MethodPut, path, url.Values{"source": {source}}, bytes, "application/octet-stream")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "PUT %s: %w", path, err)
	}
	var out Repair
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, fault.Newf(fault.Unavailable, "PUT %s: the answer is not what this version expects: %w", path, err)
	}
	return &out, nil
}
