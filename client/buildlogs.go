package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"assay/artifact"
)

// BuildLog is what one uploader says of one build: GET /api/v1/build-logs. It is
// signed by nobody.
type BuildLog struct {
	ID         string            `json:"id"`
	Build      string            `json:"build"`
	Repository string            `json:"repository,omitempty"`
	Issuer     string            `json:"issuer,omitempty"` // of the uploader
	Identity   string            `json:"identity"`
	Source     string            `json:"source"`    // upload or otlp
	Artifacts  []artifact.Digest `json:"artifacts"` // as the uploader says
	CreatedAt  time.Time         `json:"created_at"`
	ChangedAt  time.Time         `json:"changed_at"`
	Lines      int64             `json:"lines"`
	Bytes      int64             `json:"bytes"`
	Dropped    int64             `json:"dropped"`  // lines over the bound
	Redacted   int64             `json:"redacted"` // secrets that were taken out
	// Provenance is the verified provenance of the artifact that was asked for whose
	// invocation is this build; empty: there is none.
	Provenance string `json:"provenance,omitempty"`
	// SameIdentity says that the uploader is who signed that provenance.
	SameIdentity bool `json:"same_identity"`
}

// BuildLogLine is a line of a log: GET /api/v1/build-logs/{id}/lines.
type BuildLogLine struct {
	Number int64      `json:"number"` // from 1
	Time   *time.Time `json:"time,omitempty"`
	Stream string     `json:"stream,omitempty"` // stdout, stderr, or a severity
	Text   string     `json:"text"`
	Log    string     `json:"log,omitempty"` // of a search
	Build  string     `json:"build,omitempty"`
}

// BuildLogFound is what a search gave: GET /api/v1/build-log-lines.
type BuildLogFound struct {
	Items    []BuildLogLine `json:"items"`
	Next     string         `json:"next,omitempty"`
	Searched int64          `json:"searched"` // bytes
}

// BuildLogUpload says of what lines are.
type BuildLogUpload struct {
	Build      string
	Repository string
	Artifacts  []artifact.Digest
	Stream     string
}

// BuildLogFilter chooses logs.
type BuildLogFilter struct {
	Digest     artifact.Digest
	Repository string // where the digest's provenance lies
	Build      string
	Log        string
	Text       string
	After      string
	Limit      int
}

func (f BuildLogFilter) values() url.Values {
	v := url.Values{}
	for name, value := range map[string]string{"digest": string(f.Digest), "repository": f.Repository, "build": f.Build, "log": f.Log, "text": f.Text, "after": f.After} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if f.Limit > 0 {
		v.Set("limit", strconv.Itoa(f.Limit))
	}
	return v
}

// UploadBuildLog adds a text's lines to a build's log.
func (c *Client) UploadBuildLog(ctx context.Context, u BuildLogUpload, text []byte) (*BuildLog, error) {
	v := url.Values{"build": {u.Build}}
	if u.Repository != "" {
		v.Set("repository", u.Repository)
	}
	if u.Stream != "" {
		v.Set("stream", u.Stream)
	}
	if len(u.Artifacts) > 0 {
		list := ""
		for i, d := range u.Artifacts {
			if i > 0 {
				list += ","
			}
			list += string(d)
		}
		v.Set("digests", list)
	}
	var out BuildLog
	return &out, c.call(ctx, http.MethodPost, "/api/v1/build-logs", v, Document{"text/plain", text}, &out)
}

// BuildLogs lists logs, those that changed last first.
func (c *Client) BuildLogs(ctx context.Context, f BuildLogFilter) (*List[BuildLog], error) {
	var out List[BuildLog]
	return &out, c.call(ctx, http.MethodGet, "/api/v1/build-logs", f.values(), nil, &out)
}

// BuildLogLines gives lines of a log from a number on.
func (c *Client) BuildLogLines(ctx context.Context, id string, from int64, limit int) (*List[BuildLogLine], error) {
	v := url.Values{"limit": {strconv.Itoa(limit)}}
	if from > 1 {
		v.Set("after", strconv.FormatInt(from-1, 10))
	}
	var out List[BuildLogLine]
	return &out, c.call(ctx, http.MethodGet, "/api/v1/build-logs/"+url.PathEscape(id)+"/lines", v, nil, &out)
}

// SearchBuildLogs looks for a text in logs.
func (c *Client) SearchBuildLogs(ctx context.Context, f BuildLogFilter) (*BuildLogFound, error) {
	var out BuildLogFound
	return &out, c.call(ctx, http.MethodGet, "/api/v1/build-log-lines", f.values(), nil, &out)
}

// DeleteBuildLog takes a log away.
func (c *Client) DeleteBuildLog(ctx context.Context, id, reason string) error {
	return c.call(ctx, http.MethodDelete, "/api/v1/build-logs", url.Values{"log": {id}, "reason": {reason}}, nil, nil)
}

// DeepLink leads to what another system knows: GET /api/v1/links.
type DeepLink struct {
	Name string `json:"name"`
	For  string `json:"for"` // digest, trace, build or commit
	URL  string `json:"url"`
}

// Links gives the links for values, any of them empty.
func (c *Client) Links(ctx context.Context, values map[string]string) ([]DeepLink, error) {
	v := url.Values{}
	for name, value := range values {
		if value != "" {
			v.Set(name, value)
		}
	}
	var out List[DeepLink]
	err := c.call(ctx, http.MethodGet, "/api/v1/links", v, nil, &out)
	return out.Items, err
}
