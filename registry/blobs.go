package registry

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"assay/artifact"
	"assay/blob"
	"assay/blob/sweep"
	"assay/event"
	"assay/identity"
	"assay/internal/fault"
	"assay/store"
)

// getBlob answers GET and HEAD of a blob: access first, then visibility, then
// the bytes, as response.ReadFrom sends them.
func (r *Registry) getBlob(q *request) error {
	name := q.route.name
	if err := r.allow(q, identity.ActPull, name); err != nil {
		return err
	}
	d, err := parseDigest(q.route.ref)
	if err != nil {
		return err
	}
	if err := r.bringBlob(q, d); err != nil {
		return err
	}
	ctx := q.Context()
	err = r.db.View(ctx, func(tx *store.Tx) error {
		seen, err := r.visibleBlob(ctx, tx, &q.caller, name, d)
		if err == nil && !seen {
			err = blobUnknown(d, name)
		}
		return err
	})
	if err != nil {
		return err
	}
	f, err := r.blobs.Open(ctx, d)
	if err != nil {
		return withCode(err, fault.NotFound, codeBlobUnknown)
	}
	defer func() { _ = f.Close() }()
	if q.route.op == opBlobGet && !r.pulls.knows(q.reader()) {
		if err := r.noteBlobRead(q, d, f.Size()); err != nil {
			return err
		}
	}
	if p, yes := r.redirects(q, f.Size()); yes {
		return r.redirectBlob(q, p, d)
	}
	h := q.w.Header()
	h.Set("Docker-Content-Digest", string(d))
	h.Set("Etag", etag(d))
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Cache-Control", "private, max-age=31536000, immutable")
	// One range or none: several would be answered as multipart, which no client
	// of registries asks for and which multiplies work.
	if strings.Contains(q.Header.Get("Range"), ",") {
		q.Header.Del("Range")
	}
	var content = struct{ blob.File }{f}
	if of, ok := blob.OSFile(f); ok {
		http.ServeContent(q.w, q.Request, "", f.ModTime(), of)
	} else {
		http.ServeContent(q.w, q.Request, "", f.ModTime(), content)
	}
	return nil
}

type blobReadBody struct {
	Repository string `json:"repository"`
	Bytes      int64  `json:"bytes"` // of the blob
	trail
}

// noteBlobRead records that a blob is handed out to one who has pulled no
// manifest of the repository lately: what a pull's record stands for includes
// its blobs, and whoever knows a blob's digest needs no pull. Once an hour for
// each caller and repository is enough to see that it happens.
func (r *Registry) noteBlobRead(q *request, d artifact.Digest, size int64) error {
	return r.settle(q, r.rec.add(event.Event{
		Kind: event.BlobRead, Digest: d, Actor: q.caller.Actor(), TraceID: traceID(q.Request),
		Body: blobReadBody{q.route.name, size, q.trail(decisionAllow)},
	}))
}

// deleteBlob takes a blob out of a repository. While a manifest of the
// repository needs it, it stays: a manifest that cannot be pulled whole is no
// consistent state. The bytes go with garbage collection, since other
// repositories may hold them.
func (r *Registry) deleteBlob(q *request) error {
	name := q.route.name
	if err := r.allow(q, identity.ActDelete, name); err != nil {
		return err
	}
	d, err := parseDigest(q.route.ref)
	if err != nil {
		return err
	}
	ctx := q.Context()
	err = r.db.Update(ctx, func(tx *store.Tx) error {
		var parent string
		err := tx.QueryRow(ctx, `SELECT manifest FROM registry_reference WHERE child = ? AND kind = ? AND repository = ?`,
			string(d), refBlob, name).Scan(&parent)
		if err == nil {
			return inUse("blob", d, parent)
		}
		if !errors.Is(err, fault.NotFound) {
			return err
		}
		if err := refusedMove(r.keeper.MayDelete(ctx, tx, name, "", d, "")); err != nil {
			return err
		}
		n, err := tx.Exec(ctx, `DELETE FROM registry_upload WHERE repository = ? AND digest = ?`, name, string(d))
		if err != nil {
			return err
		}
		if n == 0 {
			return blobUnknown(d, name)
		}
		return event.Append(ctx, tx, event.Event{
			Kind: event.ArtifactDeleted, Digest: d, Actor: q.caller.Actor(), TraceID: traceID(q.Request),
			Body: deletedBody{Repository: name, What: "blob", trail: q.trail(decisionAllow)},
		})
	})
	if err != nil {
		if errors.As(err, new(*gateError)) {
			r.noteDenied(q, name, d, err)
		}
		return err
	}
	q.w.WriteHeader(http.StatusAccepted)
	return nil
}

type deletedBody struct {
	Repository string `json:"repository"`
	What       string `json:"what"` // manifest or blob
	MediaType  string `json:"media_type,omitempty"`
	Reason     string `json:"reason,omitempty"` // of retention and garbage collection
	trail
}

func blobUnknown(d artifact.Digest, repository string) error {
	return failf(codeBlobUnknown, fault.NotFound, "blob %s is not in repository %s", d, repository)
}

func inUse(what string, d artifact.Digest, parent string) error {
	return &failure{
		code: codeUnsupported, status: http.StatusMethodNotAllowed,
		err: fault.Newf(fault.Conflict, "%s %s is part of manifest %s; delete that one first", what, d, parent),
	}
}

func etag(d artifact.Digest) string { return `"` + string(d) + `"` }

// matches says whether an If-Match or If-None-Match header names d (RFC 9110
// section 13.1). Weak tags compare as strong ones: content cannot change under
// a digest.
func matches(header string, d artifact.Digest) bool {
	for tag := range strings.SplitSeq(header, ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if tag == "*" || d != "" && tag == etag(d) {
			return true
		}
	}
	return false
}

// mountedBody is the body of blob.mounted.
type mountedBody struct {
	Repository string `json:"repository"`
	From       string `json:"from"`
	trail
}

// mount makes a blob of another repository visible to the caller in this one,
// when they may pull it there and see it there. false: it cannot be mounted,
// for whichever reason, and the client uploads instead.
func (r *Registry) mount(q *request, d artifact.Digest, from string) (bool, error) {
	ctx, mounted := q.Context(), false
	err := r.db.Update(ctx, func(tx *store.Tx) error {
		mounted = false
		sources := []string{from}
		if from == "" {
			var err error
			if sources, err = holders(ctx, tx, d); err != nil {
				return err
			}
		}
		for _, source := range sources {
			if !ValidName(source) || r.permits(ctx, &q.caller, source, identity.ActPull) != nil {
				continue
			}
			seen, err := r.visibleBlob(ctx, tx, &q.caller, source, d)
			if err != nil {
				return err
			}
			if seen {
				gone, err := sweep.Deleting(ctx, tx, d)
				if err != nil || len(gone) > 0 {
					return err
				}
				mounted = true
				if err := insertUpload(ctx, tx, q.route.name, d, q.caller.owner()); err != nil {
					return err
				}
				return event.Append(ctx, tx, event.Event{
					Kind: event.BlobMounted, Digest: d, Actor: q.caller.Actor(), TraceID: traceID(q.Request),
					Body: mountedBody{q.route.name, source, q.trail(decisionAllow)},
				})
			}
		}
		return nil
	})
	if err != nil || !mounted {
		return false, err
	}
	if _, err := r.blobs.Stat(ctx, d); err != nil {
		if errors.Is(err, fault.NotFound) {
			return false, nil
		}
		return false, err
	}
	return true, nil
}

// holders lists some repositories that hold a blob, for a mount that names no
// source (OCI Distribution 1.1, "Mounting a blob from another repository").
func holders(ctx context.Context, tx *store.Tx, d artifact.Digest) ([]string, error) {
	const some = 32
	names, err := store.Values[string](ctx, tx, `SELECT DISTINCT repository FROM registry_reference WHERE child = ? AND kind = ? LIMIT ?`, string(d), refBlob, some)
	if err != nil {
		return nil, err
	}
	more, err := store.Values[string](ctx, tx, `SELECT DISTINCT repository FROM registry_upload WHERE digest = ? LIMIT ?`, string(d), some)
	return append(names, more...), err
}

func uploadHeaders(h http.Header, location string, offset int64) {
	h.Set("Location", location)
	h.Set("Range", "0-"+strconv.FormatInt(max(offset-1, 0), 10))
}
