package registry

import (
	"context"

	"assay/artifact"
	"assay/store"
)

// listIndexes serve lists of what was pushed last, without what is about
// something else.
const listIndexes = `
CREATE INDEX registry_manifest_pushed ON registry_manifest (pushed_at, repository, digest) WHERE subject = '';
CREATE INDEX registry_manifest_listed ON registry_manifest (repository, pushed_at, digest) WHERE subject = ''`

// Place is where a manifest lies.
type Place struct {
	Repository string
	Tags       []string // that name it there now
}

// Places lists where a manifest lies, by repository, with at most 200 tags in
// all. It asks nobody's rights: it is for operators.
func Places(ctx context.Context, tx *store.Tx, digest artifact.Digest) (out []Place, err error) {
	rows, err := tx.Query(ctx, `SELECT m.repository, COALESCE(t.tag, '') FROM registry_manifest m
		LEFT JOIN registry_tag t ON t.repository = m.repository AND t.digest = m.digest
		WHERE m.digest = ? ORDER BY m.repository, t.tag LIMIT 200`, string(digest))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var repository, tag string
		if err := rows.Scan(&repository, &tag); err != nil {
			return nil, err
		}
		if n := len(out); n == 0 || out[n-1].Repository != repository {
			out = append(out, Place{Repository: repository})
		}
		if tag != "" {
			p := &out[len(out)-1]
			p.Tags = append(p.Tags, tag)
		}
	}
	return out, rows.Err()
}

// IsIndexType says whether a media type is one of an index: a list of manifests.
func IsIndexType(mediaType string) bool { return isIndex(mediaType) }
