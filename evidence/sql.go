package evidence

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
	"assay/trust"
)

// Migrations are the tables of evidence.
//
//   - evidence_bundle: one row a bundle, with what it proved. content is NULL
//     when the bytes are in the blob store, under the digest that id names.
//     repository and source are of the first origin.
//   - evidence_subject: the strong digests that a bundle is about.
//   - evidence_origin: the repositories that a bundle was pushed to.
//   - evidence_rejection: the newest refusals of each subject, for people.
//   - evidence_seen: who has signed in a repository before.
//   - evidence_signed: which bundle stands for a signature (signedKey), so that
//     copies of it are not kept.
//
// The first three share (ingested_at, id), by which every list is ordered.
var Migrations = store.Migrations{Name: "evidence", Steps: []string{`
CREATE TABLE evidence_bundle (
	id             TEXT   NOT NULL PRIMARY KEY,
	scheme         TEXT   NOT NULL,
	predicate_type TEXT   NOT NULL,
	issuer         TEXT   NOT NULL,
	identity       TEXT   NOT NULL,
	key            TEXT   NOT NULL,
	root           TEXT   NOT NULL,
	trusted_time   BIGINT NOT NULL,
	time_source    TEXT   NOT NULL,
	log_id         TEXT   NOT NULL,
	log_index      BIGINT NOT NULL,
	legacy         BIGINT NOT NULL,
	size           BIGINT NOT NULL,
	trust_epoch    BIGINT NOT NULL,
	ingested_at    BIGINT NOT NULL,
	repository     TEXT   NOT NULL,
	source         TEXT   NOT NULL,
	payload        BYTES,
	content        BYTES
);
CREATE INDEX evidence_bundle_new ON evidence_bundle (ingested_at, id);
CREATE INDEX evidence_bundle_type ON evidence_bundle (predicate_type, ingested_at, id);
CREATE INDEX evidence_bundle_large ON evidence_bundle (id) WHERE content IS NULL;
CREATE INDEX evidence_bundle_identity ON evidence_bundle (identity, issuer, ingested_at, id) WHERE identity <> '';
CREATE TABLE evidence_subject (
	subject     TEXT   NOT NULL,
	ingested_at BIGINT NOT NULL,
	id          TEXT   NOT NULL,
	PRIMARY KEY (subject, ingested_at, id)
);
CREATE INDEX evidence_subject_bundle ON evidence_subject (id, subject);
CREATE TABLE evidence_origin (
	repository  TEXT   NOT NULL,
	ingested_at BIGINT NOT NULL,
	id          TEXT   NOT NULL,
	actor       TEXT   NOT NULL,
	added_at    BIGINT NOT NULL,
	PRIMARY KEY (repository, ingested_at, id)
);
CREATE TABLE evidence_rejection (
	subject    TEXT   NOT NULL,
	id         TEXT   NOT NULL,
	code       TEXT   NOT NULL,
	reason     TEXT   NOT NULL,
	repository TEXT   NOT NULL,
	source     TEXT   NOT NULL,
	at         BIGINT NOT NULL,
	PRIMARY KEY (subject, id)
);
`, `
CREATE TABLE evidence_signed (
	signed TEXT NOT NULL PRIMARY KEY,
	id     TEXT NOT NULL
);
`, `
-- What a revocation may name besides the signer. NULL: not looked up yet, of
-- bundles that came before these columns did (Store.Backfill).
ALTER TABLE evidence_bundle ADD COLUMN serial TEXT;
ALTER TABLE evidence_bundle ADD COLUMN authority TEXT;
ALTER TABLE evidence_bundle ADD COLUMN builder TEXT;
CREATE INDEX evidence_bundle_by_key ON evidence_bundle (key, trusted_time, id);
CREATE INDEX evidence_bundle_by_signer ON evidence_bundle (issuer, identity, trusted_time, id) WHERE identity <> '';
CREATE INDEX evidence_bundle_by_serial ON evidence_bundle (serial, authority, id) WHERE serial <> '';
CREATE INDEX evidence_bundle_by_builder ON evidence_bundle (builder, trusted_time, id) WHERE builder <> '';
CREATE INDEX evidence_bundle_by_index ON evidence_bundle (log_id, log_index, id) WHERE log_id <> '';
CREATE INDEX evidence_bundle_unfilled ON evidence_bundle (id) WHERE serial IS NULL;
-- Who signed in a repository before: an issuer, an identity, a key.
CREATE TABLE evidence_seen (
	repository TEXT NOT NULL,
	what       TEXT NOT NULL,
	who        TEXT NOT NULL,
	at         BIGINT NOT NULL,
	PRIMARY KEY (repository, what, who)
);
`, `
-- The one subject of a bundle, so that what a revocation takes is read from an
-- index alone; '' where there are several: evidence_subject has them.
ALTER TABLE evidence_bundle ADD COLUMN subject TEXT NOT NULL DEFAULT '';
DROP INDEX evidence_bundle_by_key;
DROP INDEX evidence_bundle_by_signer;
DROP INDEX evidence_bundle_by_builder;
DROP INDEX evidence_bundle_by_index;
CREATE INDEX evidence_bundle_of_key ON evidence_bundle (key, trusted_time, subject);
CREATE INDEX evidence_bundle_of_signer ON evidence_bundle (issuer, identity, trusted_time, subject) WHERE identity <> '';
CREATE INDEX evidence_bundle_of_builder ON evidence_bundle (builder, trusted_time, subject) WHERE builder <> '';
CREATE INDEX evidence_bundle_of_log ON evidence_bundle (log_id, log_index, time_source, trusted_time, subject) WHERE log_id <> '';
`, `
-- What was built from a commit, as verified provenance says; both are keys of
-- evidence_subject. built is NULL where it was not looked up yet (Store.Backfill).
CREATE TABLE evidence_built (
	source  TEXT NOT NULL,
	subject TEXT NOT NULL,
	PRIMARY KEY (source, subject)
);
ALTER TABLE evidence_bundle ADD COLUMN built BIGINT;
CREATE INDEX evidence_bundle_unbuilt ON evidence_bundle (id) WHERE built IS NULL AND builder <> '';
`}}

const bundleColumns = `b.scheme, b.predicate_type, b.issuer, b.identity, b.key, b.root, b.trusted_time, b.time_source,
	b.log_id, b.log_index, b.legacy, b.size, b.trust_epoch, b.ingested_at, b.repository, b.source`

// columns gives what bundleColumns are scanned into; the times go by way of
// at and trusted.
func (r *Record) columns(trusted, at *int64) []any {
	return []any{&r.Scheme, &r.PredicateType, &r.Signer.Issuer, &r.Signer.Subject, &r.Signer.Key, &r.Root, trusted, &r.TimeSource,
		&r.LogID, &r.LogIndex, &r.Legacy, &r.Size, &r.TrustEpoch, at, &r.Repository, &r.Source}
}

// known is what the database says about a bundle that is brought.
type known struct {
	epoch   int64 // the trust epoch now
	found   bool
	row     Record // as its columns say; without subject
	payload bool   // the simple signing document is there
	origin  bool   // and so is the repository
}

func findKnown(ctx context.Context, tx *store.Tx, id, repository string) (known, error) {
	k := known{origin: repository == ""}
	k.row.ID = id
	var trusted, at int64
	err := tx.QueryRow(ctx, `SELECT `+bundleColumns+`, CASE WHEN b.payload IS NULL THEN 0 ELSE 1 END FROM evidence_bundle b WHERE b.id = ?`, id).
		Scan(append(k.row.columns(&trusted, &at), &k.payload)...)
	if errors.Is(err, fault.NotFound) {
		return k, nil
	}
	if err != nil {
		return k, err
	}
	k.found = true
	k.row.TrustedTime, k.row.IngestedAt = store.Time(trusted), store.Time(at)
	if !k.origin {
		var n int64
		err = tx.QueryRow(ctx, `SELECT COUNT(*) FROM evidence_origin WHERE repository = ? AND ingested_at = ? AND id = ?`, repository, at, id).Scan(&n)
		k.origin = n > 0
	}
	return k, err
}

// insertBundle writes a bundle that is not there; new is false, and nothing
// written, when it is.
func insertBundle(ctx context.Context, tx *store.Tx, p *prepared, from Origin) (isNew bool, err error) {
	r := &p.record
	var content []byte
	if p.inline {
		content = p.raw
	}
	n, err := tx.Exec(ctx, `INSERT INTO evidence_bundle (id, scheme, predicate_type, issuer, identity, key, root, trusted_time, time_source,
			log_id, log_index, legacy, size, trust_epoch, ingested_at, repository, source, payload, content, serial, authority, builder, subject, built)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1) ON CONFLICT (id) DO NOTHING`,
		r.ID, string(r.Scheme), r.PredicateType, r.Signer.Issuer, r.Signer.Subject, r.Signer.Key, r.Root, r.TrustedTime, r.TimeSource,
		r.LogID, r.LogIndex, r.Legacy, r.Size, r.TrustEpoch, tx.Now(), from.Repository, from.Source, p.payload, content, p.made.serial, p.made.authority, p.made.builder, p.onlySubject())
	return n == 1, err
}

// rowsAtOnce bounds the rows of one INSERT.
const rowsAtOnce = 64

func insertSubjects(ctx context.Context, tx *store.Tx, id string, at int64, subjects []artifact.Digest) error {
	for len(subjects) > 0 {
		// Whole chunks share one SQL text; the rest goes row by row, so that the
		// number of distinct texts stays at two.
		n := 1
		if len(subjects) >= rowsAtOnce {
			n = rowsAtOnce
		}
		args := make([]any, 0, 3*n)
		for _, d := range subjects[:n] {
			args = append(args, string(d), at, id)
		}
		if _, err := tx.Exec(ctx, insertSubjectText[n > 1], args...); err != nil {
			return err
		}
		subjects = subjects[n:]
	}
	return nil
}

var insertSubjectText = map[bool]string{
	false: `INSERT INTO evidence_subject (subject, ingested_at, id) VALUES (?, ?, ?) ON CONFLICT (subject, ingested_at, id) DO NOTHING`,
	true: `INSERT INTO evidence_subject (subject, ingested_at, id) VALUES (?, ?, ?)` + strings.Repeat(`, (?, ?, ?)`, rowsAtOnce-1) +
		` ON CONFLICT (subject, ingested_at, id) DO NOTHING`,
}

func insertOrigin(ctx context.Context, tx *store.Tx, id string, at int64, from Origin) error {
	if from.Repository == "" {
		return nil
	}
	_, err := tx.Exec(ctx, `INSERT INTO evidence_origin (repository, ingested_at, id, actor, added_at) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (repository, ingested_at, id) DO NOTHING`, from.Repository, at, id, from.Actor, tx.Now())
	return err
}

// renewBundle writes what a bundle proved under a later trust epoch, and the
// simple signing document if it was missing.
func renewBundle(ctx context.Context, tx *store.Tx, p *prepared) error {
	r := &p.record
	_, err := tx.Exec(ctx, `UPDATE evidence_bundle SET issuer = ?, identity = ?, key = ?, root = ?, trusted_time = ?, time_source = ?,
			log_id = ?, log_index = ?, trust_epoch = ? WHERE id = ? AND trust_epoch <= ?`,
		r.Signer.Issuer, r.Signer.Subject, r.Signer.Key, r.Root, r.TrustedTime, r.TimeSource, r.LogID, r.LogIndex, r.TrustEpoch, r.ID, r.TrustEpoch)
	if err != nil || p.payload == nil {
		return err
	}
	_, err = tx.Exec(ctx, `UPDATE evidence_bundle SET payload = ?, legacy = 1 WHERE id = ? AND payload IS NULL`, p.payload, r.ID)
	return err
}

// keptRejections is how many refusals of one subject are kept.
const keptRejections = 16

func insertRejection(ctx context.Context, tx *store.Tx, r Rejection) error {
	if _, err := tx.Exec(ctx, `INSERT INTO evidence_rejection (subject, id, code, reason, repository, source, at) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (subject, id) DO UPDATE SET code = excluded.code, reason = excluded.reason, repository = excluded.repository, source = excluded.source, at = excluded.at`,
		string(r.Subject), r.ID, r.Code, r.Reason, r.Repository, r.Source, tx.Now()); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `DELETE FROM evidence_rejection WHERE subject = ? AND id NOT IN (
		SELECT id FROM evidence_rejection WHERE subject = ? ORDER BY at DESC, id LIMIT ?)`, string(r.Subject), string(r.Subject), keptRejections)
	return err
}

// findRejections leaves out what was accepted for the subject since.
func findRejections(ctx context.Context, tx *store.Tx, subject artifact.Digest) (out []Rejection, err error) {
	rows, err := tx.Query(ctx, `SELECT id, code, reason, repository, source, at FROM evidence_rejection r WHERE subject = ?
		AND NOT EXISTS (SELECT 1 FROM evidence_subject s WHERE s.id = r.id AND s.subject = r.subject) ORDER BY at DESC, id`, string(subject))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		r, at := Rejection{Subject: subject}, int64(0)
		if err := rows.Scan(&r.ID, &r.Code, &r.Reason, &r.Repository, &r.Source, &at); err != nil {
			return nil, err
		}
		r.At = store.Time(at)
		out = append(out, r)
	}
	return out, rows.Err()
}

// list builds the one query of [Store.List]. The table that narrows most comes
// first, and CROSS JOIN keeps it there: SQLite does not reorder one.
func list(ctx context.Context, tx *store.Tx, f Filter, c *cursor) ([]Record, error) {
	from, d := `evidence_bundle b CROSS JOIN evidence_subject s`, "b"
	where, args := []string{`s.id = b.id`}, []any(nil)
	also := func(cond string, arg any) { where, args = append(where, cond), append(args, arg) }
	switch {
	case f.Subject != "":
		from, d = `evidence_subject s CROSS JOIN evidence_bundle b`, "s"
		also(`s.subject = ?`, string(f.Subject))
		if f.Repository != "" {
			also(`EXISTS (SELECT 1 FROM evidence_origin o WHERE o.repository = ? AND o.ingested_at = b.ingested_at AND o.id = b.id)`, f.Repository)
		}
	case f.Repository != "":
		from, d = `evidence_origin o CROSS JOIN evidence_bundle b CROSS JOIN evidence_subject s`, "o"
		where = append(where, `b.id = o.id`)
		also(`o.repository = ?`, f.Repository)
	}
	for _, m := range []struct{ column, value string }{{"predicate_type", f.PredicateType}, {"identity", f.Identity}, {"issuer", f.Issuer}} {
		if m.value != "" {
			also(`b.`+m.column+` = ?`, m.value)
		}
	}
	if f.Identity != "" {
		where = append(where, `b.identity <> ''`) // lets the partial index in
	}
	if c != nil {
		where = append(where, `(`+d+`.ingested_at, `+d+`.id, s.subject) < (?, ?, ?)`)
		args = append(args, c.at, c.id, c.subject)
	}
	rows, err := tx.Query(ctx, `SELECT b.id, s.subject, `+bundleColumns+` FROM `+from+` WHERE `+strings.Join(where, ` AND `)+
		` ORDER BY `+d+`.ingested_at DESC, `+d+`.id DESC, s.subject DESC LIMIT ?`, append(args, f.Limit)...)
	if err != nil {
		return nil, err
	}
	return scanRecords(rows)
}

// findRecords gives the records of one bundle, by subject.
func findRecords(ctx context.Context, tx *store.Tx, id string) ([]Record, error) {
	rows, err := tx.Query(ctx, `SELECT b.id, s.subject, `+bundleColumns+` FROM evidence_bundle b, evidence_subject s WHERE b.id = ? AND s.id = b.id ORDER BY s.subject`, id)
	if err != nil {
		return nil, err
	}
	return scanRecords(rows)
}

func scanRecords(rows *sql.Rows) (out []Record, err error) {
	defer rows.Close()
	for rows.Next() {
		var r Record
		var trusted, at int64
		if err := rows.Scan(append([]any{&r.ID, &r.Subject}, r.columns(&trusted, &at)...)...); err != nil {
			return nil, err
		}
		r.TrustedTime, r.IngestedAt = store.Time(trusted), store.Time(at)
		out = append(out, r)
	}
	return out, rows.Err()
}

// stored is a bundle's bytes as they lie in the database.
type stored struct {
	Item
	size    int64
	content []byte // nil: in the blob store
	scheme  trust.Scheme
}

const storedColumns = `b.id, b.scheme, b.repository, b.legacy, b.size, b.ingested_at, b.payload, b.content`

func (c *stored) columns(at *int64) []any {
	return []any{&c.ID, &c.scheme, &c.Repository, &c.Legacy, &c.size, at, &c.Payload, &c.content}
}

func findStored(ctx context.Context, tx *store.Tx, id string) (c stored, err error) {
	var at int64
	err = tx.QueryRow(ctx, `SELECT `+storedColumns+` FROM evidence_bundle b WHERE b.id = ?`, id).Scan(c.columns(&at)...)
	c.IngestedAt = store.Time(at)
	return c, err
}

// newestStored gives bundles about a subject, at most n: the newest of each
// signer first, then the second newest of each, and so on, so that one who signs
// without end about somebody else's artifact fills his own turns alone. Among
// one signer's, the newest of each predicate type have the first turns.
func newestStored(ctx context.Context, tx *store.Tx, subject artifact.Digest, n int) (out []stored, err error) {
	rows, err := tx.Query(ctx, `SELECT `+storedColumns+` FROM (
			SELECT id, ingested_at, ROW_NUMBER() OVER (PARTITION BY root, issuer, identity, bare ORDER BY of_type, ingested_at DESC, id DESC) AS turn FROM (
				SELECT s.id, s.ingested_at, k.root, k.issuer, k.identity, CASE WHEN k.issuer = '' THEN k.key ELSE '' END AS bare,
					ROW_NUMBER() OVER (PARTITION BY k.root, k.issuer, k.identity, CASE WHEN k.issuer = '' THEN k.key ELSE '' END, k.predicate_type
						ORDER BY s.ingested_at DESC, s.id DESC) AS of_type
				FROM evidence_subject s CROSS JOIN evidence_bundle k WHERE s.subject = ? AND k.id = s.id
			) typed ORDER BY turn, ingested_at DESC, id DESC LIMIT ?
		) t CROSS JOIN evidence_bundle b WHERE b.id = t.id ORDER BY t.turn, t.ingested_at DESC, t.id DESC`, string(subject), n)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var c stored
		var at int64
		if err := rows.Scan(c.columns(&at)...); err != nil {
			return nil, err
		}
		c.IngestedAt = store.Time(at)
		out = append(out, c)
	}
	return out, rows.Err()
}
