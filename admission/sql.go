package admission

import (
	"context"
	"errors"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// Migrations are the tables of what was last found out about what runs.
//
//   - admission_running: one image of one namespace: whether it may run, and why not.
//   - admission_guard: what guards a cluster, as it was last seen there.
//   - admission_bundle: the version of the last bundle of a cluster.
//   - admission_told: a workload of which was told that what it runs may not run, or
//     cannot be told: what, and when.
//   - admission_silent: clusters of which was told that they fell silent.
var Migrations = store.Migrations{Name: "admission", Steps: []string{`
CREATE TABLE admission_running (
	cluster    TEXT   NOT NULL,
	namespace  TEXT   NOT NULL,
	image      TEXT   NOT NULL, -- the reference as the workload has it
	digest     TEXT   NOT NULL, -- what runs
	state      TEXT   NOT NULL,
	reason     TEXT   NOT NULL,
	decision   TEXT   NOT NULL,
	since      BIGINT NOT NULL,
	PRIMARY KEY (cluster, namespace, image, digest)
);
CREATE TABLE admission_guard (
	cluster     TEXT   NOT NULL,
	kind        TEXT   NOT NULL,
	name        TEXT   NOT NULL,
	fingerprint TEXT   NOT NULL,
	since       BIGINT NOT NULL,
	PRIMARY KEY (cluster, kind, name)
);
CREATE TABLE admission_bundle (
	cluster TEXT   NOT NULL PRIMARY KEY,
	version BIGINT NOT NULL
);`, `
ALTER TABLE admission_running ADD COLUMN cause TEXT NOT NULL DEFAULT '';
CREATE TABLE admission_told (
	cluster    TEXT   NOT NULL,
	namespace  TEXT   NOT NULL,
	image      TEXT   NOT NULL,
	digest     TEXT   NOT NULL,
	kind       TEXT   NOT NULL,
	name       TEXT   NOT NULL,
	container  TEXT   NOT NULL,
	state      TEXT   NOT NULL,
	told       BIGINT NOT NULL,
	PRIMARY KEY (cluster, namespace, image, digest, kind, name, container)
);
CREATE TABLE admission_silent (cluster TEXT NOT NULL PRIMARY KEY);`}}

// runningKey names an image of a namespace.
type runningKey struct {
	cluster, namespace, image string
	digest                    artifact.Digest
}

// found is what was found out about it.
type found struct {
	state            State
	cause            Cause
	reason, decision string
}

// standing is what was found before, and since when its state is so.
type standing struct {
	found
	since time.Time
}

func readFound(ctx context.Context, tx *store.Tx) (map[runningKey]standing, error) {
	rows, err := tx.Query(ctx, `SELECT cluster, namespace, image, digest, state, cause, reason, decision, since FROM admission_running`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[runningKey]standing{}
	for rows.Next() {
		var k runningKey
		var f standing
		var since int64
		if err := rows.Scan(&k.cluster, &k.namespace, &k.image, &k.digest, &f.state, &f.cause, &f.reason, &f.decision, &since); err != nil {
			return nil, err
		}
		f.since = store.Time(since)
		out[k] = f
	}
	return out, rows.Err()
}

func writeFound(ctx context.Context, tx *store.Tx, k runningKey, f found) error {
	_, err := tx.Exec(ctx, `INSERT INTO admission_running (cluster, namespace, image, digest, state, cause, reason, decision, since) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (cluster, namespace, image, digest) DO UPDATE SET state = excluded.state, cause = excluded.cause, reason = excluded.reason, decision = excluded.decision,
		since = CASE WHEN admission_running.state = excluded.state THEN admission_running.since ELSE excluded.since END`,
		append(k.args(), string(f.state), string(f.cause), f.reason, f.decision, store.Micros(tx.Now()))...)
	return err
}

func forget(ctx context.Context, tx *store.Tx, k runningKey) error {
	for _, table := range []string{"admission_running", "admission_told"} {
		if _, err := tx.Exec(ctx, `DELETE FROM `+table+` WHERE `+imageIs, k.args()...); err != nil {
			return err
		}
	}
	return nil
}

// RunningPlace is a place in the list of what runs: cluster, namespace, reference and
// digest of the image before. The zero place is its beginning.
type RunningPlace [4]string

// Place is the image's own.
func (r *RunningImage) Place() RunningPlace {
	return RunningPlace{r.Cluster, r.Namespace, r.Image, string(r.Digest)}
}

// RunningImage is an image of a namespace, as the last round found it.
type RunningImage struct {
	Cluster, Namespace, Image string
	Digest                    artifact.Digest
	State                     State
	Cause                     Cause
	Reason, Decision          string
	Since                     time.Time
}

// ListRunning lists what runs in a cluster ("": in all) and is in a state ("": in
// any), in the order of its keys, behind a place in it.
func ListRunning(ctx context.Context, tx *store.Tx, cluster string, state State, after RunningPlace, limit int) (out []RunningImage, err error) {
	where, args := `1 = 1`, []any(nil)
	for _, c := range []struct{ column, value string }{{"cluster", cluster}, {"state", string(state)}} {
		if c.value != "" {
			where += ` AND ` + c.column + ` = ?`
			args = append(args, c.value)
		}
	}
	if after != (RunningPlace{}) {
		where += ` AND (cluster, namespace, image, digest) > (?, ?, ?, ?)`
		args = append(args, after[0], after[1], after[2], after[3])
	}
	rows, err := tx.Query(ctx, `SELECT cluster, namespace, image, digest, state, cause, reason, decision, since FROM admission_running
		WHERE `+where+` ORDER BY cluster, namespace, image, digest LIMIT ?`, append(args, limit)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r RunningImage
		var since int64
		if err := rows.Scan(&r.Cluster, &r.Namespace, &r.Image, &r.Digest, &r.State, &r.Cause, &r.Reason, &r.Decision, &since); err != nil {
			return nil, err
		}
		r.Since = store.Time(since)
		out = append(out, r)
	}
	return out, rows.Err()
}

// ClusterTally counts what runs in a cluster by what is known of it.
type ClusterTally struct {
	Cluster                           string
	Allowed, Denied, Drifted, Unknown int
}

// TallyRunning counts the images that run in each cluster.
func TallyRunning(ctx context.Context, tx *store.Tx) (all []ClusterTally, err error) {
	rows, err := tx.Query(ctx, `SELECT cluster, SUM(CASE WHEN state = ? THEN 1 ELSE 0 END), SUM(CASE WHEN state = ? THEN 1 ELSE 0 END), SUM(CASE WHEN state = ? THEN 1 ELSE 0 END), COUNT(*)
		FROM admission_running GROUP BY cluster ORDER BY cluster`, string(Allowed), string(Denied), string(Drifted))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var t ClusterTally
		var of int
		if err := rows.Scan(&t.Cluster, &t.Allowed, &t.Denied, &t.Drifted, &of); err != nil {
			return nil, err
		}
		t.Unknown = of - t.Allowed - t.Denied - t.Drifted
		all = append(all, t)
	}
	return all, rows.Err()
}

// NextVersion gives the number of a cluster's next bundle. It rises over restarts
// and restored backups, since it is not behind the clock.
func NextVersion(ctx context.Context, db *store.DB, cluster string) (v int64, err error) {
	err = db.Update(ctx, func(tx *store.Tx) error {
		v = store.Micros(tx.Now())
		var last int64
		err := tx.QueryRow(ctx, `SELECT version FROM admission_bundle WHERE cluster = ?`, cluster).Scan(&last)
		if err != nil && !errors.Is(err, fault.NotFound) {
			return err
		}
		v = max(v, last+1)
		_, err = tx.Exec(ctx, `INSERT INTO admission_bundle (cluster, version) VALUES (?, ?) ON CONFLICT (cluster) DO UPDATE SET version = excluded.version`, cluster, v)
		return err
	})
	return v, err
}
