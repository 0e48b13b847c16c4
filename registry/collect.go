package registry

import (
	"context"
	"errors"
	"slices"
	"time"

	"assay/artifact"
	"assay/blob/sweep"
	"assay/internal/fault"
	"assay/store"
)

// removedTable remembers what left a repository, until registry/collect has
// taken along what goes with it:
//
//   - what = 'subject': digest was deleted there; evidence that was attached to
//     it goes, unless it comes back.
//   - what = 'part': an index that named the manifest digest was deleted; it
//     goes too, unless something else holds it.
//
// What was attached to content that never was here is not in it: whether that
// content exists is not known.
const removedTable = `
CREATE TABLE registry_removed (
	repository TEXT   NOT NULL,
	digest     TEXT   NOT NULL,
	what       TEXT   NOT NULL,
	removed_at BIGINT NOT NULL,
	PRIMARY KEY (repository, digest, what)
);
CREATE INDEX registry_removed_at ON registry_removed (removed_at);
CREATE INDEX registry_upload_at ON registry_upload (uploaded_at);
`

const (
	removedSubject = "subject"
	removedPart    = "part"
)

// takenAll is [sweep.ErrTaken] of the first of some digests; nil of none.
func takenAll(gone []artifact.Digest) error {
	if len(gone) == 0 {
		return nil
	}
	return sweep.Taken(gone[0])
}

// notTaken refuses a manifest while bytes that it needs are being deleted: its
// own are stored again, its blobs are the client's to bring.
func notTaken(ctx context.Context, tx *store.Tx, d artifact.Digest, m *manifest) error {
	needs := []artifact.Digest{d}
	if !m.remote {
		for i := range m.blobs {
			needs = append(needs, m.blobs[i].Digest)
		}
	}
	gone, err := sweep.Deleting(ctx, tx, needs...)
	switch {
	case err != nil || len(gone) == 0:
		return err
	case slices.Contains(gone, d):
		return sweep.Taken(d)
	}
	return missingContent(gone)
}

// keepRow commits rows that need the manifest d, whose bytes lie at hand and
// were stored. It may run commit more than once.
func (r *Registry) keepRow(ctx context.Context, d artifact.Digest, body []byte, commit func(tx *store.Tx) error) error {
	const most = 5
	for try := 0; ; try++ {
		err := r.db.Update(ctx, commit)
		if err == nil {
			// Bytes that were there before may have gone between the look at them
			// and the rows; no more can go now.
			return r.keepBytes(ctx, d, body)
		}
		if !errors.Is(err, sweep.ErrTaken) || try == most {
			return err
		}
		if err := sweep.Clear(ctx, r.db, d); err != nil {
			return err
		}
		if err := r.keepBytes(ctx, d, body); err != nil {
			return err
		}
	}
}

// stillThere makes sure of a blob's bytes once a row keeps them: content that
// was stored before is not written again, and may have been taken away between
// that look and the row.
func (r *Registry) stillThere(ctx context.Context, d artifact.Digest) error {
	_, err := r.blobs.Stat(ctx, d)
	if errors.Is(err, fault.NotFound) {
		return sweep.Taken(d)
	}
	return err
}

// Needs calls keep with those of the digests that repositories need: manifests,
// their blobs, and blobs that somebody brought after a time and may still name
// in a manifest.
func Needs(ctx context.Context, tx *store.Tx, since time.Time, digests []artifact.Digest, keep func(artifact.Digest)) error {
	list := make([]any, len(digests))
	for i, d := range digests {
		list[i] = string(d)
	}
	return inChunks(list, func(chunk []any) error {
		in := `(` + marks(len(chunk)) + `)`
		args := append(append(append(append([]any{}, chunk...), chunk...), refBlob), chunk...)
		found, err := store.Values[string](ctx, tx, `SELECT digest FROM registry_manifest WHERE digest IN `+in+`
			UNION SELECT child FROM registry_reference WHERE child IN `+in+` AND kind = ?
			UNION SELECT digest FROM registry_upload WHERE digest IN `+in+` AND uploaded_at > ?`, append(args, since)...)
		for _, d := range found {
			keep(artifact.Digest(d))
		}
		return err
	})
}

// Forget drops what says that somebody brought blobs whose bytes go now.
func Forget(ctx context.Context, tx *store.Tx, digests []artifact.Digest) error {
	list := make([]any, len(digests))
	for i, d := range digests {
		list[i] = string(d)
	}
	return inChunks(list, func(chunk []any) error {
		_, err := tx.Exec(ctx, `DELETE FROM registry_upload WHERE digest IN (`+marks(len(chunk))+`)`, chunk...)
		return err
	})
}

// PruneUploads drops rows of uploads before a time, at most some at a time, and
// says how many: a manifest has its blobs by then, or never names them.
func PruneUploads(ctx context.Context, tx *store.Tx, before time.Time) (int64, error) {
	return tx.Exec(ctx, `DELETE FROM registry_upload WHERE (repository, digest, uploader) IN (
		SELECT repository, digest, uploader FROM registry_upload WHERE uploaded_at <= ? ORDER BY uploaded_at LIMIT 500)`, before)
}

// Removed is a row of what left a repository.
type Removed struct {
	Repository string
	Digest     artifact.Digest
	At         time.Time
	part       bool
}

// RemovedBefore lists what left repositories before a time, the oldest first.
func RemovedBefore(ctx context.Context, tx *store.Tx, before time.Time, limit int) (out []Removed, err error) {
	rows, err := tx.Query(ctx, `SELECT repository, digest, what, removed_at FROM registry_removed WHERE removed_at <= ? ORDER BY removed_at LIMIT ?`, before, limit)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var r Removed
		var what string
		var at int64
		if err := rows.Scan(&r.Repository, &r.Digest, &what, &at); err != nil {
			return nil, err
		}
		r.part, r.At = what == removedPart, store.Time(at)
		out = append(out, r)
	}
	return out, rows.Err()
}

// UploadYoung is how long a blob without manifest is its uploader's to see.
func (r *Registry) UploadYoung() time.Duration { return r.limits.UploadYoung }
