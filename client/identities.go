package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// ReportedIdentity is what a cluster's API server says of a workload's SPIFFE
// identities and its mesh; of kind Namespace it is of what comes to be there.
type ReportedIdentity struct {
	Namespace string   `json:"namespace"`
	Kind      string   `json:"kind"`
	Name      string   `json:"name"`
	SPIFFEIDs []string `json:"spiffe_ids,omitempty"` // sorted
	Source    string   `json:"source"`               // spire, istio, claimed (an annotation, which is no proof), none or unknown
	Mesh      string   `json:"mesh,omitempty"`       // istio or linkerd
	MTLS      string   `json:"mtls"`                 // strict, permissive, disabled, none or unknown
}

// WorkloadIdentity is what is known of a workload's identity: GET
// /api/v1/inventory/identities.
type WorkloadIdentity struct {
	Cluster   string    `json:"cluster"`
	Namespace string    `json:"namespace"`
	Kind      string    `json:"kind"` // Namespace: of what comes to be there
	Name      string    `json:"name"`
	SPIFFEIDs []string  `json:"spiffe_ids,omitempty"`
	Source    string    `json:"source"` // spire, istio, claimed (an annotation, which is no proof), none or unknown
	Mesh      string    `json:"mesh,omitempty"`
	MTLS      string    `json:"mtls"`             // strict, permissive, disabled, none or unknown
	Since     time.Time `json:"since"`            // it is so
	Silent    bool      `json:"silent,omitempty"` // its cluster was not heard of for long
}

// IdentityQuery says which are asked for; empty members ask for all.
type IdentityQuery struct {
	Cluster, Namespace, MTLS, SPIFFEID string
	After                              string
	Limit                              int
}

// Identities lists what is known of workloads' identities and meshes.
func (c *Client) Identities(ctx context.Context, f IdentityQuery) (*List[WorkloadIdentity], error) {
	q := url.Values{}
	for k, v := range map[string]string{"cluster": f.Cluster, "namespace": f.Namespace, "mtls": f.MTLS, "spiffe_id": f.SPIFFEID, "after": f.After} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	var out List[WorkloadIdentity]
	return &out, c.call(ctx, http.MethodGet, "/api/v1/inventory/identities", q, nil, &out)
}
