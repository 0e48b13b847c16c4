package registry

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"assay/artifact"
	"assay/blob/sweep"
	"assay/internal/fault"
	"assay/store"
)

// Migrations are the registry's tables. Bytes are in the blob store; these say
// which repository holds what.
//
//   - registry_repository: names that something was pushed to.
//   - registry_manifest: the manifests of a repository. subject and
//     artifact_type serve the referrers API; annotations are JSON; evidence: see
//     CarriedBy.
//   - registry_reference: what a manifest needs: child is a blob (kind 0) or a
//     manifest of the same repository (kind 1), or a blob that a gateway
//     brings when somebody asks for it (kind 2). Garbage collection marks from
//     here.
//   - registry_tag: one row a tag; version rises with each move.
//   - registry_upload: who has brought a blob into a repository, by upload or
//     mount, and when; it keeps the blob visible to that one until a manifest
//     does, and keeps garbage collection off a push that is under way.
//   - registry_ingest: pushed evidence that has not been handed on yet.
//   - registry_tag_order, _held, _history: see tag.go.
//   - registry_removed: see collect.go.
var Migrations = store.Migrations{Name: "registry", Steps: []string{`
CREATE TABLE registry_repository (
	name       TEXT   NOT NULL PRIMARY KEY,
	created_at BIGINT NOT NULL
);
CREATE TABLE registry_manifest (
	repository    TEXT   NOT NULL,
	digest        TEXT   NOT NULL,
	media_type    TEXT   NOT NULL,
	artifact_type TEXT   NOT NULL,
	size          BIGINT NOT NULL,
	subject       TEXT   NOT NULL,
	annotations   TEXT   NOT NULL,
	pushed_by     TEXT   NOT NULL,
	pushed_at     BIGINT NOT NULL,
	PRIMARY KEY (repository, digest)
);
CREATE INDEX registry_manifest_subject ON registry_manifest (repository, subject, pushed_at DESC, digest) WHERE subject <> '';
CREATE INDEX registry_manifest_digest ON registry_manifest (digest);
CREATE TABLE registry_reference (
	repository TEXT   NOT NULL,
	manifest   TEXT   NOT NULL,
	child      TEXT   NOT NULL,
	kind       BIGINT NOT NULL,
	PRIMARY KEY (repository, manifest, child, kind)
);
CREATE INDEX registry_reference_child ON registry_reference (child, kind, repository);
CREATE TABLE registry_tag (
	repository TEXT   NOT NULL,
	tag        TEXT   NOT NULL,
	digest     TEXT   NOT NULL,
	version    BIGINT NOT NULL,
	moved_by   TEXT   NOT NULL,
	moved_at   BIGINT NOT NULL,
	PRIMARY KEY (repository, tag)
);
CREATE INDEX registry_tag_digest ON registry_tag (repository, digest);
CREATE TABLE registry_upload (
	repository  TEXT   NOT NULL,
	digest      TEXT   NOT NULL,
	uploader    TEXT   NOT NULL,
	uploaded_at BIGINT NOT NULL,
	PRIMARY KEY (repository, digest, uploader)
);
CREATE INDEX registry_upload_digest ON registry_upload (digest);
CREATE TABLE registry_ingest (
	repository    TEXT   NOT NULL,
	manifest      TEXT   NOT NULL,
	subject       TEXT   NOT NULL,
	artifact_type TEXT   NOT NULL,
	attempts      BIGINT NOT NULL,
	retry_at      BIGINT NOT NULL,
	PRIMARY KEY (repository, manifest, subject)
);
CREATE INDEX registry_ingest_retry ON registry_ingest (retry_at);
`, tagTables, `ALTER TABLE registry_manifest ADD COLUMN evidence BIGINT NOT NULL DEFAULT 0`, removedTable, listIndexes}}

// Kinds of reference.
const (
	refBlob     = 0
	refManifest = 1
	refRemote   = 2 // a blob that a gateway has not brought yet: it turns into refBlob when it is here
)

// manifestRow is a manifest as a repository holds it.
type manifestRow struct {
	digest       artifact.Digest
	mediaType    string
	artifactType string
	size         int64
	subject      artifact.Digest
	annotations  string
	pushedAt     int64 // microseconds
}

func findManifest(ctx context.Context, tx *store.Tx, repository string, d artifact.Digest) (manifestRow, error) {
	m := manifestRow{digest: d}
	err := tx.QueryRow(ctx, `SELECT media_type, artifact_type, size, subject FROM registry_manifest WHERE repository = ? AND digest = ?`,
		repository, string(d)).Scan(&m.mediaType, &m.artifactType, &m.size, &m.subject)
	return m, err
}

// findTag gives a tag's digest and version; fault.NotFound when it is not set.
func findTag(ctx context.Context, tx *store.Tx, repository, tag string) (d artifact.Digest, version int64, err error) {
	err = tx.QueryRow(ctx, `SELECT digest, version FROM registry_tag WHERE repository = ? AND tag = ?`, repository, tag).Scan(&d, &version)
	return d, version, err
}

// setTag moves a tag from the version that was read; fault.Conflict when
// somebody else has moved it since. Version 0 stands for a tag that was not
// there.
func setTag(ctx context.Context, tx *store.Tx, repository, tag string, to artifact.Digest, version int64, by string) error {
	n, err := tx.Exec(ctx, `
		INSERT INTO registry_tag (repository, tag, digest, version, moved_by, moved_at) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (repository, tag) DO UPDATE SET
			digest = excluded.digest, version = excluded.version, moved_by = excluded.moved_by, moved_at = excluded.moved_at
		WHERE registry_tag.version = ?`,
		repository, tag, string(to), version+1, by, tx.Now(), version)
	if err != nil {
		return err
	}
	if n == 0 {
		return fault.Newf(fault.Conflict, "tag %s was moved by somebody else meanwhile; look where it points and push again", tag)
	}
	return nil
}

func insertManifest(ctx context.Context, tx *store.Tx, repository string, d artifact.Digest, size int64, m *manifest, by string) error {
	annotations, err := json.Marshal(m.annotations)
	if err != nil {
		return err
	}
	if err := notTaken(ctx, tx, d, m); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `INSERT INTO registry_repository (name, created_at) VALUES (?, ?) ON CONFLICT (name) DO NOTHING`,
		repository, tx.Now()); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `
		INSERT INTO registry_manifest (repository, digest, media_type, artifact_type, size, subject, annotations, pushed_by, pushed_at, evidence)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		repository, string(d), m.mediaType, m.artifactType, size, string(m.subject), string(annotations), by, tx.Now(), evidenceOf(m)); err != nil {
		return err
	}
	kind := refBlob
	if m.remote {
		kind = refRemote
	}
	if err := insertReferences(ctx, tx, repository, d, m.blobs, kind); err != nil {
		return err
	}
	return insertReferences(ctx, tx, repository, d, m.children, refManifest)
}

// Statements over many digests have one of two lengths, so that the store's
// cache of translated texts stays small; the rest of a list is filled with its
// last member.
const (
	fewDigests  = 8
	manyDigests = 128
)

func insertReferences(ctx context.Context, tx *store.Tx, repository string, parent artifact.Digest, children []descriptor, kind int) error {
	return inChunks(digestsOf(children), func(chunk []any) error {
		args := make([]any, 0, 4*len(chunk))
		for _, c := range chunk {
			args = append(args, repository, string(parent), c, kind)
		}
		_, err := tx.Exec(ctx, `INSERT INTO registry_reference (repository, manifest, child, kind) VALUES `+
			strings.Repeat(`(?, ?, ?, ?), `, len(chunk)-1)+`(?, ?, ?, ?) ON CONFLICT (repository, manifest, child, kind) DO NOTHING`, args...)
		return err
	})
}

// inChunks calls fn with all of list, a fixed number at a time.
func inChunks(list []any, fn func(chunk []any) error) error {
	for len(list) > 0 {
		size := fewDigests
		if len(list) > fewDigests {
			size = manyDigests
		}
		chunk := make([]any, 0, size)
		n := min(size, len(list))
		chunk = append(chunk, list[:n]...)
		for len(chunk) < size {
			chunk = append(chunk, list[n-1])
		}
		if err := fn(chunk); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

func digestsOf(list []descriptor) []any {
	out := make([]any, 0, len(list))
	seen := make(map[artifact.Digest]bool, len(list))
	for i := range list {
		if d := list[i].Digest; !seen[d] {
			seen[d] = true
			out = append(out, string(d))
		}
	}
	return out
}

func marks(n int) string { return strings.Repeat("?, ", n-1) + "?" }

// insertUpload makes a blob its uploader's. It is [sweep.ErrTaken] while the
// blob's bytes are being deleted.
func insertUpload(ctx context.Context, tx *store.Tx, repository string, d artifact.Digest, owner string) error {
	if gone, err := sweep.Deleting(ctx, tx, d); err != nil || len(gone) > 0 {
		return errors.Join(err, takenAll(gone))
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO registry_upload (repository, digest, uploader, uploaded_at) VALUES (?, ?, ?, ?)
		ON CONFLICT (repository, digest, uploader) DO UPDATE SET uploaded_at = excluded.uploaded_at`,
		repository, string(d), owner, tx.Now())
	return err
}

// youngSince is the time after which an upload counts as young.
func (r *Registry) youngSince(tx *store.Tx) time.Time { return tx.Now().Add(-r.limits.UploadYoung) }
