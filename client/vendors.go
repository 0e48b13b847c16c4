package client

import (
	"context"
	"net/http"
	"net/url"

	"assay/artifact"
)

// Vendor is a vendor of images and binaries, and how complete is what it brings.
type Vendor struct {
	Name         string           `json:"name"`
	Contact      string           `json:"contact,omitempty"`
	Policy       string           `json:"policy"` // which its artifacts are held to
	Mode         string           `json:"mode"`
	Repositories []string         `json:"repositories"`
	Root         string           `json:"root,omitempty"`
	RootMissing  bool             `json:"root_missing,omitempty"` // it is not imported: nothing of the vendor's verifies
	Requires     []string         `json:"requires"`
	Artifacts    int              `json:"artifacts"`      // that were looked at
	Complete     int              `json:"complete"`       // of them
	More         bool             `json:"more,omitempty"` // there are artifacts that were not looked at
	Items        []VendorArtifact `json:"items,omitempty"`
}

// VendorArtifact is one artifact of a vendor's, and what it lacks.
type VendorArtifact struct {
	Repository string          `json:"repository"`
	Digest     artifact.Digest `json:"digest"`
	Tags       []string        `json:"tags"`
	Complete   bool            `json:"complete"`
	Missing    []VendorLack    `json:"missing"`
	Unknown    string          `json:"unknown,omitempty"` // why nobody can say
}

// VendorLack is something that an artifact does not have.
type VendorLack struct {
	Requirement string `json:"requirement"`
	Expected    string `json:"expected"`
	Found       string `json:"found"`
}

// Vendors lists the vendors; of the one that is named also its artifacts.
func (c *Client) Vendors(ctx context.Context, name string) (out List[Vendor], err error) {
	q := url.Values{}
	if name != "" {
		q.Set("name", name)
	}
	return out, c.call(ctx, http.MethodGet, "/api/v1/vendors", q, nil, &out)
}
