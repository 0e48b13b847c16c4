package forge

import (
	"context"
	"errors"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/store"
)

// Migrations are the tables of what forges told.
//
//   - source_delivery: digests of the notices that were taken, so that one which
//     is sent again, by the forge or by who overheard it, changes nothing.
//   - source_push: moves of protected branches; due is when the push is judged,
//     0 when it was; revision is how often it came to something else than before.
//   - source_change, source_review: pull and merge requests, and each reviewer's
//     words on them.
//   - source_contributor: who beside its author moved the head of a change.
//   - source_protection: how a branch is protected, as it was last found.
//   - source_tag: the commit that a tag was last known to name, and whether it
//     ever named another; a deleted tag is remembered.
//   - source_statement: statements that are to be signed and stored.
var Migrations = store.Migrations{Name: "source", Steps: []string{`
CREATE TABLE source_delivery (
	source TEXT   NOT NULL,
	digest TEXT   NOT NULL,
	at     BIGINT NOT NULL,
	PRIMARY KEY (source, digest)
);
CREATE TABLE source_push (
	source    TEXT   NOT NULL,
	delivery  TEXT   NOT NULL,
	ref       TEXT   NOT NULL,
	before_id TEXT   NOT NULL,
	after_id  TEXT   NOT NULL,
	pusher    TEXT   NOT NULL,
	forced    BIGINT NOT NULL, -- 1 yes, 0 no, -1 not said
	workflows TEXT   NOT NULL, -- changed pipeline files, one a line
	whole     BIGINT NOT NULL,
	at        BIGINT NOT NULL,
	due       BIGINT NOT NULL,
	reviewed  BIGINT NOT NULL, -- 1 yes, 0 no, -1 not judged
	change    BIGINT NOT NULL,
	PRIMARY KEY (source, delivery)
);
CREATE INDEX source_push_due ON source_push (due) WHERE due > 0;
CREATE INDEX source_push_after ON source_push (source, after_id);
CREATE INDEX source_push_at ON source_push (source, at);
CREATE TABLE source_change (
	source   TEXT   NOT NULL,
	number   BIGINT NOT NULL,
	branch   TEXT   NOT NULL,
	head     TEXT   NOT NULL,
	author   TEXT   NOT NULL,
	merge_id TEXT   NOT NULL,
	merged   BIGINT NOT NULL,
	opened   BIGINT NOT NULL,
	merged_at BIGINT NOT NULL,
	link     TEXT   NOT NULL,
	PRIMARY KEY (source, number)
);
CREATE INDEX source_change_merge ON source_change (source, merge_id) WHERE merge_id <> '';
CREATE TABLE source_review (
	source    TEXT   NOT NULL,
	number    BIGINT NOT NULL,
	delivery  TEXT   NOT NULL,
	reviewer  TEXT   NOT NULL,
	name      TEXT   NOT NULL,
	commit_id TEXT   NOT NULL,
	state     TEXT   NOT NULL,
	at        BIGINT NOT NULL,
	link      TEXT   NOT NULL,
	PRIMARY KEY (source, number, delivery)
);
CREATE TABLE source_protection (
	source TEXT   NOT NULL,
	ref    TEXT   NOT NULL,
	body   BYTES  NOT NULL,
	since  BIGINT NOT NULL,
	looked BIGINT NOT NULL,
	PRIMARY KEY (source, ref)
);
CREATE TABLE source_statement (
	id     TEXT   NOT NULL PRIMARY KEY,
	source TEXT   NOT NULL,
	body   BYTES  NOT NULL,
	due    BIGINT NOT NULL,
	tries  BIGINT NOT NULL
);`, `
CREATE TABLE source_tag (
	source    TEXT   NOT NULL,
	ref       TEXT   NOT NULL,
	commit_id TEXT   NOT NULL,
	moved     BIGINT NOT NULL,
	at        BIGINT NOT NULL,
	PRIMARY KEY (source, ref)
);`, `
CREATE TABLE source_contributor (
	source TEXT   NOT NULL,
	number BIGINT NOT NULL,
	person TEXT   NOT NULL,
	PRIMARY KEY (source, number, person)
);`, `
ALTER TABLE source_push ADD COLUMN revision BIGINT NOT NULL DEFAULT 0;`}}

// pushRow is a recorded push.
type pushRow struct {
	source, delivery, ref, before, after, pusher string
	forced                                       int
	reviewed                                     int // as it was judged before; -1: it was not
	revision                                     int
	workflows                                    []string
	whole                                        bool
	at                                           time.Time
}

func insertPush(ctx context.Context, tx *store.Tx, source, delivery string, p *push, workflows []string, due time.Time) error {
	forced := -1
	if p.Forced != nil {
		forced = 0
		if *p.Forced {
			forced = 1
		}
	}
	_, err := tx.Exec(ctx, `INSERT INTO source_push (source, delivery, ref, before_id, after_id, pusher, forced, workflows, whole, at, due, reviewed, change)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, -1, 0)`,
		source, delivery, p.Ref, p.Before, p.After, p.Pusher, forced, strings.Join(workflows, "\n"), flag(p.Whole), store.Micros(tx.Now()), store.Micros(due))
	return err
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return store.Micros(t)
}

// duePushes claims pushes that are to be judged, for a while: another process
// does not judge them meanwhile, and a crash has them judged later.
func duePushes(ctx context.Context, tx *store.Tx, limit int) (out []pushRow, err error) {
	rows, err := tx.Query(ctx, `SELECT source, delivery, ref, before_id, after_id, pusher, forced, reviewed, revision, workflows, whole, at FROM source_push
		WHERE due > 0 AND due <= ? ORDER BY due LIMIT ?`, store.Micros(tx.Now()), limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var p pushRow
		var workflows string
		var whole, at int64
		if err := rows.Scan(&p.source, &p.delivery, &p.ref, &p.before, &p.after, &p.pusher, &p.forced, &p.reviewed, &p.revision, &workflows, &whole, &at); err != nil {
			return nil, err
		}
		p.whole, p.at = whole != 0, store.Time(at)
		if workflows != "" {
			p.workflows = strings.Split(workflows, "\n")
		}
		out = append(out, p)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	rows.Close()
	for _, p := range out {
		if _, err := tx.Exec(ctx, `UPDATE source_push SET due = ? WHERE source = ? AND delivery = ?`, store.Micros(tx.Now().Add(claim)), p.source, p.delivery); err != nil {
			return nil, err
		}
	}
	return out, nil
}

const claim = 2 * time.Minute

func upsertChange(ctx context.Context, tx *store.Tx, source string, c *change) error {
	// What was merged stays as it was merged: a later notice may be an older one.
	_, err := tx.Exec(ctx, `INSERT INTO source_change (source, number, branch, head, author, merge_id, merged, opened, merged_at, link)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (source, number) DO UPDATE SET branch = excluded.branch, head = excluded.head, author = excluded.author, merge_id = excluded.merge_id,
			merged = excluded.merged, opened = excluded.opened, merged_at = excluded.merged_at, link = excluded.link
		WHERE source_change.merged = 0`,
		source, c.Number, c.Branch, c.Head, c.Author, c.Merge, flag(c.Merged), micros(c.Opened), micros(c.MergedAt), c.Link)
	return err
}

func insertReview(ctx context.Context, tx *store.Tx, source, delivery string, number int64, r *review) error {
	at := r.At
	if at.IsZero() {
		at = tx.Now()
	}
	_, err := tx.Exec(ctx, `INSERT INTO source_review (source, number, delivery, reviewer, name, commit_id, state, at, link) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (source, number, delivery) DO NOTHING`, source, number, delivery, r.Reviewer, r.Name, r.Commit, r.State, store.Micros(at), r.Link)
	return err
}

// findChange gives the merged change that brought a commit to the branch.
func findChange(ctx context.Context, tx *store.Tx, source, branch, after string) (*change, error) {
	var c change
	var merged, opened, mergedAt int64
	err := tx.QueryRow(ctx, `SELECT number, branch, head, author, merge_id, merged, opened, merged_at, link FROM source_change
		WHERE source = ? AND merge_id = ? AND merged = 1 AND branch = ?`, source, after, branch).
		Scan(&c.Number, &c.Branch, &c.Head, &c.Author, &c.Merge, &merged, &opened, &mergedAt, &c.Link)
	if errors.Is(err, fault.NotFound) {
		return nil, nil
	}
	c.Merged = true
	if opened > 0 {
		c.Opened = store.Time(opened)
	}
	if mergedAt > 0 {
		c.MergedAt = store.Time(mergedAt)
	}
	return &c, err
}

func findReviews(ctx context.Context, tx *store.Tx, source string, number int64) (out []review, err error) {
	rows, err := tx.Query(ctx, `SELECT reviewer, name, commit_id, state, at, link FROM source_review WHERE source = ? AND number = ? ORDER BY at, delivery LIMIT 1000`, source, number)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r review
		var at int64
		if err := rows.Scan(&r.Reviewer, &r.Name, &r.Commit, &r.State, &at, &r.Link); err != nil {
			return nil, err
		}
		r.At = store.Time(at)
		out = append(out, r)
	}
	return out, rows.Err()
}
