package registry

import (
	"context"
	"errors"
	"slices"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
)

// tagTables are the tables of the order, the holding and the history of tags.
//
//   - registry_tag_order: pushed is the number of the newest push to the tag,
//     stands that of the push that everybody sees. A promotion never moves a tag
//     to a number below stands.
//   - registry_tag_held: pushes to a tag that wait until their manifest may be
//     seen.
//   - registry_tag_history: every move of a tag, under the number of the push
//     that it came from; event is the id of its record, which the transparency
//     log covers by the heads of the event log.
const tagTables = `
CREATE TABLE registry_tag_order (
	repository TEXT   NOT NULL,
	tag        TEXT   NOT NULL,
	pushed     BIGINT NOT NULL,
	stands     BIGINT NOT NULL,
	PRIMARY KEY (repository, tag)
);
CREATE TABLE registry_tag_held (
	repository TEXT   NOT NULL,
	tag        TEXT   NOT NULL,
	pushed     BIGINT NOT NULL,
	digest     TEXT   NOT NULL,
	actor      TEXT   NOT NULL,
	owner      TEXT   NOT NULL,
	held_at    BIGINT NOT NULL,
	PRIMARY KEY (repository, tag, pushed)
);
CREATE INDEX registry_tag_held_digest ON registry_tag_held (repository, digest);
CREATE TABLE registry_tag_history (
	repository  TEXT   NOT NULL,
	tag         TEXT   NOT NULL,
	number      BIGINT NOT NULL,
	from_digest TEXT   NOT NULL,
	to_digest   TEXT   NOT NULL,
	actor       TEXT   NOT NULL,
	reason      TEXT   NOT NULL,
	moved_at    BIGINT NOT NULL,
	event       TEXT   NOT NULL,
	PRIMARY KEY (repository, tag, number)
);
`

// drawNumber gives the next number of a push to a tag.
func drawNumber(ctx context.Context, tx *store.Tx, repository, tag string) (n int64, err error) {
	err = tx.QueryRow(ctx, `INSERT INTO registry_tag_order (repository, tag, pushed, stands) VALUES (?, ?, 1, 0)
		ON CONFLICT (repository, tag) DO UPDATE SET pushed = registry_tag_order.pushed + 1 RETURNING pushed`, repository, tag).Scan(&n)
	return n, err
}

func setStands(ctx context.Context, tx *store.Tx, repository, tag string, n int64) error {
	_, err := tx.Exec(ctx, `UPDATE registry_tag_order SET stands = ? WHERE repository = ? AND tag = ?`, n, repository, tag)
	return err
}

// heldTag is a push to a tag that waits.
type heldTag struct {
	tag    string
	number int64
	digest artifact.Digest
	actor  string
	owner  string
	at     int64
}

// newestHeld gives the newest push that is held for a tag, when it is newer
// than what everybody sees; an empty digest: none.
func newestHeld(ctx context.Context, tx *store.Tx, repository, tag string) (h heldTag, err error) {
	h.tag = tag
	err = tx.QueryRow(ctx, `SELECT pushed, digest, actor, owner, held_at FROM registry_tag_held
		WHERE repository = ? AND tag = ? ORDER BY pushed DESC LIMIT 1`, repository, tag).Scan(&h.number, &h.digest, &h.actor, &h.owner, &h.at)
	if errors.Is(err, fault.NotFound) {
		return heldTag{}, nil
	}
	return h, err
}

func insertHeld(ctx context.Context, tx *store.Tx, repository string, h heldTag) error {
	_, err := tx.Exec(ctx, `INSERT INTO registry_tag_held (repository, tag, pushed, digest, actor, owner, held_at) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		repository, h.tag, h.number, string(h.digest), h.actor, h.owner, tx.Now())
	return err
}

func dropHeld(ctx context.Context, tx *store.Tx, repository, tag string, upTo int64) error {
	_, err := tx.Exec(ctx, `DELETE FROM registry_tag_held WHERE repository = ? AND tag = ? AND pushed <= ?`, repository, tag, upTo)
	return err
}

// DropHeld gives up what is held for a manifest, and says for which tags: it
// was deleted, or waited for too long.
func DropHeld(ctx context.Context, tx *store.Tx, repository string, d artifact.Digest) ([]string, error) {
	return store.Values[string](ctx, tx, `DELETE FROM registry_tag_held WHERE repository = ? AND digest = ? RETURNING tag`, repository, string(d))
}

// move is one move of a tag, to be noted.
type tagMove struct {
	repository, tag string
	number          int64
	from, to        artifact.Digest
	actor, reason   string
	trace, address  string
	pushedBy        string // where another than the actor
	profile         string
}

type movedBody struct {
	Repository string          `json:"repository"`
	Tag        string          `json:"tag"`
	From       artifact.Digest `json:"from,omitempty"`
	To         artifact.Digest `json:"to,omitempty"`
	Address    string          `json:"address,omitempty"`
	Number     int64           `json:"number"`
	PushedBy   string          `json:"pushed_by,omitempty"`
	Reason     string          `json:"reason,omitempty"`
	Profile    string          `json:"profile,omitempty"`
}

// note writes the move's event, and its row in the history.
func (m tagMove) note(ctx context.Context, tx *store.Tx) error {
	e := event.Event{
		Kind: event.TagMoved, Digest: m.to, Actor: m.actor, TraceID: m.trace,
		Body: movedBody{m.repository, m.tag, m.from, m.to, m.address, m.number, m.pushedBy, m.reason, m.profile},
	}
	if m.to == "" {
		e.Kind, e.Digest = event.TagDeleted, m.from
	}
	id, err := event.AppendID(ctx, tx, e)
	if err != nil {
		return err
	}
	who, why := m.actor, m.reason
	if m.pushedBy != "" { // the history says who pushed, and how it came to be seen
		who, why = m.pushedBy, clip("promoted by "+m.actor+": "+m.reason, 1024)
	}
	_, err = tx.Exec(ctx, `INSERT INTO registry_tag_history (repository, tag, number, from_digest, to_digest, actor, reason, moved_at, event)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		m.repository, m.tag, m.number, string(m.from), string(m.to), who, why, tx.Now(), id)
	return err
}

// Promotion is what [Promote] does and for whom.
type Promotion struct {
	Repository string
	Digest     artifact.Digest // which everybody may see now
	Actor      string          // who made it so
	Reason     string
	// Fixed says whether a tag that is set must stay where it is.
	Fixed func(tag string) bool
}

// Promote moves the tags that were held for a manifest to it, in tx, and gives
// them. A tag that a newer push has moved since stays there: of two pushes the
// later one stands, whichever was promoted first.
func Promote(ctx context.Context, tx *store.Tx, p Promotion) (moved []string, err error) {
	held, err := heldFor(ctx, tx, p.Repository, p.Digest)
	if err != nil {
		return nil, err
	}
	for _, h := range held {
		var stands int64
		if err := tx.QueryRow(ctx, `SELECT stands FROM registry_tag_order WHERE repository = ? AND tag = ?`, p.Repository, h.tag).Scan(&stands); err != nil {
			return nil, err
		}
		from, version, err := findTag(ctx, tx, p.Repository, h.tag)
		if err != nil && !errors.Is(err, fault.NotFound) {
			return nil, err
		}
		fixed := from != "" && from != p.Digest && p.Fixed != nil && p.Fixed(h.tag)
		if h.number > stands && !fixed {
			if from != p.Digest {
				if err := setTag(ctx, tx, p.Repository, h.tag, p.Digest, version, h.owner); err != nil {
					return nil, err
				}
				m := tagMove{repository: p.Repository, tag: h.tag, number: h.number, from: from, to: p.Digest, actor: p.Actor, reason: p.Reason, pushedBy: h.actor}
				if err := m.note(ctx, tx); err != nil {
					return nil, err
				}
				moved = append(moved, h.tag)
			}
			if err := setStands(ctx, tx, p.Repository, h.tag, h.number); err != nil {
				return nil, err
			}
		}
		if err := dropHeld(ctx, tx, p.Repository, h.tag, h.number); err != nil {
			return nil, err
		}
	}
	return moved, nil
}

// heldFor lists what is held for a manifest: the newest push of each tag.
func heldFor(ctx context.Context, tx *store.Tx, repository string, d artifact.Digest) ([]heldTag, error) {
	rows, err := tx.Query(ctx, `SELECT h.tag, h.pushed, h.actor, h.owner FROM registry_tag_held h WHERE h.repository = ? AND h.digest = ?
		AND h.pushed = (SELECT MAX(n.pushed) FROM registry_tag_held n WHERE n.repository = h.repository AND n.tag = h.tag AND n.digest = h.digest)
		ORDER BY h.tag`, repository, string(d))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var out []heldTag
	for rows.Next() {
		h := heldTag{digest: d}
		if err := rows.Scan(&h.tag, &h.number, &h.actor, &h.owner); err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, rows.Err()
}

// HistoryEntry is one move of a tag.
type HistoryEntry struct {
	Number int64           `json:"number"` // of the push that it came from; rises with time
	From   artifact.Digest `json:"from,omitempty"`
	To     artifact.Digest `json:"to,omitempty"` // empty: the tag was deleted
	Actor  string          `json:"actor"`        // who pushed or deleted
	Reason string          `json:"reason,omitempty"`
	Time   time.Time       `json:"time"`
	Event  string          `json:"event"` // id of the record in the event log
}

// History lists the moves of a tag, the newest first, from below a number (0:
// the newest), at most limit.
func History(ctx context.Context, tx *store.Tx, repository, tag string, below int64, limit int) ([]HistoryEntry, error) {
	if below <= 0 {
		below = 1<<63 - 1
	}
	rows, err := tx.Query(ctx, `SELECT number, from_digest, to_digest, actor, reason, moved_at, event FROM registry_tag_history
		WHERE repository = ? AND tag = ? AND number < ? ORDER BY number DESC LIMIT ?`, repository, tag, below, limit)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var out []HistoryEntry
	for rows.Next() {
		var h HistoryEntry
		var at int64
		if err := rows.Scan(&h.Number, &h.From, &h.To, &h.Actor, &h.Reason, &at, &h.Event); err != nil {
			return nil, err
		}
		h.Time = store.Time(at)
		out = append(out, h)
	}
	return out, rows.Err()
}

// TagState is where a tag stands.
type TagState struct {
	Digest artifact.Digest `json:"digest,omitempty"` // what everybody sees; empty: not set
	Held   []Held          `json:"held,omitempty"`   // newer pushes that wait, the newest first
}

// Held is a push to a tag that waits.
type Held struct {
	Tag    string          `json:"tag"`
	Digest artifact.Digest `json:"digest"`
	Actor  string          `json:"actor"`
	Time   time.Time       `json:"time"`
}

// Tag reads where a tag stands.
func Tag(ctx context.Context, tx *store.Tx, repository, tag string) (s TagState, err error) {
	if s.Digest, _, err = findTag(ctx, tx, repository, tag); err != nil && !errors.Is(err, fault.NotFound) {
		return s, err
	}
	s.Held, err = selectHeld(ctx, tx, `repository = ? AND tag = ? ORDER BY pushed DESC LIMIT 100`, repository, tag)
	return s, err
}

// HeldFor lists the tags that wait for a manifest.
func HeldFor(ctx context.Context, tx *store.Tx, repository string, d artifact.Digest) ([]Held, error) {
	return selectHeld(ctx, tx, `repository = ? AND digest = ? ORDER BY tag, pushed DESC LIMIT 100`, repository, string(d))
}

func selectHeld(ctx context.Context, tx *store.Tx, where string, args ...any) ([]Held, error) {
	rows, err := tx.Query(ctx, `SELECT tag, digest, actor, held_at FROM registry_tag_held WHERE `+where, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var out []Held
	for rows.Next() {
		var h Held
		var at int64
		if err := rows.Scan(&h.Tag, &h.Digest, &h.Actor, &at); err != nil {
			return nil, err
		}
		h.Time = store.Time(at)
		out = append(out, h)
	}
	return out, rows.Err()
}

// What a manifest can be besides content that counts for itself, in
// registry_manifest.evidence.
const (
	countsForItself = 0 // also what was stored before this was noted
	mereEvidence    = 1 // nothing that could be run: evidence, where it has a subject or a carrier tag
	mereList        = 2 // an index: the list of a fallback tag, where it has such a tag
)

func evidenceOf(m *manifest) int {
	switch {
	case isIndex(m.mediaType):
		return mereList
	case !m.runnable:
		return mereEvidence
	}
	return countsForItself
}

// carries says whether a tag is one of those by which evidence is found, and does
// not name an image: such a name makes no image movable.
func carries(ctx context.Context, tx *store.Tx, repository, tag string, from artifact.Digest) (bool, error) {
	if !IsCarrierTag(tag) || from == "" {
		return IsCarrierTag(tag), nil
	}
	var evidence int
	err := tx.QueryRow(ctx, `SELECT evidence FROM registry_manifest WHERE repository = ? AND digest = ?`, repository, string(from)).Scan(&evidence)
	if errors.Is(err, fault.NotFound) {
		return true, nil
	}
	return err == nil && evidence != countsForItself, err
}

// HasOwnTag says whether a tag names a manifest, or waits for it, that is not
// one of those by which evidence is found.
func HasOwnTag(ctx context.Context, tx *store.Tx, repository string, d artifact.Digest) (bool, error) {
	tags, err := store.Values[string](ctx, tx, `SELECT tag FROM registry_tag WHERE repository = ? AND digest = ?
		UNION SELECT tag FROM registry_tag_held WHERE repository = ? AND digest = ?`, repository, string(d), repository, string(d))
	return slices.ContainsFunc(tags, func(tag string) bool { return !IsCarrierTag(tag) }), err
}

// IsIndex says whether a media type is that of an index, which is made of other
// manifests.
func IsIndex(mediaType string) bool { return isIndex(mediaType) }

// CarriedBy says what a stored manifest is mere evidence about: its subject,
// or what a carrier tag that names it says; empty when it counts for itself. A
// manifest that a container could be started from always does, and so does an
// index, unless a fallback tag names it.
func CarriedBy(ctx context.Context, tx *store.Tx, repository string, d, subject artifact.Digest) (artifact.Digest, error) {
	var evidence int
	if err := tx.QueryRow(ctx, `SELECT evidence FROM registry_manifest WHERE repository = ? AND digest = ?`, repository, string(d)).Scan(&evidence); err != nil {
		return "", err
	}
	if evidence == countsForItself {
		return "", nil
	}
	if subject != "" && evidence == mereEvidence {
		return subject, nil
	}
	tags, err := store.Values[string](ctx, tx, `SELECT tag FROM registry_tag WHERE repository = ? AND digest = ? ORDER BY tag`, repository, string(d))
	if err != nil {
		return "", err
	}
	for _, t := range tags {
		if about, ok := carrierTag(t); ok {
			return about, nil
		}
	}
	return "", nil
}
