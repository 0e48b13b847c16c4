package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// FeedUpstream is where a feed is fetched: GET, PUT /api/v1/feeds/upstreams.
type FeedUpstream struct {
	Name         string         `json:"name"`
	Type         string         `json:"type,omitempty"` // osv, kev, epss; default osv
	URL          string         `json:"url"`
	Ecosystems   []string       `json:"ecosystems,omitempty"`
	EverySeconds int64          `json:"every_seconds,omitempty"` // 0: 3600
	MaxBytes     int64          `json:"max_bytes,omitempty"`     // 0: 4 GiB
	CABundle     string         `json:"ca_bundle,omitempty"`     // file on the server
	Proxy        string         `json:"proxy,omitempty"`
	AllowPrivate bool           `json:"allow_private,omitempty"`
	Credentials  string         `json:"credentials,omitempty"` // file:PATH or credential:NAME on the server
	SHA256       string         `json:"sha256,omitempty"`
	Identity     string         `json:"identity,omitempty"` // who must have signed
	Issuer       string         `json:"issuer,omitempty"`
	S3Endpoint   string         `json:"s3_endpoint,omitempty"`
	S3Region     string         `json:"s3_region,omitempty"`
	S3PathStyle  bool           `json:"s3_path_style,omitempty"`
	Configured   bool           `json:"configured,omitempty"` // by the server's configuration
	Status       []FeedUpstatus `json:"status,omitempty"`     // by ecosystem
}

// FeedUpstatus is how it goes with one ecosystem of an upstream.
type FeedUpstatus struct {
	Ecosystem string     `json:"ecosystem"`
	Due       *time.Time `json:"due,omitempty"`
	Tried     *time.Time `json:"tried,omitempty"`
	Succeeded *time.Time `json:"succeeded,omitempty"`
	Failures  int64      `json:"failures"` // since the last success
	Problem   string     `json:"problem,omitempty"`
	Outcome   string     `json:"outcome,omitempty"` // of the last success
}

// FeedSync asks that an upstream be looked at now.
type FeedSync struct {
	Downgrade string `json:"downgrade,omitempty"` // why it may go back, this once: for administrators
}

// FeedSyncAsked says from when on a look counts.
type FeedSyncAsked struct {
	Asked time.Time `json:"asked"`
}

// FeedAccept accepts a blocked operation.
type FeedAccept struct {
	Reason string `json:"reason"`
}

// Canary is what must be found: GET, PUT /api/v1/canaries.
type Canary struct {
	Name      string          `json:"name"`
	Feed      string          `json:"feed,omitempty"`     // that must find it; empty: any that found it once
	Document  json.RawMessage `json:"document,omitempty"` // bill of materials, JSON
	Expect    []CanaryExpect  `json:"expect"`
	Builtin   bool            `json:"builtin,omitempty"`
	Results   []CanaryResult  `json:"results,omitempty"`
	Uncovered bool            `json:"uncovered,omitempty"` // something in it is found by no feed
	Failed    bool            `json:"failed,omitempty"`    // something is not found that must be
}

// CanaryExpect is one component, and an advisory that affects it, by any of its names.
type CanaryExpect struct {
	Component string `json:"component"` // package URL
	Advisory  string `json:"advisory"`
}

// CanaryResult is whether a feed in force finds it.
type CanaryResult struct {
	Component string `json:"component"`
	Advisory  string `json:"advisory"`
	Feed      string `json:"feed,omitempty"`
	Ecosystem string `json:"ecosystem,omitempty"`
	Found     bool   `json:"found"`
	Must      bool   `json:"must"` // it found it before, or has to
}

// Upstreams lists where feeds are fetched, and how that goes.
func (c *Client) Upstreams(ctx context.Context) (*List[FeedUpstream], error) {
	var out List[FeedUpstream]
	return &out, c.call(ctx, http.MethodGet, "/api/v1/feeds/upstreams", nil, nil, &out)
}

// AddUpstream has a feed fetched, or fetched in another way.
func (c *Client) AddUpstream(ctx context.Context, u FeedUpstream) (*FeedUpstream, error) {
	var out FeedUpstream
	return &out, c.call(ctx, http.MethodPut, "/api/v1/feeds/upstreams", nil, u, &out)
}

// RemoveUpstream ends the fetching of a feed.
func (c *Client) RemoveUpstream(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/api/v1/feeds/upstreams", url.Values{"name": {name}}, nil, nil)
}

// SyncUpstream has a feed looked at as soon as can be.
func (c *Client) SyncUpstream(ctx context.Context, name, downgrade string) (*FeedSyncAsked, error) {
	var out FeedSyncAsked
	return &out, c.call(ctx, http.MethodPost, "/api/v1/feeds/upstreams/sync", url.Values{"name": {name}}, FeedSync{downgrade}, &out)
}

// AcceptFeed brings a blocked operation into force.
func (c *Client) AcceptFeed(ctx context.Context, operation int64, reason string) (*FeedOperation, error) {
	var out FeedOperation
	return &out, c.call(ctx, http.MethodPost, "/api/v1/feeds/accept", url.Values{"operation": {strconv.FormatInt(operation, 10)}}, FeedAccept{reason}, &out)
}

// Canaries lists the canaries; with check, also what the feeds in force say now.
func (c *Client) Canaries(ctx context.Context, check bool) (*List[Canary], error) {
	var out List[Canary]
	return &out, c.call(ctx, http.MethodGet, "/api/v1/canaries", url.Values{"check": {strconv.FormatBool(check)}}, nil, &out)
}

// AddCanary adds what must be found.
func (c *Client) AddCanary(ctx context.Context, one Canary) (*Canary, error) {
	var out Canary
	return &out, c.call(ctx, http.MethodPut, "/api/v1/canaries", nil, one, &out)
}

// RemoveCanary takes one away.
func (c *Client) RemoveCanary(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/api/v1/canaries", url.Values{"name": {name}}, nil, nil)
}
