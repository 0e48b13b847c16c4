package baseline

import (
	"context"

	"assay/artifact"
	"assay/internal/glob"
	"assay/store"
)

// Migrations are the tables of builds and what is usual.
//
//   - runner_source: what builds are compared within.
//   - runner_learnt: which build taught a kind of a source.
//   - runner_known: what is usual, or was accepted; pattern: 1 when value is one.
//   - runner_build, runner_subject: builds, and what they made.
//   - runner_document: attestations that were compared already.
//   - runner_anomaly: what was new.
//   - runner_cache: which run wrote a cache's content first, and how far it is
//     to be trusted: no further than what it was made from.
//   - runner_host: machines that beat, the last of each.
var Migrations = store.Migrations{Name: "runner", Steps: []string{`
CREATE TABLE runner_source (
	id         TEXT   NOT NULL PRIMARY KEY,
	issuer     TEXT   NOT NULL,
	repository TEXT   NOT NULL,
	workflow   TEXT   NOT NULL,
	verified   BIGINT NOT NULL,
	since      BIGINT NOT NULL
);
CREATE TABLE runner_learnt (
	source TEXT NOT NULL,
	kind   TEXT NOT NULL,
	build  TEXT NOT NULL,
	PRIMARY KEY (source, kind)
);
CREATE TABLE runner_known (
	source  TEXT   NOT NULL,
	kind    TEXT   NOT NULL,
	name    TEXT   NOT NULL,
	value   TEXT   NOT NULL,
	pattern BIGINT NOT NULL,
	build   TEXT   NOT NULL,
	since   BIGINT NOT NULL,
	PRIMARY KEY (source, kind, name, value)
);
CREATE TABLE runner_build (
	id           TEXT   NOT NULL PRIMARY KEY,
	source       TEXT   NOT NULL,
	invocation   TEXT   NOT NULL,
	issuer       TEXT   NOT NULL,
	identity     TEXT   NOT NULL,
	ref          TEXT   NOT NULL,
	ref_verified BIGINT NOT NULL,
	event        TEXT   NOT NULL,
	rank         BIGINT NOT NULL,
	command      TEXT   NOT NULL,
	instance     TEXT   NOT NULL,
	machine      TEXT   NOT NULL,
	kind         TEXT   NOT NULL,
	fresh        BIGINT NOT NULL,
	uses         BIGINT NOT NULL,
	used         BIGINT NOT NULL,
	job          TEXT   NOT NULL,
	age          BIGINT NOT NULL,
	image        TEXT   NOT NULL,
	evidence     TEXT   NOT NULL,
	provenance   TEXT   NOT NULL,
	trace        TEXT   NOT NULL,
	time         BIGINT NOT NULL,
	state        TEXT   NOT NULL
);
CREATE INDEX runner_build_source ON runner_build (source, time);
CREATE INDEX runner_build_instance ON runner_build (instance) WHERE instance <> '';
CREATE INDEX runner_build_time ON runner_build (time);
CREATE TABLE runner_subject (
	digest TEXT NOT NULL,
	build  TEXT NOT NULL,
	PRIMARY KEY (digest, build)
);
CREATE INDEX runner_subject_build ON runner_subject (build);
CREATE TABLE runner_document (
	attestation TEXT NOT NULL PRIMARY KEY,
	build       TEXT NOT NULL
);
CREATE TABLE runner_anomaly (
	id           TEXT   NOT NULL PRIMARY KEY,
	build        TEXT   NOT NULL,
	source       TEXT   NOT NULL,
	kind         TEXT   NOT NULL,
	name         TEXT   NOT NULL,
	value        TEXT   NOT NULL,
	usual        TEXT   NOT NULL,
	time         BIGINT NOT NULL,
	accepted     BIGINT NOT NULL,
	accepted_by  TEXT   NOT NULL,
	reason       TEXT   NOT NULL
);
CREATE INDEX runner_anomaly_build ON runner_anomaly (build);
CREATE INDEX runner_anomaly_time ON runner_anomaly (time);
CREATE INDEX runner_anomaly_open ON runner_anomaly (source, kind, name) WHERE accepted = 0;
CREATE TABLE runner_cache (
	digest     TEXT   NOT NULL PRIMARY KEY,
	issuer     TEXT   NOT NULL,
	repository TEXT   NOT NULL,
	build      TEXT   NOT NULL,
	rank       BIGINT NOT NULL,
	time       BIGINT NOT NULL
);
CREATE TABLE runner_pending (
	attestation TEXT   NOT NULL PRIMARY KEY,
	asked       BIGINT NOT NULL,
	tries       BIGINT NOT NULL
);
CREATE TABLE runner_host (
	id       TEXT   NOT NULL PRIMARY KEY,
	issuer   TEXT   NOT NULL,
	identity TEXT   NOT NULL,
	seen     BIGINT NOT NULL,
	body     TEXT   NOT NULL
);
CREATE INDEX runner_host_seen ON runner_host (seen);
`}}

const buildColumns = `b.id, b.source, b.invocation, b.issuer, b.identity, b.ref, b.ref_verified, b.event, b.rank, b.command, b.instance, b.machine, b.kind,
	b.fresh, b.uses, b.used, b.job, b.age, b.image, b.evidence, b.provenance, b.trace, b.time, b.state,
	(SELECT COUNT(*) FROM runner_anomaly a WHERE a.build = b.id AND a.accepted = 0)`

func scanBuild(scan func(...any) error) (*Build, error) {
	var b Build
	var verified, fresh, used, at int64
	var state string
	err := scan(&b.ID, &b.Source, &b.InvocationID, &b.Issuer, &b.Identity, &b.Ref, &verified, &b.Trigger, &b.Rank, &b.Command, &b.Instance, &b.Machine, &b.Kind,
		&fresh, &b.Uses, &used, &b.Job, &b.Age, &b.Image, &b.Evidence, &b.Provenance, &b.Trace, &at, &state, &b.Open)
	b.RefVerified, b.Fresh, b.Used, b.Time, b.State = verified != 0, fresh != 0, used != 0, store.Time(at), State(state)
	return &b, err
}

func findBuild(ctx context.Context, tx *store.Tx, id string) (*Build, error) {
	return scanBuild(tx.QueryRow(ctx, `SELECT `+buildColumns+` FROM runner_build b WHERE b.id = ?`, id).Scan)
}

func insertBuild(ctx context.Context, tx *store.Tx, b *Build) error {
	_, err := tx.Exec(ctx, `INSERT INTO runner_build (id, source, invocation, issuer, identity, ref, ref_verified, event, rank, command, instance, machine, kind,
		fresh, uses, used, job, age, image, evidence, provenance, trace, time, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		b.ID, b.Source, b.InvocationID, b.Issuer, b.Identity, b.Ref, flag(b.RefVerified), b.Trigger, b.Rank, b.Command, b.Instance, b.Machine, b.Kind,
		flag(b.Fresh), b.Uses, flag(b.Used), b.Job, b.Age, b.Image, b.Evidence, b.Provenance, b.Trace, store.Micros(b.Time), string(b.State))
	return err
}

// known is one value that is usual, or a pattern over such.
type known struct {
	value   string
	pattern bool
}

func (k known) matches(value string) bool {
	if !k.pattern {
		return k.value == value
	}
	g, err := glob.Parse(k.value)
	return err == nil && g.Match(value)
}

func knownOf(ctx context.Context, tx *store.Tx, source, kind, name string) (out []known, err error) {
	rows, err := tx.Query(ctx, `SELECT value, pattern FROM runner_known WHERE source = ? AND kind = ? AND name = ? ORDER BY since, value`, source, kind, name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var k known
		var pattern int64
		if err := rows.Scan(&k.value, &pattern); err != nil {
			return nil, err
		}
		k.pattern = pattern != 0
		out = append(out, k)
	}
	return out, rows.Err()
}

func subjectsOf(ctx context.Context, tx *store.Tx, build string) (out []artifact.Digest, err error) {
	return store.Values[artifact.Digest](ctx, tx, `SELECT digest FROM runner_subject WHERE build = ? ORDER BY digest LIMIT ?`, build, maxSubjects)
}
