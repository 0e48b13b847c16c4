package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// SourceBranch is a protected branch at a forge, with the figures of its merges:
// GET /api/v1/source/branches.
type SourceBranch struct {
	Source        string          `json:"source"` // name of the document
	Repository    string          `json:"repository"`
	Ref           string          `json:"ref"`
	Pushes        int             `json:"pushes"` // judged, within the time asked for
	Reviewed      int             `json:"reviewed"`
	Coverage      float64         `json:"coverage"` // reviewed of pushes, 0 to 1; 0 without pushes
	Forced        int             `json:"forced"`
	Merges        int             `json:"merges"`
	MedianSeconds float64         `json:"median_merge_seconds"` // from opening to merge
	Protection    *SourceControls `json:"protection,omitempty"` // as last found; absent: not looked at
}

// SourceControls is how a branch is protected.
type SourceControls struct {
	Since          time.Time `json:"since"` // since when it is so, as far as is recorded
	NoForcePush    bool      `json:"no_force_push"`
	NoDeletion     bool      `json:"no_deletion"`
	SignedCommits  bool      `json:"signed_commits"`
	Reviews        int       `json:"reviews"`
	DismissStale   bool      `json:"dismiss_stale"`
	StatusChecks   bool      `json:"status_checks"`
	Administrators bool      `json:"administrators"` // they are bound too
}

// SourceBranches lists the branches whose forges tell of them, with the figures
// of the last days.
func (c *Client) SourceBranches(ctx context.Context, days int) ([]SourceBranch, error) {
	var out List[SourceBranch]
	err := c.call(ctx, http.MethodGet, "/api/v1/source/branches", url.Values{"days": {strconv.Itoa(days)}}, nil, &out)
	return out.Items, err
}
