package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"assay/artifact"
)

// RuntimeReport is what an agent of a host saw: POST /api/v1/runtime/agent.
type RuntimeReport struct {
	Cluster    string             `json:"cluster"`
	Node       string             `json:"node"`
	Executions []RuntimeExecution `json:"executions"`
}

// RuntimeExecution is a file that was executed, and why it is told of.
type RuntimeExecution struct {
	Rule        string          `json:"rule"` // foreign, changed, unknown or unwatched
	Time        time.Time       `json:"time,omitzero"`
	Namespace   string          `json:"namespace,omitempty"`
	Pod         string          `json:"pod,omitempty"`
	Container   string          `json:"container,omitempty"`
	ContainerID string          `json:"container_id,omitempty"`
	Image       string          `json:"image,omitempty"`
	Digest      artifact.Digest `json:"digest,omitempty"` // of the image
	Process     string          `json:"process,omitempty"`
	Path        string          `json:"path,omitempty"`
	File        artifact.Digest `json:"file,omitempty"`
	Message     string          `json:"message,omitempty"`
}

// RuntimeTaken says what became of what was handed in.
type RuntimeTaken struct {
	Told    int `json:"told"`    // events
	Again   int `json:"again"`   // of the same thing as an event of the last hour
	Joined  int `json:"joined"`  // to a workload of the inventory
	Skipped int `json:"skipped"` // reported nothing
}

// RuntimeSeen is one thing that sensors reported.
type RuntimeSeen struct {
	Source    string          `json:"source"`
	Rule      string          `json:"rule"`
	Priority  string          `json:"priority,omitempty"`
	Cluster   string          `json:"cluster"`
	Namespace string          `json:"namespace,omitempty"`
	Kind      string          `json:"kind,omitempty"`
	Name      string          `json:"name,omitempty"`
	Container string          `json:"container,omitempty"`
	Path      string          `json:"path,omitempty"`
	Digest    artifact.Digest `json:"digest,omitempty"`
	First     time.Time       `json:"first"`
	Last      time.Time       `json:"last"`
	Times     int64           `json:"times"`
}

// ImageFiles are what can be executed of an image: path without its leading slash
// to SHA-256.
type ImageFiles struct {
	Digest artifact.Digest            `json:"digest"`
	Files  map[string]artifact.Digest `json:"files"`
}

// ReportRuntime hands in what an agent saw.
func (c *Client) ReportRuntime(ctx context.Context, r RuntimeReport) (*RuntimeTaken, error) {
	var out RuntimeTaken
	return &out, c.call(ctx, http.MethodPost, "/api/v1/runtime/agent", nil, r, &out)
}

// IngestRuntime hands in events of source falco or tetragon, as they wrote them.
func (c *Client) IngestRuntime(ctx context.Context, source, cluster string, events []byte) (*RuntimeTaken, error) {
	var out RuntimeTaken
	return &out, c.call(ctx, http.MethodPost, "/api/v1/runtime/"+url.PathEscape(source), url.Values{"cluster": {cluster}}, Document{MediaType: "application/json", Bytes: events}, &out)
}

// RuntimeSeen lists what sensors reported, latest first.
func (c *Client) RuntimeSeen(ctx context.Context, digest artifact.Digest, cluster string, limit int) (*List[RuntimeSeen], error) {
	q := url.Values{}
	for k, v := range map[string]string{"digest": string(digest), "cluster": cluster} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	var out List[RuntimeSeen]
	return &out, c.call(ctx, http.MethodGet, "/api/v1/runtime", q, nil, &out)
}

// ImageFilesQuery names an image that runs in a cluster, by its digest or by a
// container. What the inventory knows of the container goes before the digest.
type ImageFilesQuery struct {
	Cluster, Namespace, Pod, Container string
	Digest                             artifact.Digest
}

// ImageFiles gives what can be executed of an image that runs in a cluster.
func (c *Client) ImageFiles(ctx context.Context, f ImageFilesQuery) (*ImageFiles, error) {
	q := url.Values{}
	for k, v := range map[string]string{"cluster": f.Cluster, "namespace": f.Namespace, "pod": f.Pod, "container": f.Container, "digest": string(f.Digest)} {
		if v != "" {
			q.Set(k, v)
		}
	}
	var out ImageFiles
	return &out, c.call(ctx, http.MethodGet, "/api/v1/runtime/files", q, nil, &out)
}
