package credential

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"assay/identity"
	"assay/internal/fault"
	"assay/store"
)

// Migrations are the tables of robots, revocations and break-glass sessions.
// Secrets are not in them, only their SHA-256.
var Migrations = store.Migrations{Name: "credential", Steps: []string{`
CREATE TABLE credential_robot (
	name        TEXT   NOT NULL PRIMARY KEY,
	description TEXT   NOT NULL,
	rights      TEXT   NOT NULL, -- JSON, []Right
	audiences   TEXT   NOT NULL, -- JSON, []Audience
	created_at  BIGINT NOT NULL,
	created_by  TEXT   NOT NULL
);
CREATE TABLE credential_token (
	id         TEXT   NOT NULL PRIMARY KEY,
	robot      TEXT   NOT NULL,
	hash       BYTES  NOT NULL,
	created_at BIGINT NOT NULL,
	created_by TEXT   NOT NULL,
	expires_at BIGINT NOT NULL,
	revoked_at BIGINT NOT NULL, -- 0: it is not
	last_used  BIGINT NOT NULL  -- 0: never
);
CREATE INDEX credential_token_robot ON credential_token (robot, created_at);
CREATE TABLE credential_revocation (
	id         TEXT   NOT NULL PRIMARY KEY,
	at         BIGINT NOT NULL,
	since      BIGINT NOT NULL, -- from when on what was done with it was not right
	credential TEXT   NOT NULL, -- its id, or
	issuer     TEXT   NOT NULL, -- with
	name       TEXT   NOT NULL, -- an identity
	actor      TEXT   NOT NULL,
	reason     TEXT   NOT NULL
);
CREATE INDEX credential_revocation_at ON credential_revocation (at, id);
CREATE TABLE credential_glass (
	subject    TEXT   NOT NULL PRIMARY KEY,
	at         BIGINT NOT NULL,
	expires_at BIGINT NOT NULL,
	actor      TEXT   NOT NULL,
	reason     TEXT   NOT NULL
);
CREATE TABLE credential_generation (
	one        BIGINT NOT NULL PRIMARY KEY,
	generation BIGINT NOT NULL
);
INSERT INTO credential_generation (one, generation) VALUES (1, 0);
`}}

func generation(ctx context.Context, tx *store.Tx) (n int64, err error) {
	return n, tx.QueryRow(ctx, `SELECT generation FROM credential_generation WHERE one = 1`).Scan(&n)
}

// changed tells the other replicas to read anew.
func changed(ctx context.Context, tx *store.Tx) error {
	_, err := tx.Exec(ctx, `UPDATE credential_generation SET generation = generation + 1 WHERE one = 1`)
	return err
}

// each reads rows into fn and closes them.
func each(rows *sql.Rows, err error, fn func() error) error {
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := fn(); err != nil {
			return err
		}
	}
	return rows.Err()
}

func optional(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return store.Time(micros)
}

func readSnapshot(ctx context.Context, tx *store.Tx, g int64) (*snapshot, error) {
	snap := &snapshot{
		generation: g, robots: map[string]*robot{}, tokens: map[string]*token{},
		revoked: map[revokedKey]time.Time{}, glass: map[string]time.Time{},
	}
	rows, err := tx.Query(ctx, `SELECT name, rights, audiences FROM credential_robot`)
	if err := each(rows, err, func() error {
		var name, rights, audiences string
		if err := rows.Scan(&name, &rights, &audiences); err != nil {
			return err
		}
		r := &robot{}
		snap.robots[name] = r
		if err := json.Unmarshal([]byte(rights), &r.rights); err != nil {
			return fmt.Errorf("rights of robot %s: %w", name, err)
		}
		return json.Unmarshal([]byte(audiences), &r.audiences)
	}); err != nil {
		return nil, err
	}
	rows, err = tx.Query(ctx, `SELECT id, robot, hash, created_at, expires_at, revoked_at FROM credential_token`)
	if err := each(rows, err, func() error {
		var id string
		var created, expires, revoked int64
		t := &token{}
		if err := rows.Scan(&id, &t.robot, &t.hash, &created, &expires, &revoked); err != nil {
			return err
		}
		t.created, t.expires, t.revoked = store.Time(created), store.Time(expires), optional(revoked)
		snap.tokens[id] = t
		return nil
	}); err != nil {
		return nil, err
	}
	rows, err = tx.Query(ctx, `SELECT credential, issuer, name, at FROM credential_revocation ORDER BY at`)
	if err := each(rows, err, func() error {
		var id, issuer, name string
		var at int64
		if err := rows.Scan(&id, &issuer, &name, &at); err != nil {
			return err
		}
		k := revokedKey{issuer, name}
		if id != "" {
			k = revokedKey{issuer: id}
		}
		snap.revoked[k] = store.Time(at) // the latest one counts
		return nil
	}); err != nil {
		return nil, err
	}
	rows, err = tx.Query(ctx, `SELECT subject, expires_at FROM credential_glass WHERE expires_at > ?`, store.Micros(tx.Now()))
	return snap, each(rows, err, func() error {
		var subject string
		var end int64
		if err := rows.Scan(&subject, &end); err != nil {
			return err
		}
		snap.glass[subject] = store.Time(end)
		return nil
	})
}

// List gives the robots in the order of their names, with their tokens, newest
// first, beginning after a name; at most limit.
func (s *Store) List(ctx context.Context, after string, limit int) ([]Robot, error) {
	var out []Robot
	err := s.o.DB.View(ctx, func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(ctx, robotColumns+` WHERE name > ? ORDER BY name LIMIT ?`, after, limit)
		if err := each(rows, err, func() error {
			r, err := scanRobot(rows.Scan)
			out = append(out, r)
			return err
		}); err != nil {
			return err
		}
		for i := range out {
			if out[i].Tokens, err = s.tokensOf(ctx, tx, out[i].Name); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// Get gives one robot, or [fault.NotFound].
func (s *Store) Get(ctx context.Context, name string) (Robot, error) {
	var r Robot
	err := s.o.DB.View(ctx, func(tx *store.Tx) (err error) {
		r, err = s.get(ctx, tx, name)
		return err
	})
	return r, err
}

const robotColumns = `SELECT name, description, rights, audiences, created_at, created_by FROM credential_robot`

func scanRobot(scan func(...any) error) (Robot, error) {
	var r Robot
	var rights, audiences string
	var created int64
	if err := scan(&r.Name, &r.Description, &rights, &audiences, &created, &r.CreatedBy); err != nil {
		return r, err
	}
	r.CreatedAt = store.Time(created)
	return r, errors.Join(json.Unmarshal([]byte(rights), &r.Rights), json.Unmarshal([]byte(audiences), &r.Audiences))
}

func (s *Store) get(ctx context.Context, tx *store.Tx, name string) (Robot, error) {
	r, err := scanRobot(tx.QueryRow(ctx, robotColumns+` WHERE name = ?`, name).Scan)
	if errors.Is(err, fault.NotFound) {
		return r, fault.Newf(fault.NotFound, "there is no robot %.80q; assay robot list shows them", name)
	}
	if err == nil {
		r.Tokens, err = s.tokensOf(ctx, tx, name)
	}
	return r, err
}

func (s *Store) tokensOf(ctx context.Context, tx *store.Tx, name string) ([]Token, error) {
	now := s.now()
	out := []Token{}
	rows, err := tx.Query(ctx, `SELECT id, created_at, created_by, expires_at, revoked_at, last_used FROM credential_token WHERE robot = ? ORDER BY created_at DESC, id LIMIT 100`, name)
	return out, each(rows, err, func() error {
		var t Token
		var created, expires, revoked, used int64
		if err := rows.Scan(&t.ID, &created, &t.CreatedBy, &expires, &revoked, &used); err != nil {
			return err
		}
		t.CreatedAt, t.Expires, t.Revoked, t.LastUsed = store.Time(created), store.Time(expires), optional(revoked), optional(used)
		t.Live = t.Revoked.IsZero() && now.Before(t.Expires)
		out = append(out, t)
		return nil
	})
}

func insertRobot(ctx context.Context, tx *store.Tx, r Robot) error {
	rights, err := json.Marshal(r.Rights)
	if err != nil {
		return err
	}
	audiences, err := json.Marshal(r.Audiences)
	if err != nil {
		return err
	}
	n, err := tx.Exec(ctx, `INSERT INTO credential_robot (name, description, rights, audiences, created_at, created_by) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (name) DO NOTHING`, r.Name, r.Description, string(rights), string(audiences), store.Micros(r.CreatedAt), r.CreatedBy)
	if err == nil && n == 0 {
		err = fault.Newf(fault.Conflict, "robot %s is there already; assay robot rotate gives it a new token", r.Name)
	}
	return err
}

func revokeTokens(ctx context.Context, tx *store.Tx, at time.Time, cond string, args ...any) error {
	_, err := tx.Exec(ctx, `UPDATE credential_token SET revoked_at = ? WHERE revoked_at = 0 AND `+cond, append([]any{store.Micros(at)}, args...)...)
	return err
}

// principalName names an identity in a revocation.
func (r Revocation) identity() identity.Principal {
	return identity.Principal{Issuer: r.Issuer, Subject: r.Name, Name: r.Name, Kind: identity.KindWorkload}
}
