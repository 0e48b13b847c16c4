package integrity

import (
	"context"
	"errors"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// Migrations are the tables of integrity. They need registry's.
//
//   - integrity_damage: blobs whose stored bytes are not what they were, until
//     they are repaired.
//   - integrity_mark: how far the running round has come, and when the last
//     one ended.
var Migrations = store.Migrations{Name: "integrity", Steps: []string{`
CREATE TABLE integrity_damage (
	digest   TEXT   NOT NULL PRIMARY KEY,
	found    TEXT   NOT NULL,
	found_at BIGINT NOT NULL
);
CREATE TABLE integrity_mark (
	name  TEXT NOT NULL PRIMARY KEY,
	value TEXT NOT NULL
);
`}}

// kindBlob is the kind of registry_reference that says that the bytes are here.
const kindBlob = 0

// needers lists the manifests, of whichever repository, that cannot be pulled
// whole without the blob d; a manifest needs itself.
func needers(ctx context.Context, tx *store.Tx, d artifact.Digest) ([]artifact.Digest, error) {
	return store.Values[artifact.Digest](ctx, tx, `SELECT manifest FROM registry_reference WHERE child = ? AND kind = ?
		UNION SELECT digest FROM registry_manifest WHERE digest = ?`, string(d), kindBlob, string(d))
}

// hurt says whether a manifest needs another blob that is damaged.
func hurt(ctx context.Context, tx *store.Tx, manifest artifact.Digest) (bool, error) {
	var one int64
	err := tx.QueryRow(ctx, `SELECT 1 FROM integrity_damage WHERE digest = ? OR digest IN
		(SELECT child FROM registry_reference WHERE manifest = ? AND kind = ?) LIMIT 1`, string(manifest), string(manifest), kindBlob).Scan(&one)
	if errors.Is(err, fault.NotFound) {
		return false, nil
	}
	return err == nil, err
}

// needed is a page of what the tables say is stored, by digest, after one.
func needed(ctx context.Context, tx *store.Tx, after artifact.Digest) ([]artifact.Digest, error) {
	return store.Values[artifact.Digest](ctx, tx, `SELECT digest FROM (
		SELECT digest FROM registry_manifest WHERE digest > ?
		UNION SELECT child AS digest FROM registry_reference WHERE kind = ? AND child > ?
	) AS all_needed ORDER BY digest LIMIT 1000`, string(after), kindBlob, string(after))
}

func mark(ctx context.Context, tx *store.Tx, name string) (value string, err error) {
	err = tx.QueryRow(ctx, `SELECT value FROM integrity_mark WHERE name = ?`, name).Scan(&value)
	if errors.Is(err, fault.NotFound) {
		return "", nil
	}
	return value, err
}

func setMark(ctx context.Context, tx *store.Tx, name, value string) error {
	_, err := tx.Exec(ctx, `INSERT INTO integrity_mark (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
	return err
}
