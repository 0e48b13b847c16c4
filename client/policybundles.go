package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"assay/artifact"
)

// PolicyBundleActivate asks that a bundle of policies be put in force:
// POST /api/v1/policy-bundles. Archive is the bundle as it is packed; without it,
// Name and Version name one that was in force before.
type PolicyBundleActivate struct {
	Archive    []byte `json:"archive,omitempty"`    // .tar.gz in the layout of OPA's bundles
	Signatures []byte `json:"signatures,omitempty"` // Sigstore bundles, one to a line
	Name       string `json:"name,omitempty"`       // where the bundle does not say it
	Version    int64  `json:"version,omitempty"`    // where the bundle does not say it
	Origin     string `json:"origin,omitempty"`     // whence it came, for people
	Reason     string `json:"reason,omitempty"`     // on record
	Rollback   bool   `json:"rollback,omitempty"`   // also when it is older than what was in force
	Unsigned   bool   `json:"unsigned,omitempty"`   // also when nobody signed it, where the site allows that
	DryRun     bool   `json:"dry_run,omitempty"`    // say what would change
	// ReplayDays has the recorded decisions of so many days judged again first;
	// with refusals that are new and not in Accept nothing is changed. 0: no.
	ReplayDays int      `json:"replay_days,omitempty"`
	Accept     []string `json:"accept,omitempty"`
}

// PolicyBundleActivated answers it.
type PolicyBundleActivated struct {
	Name      string          `json:"name"`
	Version   int64           `json:"version"`
	From      int64           `json:"from"` // version in force before; 0: none
	Digest    artifact.Digest `json:"digest"`
	Signers   []string        `json:"signers"`
	Changes   []Change        `json:"changes"`
	DryRun    bool            `json:"dry_run,omitempty"`
	Activated bool            `json:"activated"`
	Why       string          `json:"why,omitempty"`    // it was not
	Replay    json.RawMessage `json:"replay,omitempty"` // a replay.Comparison
}

// PolicyBundle is a bundle of policies in force, or one time that it was.
type PolicyBundle struct {
	Name        string          `json:"name"`
	Seq         int64           `json:"seq"` // counts the activations of the name
	Version     int64           `json:"version"`
	Digest      artifact.Digest `json:"digest"`
	Policies    []string        `json:"policies"`
	Signers     []string        `json:"signers"`
	Origin      string          `json:"origin,omitempty"`
	Actor       string          `json:"actor"`
	Reason      string          `json:"reason,omitempty"`
	ActivatedAt time.Time       `json:"activated_at"`
	ReplacedAt  time.Time       `json:"replaced_at,omitzero"`
	// Problem says why what the site found last at the bundle's place is not in
	// force; this one stays.
	Problem   string    `json:"problem,omitempty"`
	CheckedAt time.Time `json:"checked_at,omitzero"`
}

// ActivatePolicyBundle puts a bundle in force.
func (c *Client) ActivatePolicyBundle(ctx context.Context, q PolicyBundleActivate) (out PolicyBundleActivated, err error) {
	return out, c.call(ctx, http.MethodPost, "/api/v1/policy-bundles", nil, q, &out)
}

// PolicyBundles lists the bundles in force, and those that the site follows.
func (c *Client) PolicyBundles(ctx context.Context) (out List[PolicyBundle], err error) {
	return out, c.call(ctx, http.MethodGet, "/api/v1/policy-bundles", nil, nil, &out)
}

// PolicyBundleHistory lists the activations of a name, the newest first.
func (c *Client) PolicyBundleHistory(ctx context.Context, name string, limit int) (out List[PolicyBundle], err error) {
	return out, c.call(ctx, http.MethodGet, "/api/v1/policy-bundles/"+url.PathEscape(name)+"/history", url.Values{"limit": {strconv.Itoa(limit)}}, nil, &out)
}

// RemovePolicyBundle takes a bundle and its policies out of force.
func (c *Client) RemovePolicyBundle(ctx context.Context, name, reason string) (out PolicyBundleActivated, err error) {
	return out, c.call(ctx, http.MethodDelete, "/api/v1/policy-bundles/"+url.PathEscape(name), url.Values{"reason": {reason}}, nil, &out)
}
