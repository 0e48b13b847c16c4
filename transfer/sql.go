package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// Migrations are the tables of both sides.
//
//   - transfer_export: every file that was made, with its signed manifest.
//   - transfer_sent: what a target was sent, and in which file first: what is
//     "member" by digest, "manifest" and "evidence" by repository and digest,
//     "tag" by repository and tag with where it pointed.
//   - transfer_origin: the exporters that are trusted here, and how far they are.
//   - transfer_import: every file that was imported.
//   - transfer_received: the members that came from an exporter. What a later
//     file names without holding it must have come from the same one.
//   - transfer_feed: the files of imported feeds.
var Migrations = store.Migrations{Name: "transfer", Steps: []string{`
CREATE TABLE transfer_export (
	target   TEXT   NOT NULL,
	sequence BIGINT NOT NULL,
	digest   TEXT   NOT NULL,
	manifest BYTES  NOT NULL,
	actor    TEXT   NOT NULL,
	made_at  BIGINT NOT NULL,
	PRIMARY KEY (target, sequence)
);
CREATE TABLE transfer_sent (
	target   TEXT   NOT NULL,
	what     TEXT   NOT NULL,
	name     TEXT   NOT NULL,
	value    TEXT   NOT NULL,
	sequence BIGINT NOT NULL,
	PRIMARY KEY (target, what, name)
);
CREATE TABLE transfer_origin (
	origin      TEXT   NOT NULL PRIMARY KEY,
	name        TEXT   NOT NULL UNIQUE,
	root        BYTES  NOT NULL,
	target      TEXT   NOT NULL,
	sequence    BIGINT NOT NULL,
	digest      TEXT   NOT NULL,
	namespaces  TEXT   NOT NULL,
	imported_at BIGINT NOT NULL
);
CREATE TABLE transfer_import (
	origin      TEXT   NOT NULL,
	sequence    BIGINT NOT NULL,
	digest      TEXT   NOT NULL,
	actor       TEXT   NOT NULL,
	imported_at BIGINT NOT NULL,
	PRIMARY KEY (origin, sequence)
);
CREATE TABLE transfer_received (
	origin   TEXT   NOT NULL,
	digest   TEXT   NOT NULL,
	sequence BIGINT NOT NULL,
	PRIMARY KEY (origin, digest)
);
CREATE TABLE transfer_feed (
	origin   TEXT   NOT NULL,
	feed     TEXT   NOT NULL,
	path     TEXT   NOT NULL,
	digest   TEXT   NOT NULL,
	size     BIGINT NOT NULL,
	sequence BIGINT NOT NULL,
	PRIMARY KEY (origin, feed, path)
);
`, `
CREATE INDEX transfer_sent_member ON transfer_sent (name) WHERE what = 'member';
CREATE INDEX transfer_feed_digest ON transfer_feed (digest);
`}}

// Export is a file that was made.
type Export struct {
	Target   string
	Sequence int64
	Digest   artifact.Digest
	Manifest []byte // signed
	Actor    string
	MadeAt   time.Time
}

// LastExport is the newest file for a target; its Sequence is 0 when there is
// none.
func LastExport(ctx context.Context, tx *store.Tx, target string) (Export, error) {
	e, err := selectExport(ctx, tx, `target = ? ORDER BY sequence DESC LIMIT 1`, target)
	if errors.Is(err, fault.NotFound) {
		return Export{Target: target}, nil
	}
	return e, err
}

// GetExport is one file for a target.
func GetExport(ctx context.Context, tx *store.Tx, target string, sequence int64) (Export, error) {
	e, err := selectExport(ctx, tx, `target = ? AND sequence = ?`, target, sequence)
	if errors.Is(err, fault.NotFound) {
		err = fault.Newf(fault.NotFound, "no bundle %d was made for target %.80q here: assay bundle list", sequence, target)
	}
	return e, err
}

func selectExport(ctx context.Context, tx *store.Tx, where string, args ...any) (e Export, err error) {
	var at int64
	err = tx.QueryRow(ctx, `SELECT target, sequence, digest, manifest, actor, made_at FROM transfer_export WHERE `+where, args...).
		Scan(&e.Target, &e.Sequence, &e.Digest, &e.Manifest, &e.Actor, &at)
	e.MadeAt = store.Time(at)
	return e, err
}

// Exports lists the files that were made, the newest first, at most 1,000 and
// without their manifests.
func Exports(ctx context.Context, tx *store.Tx) (out []Export, err error) {
	rows, err := tx.Query(ctx, `SELECT target, sequence, digest, actor, made_at FROM transfer_export ORDER BY made_at DESC, target, sequence DESC LIMIT 1000`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var e Export
		var at int64
		if err := rows.Scan(&e.Target, &e.Sequence, &e.Digest, &e.Actor, &at); err != nil {
			return nil, err
		}
		e.MadeAt = store.Time(at)
		out = append(out, e)
	}
	return out, rows.Err()
}

// PutExport notes a file and what it brings; fault.Conflict when another one of
// its sequence was made meanwhile. A full file forgets what was sent before it.
func PutExport(ctx context.Context, tx *store.Tx, e Export, full bool, sent []Sent) error {
	n, err := tx.Exec(ctx, `INSERT INTO transfer_export (target, sequence, digest, manifest, actor, made_at) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (target, sequence) DO NOTHING`, e.Target, e.Sequence, string(e.Digest), e.Manifest, e.Actor, tx.Now())
	if err != nil {
		return err
	}
	if n == 0 {
		return fault.Newf(fault.Conflict, "another export for target %s was made at the same time: try again", e.Target)
	}
	if full {
		if _, err := tx.Exec(ctx, `DELETE FROM transfer_sent WHERE target = ?`, e.Target); err != nil {
			return err
		}
	}
	for _, s := range sent {
		if _, err := tx.Exec(ctx, `INSERT INTO transfer_sent (target, what, name, value, sequence) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (target, what, name) DO UPDATE SET value = excluded.value, sequence = excluded.sequence`, e.Target, s.What, s.Name, s.Value, e.Sequence); err != nil {
			return err
		}
	}
	return nil
}

// Sent is one thing that a target was sent.
type Sent struct{ What, Name, Value string }

// AllSent gives what a target was sent since the last full file, by what and
// name.
func AllSent(ctx context.Context, tx *store.Tx, target string) (map[Sent]bool, error) {
	rows, err := tx.Query(ctx, `SELECT what, name, value FROM transfer_sent WHERE target = ?`, target)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[Sent]bool{}
	for rows.Next() {
		var s Sent
		if err := rows.Scan(&s.What, &s.Name, &s.Value); err != nil {
			return nil, err
		}
		out[s] = true
	}
	return out, rows.Err()
}

// Origin is an exporter that is trusted here.
type Origin struct {
	Origin     string
	Name       string // of the foreign root that it became
	Root       []byte // its newest root.json that was seen
	State             // how far it is
	Namespaces []string
	ImportedAt time.Time
}

// GetOrigin finds an exporter; fault.NotFound.
func GetOrigin(ctx context.Context, tx *store.Tx, origin string) (Origin, error) {
	all, err := selectOrigins(ctx, tx, ` WHERE origin = ?`, origin)
	if err == nil && len(all) == 0 {
		return Origin{}, fault.Newf(fault.NotFound, "nothing of %.200q was imported here", origin)
	}
	if err != nil {
		return Origin{}, err
	}
	return all[0], nil
}

// Origins lists all exporters.
func Origins(ctx context.Context, tx *store.Tx) ([]Origin, error) {
	return selectOrigins(ctx, tx, ` ORDER BY origin`)
}

func selectOrigins(ctx context.Context, tx *store.Tx, where string, args ...any) (out []Origin, err error) {
	rows, err := tx.Query(ctx, `SELECT origin, name, root, target, sequence, digest, namespaces, imported_at FROM transfer_origin`+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var o Origin
		var at int64
		var namespaces string
		if err := rows.Scan(&o.Origin, &o.Name, &o.Root, &o.Target, &o.Sequence, &o.Digest, &namespaces, &at); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(namespaces), &o.Namespaces); err != nil {
			return nil, fault.Newf(fault.Tampered, "namespaces of %s: %w", o.Origin, err)
		}
		o.ImportedAt = store.Time(at)
		out = append(out, o)
	}
	return out, rows.Err()
}

// PutOrigin notes how far an exporter is. was is the sequence that it is
// expected to have; fault.Conflict when another import was first.
func PutOrigin(ctx context.Context, tx *store.Tx, o Origin, was int64) error {
	namespaces, err := json.Marshal(o.Namespaces)
	if err != nil {
		return err
	}
	n, err := tx.Exec(ctx, `INSERT INTO transfer_origin (origin, name, root, target, sequence, digest, namespaces, imported_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (origin) DO UPDATE SET root = excluded.root, target = excluded.target, sequence = excluded.sequence, digest = excluded.digest,
			namespaces = excluded.namespaces, imported_at = excluded.imported_at
		WHERE transfer_origin.sequence = ?`, o.Origin, o.Name, o.Root, o.Target, o.Sequence, string(o.Digest), string(namespaces), tx.Now(), was)
	if err == nil && n == 0 {
		err = fault.Newf(fault.Conflict, "another bundle of %s was imported at the same time", o.Origin)
	}
	return err
}

// Received notes a file and its members.
func Received(ctx context.Context, tx *store.Tx, v *Verified, actor string) error {
	m := v.Manifest
	if _, err := tx.Exec(ctx, `INSERT INTO transfer_import (origin, sequence, digest, actor, imported_at) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (origin, sequence) DO NOTHING`, m.Origin, m.Sequence, string(v.Digest), actor, tx.Now()); err != nil {
		return err
	}
	for _, e := range m.Members {
		if _, err := tx.Exec(ctx, `INSERT INTO transfer_received (origin, digest, sequence) VALUES (?, ?, ?)
			ON CONFLICT (origin, digest) DO NOTHING`, m.Origin, string(e.Digest), m.Sequence); err != nil {
			return err
		}
	}
	return nil
}

// HasReceived says whether a member came from an exporter before.
func HasReceived(ctx context.Context, tx *store.Tx, origin string, d artifact.Digest) (bool, error) {
	var n int64
	err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM transfer_received WHERE origin = ? AND digest = ?`, origin, string(d)).Scan(&n)
	return n > 0, err
}

// PutFeed replaces the files of a feed.
func PutFeed(ctx context.Context, tx *store.Tx, origin string, sequence int64, f Feed) error {
	if _, err := tx.Exec(ctx, `DELETE FROM transfer_feed WHERE origin = ? AND feed = ?`, origin, f.Name); err != nil {
		return err
	}
	for _, file := range f.Files {
		if _, err := tx.Exec(ctx, `INSERT INTO transfer_feed (origin, feed, path, digest, size, sequence) VALUES (?, ?, ?, ?, ?, ?)`,
			origin, f.Name, file.Path, string(file.Digest), file.Size, sequence); err != nil {
			return err
		}
	}
	return nil
}

// Feeds gives the files of the imported feeds of an exporter.
func Feeds(ctx context.Context, tx *store.Tx, origin string) (out []Feed, err error) {
	rows, err := tx.Query(ctx, `SELECT feed, path, digest, size FROM transfer_feed WHERE origin = ? ORDER BY feed, path`, origin)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var f FeedFile
		if err := rows.Scan(&name, &f.Path, &f.Digest, &f.Size); err != nil {
			return nil, err
		}
		if n := len(out); n == 0 || out[n-1].Name != name {
			out = append(out, Feed{Name: name})
		}
		last := &out[len(out)-1]
		last.Files = append(last.Files, f)
	}
	return out, rows.Err()
}

// References calls fn with every blob that must be kept: members of the files
// that may be written again, and of feeds.
func References(ctx context.Context, tx *store.Tx, fn func(artifact.Digest) error) error {
	for _, q := range []string{`SELECT name FROM transfer_sent WHERE what = 'member'`, `SELECT digest FROM transfer_feed`} {
		if err := each(ctx, tx, q, fn); err != nil {
			return err
		}
	}
	return nil
}

func each(ctx context.Context, tx *store.Tx, q string, fn func(artifact.Digest) error) error {
	rows, err := tx.Query(ctx, q)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var d artifact.Digest
		if err := rows.Scan(&d); err != nil {
			return err
		}
		if err := fn(d); err != nil {
			return err
		}
	}
	return rows.Err()
}
