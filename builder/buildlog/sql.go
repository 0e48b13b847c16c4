package buildlog

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
)

// Migrations are the tables.
//
//   - build_log: a log each; version goes up with each change.
//   - build_log_subject: what artifacts the uploader says it is about.
//   - build_log_chunk: its content, in order: blobs of compressed lines.
var Migrations = store.Migrations{Name: "builder/buildlog", Steps: []string{`
CREATE TABLE build_log (
	id         TEXT   NOT NULL PRIMARY KEY,
	build      TEXT   NOT NULL,
	repository TEXT   NOT NULL,
	issuer     TEXT   NOT NULL,
	subject    TEXT   NOT NULL,
	actor      TEXT   NOT NULL,
	source     TEXT   NOT NULL,
	created    BIGINT NOT NULL,
	changed    BIGINT NOT NULL,
	lines      BIGINT NOT NULL,
	bytes      BIGINT NOT NULL,
	dropped    BIGINT NOT NULL,
	redacted   BIGINT NOT NULL,
	chunks     BIGINT NOT NULL,
	version    BIGINT NOT NULL
);
CREATE INDEX build_log_build ON build_log (build);
CREATE INDEX build_log_changed ON build_log (changed, id);
CREATE TABLE build_log_subject (
	log    TEXT NOT NULL,
	digest TEXT NOT NULL,
	PRIMARY KEY (log, digest)
);
CREATE INDEX build_log_subject_digest ON build_log_subject (digest);
CREATE TABLE build_log_chunk (
	log   TEXT   NOT NULL,
	n     BIGINT NOT NULL,
	blob  TEXT   NOT NULL,
	first BIGINT NOT NULL, -- number of its first line, from 1
	lines BIGINT NOT NULL,
	bytes BIGINT NOT NULL, -- of the lines, not compressed
	PRIMARY KEY (log, n)
);
CREATE INDEX build_log_chunk_blob ON build_log_chunk (blob);
`}}

const logColumns = `id, build, repository, issuer, subject, actor, source, created, changed, lines, bytes, dropped, redacted, chunks, version`

func scanLog(scan func(...any) error) (l Log, version int64, err error) {
	var created, changed int64
	err = scan(&l.ID, &l.Build, &l.Repository, &l.Issuer, &l.Subject, &l.Actor, &l.Source, &created, &changed, &l.Lines, &l.Bytes, &l.Dropped, &l.Redacted, &l.Chunks, &version)
	l.Created, l.Changed = store.Time(created), store.Time(changed)
	return l, version, err
}

func find(ctx context.Context, tx *store.Tx, id string) (Log, int64, error) {
	l, version, err := scanLog(tx.QueryRow(ctx, `SELECT `+logColumns+` FROM build_log WHERE id = ?`, id).Scan)
	if err != nil {
		return l, 0, err
	}
	l.Digests, err = store.Values[artifact.Digest](ctx, tx, `SELECT digest FROM build_log_subject WHERE log = ? ORDER BY digest`, id)
	return l, version, err
}

// chunk is a row of build_log_chunk.
type chunk struct {
	n, first, lines, bytes int64
	blob                   artifact.Digest
}

func chunks(ctx context.Context, tx *store.Tx, id string, from int64, limit int) (out []chunk, err error) {
	rows, err := tx.Query(ctx, `SELECT n, blob, first, lines, bytes FROM build_log_chunk WHERE log = ? AND n >= ? ORDER BY n LIMIT ?`, id, from, limit)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var c chunk
		if err := rows.Scan(&c.n, &c.blob, &c.first, &c.lines, &c.bytes); err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, rows.Err()
}

// Needs tells garbage collection which blobs hold lines of logs.
func Needs(ctx context.Context, tx *store.Tx, digests []artifact.Digest, keep func(artifact.Digest)) error {
	for _, d := range digests {
		found, err := store.Values[string](ctx, tx, `SELECT blob FROM build_log_chunk WHERE blob = ? LIMIT 1`, string(d))
		if err != nil {
			return err
		}
		if len(found) > 0 {
			keep(d)
		}
	}
	return nil
}

// write brings the rows of a log to what an upload makes of it.
func (s *Store) write(ctx context.Context, tx *store.Tx, t *Target, l *Log, version int64, fresh []chunk) error {
	now := store.Micros(tx.Now())
	if version == 0 {
		if _, err := tx.Exec(ctx, `INSERT INTO build_log (`+logColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)`,
			l.ID, l.Build, l.Repository, l.Issuer, l.Subject, l.Actor, l.Source, now, now, l.Lines, l.Bytes, l.Dropped, l.Redacted, l.Chunks); err != nil {
			return err
		}
	} else {
		n, err := tx.Exec(ctx, `UPDATE build_log SET changed = ?, lines = ?, bytes = ?, dropped = ?, redacted = ?, chunks = ?, version = version + 1 WHERE id = ? AND version = ?`,
			now, l.Lines, l.Bytes, l.Dropped, l.Redacted, l.Chunks, l.ID, version)
		if err != nil {
			return err
		}
		if n != 1 {
			return errMoved
		}
	}
	for _, d := range t.Digests {
		var n int64
		if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM build_log_subject WHERE log = ?`, l.ID).Scan(&n); err != nil {
			return err
		}
		if n >= maxDigests {
			break
		}
		if _, err := tx.Exec(ctx, `INSERT INTO build_log_subject (log, digest) VALUES (?, ?) ON CONFLICT (log, digest) DO NOTHING`, l.ID, string(d)); err != nil {
			return err
		}
	}
	for _, c := range fresh {
		if _, err := tx.Exec(ctx, `INSERT INTO build_log_chunk (log, n, blob, first, lines, bytes) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (log, n) DO UPDATE SET blob = excluded.blob, lines = excluded.lines, bytes = excluded.bytes`,
			l.ID, c.n, string(c.blob), c.first, c.lines, c.bytes); err != nil {
			return err
		}
	}
	if version != 0 {
		return nil // what comes in parts is one log
	}
	var about artifact.Digest
	if len(t.Digests) > 0 {
		about = t.Digests[0]
	}
	return event.Append(ctx, tx, event.Event{Kind: event.BuildLogStored, Digest: about, Actor: t.Actor, Body: map[string]any{
		"log": l.ID, "build": l.Build, "repository": l.Repository, "source": l.Source,
	}})
}

// Filter chooses logs; zero members choose all.
type Filter struct {
	Digest artifact.Digest // that the uploader named
	Builds []string        // any of these
	After  string          // cursor
	Limit  int
}

// List gives logs, those that changed last first. next continues; "": that was
// all.
func (s *Store) List(ctx context.Context, f Filter) (out []Log, next string, err error) {
	if f.Limit <= 0 || f.Limit > 1000 {
		f.Limit = 100
	}
	var conds []string
	var args []any
	about := []string{}
	if f.Digest != "" {
		about, args = append(about, `id IN (SELECT log FROM build_log_subject WHERE digest = ?)`), append(args, string(f.Digest))
	}
	if len(f.Builds) > 0 {
		about = append(about, `build IN (?`+strings.Repeat(", ?", len(f.Builds)-1)+`)`)
		for _, b := range f.Builds {
			args = append(args, b)
		}
	}
	if len(about) > 0 {
		conds = append(conds, "("+strings.Join(about, " OR ")+")")
	}
	if f.After != "" {
		at, id, err := parseCursor(f.After)
		if err != nil {
			return nil, "", err
		}
		conds, args = append(conds, `(changed < ? OR changed = ? AND id > ?)`), append(args, at, at, id)
	}
	where := ""
	if len(conds) > 0 {
		where = ` WHERE ` + strings.Join(conds, " AND ")
	}
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		out = nil
		ids, err := store.Values[string](ctx, tx, `SELECT id FROM build_log`+where+` ORDER BY changed DESC, id LIMIT ?`, append(args, f.Limit)...)
		if err != nil {
			return err
		}
		for _, id := range ids {
			l, _, err := find(ctx, tx, id)
			if err != nil {
				return err
			}
			out = append(out, l)
		}
		return nil
	})
	if err == nil && len(out) == f.Limit {
		last := out[len(out)-1]
		next = fmt.Sprintf("%d_%s", store.Micros(last.Changed), last.ID)
	}
	return out, next, err
}

func parseCursor(text string) (at int64, id string, err error) {
	if _, err := fmt.Sscanf(text, "%d_%s", &at, &id); err != nil || !strings.HasPrefix(id, "log_") {
		return 0, "", fault.Newf(fault.Invalid, "cursor %.60q is none of this list's", text)
	}
	return at, id, nil
}

// Get gives a log, or fault.NotFound.
func (s *Store) Get(ctx context.Context, id string) (l Log, err error) {
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		l, _, err = find(ctx, tx, id)
		return err
	})
	return l, notFound(err, id)
}

// Delete takes a log away; its blobs go with the next garbage collection.
func (s *Store) Delete(ctx context.Context, id, actor, reason string) error {
	err := s.o.DB.Update(ctx, func(tx *store.Tx) error {
		l, _, err := find(ctx, tx, id)
		if err != nil {
			return err
		}
		if s.o.Held != nil {
			if held, err := s.o.Held(ctx, tx, l.Repository, l.Digests); err != nil || held {
				return errors.Join(err, fault.Newf(fault.Conflict, "build log %s is under a legal hold, by its repository or an artifact", id))
			}
		}
		return drop(ctx, tx, &l, actor, reason)
	})
	return notFound(err, id)
}

func drop(ctx context.Context, tx *store.Tx, l *Log, actor, reason string) error {
	for _, q := range [...]string{`DELETE FROM build_log_chunk WHERE log = ?`, `DELETE FROM build_log_subject WHERE log = ?`, `DELETE FROM build_log WHERE id = ?`} {
		if _, err := tx.Exec(ctx, q, l.ID); err != nil {
			return err
		}
	}
	var about artifact.Digest
	if len(l.Digests) > 0 {
		about = l.Digests[0]
	}
	return event.Append(ctx, tx, event.Event{Kind: event.BuildLogDeleted, Digest: about, Actor: actor, Body: map[string]any{
		"log": l.ID, "build": l.Build, "repository": l.Repository, "lines": l.Lines, "reason": clip(reason, 300),
	}})
}
