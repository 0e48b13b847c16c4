package registry

import (
	"context"
	"time"

	"assay/artifact"
	"assay/store"
)

// Image is a manifest of a repository that counts for itself: no part of an
// index there, and no mere evidence about something else.
type Image struct {
	Digest artifact.Digest
	Pushed time.Time
	Tags   []string
	Newest time.Time // of the push and the moves of its tags
	Held   bool      // a push to a tag waits for it
}

// Images lists the images of a repository, in no order; only one with only set.
func Images(ctx context.Context, tx *store.Tx, repository string, only artifact.Digest) ([]Image, error) {
	rows, err := tx.Query(ctx, `SELECT m.digest, m.pushed_at, m.evidence, m.subject, COALESCE(t.tag, ''), COALESCE(t.moved_at, 0),
			(SELECT COUNT(*) FROM registry_tag_held h WHERE h.repository = m.repository AND h.digest = m.digest)
		FROM registry_manifest m LEFT JOIN registry_tag t ON t.repository = m.repository AND t.digest = m.digest
		WHERE m.repository = ? AND (? = '' OR m.digest = ?)
			AND NOT EXISTS (SELECT 1 FROM registry_reference p WHERE p.child = m.digest AND p.kind = ? AND p.repository = m.repository)
		ORDER BY m.digest, t.tag`, repository, string(only), string(only), refManifest)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var out []Image
	evidence := map[artifact.Digest]bool{}
	for rows.Next() {
		var d, subject artifact.Digest
		var tag string
		var pushed, moved, waiting int64
		var kind int
		if err := rows.Scan(&d, &pushed, &kind, &subject, &tag, &moved, &waiting); err != nil {
			return nil, err
		}
		if n := len(out); n == 0 || out[n-1].Digest != d {
			out = append(out, Image{Digest: d, Pushed: store.Time(pushed), Newest: store.Time(pushed), Held: waiting > 0})
		}
		im := &out[len(out)-1]
		if kind == mereEvidence && subject != "" {
			evidence[d] = true
		}
		if tag == "" {
			continue
		}
		if _, carrier := carrierTag(tag); carrier && kind != countsForItself {
			evidence[d] = true
			continue
		}
		im.Tags = append(im.Tags, tag)
		if at := store.Time(moved); at.After(im.Newest) {
			im.Newest = at
		}
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	kept := out[:0]
	for _, im := range out {
		if !evidence[im.Digest] {
			kept = append(kept, im)
		}
	}
	return kept, nil
}

// HasAny says whether a repository holds one of the digests as a manifest.
func HasAny(ctx context.Context, tx *store.Tx, digests []artifact.Digest) (bool, error) {
	for _, d := range digests {
		found, err := store.Values[string](ctx, tx, `SELECT digest FROM registry_manifest WHERE digest = ? LIMIT 1`, string(d))
		if err != nil || len(found) > 0 {
			return len(found) > 0, err
		}
	}
	return false, nil
}
