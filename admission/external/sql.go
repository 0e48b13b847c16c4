package external

import (
	"context"
	"errors"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// Migrations is the table of images of other registries that were looked into: what
// a digest is never changes, so it is asked for once.
var Migrations = store.Migrations{Name: "admission_external", Steps: []string{`
CREATE TABLE admission_external (
	digest     TEXT   NOT NULL PRIMARY KEY,
	media_type TEXT   NOT NULL,
	parts      TEXT   NOT NULL, -- the manifests of an index, a line each
	seen_at    BIGINT NOT NULL
);
`}}

func keep(ctx context.Context, db *store.DB, d artifact.Digest, mediaType string, parts []artifact.Digest) error {
	lines := make([]string, len(parts))
	for i, p := range parts {
		lines[i] = string(p)
	}
	return db.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO admission_external (digest, media_type, parts, seen_at) VALUES (?, ?, ?, ?) ON CONFLICT (digest) DO NOTHING`,
			d, mediaType, strings.Join(lines, "\n"), store.Micros(tx.Now()))
		return err
	})
}

func load(ctx context.Context, db *store.DB, d artifact.Digest) (mediaType string, parts []artifact.Digest, known bool, err error) {
	var text string
	err = db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, `SELECT media_type, parts FROM admission_external WHERE digest = ?`, d).Scan(&mediaType, &text)
	})
	if errors.Is(err, fault.NotFound) {
		return "", nil, false, nil
	}
	for line := range strings.Lines(text) {
		parts = append(parts, artifact.Digest(strings.TrimSpace(line)))
	}
	return mediaType, parts, err == nil, err
}
