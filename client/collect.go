package client

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"assay/artifact"
)

// Collection is what garbage collection did, or with dry_run would do now:
// POST /api/v1/registry/gc.
type Collection struct {
	DryRun       bool            `json:"dry_run"`
	Grace        string          `json:"grace"`     // how long what nothing needs is kept
	Seen         int64           `json:"seen"`      // blobs looked at
	Manifests    int64           `json:"manifests"` // evidence and parts of indexes that went with what they belonged to
	Uploads      int64           `json:"uploads"`   // rows of uploads that no manifest named
	Sessions     int64           `json:"sessions"`  // abandoned upload sessions
	Marked       int64           `json:"marked"`    // blobs that nothing needs, first seen so now
	Waiting      int64           `json:"waiting"`   // blobs that nothing needs, in their grace
	WaitingBytes int64           `json:"waiting_bytes"`
	Deleted      int64           `json:"deleted"` // blobs
	FreedBytes   int64           `json:"freed_bytes"`
	Locked       int64           `json:"locked"`           // blobs that the object store keeps
	Pinned       string          `json:"pinned,omitempty"` // why no blob was deleted
	Blobs        []CollectedBlob `json:"blobs"`            // deleted, the first hundred
}

// CollectedBlob is a blob that nothing needed.
type CollectedBlob struct {
	Digest artifact.Digest `json:"digest"`
	Size   int64           `json:"size"`
}

// GC collects what nothing needs. A grace below 0 is the configured one; 0
// collects at once.
func (c *Client) GC(ctx context.Context, dryRun bool, grace time.Duration) (*Collection, error) {
	q := url.Values{}
	if dryRun {
		q.Set("dry_run", "true")
	}
	if grace >= 0 {
		q.Set("grace", grace.String())
	}
	var out Collection
	return &out, c.call(ctx, http.MethodPost, "/api/v1/registry/gc", q, nil, &out)
}
