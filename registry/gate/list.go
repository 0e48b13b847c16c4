package gate

import (
	"context"
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/registry"
	"assay/store"
)

// Listed is an artifact as it lies in a repository, for people who look for it.
type Listed struct {
	Repository string          `json:"repository"`
	Digest     artifact.Digest `json:"digest"`
	MediaType  string          `json:"media_type"`
	Type       string          `json:"artifact_type,omitempty"`
	Size       int64           `json:"size"` // of the manifest, bytes
	PushedAt   time.Time       `json:"pushed_at"`
	PushedBy   string          `json:"pushed_by"`
	State      State           `json:"state"`
	Basis      string          `json:"basis,omitempty"`
	Reason     string          `json:"reason,omitempty"`
	Decision   string          `json:"decision,omitempty"`
	Tags       []string        `json:"tags,omitempty"` // that name it now, at most 20

	runs bool // could be run
}

// carrier says that it is evidence, or a list of it, by the tags that it has:
// what cannot be run and has no name is nothing that anybody looks for.
func (l *Listed) carrier() bool {
	if l.runs {
		return false
	}
	for _, tag := range l.Tags {
		if !registry.IsCarrierTag(tag) {
			return false
		}
	}
	return len(l.Tags) > 0 || !registry.IsIndexType(l.MediaType)
}

// ListQuery says which artifacts are wanted. Empty members ask for all.
type ListQuery struct {
	Repository string // whole, or with "*" at its end
	State      State
	After      string // what the page before gave as next
	Limit      int
	// Sees says whether the caller may see what lies in a repository.
	Sees func(repository string) bool
}

// Looking through what the caller may not see, or did not ask for, ends after
// so many rows: the page is then short, and its cursor goes on from there.
const (
	listBatch = 500
	listMost  = 10_000
)

// List gives artifacts, the last pushed first: no evidence, and no parts of an
// index. next is "" at the end.
func (g *Gate) List(ctx context.Context, q ListQuery) (out []Listed, next string, err error) {
	from, err := parseListCursor(q.After)
	if err != nil {
		return nil, "", err
	}
	err = g.db.View(ctx, func(tx *store.Tx) error {
		out, next = nil, ""
		looked := 0
		for {
			batch, err := listRows(ctx, tx, q, from)
			if err != nil {
				return err
			}
			for i := range batch {
				l := &batch[i]
				from = listCursor{l.PushedAt.UnixMicro(), l.Repository, string(l.Digest)}
				if looked++; (q.State == "" || l.State == q.State) && q.Sees(l.Repository) {
					if err := listTags(ctx, tx, l); err != nil {
						return err
					}
					if !l.carrier() {
						out = append(out, *l)
					}
				}
				if len(out) == q.Limit || looked == listMost {
					next = from.text()
					return nil
				}
			}
			if len(batch) < listBatch {
				return nil
			}
		}
	})
	return out, next, err
}

type listCursor struct {
	pushed             int64
	repository, digest string
}

func (c listCursor) text() string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(c.pushed, 10) + "\n" + c.repository + "\n" + c.digest))
}

func parseListCursor(text string) (listCursor, error) {
	if text == "" {
		return listCursor{}, nil
	}
	bad := fault.Newf(fault.Invalid, "after %.40q: want what the page before gave as next", text)
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	parts := strings.Split(string(b), "\n")
	if err != nil || len(b) > 1024 || len(parts) != 3 {
		return listCursor{}, bad
	}
	n, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil || n < 1 {
		return listCursor{}, bad
	}
	return listCursor{n, parts[1], parts[2]}, nil
}

func listRows(ctx context.Context, tx *store.Tx, q ListQuery, from listCursor) ([]Listed, error) {
	where, args := `m.subject = ''`, []any{}
	if begin, open := strings.CutSuffix(q.Repository, "*"); open {
		// What begins with it lies between it and what follows all of that.
		where, args = where+` AND m.repository >= ? AND m.repository < ?`, append(args, begin, begin+"\U0010FFFF")
	} else if q.Repository != "" {
		where, args = where+` AND m.repository = ?`, append(args, q.Repository)
	}
	if from.pushed > 0 {
		where, args = where+` AND (m.pushed_at, m.repository, m.digest) < (?, ?, ?)`, append(args, from.pushed, from.repository, from.digest)
	}
	rows, err := tx.Query(ctx, `SELECT m.repository, m.digest, m.media_type, m.artifact_type, m.size, m.pushed_at, m.pushed_by,
			COALESCE(s.state, ''), COALESCE(s.basis, ''), COALESCE(s.reason, ''), COALESCE(s.decision, ''), CASE WHEN m.evidence = 0 THEN 1 ELSE 0 END
		FROM registry_manifest m LEFT JOIN gate_state s ON s.repository = m.repository AND s.digest = m.digest
		WHERE `+where+` AND NOT EXISTS (SELECT 1 FROM registry_reference r WHERE r.child = m.digest AND r.kind = 1 AND r.repository = m.repository)
		ORDER BY m.pushed_at DESC, m.repository DESC, m.digest DESC LIMIT ?`, append(args, listBatch)...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var out []Listed
	for rows.Next() {
		var l Listed
		var pushed, runs int64
		if err := rows.Scan(&l.Repository, &l.Digest, &l.MediaType, &l.Type, &l.Size, &pushed, &l.PushedBy, &l.State, &l.Basis, &l.Reason, &l.Decision, &runs); err != nil {
			return nil, err
		}
		l.PushedAt, l.runs = store.Time(pushed).UTC(), runs == 1
		if l.State == "" {
			l.State = Open
		}
		out = append(out, l)
	}
	return out, rows.Err()
}

func listTags(ctx context.Context, tx *store.Tx, l *Listed) error {
	var err error
	l.Tags, err = store.Values[string](ctx, tx, `SELECT tag FROM registry_tag WHERE repository = ? AND digest = ? ORDER BY moved_at DESC, tag LIMIT 20`, l.Repository, string(l.Digest))
	return err
}

// ListedRepository is a repository and what lies in it.
type ListedRepository struct {
	Name      string    `json:"name"`
	Created   time.Time `json:"created"`
	Mode      string    `json:"mode"` // open, staged, strict, …
	Profile   string    `json:"profile,omitempty"`
	Artifacts int64     `json:"artifacts"` // counted up to 100,000
	Tags      int64     `json:"tags"`
	Last      time.Time `json:"last_push,omitzero"`
}

// Repositories lists repositories by name, those that the caller sees.
func (g *Gate) Repositories(ctx context.Context, after string, limit int, sees func(string) bool) (out []ListedRepository, next string, err error) {
	err = g.db.View(ctx, func(tx *store.Tx) error {
		out, next = nil, ""
		last := after
		for {
			names, times, err := repositoryBatch(ctx, tx, last)
			if err != nil {
				return err
			}
			for i, name := range names {
				last = name
				if !sees(name) {
					continue
				}
				l := ListedRepository{Name: name, Created: times[i]}
				if err := countRepository(ctx, tx, &l); err != nil {
					return err
				}
				spec := g.rules.Load().Repositories.For(name)
				l.Mode, l.Profile = string(spec.Mode), spec.Profile
				if out = append(out, l); len(out) == limit {
					next = name
					return nil
				}
			}
			if len(names) < listBatch {
				return nil
			}
		}
	})
	return out, next, err
}

func repositoryBatch(ctx context.Context, tx *store.Tx, after string) (names []string, times []time.Time, err error) {
	rows, err := tx.Query(ctx, `SELECT name, created_at FROM registry_repository WHERE name > ? ORDER BY name LIMIT ?`, after, listBatch)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var name string
		var created int64
		if err := rows.Scan(&name, &created); err != nil {
			return nil, nil, err
		}
		names, times = append(names, name), append(times, store.Time(created).UTC())
	}
	return names, times, rows.Err()
}

func countRepository(ctx context.Context, tx *store.Tx, l *ListedRepository) error {
	var last int64
	err := tx.QueryRow(ctx, `SELECT COUNT(*), COALESCE(MAX(pushed_at), 0) FROM (SELECT pushed_at FROM registry_manifest
		WHERE repository = ? AND subject = '' ORDER BY pushed_at DESC LIMIT 100000) a`, l.Name).Scan(&l.Artifacts, &last)
	if err != nil {
		return err
	}
	if last > 0 {
		l.Last = store.Time(last).UTC()
	}
	return tx.QueryRow(ctx, `SELECT COUNT(*) FROM registry_tag WHERE repository = ?`, l.Name).Scan(&l.Tags)
}

// ListedTag is a tag of a repository.
type ListedTag struct {
	Tag     string          `json:"tag"`
	Digest  artifact.Digest `json:"digest"`
	Moves   int64           `json:"moves"` // how often it was set
	MovedBy string          `json:"moved_by"`
	MovedAt time.Time       `json:"moved_at"`
}

// Tags lists the tags of a repository by name.
func (g *Gate) Tags(ctx context.Context, repository, after string, limit int) (out []ListedTag, err error) {
	err = g.db.View(ctx, func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(ctx, `SELECT tag, digest, version, moved_by, moved_at FROM registry_tag WHERE repository = ? AND tag > ? ORDER BY tag LIMIT ?`, repository, after, limit)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var t ListedTag
			var moved int64
			if err := rows.Scan(&t.Tag, &t.Digest, &t.Moves, &t.MovedBy, &moved); err != nil {
				return err
			}
			t.MovedAt = store.Time(moved).UTC()
			out = append(out, t)
		}
		return rows.Err()
	})
	return out, err
}

// IsIndex says whether a media type is one of an index.
func IsIndex(mediaType string) bool { return registry.IsIndexType(mediaType) }
