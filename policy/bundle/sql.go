package bundle

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// Migrations holds which bundles were in force, and what became of the places
// that bundles are followed at.
var Migrations = store.Migrations{Name: "policy-bundle", Steps: []string{`
CREATE TABLE policy_bundle (
	name         TEXT   NOT NULL,
	seq          BIGINT NOT NULL,
	version      BIGINT NOT NULL,
	digest       TEXT   NOT NULL,
	archive      BYTES  NOT NULL,
	signatures   BYTES  NOT NULL,
	policies     TEXT   NOT NULL,
	signers      TEXT   NOT NULL,
	origin       TEXT   NOT NULL,
	actor        TEXT   NOT NULL,
	reason       TEXT   NOT NULL,
	activated_at BIGINT NOT NULL,
	replaced_at  BIGINT NOT NULL,
	PRIMARY KEY (name, seq)
);
CREATE TABLE policy_bundle_source (
	name       TEXT   NOT NULL PRIMARY KEY,
	origin     TEXT   NOT NULL,
	digest     TEXT   NOT NULL,
	problem    TEXT   NOT NULL,
	since      BIGINT NOT NULL,
	checked_at BIGINT NOT NULL
)`}}

// Activation is one time that a bundle was put in force.
type Activation struct {
	Name        string          `json:"name"`
	Seq         int64           `json:"seq"` // counts the activations of the name
	Version     int64           `json:"version"`
	Digest      artifact.Digest `json:"digest"` // of the listing of its files
	Policies    []string        `json:"policies"`
	Signers     []string        `json:"signers"` // none: it was not signed, and that was allowed
	Origin      string          `json:"origin,omitempty"`
	Actor       string          `json:"actor"`
	Reason      string          `json:"reason,omitempty"`
	ActivatedAt time.Time       `json:"activated_at"`
	ReplacedAt  time.Time       `json:"replaced_at,omitzero"` // zero: it is in force
}

const activationColumns = `name, seq, version, digest, policies, signers, origin, actor, reason, activated_at, replaced_at`

func scanActivation(scan func(...any) error, more ...any) (a Activation, err error) {
	var policies, signers string
	var at, until int64
	err = scan(append([]any{&a.Name, &a.Seq, &a.Version, &a.Digest, &policies, &signers, &a.Origin, &a.Actor, &a.Reason, &at, &until}, more...)...)
	a.Policies, a.Signers = lines(policies), lines(signers)
	a.ActivatedAt = time.UnixMicro(at).UTC()
	if until != 0 {
		a.ReplacedAt = time.UnixMicro(until).UTC()
	}
	return a, err
}

func lines(s string) []string {
	if s == "" {
		return []string{}
	}
	return strings.Split(s, "\n")
}

// Active lists the bundles in force by name.
func Active(ctx context.Context, tx *store.Tx) ([]Activation, error) {
	return activations(ctx, tx, `SELECT `+activationColumns+` FROM policy_bundle WHERE replaced_at = 0 ORDER BY name`)
}

// History lists the activations of a name, the newest first, at most limit.
func History(ctx context.Context, tx *store.Tx, name string, limit int) ([]Activation, error) {
	return activations(ctx, tx, `SELECT `+activationColumns+` FROM policy_bundle WHERE name = ? ORDER BY seq DESC LIMIT ?`, name, limit)
}

func activations(ctx context.Context, tx *store.Tx, query string, args ...any) ([]Activation, error) {
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []Activation{}
	for rows.Next() {
		a, err := scanActivation(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, rows.Err()
}

// Kept gives the archive and the signatures of a version that was in force
// before, as they were.
func Kept(ctx context.Context, tx *store.Tx, name string, version int64) (a Activation, archive, signatures []byte, err error) {
	row := tx.QueryRow(ctx, `SELECT `+activationColumns+`, archive, signatures FROM policy_bundle WHERE name = ? AND version = ? ORDER BY seq DESC LIMIT 1`, name, version)
	a, err = scanActivation(row.Scan, &archive, &signatures)
	if errors.Is(err, fault.NotFound) {
		err = fault.Newf(fault.NotFound, "bundle %s, version %d, was never in force here: assay policy bundle history %s", name, version, name)
	}
	return a, archive, signatures, err
}

// Highest is the greatest version of a name that was ever in force; 0: none.
func Highest(ctx context.Context, tx *store.Tx, name string) (version int64, digest artifact.Digest, err error) {
	err = tx.QueryRow(ctx, `SELECT version, digest FROM policy_bundle WHERE name = ? ORDER BY version DESC, seq DESC LIMIT 1`, name).Scan(&version, &digest)
	if errors.Is(err, fault.NotFound) {
		err = nil
	}
	return version, digest, err
}

// Record writes that a bundle is in force from now on, in place of the one of
// its name. It fills Seq and ActivatedAt.
func Record(ctx context.Context, tx *store.Tx, a *Activation, archive, signatures []byte) error {
	if err := Retire(ctx, tx, a.Name); err != nil && !errors.Is(err, fault.NotFound) {
		return err
	}
	if err := tx.QueryRow(ctx, `SELECT COALESCE(MAX(seq), 0) + 1 FROM policy_bundle WHERE name = ?`, a.Name).Scan(&a.Seq); err != nil {
		return err
	}
	a.ActivatedAt, a.ReplacedAt = tx.Now().UTC(), time.Time{}
	if signatures == nil {
		signatures = []byte{}
	}
	// What was wrong with it before is looked at anew.
	if _, err := tx.Exec(ctx, `UPDATE policy_bundle_source SET problem = '' WHERE name = ?`, a.Name); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `INSERT INTO policy_bundle (name, seq, version, digest, archive, signatures, policies, signers, origin, actor, reason, activated_at, replaced_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)`,
		a.Name, a.Seq, a.Version, string(a.Digest), archive, signatures, strings.Join(a.Policies, "\n"), strings.Join(a.Signers, "\n"), a.Origin, a.Actor, a.Reason, store.Micros(a.ActivatedAt))
	return err
}

// Retire writes that the bundle of a name is in force no more. fault.NotFound:
// it was not.
func Retire(ctx context.Context, tx *store.Tx, name string) error {
	n, err := tx.Exec(ctx, `UPDATE policy_bundle SET replaced_at = ? WHERE name = ? AND replaced_at = 0`, store.Micros(tx.Now()), name)
	if err == nil && n == 0 {
		err = fault.Newf(fault.NotFound, "bundle %s is not in force: assay policy bundle list", name)
	}
	return err
}

// Owners says of each policy that a bundle in force brought which that is.
func Owners(ctx context.Context, tx *store.Tx) (map[string]string, error) {
	all, err := Active(ctx, tx)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, a := range all {
		for _, p := range a.Policies {
			out[p] = a.Name
		}
	}
	return out, nil
}

// Followed is what became of a place that a bundle is followed at.
type Followed struct {
	Name      string          `json:"name"`
	Origin    string          `json:"origin"`
	Digest    artifact.Digest `json:"digest,omitempty"`  // of what was found last
	Problem   string          `json:"problem,omitempty"` // why that is not in force; the last good one is
	Since     time.Time       `json:"since,omitzero"`    // since when that is so
	CheckedAt time.Time       `json:"checked_at"`
}

// Follow writes what was found; changed says whether the problem is another one
// than before.
func Follow(ctx context.Context, tx *store.Tx, f Followed) (changed bool, err error) {
	all, err := FollowedAll(ctx, tx)
	if err != nil {
		return false, err
	}
	f.CheckedAt = tx.Now().UTC()
	f.Since = f.CheckedAt
	changed = f.Problem != ""
	if i := slices.IndexFunc(all, func(o Followed) bool { return o.Name == f.Name }); i >= 0 {
		if changed = all[i].Problem != f.Problem; !changed {
			f.Since = all[i].Since
		}
	}
	_, err = tx.Exec(ctx, `INSERT INTO policy_bundle_source (name, origin, digest, problem, since, checked_at) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET origin = excluded.origin, digest = excluded.digest, problem = excluded.problem, since = excluded.since, checked_at = excluded.checked_at`,
		f.Name, f.Origin, string(f.Digest), f.Problem, store.Micros(f.Since), store.Micros(f.CheckedAt))
	return changed, err
}

// FollowedAll lists what became of all places.
func FollowedAll(ctx context.Context, tx *store.Tx) ([]Followed, error) {
	rows, err := tx.Query(ctx, `SELECT name, origin, digest, problem, since, checked_at FROM policy_bundle_source ORDER BY name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []Followed{}
	for rows.Next() {
		var f Followed
		var since, at int64
		if err := rows.Scan(&f.Name, &f.Origin, &f.Digest, &f.Problem, &since, &at); err != nil {
			return nil, err
		}
		f.Since, f.CheckedAt = time.UnixMicro(since).UTC(), time.UnixMicro(at).UTC()
		out = append(out, f)
	}
	return out, rows.Err()
}
