package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"assay/artifact"
)

// Service is one of the catalogue: GET /api/v1/inventory/services.
type Service struct {
	Name         string            `json:"name"`
	Description  string            `json:"description,omitempty"`
	Tier         int               `json:"tier"`       // 1 the most critical, 4 the least
	Classified   bool              `json:"classified"` // false: nobody said, so that it counts as tier 1
	Team         string            `json:"team,omitempty"`
	Environment  string            `json:"environment,omitempty"`
	Production   bool              `json:"production"`
	Exposure     string            `json:"exposure"` // internet, internal, isolated; the internet where nobody said
	Labels       map[string]string `json:"labels,omitempty"`
	Contacts     []string          `json:"contacts,omitempty"` // of the team
	Routes       map[string]string `json:"routes,omitempty"`   // its own over the team's
	Repositories []string          `json:"repositories,omitempty"`
	Digests      []artifact.Digest `json:"digests,omitempty"`
	Selectors    []ServiceSelector `json:"workloads,omitempty"`
	Running      int               `json:"running"` // containers that run now
}

// ServiceSelector says which workloads belong to a service.
type ServiceSelector struct {
	Cluster     string `json:"cluster,omitempty"`
	Namespace   string `json:"namespace,omitempty"`
	Kind        string `json:"kind,omitempty"`
	Name        string `json:"name,omitempty"`
	Environment string `json:"environment,omitempty"`
}

// Workload is one container of what runs or ran: GET /api/v1/inventory/workloads.
type Workload struct {
	Cluster     string          `json:"cluster"`
	Namespace   string          `json:"namespace,omitempty"`
	Kind        string          `json:"kind"`
	Name        string          `json:"name"`
	Instance    string          `json:"instance,omitempty"`
	Container   string          `json:"container,omitempty"`
	Image       string          `json:"image,omitempty"`  // reference that was asked for
	Digest      artifact.Digest `json:"digest,omitempty"` // what runs; absent: not known
	Node        string          `json:"node,omitempty"`
	Service     string          `json:"service,omitempty"`
	Team        string          `json:"team,omitempty"`
	Environment string          `json:"environment,omitempty"`
	Production  bool            `json:"production"`
	FirstSeen   time.Time       `json:"first_seen"`
	LastSeen    time.Time       `json:"last_seen"`
	Ended       *time.Time      `json:"ended,omitempty"`
	Silent      bool            `json:"silent,omitempty"` // its cluster was not heard of for long
}

// WorkloadQuery says which are asked for; empty members ask for all.
type WorkloadQuery struct {
	At        time.Time // zero: now
	Digest    artifact.Digest
	Cluster   string
	Namespace string
	Service   string
	Team      string
	Unowned   bool
	After     string
	Limit     int
}

// ReportingCluster is one of which something was heard: GET /api/v1/inventory/clusters.
type ReportingCluster struct {
	Name        string     `json:"name"`
	Environment string     `json:"environment,omitempty"`
	Reporter    string     `json:"reporter"`
	FirstSeen   time.Time  `json:"first_seen"`
	Seen        time.Time  `json:"seen"`
	Complete    *time.Time `json:"complete,omitempty"` // when all that runs was last told
	Silent      bool       `json:"silent"`
}

// WorkloadReport is what a reporter says of a cluster: POST /api/v1/inventory/report.
type WorkloadReport struct {
	Cluster     string             `json:"cluster"`
	Environment string             `json:"environment,omitempty"`
	Complete    bool               `json:"complete,omitempty"` // what is not in it runs no more
	Workloads   []ReportedWorkload `json:"workloads,omitempty"`
	Ended       []ReportedWorkload `json:"ended,omitempty"` // by their names; what they ran is not read
	// Identities are of workloads and namespaces; with Complete they are all, unless
	// there are none.
	Identities []ReportedIdentity `json:"identities,omitempty"`
}

// ReportedWorkload is one container that runs. What has no kind is a host's, and
// what has no name is called by its digest.
type ReportedWorkload struct {
	Namespace string          `json:"namespace,omitempty"`
	Kind      string          `json:"kind,omitempty"`
	Name      string          `json:"name,omitempty"`
	Instance  string          `json:"instance,omitempty"`
	Container string          `json:"container,omitempty"`
	Image     string          `json:"image,omitempty"`
	Digest    artifact.Digest `json:"digest,omitempty"`
	Node      string          `json:"node,omitempty"`
}

// WorkloadChanges says what a report changed.
type WorkloadChanges struct {
	Started int `json:"started"`
	Stopped int `json:"stopped"`
	Kept    int `json:"kept"`
}

// Services lists the catalogue.
func (c *Client) Services(ctx context.Context) (*List[Service], error) {
	var out List[Service]
	return &out, c.call(ctx, http.MethodGet, "/api/v1/inventory/services", nil, nil, &out)
}

// Service gives one of the catalogue.
func (c *Client) Service(ctx context.Context, name string) (*Service, error) {
	var out Service
	return &out, c.call(ctx, http.MethodGet, "/api/v1/inventory/services/"+url.PathEscape(name), nil, nil, &out)
}

// Clusters lists those of which something was heard.
func (c *Client) Clusters(ctx context.Context) (*List[ReportingCluster], error) {
	var out List[ReportingCluster]
	return &out, c.call(ctx, http.MethodGet, "/api/v1/inventory/clusters", nil, nil, &out)
}

// Workloads lists what runs, or ran at a time.
func (c *Client) Workloads(ctx context.Context, f WorkloadQuery) (*List[Workload], error) {
	q := url.Values{}
	for k, v := range map[string]string{"digest": string(f.Digest), "cluster": f.Cluster, "namespace": f.Namespace, "service": f.Service, "team": f.Team, "after": f.After} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if !f.At.IsZero() {
		q.Set("at", f.At.UTC().Format(time.RFC3339Nano))
	}
	if f.Unowned {
		q.Set("unowned", "true")
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	var out List[Workload]
	return &out, c.call(ctx, http.MethodGet, "/api/v1/inventory/workloads", q, nil, &out)
}

// ReportWorkloads says what runs in a cluster.
func (c *Client) ReportWorkloads(ctx context.Context, r WorkloadReport) (*WorkloadChanges, error) {
	var out WorkloadChanges
	return &out, c.call(ctx, http.MethodPost, "/api/v1/inventory/report", nil, r, &out)
}
