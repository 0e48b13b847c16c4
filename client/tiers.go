package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"assay/artifact"
)

// VulnCosts is what matching cost: GET /api/v1/vulnerabilities/cost. Times are
// seconds.
type VulnCosts struct {
	Since   *time.Time     `json:"since,omitempty"`
	Tiers   []TierCosts    `json:"tiers"`
	Feeds   FeedCosts      `json:"feeds"`
	Waiting []TierWaiting  `json:"waiting"`
	Scans   []ScanCost     `json:"scans,omitempty"` // the costliest, where they were asked for
	Rules   map[int]string `json:"rules"`           // by tier: wait, or background and its budget
}

// TierCosts is what the bills of materials of a tier cost.
type TierCosts struct {
	Tier       int     `json:"tier"`
	Scans      int64   `json:"scans"`
	Components int64   `json:"components"`
	New        int64   `json:"new"`        // never seen before: only these are looked up
	Advisories int64   `json:"advisories"` // looked at for them
	CPU        float64 `json:"cpu_seconds"`
	Wall       float64 `json:"wall_seconds"`
	ReadCPU    float64 `json:"read_cpu_seconds"` // of reading the documents
	ReadWall   float64 `json:"read_wall_seconds"`
	Waited     float64 `json:"longest_wait_seconds"` // between reading and looking up
}

// FeedCosts is what matching changes of feeds cost.
type FeedCosts struct {
	Operations int64   `json:"operations"`
	Advisories int64   `json:"advisories"`
	Opened     int64   `json:"opened"`
	Resolved   int64   `json:"resolved"`
	CPU        float64 `json:"cpu_seconds"`
	Wall       float64 `json:"wall_seconds"`
}

// TierWaiting is what waits of a tier.
type TierWaiting struct {
	Tier    int   `json:"tier"`
	Reading int64 `json:"to_read"`
	Looking int64 `json:"to_look_up"`
}

// ScanCost is what one bill of materials cost.
type ScanCost struct {
	Digest     artifact.Digest `json:"digest"`
	Document   int64           `json:"document"`
	At         time.Time       `json:"at"`
	Tier       int             `json:"tier"`
	Components int             `json:"components"`
	New        int             `json:"new"`
	Advisories int             `json:"advisories"`
	CPU        float64         `json:"cpu_seconds"`
	Wall       float64         `json:"wall_seconds"`
	ReadCPU    float64         `json:"read_cpu_seconds"`
	ReadWall   float64         `json:"read_wall_seconds"`
	Waited     float64         `json:"waited_seconds"`
}

// MissedList is what scans missed: GET /api/v1/vulnerabilities/missed. Totals are
// of all, by cause, also where fewer are listed.
type MissedList struct {
	Totals map[string]int64  `json:"totals"`
	Items  []MissedDetection `json:"items"`
}

// MissedDetection is a match that scans should have found and did not.
type MissedDetection struct {
	Advisory  string     `json:"advisory"`
	Component string     `json:"component"`
	Feed      string     `json:"feed"`
	Ecosystem string     `json:"ecosystem"`
	Cause     string     `json:"cause"` // record, matcher, feed
	Operation int64      `json:"operation"`
	Received  *time.Time `json:"received,omitempty"`  // when the advisory came into force here; absent: with this operation
	Published *time.Time `json:"published,omitempty"` // by its own word
	Found     time.Time  `json:"found"`
	Artifacts int64      `json:"artifacts"` // whose scans had come out clean
}

// VulnCosts says what matching cost since a time (zero: ever); scans: how many of
// the costliest are listed.
func (c *Client) VulnCosts(ctx context.Context, since time.Time, scans int) (*VulnCosts, error) {
	q := sinceQuery(since)
	if scans > 0 {
		q.Set("scans", strconv.Itoa(scans))
	}
	var out VulnCosts
	return &out, c.call(ctx, http.MethodGet, "/api/v1/vulnerabilities/cost", q, nil, &out)
}

// Missed lists what scans missed and was found since a time (zero: ever), of one
// cause or "".
func (c *Client) Missed(ctx context.Context, since time.Time, cause string, limit int) (*MissedList, error) {
	q := sinceQuery(since)
	if cause != "" {
		q.Set("cause", cause)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	var out MissedList
	return &out, c.call(ctx, http.MethodGet, "/api/v1/vulnerabilities/missed", q, nil, &out)
}

func sinceQuery(since time.Time) url.Values {
	q := url.Values{}
	if !since.IsZero() {
		q.Set("since", since.UTC().Format(time.RFC3339))
	}
	return q
}
