package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"assay/artifact"
)

// RunnerBuild is one build and what is known of its machine: GET
// /api/v1/runners/builds.
type RunnerBuild struct {
	ID           string            `json:"id"`
	InvocationID string            `json:"invocation_id"`
	Source       string            `json:"source"` // src_…
	Issuer       string            `json:"issuer,omitempty"`
	Identity     string            `json:"identity"`
	Ref          string            `json:"ref,omitempty"`
	RefVerified  bool              `json:"ref_verified"` // the identity's own word, and not the document's
	Trigger      string            `json:"trigger,omitempty"`
	Trust        string            `json:"trust"` // protected, branch or foreign
	Command      string            `json:"command,omitempty"`
	Machine      string            `json:"machine,omitempty"`
	Instance     string            `json:"instance,omitempty"`
	Kind         string            `json:"kind"` // container, vm, host or unknown
	Fresh        bool              `json:"fresh"`
	Used         bool              `json:"used"` // by another job, as the machine says or is known here
	Uses         int               `json:"uses"`
	AgeSeconds   int64             `json:"age_seconds"`
	Image        string            `json:"image,omitempty"`
	State        string            `json:"state"` // first, accepted, compared or none
	Open         int               `json:"open"`  // anomalies that nobody accepted
	Time         time.Time         `json:"time"`
	Evidence     string            `json:"evidence"` // attestations
	Provenance   string            `json:"provenance"`
	Trace        string            `json:"trace,omitempty"`
	Artifacts    []artifact.Digest `json:"artifacts"`
}

// RunnerBuildDetail is a build with its source and its anomalies: GET
// /api/v1/runners/builds/{id}.
type RunnerBuildDetail struct {
	Build      RunnerBuild     `json:"build"`
	Repository string          `json:"repository"`
	Workflow   string          `json:"workflow"`
	Verified   bool            `json:"repository_verified"`
	Builds     int             `json:"builds"` // of this source
	Anomalies  []RunnerAnomaly `json:"anomalies"`
}

// RunnerAnomaly is what was new in a build: GET /api/v1/runners/anomalies.
type RunnerAnomaly struct {
	ID         string            `json:"id"`
	Build      string            `json:"build"`
	Source     string            `json:"source"`
	Kind       string            `json:"kind"`
	Name       string            `json:"name"`
	Before     string            `json:"before,omitempty"`
	After      string            `json:"after"`
	Time       time.Time         `json:"time"`
	Artifacts  []artifact.Digest `json:"artifacts"`
	AcceptedBy string            `json:"accepted_by,omitempty"`
	AcceptedAt *time.Time        `json:"accepted_at,omitempty"`
	Reason     string            `json:"reason,omitempty"`
}

// RunnerAccept takes an anomaly into what is usual: POST
// /api/v1/runners/accept.
type RunnerAccept struct {
	ID      string `json:"id"`                // ano_…, or run_… of a first build
	Pattern string `json:"pattern,omitempty"` // in place of the anomaly's own value
	Reason  string `json:"reason"`
	All     bool   `json:"all,omitempty"` // with run_…: all that is open of the build
}

// RunnerBeat is what a machine says of its health: POST
// /api/v1/runners/heartbeat.
type RunnerBeat struct {
	Name       string  `json:"name"`
	Load1      float64 `json:"load1"`
	Processors int     `json:"processors"`
	MemTotal   int64   `json:"memory_total"`
	MemFree    int64   `json:"memory_available"`
	DiskTotal  int64   `json:"disk_total"`
	DiskFree   int64   `json:"disk_free"`
	Age        int64   `json:"age_seconds"`
	BootAge    int64   `json:"boot_age_seconds"`
	Builds     int     `json:"builds"`
	Building   string  `json:"building,omitempty"`
	Ended      bool    `json:"ended,omitempty"`
}

// RunnerHost is a machine that beats: GET /api/v1/runners.
type RunnerHost struct {
	ID       string     `json:"id"`
	Issuer   string     `json:"issuer,omitempty"`
	Identity string     `json:"identity"`
	SeenAt   time.Time  `json:"seen_at"`
	Stale    bool       `json:"stale"`
	Beat     RunnerBeat `json:"beat"`
}

// RunnerFilter chooses builds and anomalies.
type RunnerFilter struct {
	Digest artifact.Digest
	Source string // src_… or a repository's URI
	Build  string
	Open   bool
	After  string
	Limit  int
}

func (f RunnerFilter) values() url.Values {
	v := url.Values{}
	for name, value := range map[string]string{"digest": string(f.Digest), "source": f.Source, "build": f.Build, "after": f.After} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if f.Limit > 0 {
		v.Set("limit", strconv.Itoa(f.Limit))
	}
	return v
}

// RunnerBuilds lists builds, the newest first.
func (c *Client) RunnerBuilds(ctx context.Context, f RunnerFilter) (*List[RunnerBuild], error) {
	var out List[RunnerBuild]
	err := c.call(ctx, http.MethodGet, "/api/v1/runners/builds", f.values(), nil, &out)
	return &out, err
}

// RunnerBuild gives one build, by run_… or its invocation id.
func (c *Client) RunnerBuild(ctx context.Context, id string) (*RunnerBuildDetail, error) {
	var out RunnerBuildDetail
	err := c.call(ctx, http.MethodGet, "/api/v1/runners/builds/"+url.PathEscape(id), nil, nil, &out)
	return &out, err
}

// RunnerAnomalies lists anomalies, the newest first.
func (c *Client) RunnerAnomalies(ctx context.Context, f RunnerFilter) (*List[RunnerAnomaly], error) {
	v := f.values()
	if f.Open {
		v.Set("open", "true")
	}
	var out List[RunnerAnomaly]
	err := c.call(ctx, http.MethodGet, "/api/v1/runners/anomalies", v, nil, &out)
	return &out, err
}

// AcceptRunner takes an anomaly, or a first build, into what is usual, and gives
// the anomalies that this acknowledged.
func (c *Client) AcceptRunner(ctx context.Context, a RunnerAccept) ([]RunnerAnomaly, error) {
	var out List[RunnerAnomaly]
	err := c.call(ctx, http.MethodPost, "/api/v1/runners/accept", nil, a, &out)
	return out.Items, err
}

// Heartbeat tells a machine's health.
func (c *Client) Heartbeat(ctx context.Context, b RunnerBeat) (*RunnerHost, error) {
	var out RunnerHost
	err := c.call(ctx, http.MethodPost, "/api/v1/runners/heartbeat", nil, b, &out)
	return &out, err
}

// Runners lists the machines that beat.
func (c *Client) Runners(ctx context.Context) ([]RunnerHost, error) {
	var out List[RunnerHost]
	err := c.call(ctx, http.MethodGet, "/api/v1/runners", nil, nil, &out)
	return out.Items, err
}
