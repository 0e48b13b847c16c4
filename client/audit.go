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

// AuditFilter narrows the audit trail; the zero value is all of it.
type AuditFilter struct {
	Identity   string // a name, or the whole actor, issuer#name
	Repository string
	Digest     artifact.Digest
	Kind       string
	Since      time.Time
	Until      time.Time
	Newest     bool   // newest first
	After      string // cursor
	Limit      int    // 0: 100
}

func (f AuditFilter) query() url.Values {
	q := page(f.After, f.Limit)
	for k, v := range map[string]string{"identity": f.Identity, "repository": f.Repository, "digest": string(f.Digest), "kind": f.Kind} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if !f.Since.IsZero() {
		q.Set("since", f.Since.UTC().Format(time.RFC3339Nano))
	}
	if !f.Until.IsZero() {
		q.Set("until", f.Until.UTC().Format(time.RFC3339Nano))
	}
	if f.Newest {
		q.Set("newest", "true")
	}
	return q
}

// AuditRecord is an event of the audit trail.
type AuditRecord struct {
	Seq     int64           `json:"seq"`
	ID      string          `json:"id"`
	Time    time.Time       `json:"time"`
	Kind    string          `json:"kind"`
	Digest  artifact.Digest `json:"digest"`
	Actor   string          `json:"actor"`
	Team    string          `json:"team"`
	Service string          `json:"service"`
	Env     string          `json:"env"`
	Cluster string          `json:"cluster"`
	TraceID string          `json:"trace_id"`
	Body    json.RawMessage `json:"body"` // as docs/events.md has it for the kind
}

// UnauthorizedPull is a pull that was served, and what took its right away
// later.
type UnauthorizedPull struct {
	Pull       AuditRecord `json:"pull"`
	Revocation string      `json:"revocation"` // rev_…, or the list's entry
	Since      time.Time   `json:"since"`      // from when on it was not right
	Revoked    time.Time   `json:"revoked"`    // when that became known
	Reason     string      `json:"reason"`
}

// Audit reads a page of the audit trail.
func (c *Client) Audit(ctx context.Context, f AuditFilter) (*List[AuditRecord], error) {
	var l List[AuditRecord]
	return &l, c.call(ctx, http.MethodGet, "/api/v1/audit", f.query(), nil, &l)
}

// AuditExport reads a page of lines of an export, see package audit.
func (c *Client) AuditExport(ctx context.Context, f AuditFilter) (*List[json.RawMessage], error) {
	q := f.query()
	q.Del("limit")
	q.Del("newest")
	var l List[json.RawMessage]
	return &l, c.call(ctx, http.MethodGet, "/api/v1/audit/export", q, nil, &l)
}

// Unauthorized lists served pulls whose right proved invalid later; denied: those
// that were refused, of the same digests and identities, instead.
func (c *Client) Unauthorized(ctx context.Context, f AuditFilter, denied bool) (*List[UnauthorizedPull], error) {
	q := url.Values{}
	for k, v := range f.query() {
		if k == "since" || k == "until" || k == "after" || k == "limit" {
			q[k] = v
		}
	}
	if denied {
		q.Set("denied", strconv.FormatBool(denied))
	}
	var l List[UnauthorizedPull]
	return &l, c.call(ctx, http.MethodGet, "/api/v1/audit/unauthorized", q, nil, &l)
}
