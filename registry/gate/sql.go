package gate

import (
	"context"
	"errors"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// Migrations are the gate's tables. They need those of registry and verify.
//
//   - gate_state: what a manifest of a repository with a gate is. carrier: it
//     is evidence about subject, and is seen with that. expires: when what is
//     staged is given up, a promotion by hand ends, or content of profile dev is
//     too old; 0: never. due: when it is to be judged again; 0: not by time.
//   - gate_block: digests that are served to nobody, in whichever repository.
//     cause is the digest that was blocked: the same, or the index whose part
//     this one is.
//   - gate_mark: what the worker has dealt with, and the generation of the
//     blocks.
var Migrations = store.Migrations{Name: "gate", Steps: []string{`
CREATE TABLE gate_state (
	repository TEXT   NOT NULL,
	digest     TEXT   NOT NULL,
	media_type TEXT   NOT NULL,
	state      TEXT   NOT NULL,
	basis      TEXT   NOT NULL,
	reason     TEXT   NOT NULL,
	decision   TEXT   NOT NULL,
	carrier    BIGINT NOT NULL,
	subject    TEXT   NOT NULL,
	owner      TEXT   NOT NULL,
	changed    BIGINT NOT NULL,
	expires    BIGINT NOT NULL,
	due        BIGINT NOT NULL,
	judged     BIGINT NOT NULL,
	PRIMARY KEY (repository, digest)
);
CREATE INDEX gate_state_digest ON gate_state (digest);
CREATE INDEX gate_state_due ON gate_state (due) WHERE due > 0;
CREATE INDEX gate_state_expires ON gate_state (expires) WHERE expires > 0;
CREATE TABLE gate_block (
	digest TEXT   NOT NULL,
	cause  TEXT   NOT NULL,
	kind   TEXT   NOT NULL,
	reason TEXT   NOT NULL,
	source TEXT   NOT NULL,
	actor  TEXT   NOT NULL,
	since  BIGINT NOT NULL,
	PRIMARY KEY (digest, cause, kind, source)
);
CREATE TABLE gate_mark (
	name  TEXT NOT NULL PRIMARY KEY,
	value TEXT NOT NULL
);
`}}

// row is a manifest's state.
type row struct {
	repository string
	digest     artifact.Digest
	mediaType  string
	state      State
	basis      string
	reason     string
	decision   string
	carrier    bool
	subject    artifact.Digest
	owner      string
	changed    time.Time
	expires    int64 // microseconds; 0: never
	due        int64
	judged     int64
	fresh      bool // has no row yet: nothing waits for it
}

const rowColumns = `repository, digest, media_type, state, basis, reason, decision, carrier, subject, owner, changed, expires, due, judged`

func scanRow(scan func(...any) error) (r row, err error) {
	var carrier, changed int64
	err = scan(&r.repository, &r.digest, &r.mediaType, &r.state, &r.basis, &r.reason, &r.decision, &carrier, &r.subject, &r.owner, &changed, &r.expires, &r.due, &r.judged)
	r.carrier, r.changed = carrier != 0, store.Time(changed)
	return r, err
}

// find gives a manifest's row; nil when it has none.
func find(ctx context.Context, tx *store.Tx, repository string, d artifact.Digest) (*row, error) {
	r, err := scanRow(tx.QueryRow(ctx, `SELECT `+rowColumns+` FROM gate_state WHERE repository = ? AND digest = ?`, repository, string(d)).Scan)
	if errors.Is(err, fault.NotFound) {
		return nil, nil //nolint:nilnil // none is an answer
	}
	if err != nil {
		return nil, err
	}
	return &r, nil
}

func selectRows(ctx context.Context, tx *store.Tx, where string, args ...any) ([]row, error) {
	rows, err := tx.Query(ctx, `SELECT `+rowColumns+` FROM gate_state WHERE `+where, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var out []row
	for rows.Next() {
		r, err := scanRow(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

func put(ctx context.Context, tx *store.Tx, r *row) error {
	carrier := 0
	if r.carrier {
		carrier = 1
	}
	_, err := tx.Exec(ctx, `INSERT INTO gate_state (`+rowColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (repository, digest) DO UPDATE SET media_type = excluded.media_type, state = excluded.state, basis = excluded.basis,
			reason = excluded.reason, decision = excluded.decision, carrier = excluded.carrier, subject = excluded.subject,
			owner = excluded.owner, changed = excluded.changed, expires = excluded.expires, due = excluded.due, judged = excluded.judged`,
		r.repository, string(r.digest), r.mediaType, string(r.state), r.basis, clip(r.reason, maxReason), r.decision, carrier, string(r.subject), r.owner,
		store.Micros(r.changed), r.expires, r.due, r.judged)
	return err
}

// parts lists the manifests that an index of a repository names, and theirs, at
// most maxParts.
func parts(ctx context.Context, tx *store.Tx, repository string, d artifact.Digest) ([]artifact.Digest, error) {
	return walk(ctx, tx, d, `SELECT DISTINCT child FROM registry_reference WHERE kind = 1 AND manifest = ? AND repository = ? LIMIT ?`, repository)
}

// partsAnywhere is parts over all repositories.
func partsAnywhere(ctx context.Context, tx *store.Tx, d artifact.Digest) ([]artifact.Digest, error) {
	return walk(ctx, tx, d, `SELECT DISTINCT child FROM registry_reference WHERE kind = 1 AND manifest = ? LIMIT ?`)
}

// Parts lists what an index is made of, in whichever repository; nothing of one
// that reaches too far to be judged as one.
func Parts(ctx context.Context, tx *store.Tx, d artifact.Digest) ([]artifact.Digest, error) {
	list, err := partsAnywhere(ctx, tx, d)
	if errors.Is(err, fault.TooLarge) {
		return nil, nil
	}
	return list, err
}

// maxParts bounds what one index may take along: an index of indexes of the
// largest size would be millions.
const maxParts = 20_000

func walk(ctx context.Context, tx *store.Tx, d artifact.Digest, q string, args ...any) ([]artifact.Digest, error) {
	seen := map[artifact.Digest]bool{d: true}
	list := []artifact.Digest{d}
	for i := 0; i < len(list); i++ {
		children, err := store.Values[artifact.Digest](ctx, tx, q, append(append([]any{string(list[i])}, args...), maxParts)...)
		if err != nil {
			return nil, err
		}
		for _, c := range children {
			if !seen[c] {
				seen[c] = true
				list = append(list, c)
			}
		}
		if len(list) > maxParts {
			return nil, fault.Newf(fault.TooLarge, "index %s reaches over %d manifests: it is not judged as one", d, maxParts)
		}
	}
	return list[1:], nil
}

// wholes lists the indexes of a repository that name a manifest, directly or
// through another index.
func wholes(ctx context.Context, tx *store.Tx, repository string, d artifact.Digest) ([]artifact.Digest, error) {
	return walk(ctx, tx, d, `SELECT DISTINCT manifest FROM registry_reference WHERE kind = 1 AND child = ? AND repository = ? LIMIT ?`, repository)
}

func mark(ctx context.Context, tx *store.Tx, name string) (value string, err error) {
	err = tx.QueryRow(ctx, `SELECT value FROM gate_mark WHERE name = ?`, name).Scan(&value)
	if errors.Is(err, fault.NotFound) {
		return "", nil
	}
	return value, err
}

func setMark(ctx context.Context, tx *store.Tx, name, value string) error {
	_, err := tx.Exec(ctx, `INSERT INTO gate_mark (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
	return err
}
