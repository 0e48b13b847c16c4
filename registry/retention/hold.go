package retention

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/registry"
	"assay/store"
)

// Migrations are the tables.
//
//   - retention_hold: what nobody may delete. digest is empty when a whole
//     repository is held, repository when a digest is held everywhere; tag is
//     what named the digest when the hold was made. ends 0: by hand. ended: 1
//     its end by time is on record, 2 it was removed by hand, and only waits for
//     the object store to give its objects free.
//   - retention_lock: until when the object store keeps an object for a rule.
//   - retention_mark: when rules were carried out last.
var Migrations = store.Migrations{Name: "retention", Steps: []string{`
CREATE TABLE retention_hold (
	id         TEXT   NOT NULL PRIMARY KEY,
	repository TEXT   NOT NULL,
	tag        TEXT   NOT NULL,
	digest     TEXT   NOT NULL,
	reason     TEXT   NOT NULL,
	actor      TEXT   NOT NULL,
	created_at BIGINT NOT NULL,
	ends       BIGINT NOT NULL,
	locked     BIGINT NOT NULL
);
CREATE INDEX retention_hold_digest ON retention_hold (digest);
CREATE INDEX retention_hold_repository ON retention_hold (repository);
CREATE TABLE retention_mark (
	name  TEXT NOT NULL PRIMARY KEY,
	value TEXT NOT NULL
);
`, `
ALTER TABLE retention_hold ADD COLUMN ended BIGINT NOT NULL DEFAULT 0;
CREATE TABLE retention_lock (
	digest TEXT   NOT NULL PRIMARY KEY,
	until  BIGINT NOT NULL
);
`}}

// Hold is something that nobody may delete.
type Hold struct {
	ID         string          `json:"id"`
	Repository string          `json:"repository,omitempty"` // empty: the digest, wherever it lies
	Tag        string          `json:"tag,omitempty"`        // that named the digest when the hold was made
	Digest     artifact.Digest `json:"digest,omitempty"`     // empty: all of the repository
	Reason     string          `json:"reason"`
	Actor      string          `json:"actor"`
	Since      time.Time       `json:"since"`
	Until      *time.Time      `json:"until,omitempty"` // absent: until it is removed
	Locked     int64           `json:"locked"`          // objects that the object store locked, too
	// ObjectLock says, when the hold is made, what the object store does.
	ObjectLock string `json:"object_lock,omitempty"`
}

// what is held, in words.
func (h *Hold) what() string {
	switch {
	case h.Repository == "":
		return string(h.Digest)
	case h.Digest == "":
		return "repository " + h.Repository
	case h.Tag != "":
		return fmt.Sprintf("%s:%s (%s)", h.Repository, h.Tag, h.Digest)
	}
	return h.Repository + "@" + string(h.Digest)
}

// HoldRequest asks for a hold.
type HoldRequest struct {
	Repository string // empty: Digest everywhere
	Tag        string // looked up; empty: none
	Digest     artifact.Digest
	Reason     string
	Until      time.Time // zero: until it is removed
}

// Locker is an object store that locks objects against deletion: blob/s3.
type Locker interface {
	LegalHold(ctx context.Context, d artifact.Digest, on bool) error
}

// Holds keeps the legal holds of a site. It is registry.Keeper.
type Holds struct {
	db     *store.DB
	locker Locker // nil: blobs are local files
	log    *slog.Logger
}

// NewHolds makes the holds of a database with [Migrations]. locker may be nil.
func NewHolds(db *store.DB, locker Locker, log *slog.Logger) *Holds {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Holds{db, locker, log}
}

var _ registry.Keeper = (*Holds)(nil)

const holdColumns = `id, repository, tag, digest, reason, actor, created_at, ends, locked`

func selectHolds(ctx context.Context, tx *store.Tx, where string, args ...any) ([]Hold, error) {
	rows, err := tx.Query(ctx, `SELECT `+holdColumns+` FROM retention_hold WHERE `+where, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var out []Hold
	for rows.Next() {
		var h Hold
		var at, ends int64
		if err := rows.Scan(&h.ID, &h.Repository, &h.Tag, &h.Digest, &h.Reason, &h.Actor, &at, &ends, &h.Locked); err != nil {
			return nil, err
		}
		h.Since = store.Time(at)
		if ends > 0 {
			t := store.Time(ends)
			h.Until = &t
		}
		out = append(out, h)
	}
	return out, rows.Err()
}

const inForce = `(ends = 0 OR ends > ?)`

// MayDelete refuses what is on hold, and what is evidence about it.
func (s *Holds) MayDelete(ctx context.Context, tx *store.Tx, repository, _ string, d, about artifact.Digest) error {
	if about == "" {
		about = d
	}
	found, err := selectHolds(ctx, tx, inForce+` AND (digest IN (?, ?) AND repository IN ('', ?) OR digest = '' AND repository = ?) ORDER BY created_at LIMIT 1`,
		tx.Now(), string(d), string(about), repository, repository)
	if err != nil || len(found) == 0 {
		return err
	}
	h := &found[0]
	until := "until it is removed"
	if h.Until != nil {
		until = "until " + h.Until.UTC().Format(time.RFC3339)
	}
	return fault.Newf(fault.Denied, "%s is on legal hold %s (%s): %s; nobody can delete it, nor evidence about it", h.what(), h.ID, until, h.Reason)
}

// Needs calls keep with those of the digests that are held.
func (s *Holds) Needs(ctx context.Context, tx *store.Tx, digests []artifact.Digest, keep func(artifact.Digest)) error {
	for _, d := range digests {
		held, err := selectHolds(ctx, tx, `digest = ? AND `+inForce+` LIMIT 1`, string(d), tx.Now())
		if err != nil {
			return err
		}
		if len(held) > 0 {
			keep(d)
		}
	}
	return nil
}

// any says whether anything is on hold.
func anyHold(ctx context.Context, tx *store.Tx) (*Hold, error) {
	found, err := selectHolds(ctx, tx, inForce+` ORDER BY created_at LIMIT 1`, tx.Now())
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

const maxReason = 1000

type holdBody struct {
	ID         string `json:"id"`
	Repository string `json:"repository,omitempty"`
	Tag        string `json:"tag,omitempty"`
	Reason     string `json:"reason"`
	Until      string `json:"until,omitempty"`
	Locked     int64  `json:"locked,omitempty"`
}

// Add puts something on hold. The objects of an object store with Object Lock
// are locked, too; where there is none the hold counts all the same, and says
// so.
func (s *Holds) Add(ctx context.Context, actor string, q HoldRequest) (*Hold, error) {
	h := &Hold{ID: "hold_" + strings.ToLower(rand.Text()), Repository: q.Repository, Tag: q.Tag, Digest: q.Digest, Reason: strings.TrimSpace(q.Reason), Actor: actor}
	if n := len(h.Reason); n < 3 || n > maxReason {
		return nil, fault.Newf(fault.Invalid, "the reason has %d bytes: want 3 to %d", n, maxReason)
	}
	if q.Repository == "" && q.Digest == "" || q.Tag != "" && q.Repository == "" {
		return nil, fault.Newf(fault.Invalid, "want a repository, with a tag or digest of it or without, or a digest")
	}
	err := s.db.Update(ctx, func(tx *store.Tx) error {
		if !q.Until.IsZero() {
			if !q.Until.After(tx.Now()) {
				return fault.Newf(fault.Invalid, "until %s: that is past", q.Until.UTC().Format(time.RFC3339))
			}
			t := q.Until.UTC().Truncate(time.Microsecond)
			h.Until = &t
		}
		h.Since = tx.Now()
		if err := s.resolve(ctx, tx, h); err != nil {
			return err
		}
		var ends int64
		body := holdBody{ID: h.ID, Repository: h.Repository, Tag: h.Tag, Reason: h.Reason}
		if h.Until != nil {
			ends, body.Until = store.Micros(*h.Until), h.Until.Format(time.RFC3339)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO retention_hold (`+holdColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)`,
			h.ID, h.Repository, h.Tag, string(h.Digest), h.Reason, h.Actor, h.Since, ends); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.HoldAdded, Digest: h.Digest, Actor: actor, Body: body})
	})
	if err != nil {
		return nil, err
	}
	s.lock(ctx, h)
	return h, nil
}

// resolve finds what a request means, which must be there, unless it is a bare
// digest: that may come yet.
func (s *Holds) resolve(ctx context.Context, tx *store.Tx, h *Hold) error {
	switch {
	case h.Repository == "":
		return h.Digest.Validate()
	case h.Tag != "":
		st, err := registry.Tag(ctx, tx, h.Repository, h.Tag)
		if err != nil {
			return err
		}
		if st.Digest == "" {
			return fault.Newf(fault.NotFound, "tag %s is not in repository %s", h.Tag, h.Repository)
		}
		h.Digest = st.Digest
		return nil
	case h.Digest == "":
		var one int64
		err := tx.QueryRow(ctx, `SELECT 1 FROM registry_repository WHERE name = ?`, h.Repository).Scan(&one)
		if errors.Is(err, fault.NotFound) {
			return fault.Newf(fault.NotFound, "there is no repository %s", h.Repository)
		}
		return err
	}
	places, err := registry.Places(ctx, tx, h.Digest)
	if err != nil {
		return err
	}
	for _, p := range places {
		if p.Repository == h.Repository {
			return nil
		}
	}
	return fault.Newf(fault.NotFound, "manifest %s is not in repository %s", h.Digest, h.Repository)
}

// List gives the holds that are in force, the newest first, and with ended
// those whose time has come.
func (s *Holds) List(ctx context.Context, ended bool) (out []Hold, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		since := tx.Now()
		if ended {
			since = time.UnixMicro(0)
		}
		out, err = selectHolds(ctx, tx, inForce+` AND ended <> 2 ORDER BY created_at DESC, id LIMIT 10000`, since)
		return err
	})
	if out == nil {
		out = []Hold{}
	}
	return out, err
}

// Remove ends a hold, for a reason that is on record.
func (s *Holds) Remove(ctx context.Context, id, actor, reason string) (*Hold, error) {
	if n := len(strings.TrimSpace(reason)); n < 3 || n > maxReason {
		return nil, fault.Newf(fault.Invalid, "the reason has %d bytes: want 3 to %d", n, maxReason)
	}
	var h Hold
	err := s.db.Update(ctx, func(tx *store.Tx) error {
		found, err := selectHolds(ctx, tx, `id = ? AND ended <> 2`, id)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return fault.Newf(fault.NotFound, "hold %.80q: there is none", id)
		}
		h = found[0]
		if s.locker != nil && h.Locked > 0 { // the row goes when its objects are free
			_, err = tx.Exec(ctx, `UPDATE retention_hold SET ends = ?, ended = 2 WHERE id = ?`, tx.Now(), id)
		} else {
			_, err = tx.Exec(ctx, `DELETE FROM retention_hold WHERE id = ?`, id)
		}
		if err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.HoldRemoved, Digest: h.Digest, Actor: actor, Body: holdBody{ID: id, Repository: h.Repository, Tag: h.Tag, Reason: strings.TrimSpace(reason)}})
	})
	if err != nil {
		return nil, err
	}
	s.free(ctx, &h)
	return &h, nil
}
