package contract

import (
	"context"
	"errors"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/strictyaml"
	"assay/store"

	"go.yaml.in/yaml/v3"
)

// Migrations are the tables of the expected ledger.
//
//   - contract_text: each version of each contract that something is bound to.
//   - contract_build: builds that began; hash is their contract's, "" for none.
//   - contract_product: what a build says at its end that it made.
//   - contract_push: one row for each artifact and repository that owes
//     something. due is when all must be there; again is when to look (0: not by
//     itself); state is pending, complete or missing; told is 1 while a missing
//     event stands that no completed event has answered; touched is when the
//     latest evidence came, 0: none since the push.
//   - contract_item: what is owed, and since when it is there (arrived, 0: not).
var Migrations = store.Migrations{Name: "contract", Steps: []string{`
CREATE TABLE contract_text (
	hash    TEXT   NOT NULL PRIMARY KEY,
	name    TEXT   NOT NULL,
	version BIGINT NOT NULL,
	spec    TEXT   NOT NULL
);
CREATE TABLE contract_build (
	id         TEXT   NOT NULL PRIMARY KEY,
	repository TEXT   NOT NULL,
	workflow   TEXT   NOT NULL,
	hash       TEXT   NOT NULL,
	actor      TEXT   NOT NULL,
	invocation TEXT   NOT NULL,
	started    BIGINT NOT NULL,
	finished   BIGINT NOT NULL,
	outcome    TEXT   NOT NULL
);
CREATE INDEX contract_build_repository ON contract_build (repository, started);
CREATE TABLE contract_product (
	build  TEXT NOT NULL,
	digest TEXT NOT NULL,
	name   TEXT NOT NULL,
	PRIMARY KEY (build, digest)
);
CREATE INDEX contract_product_digest ON contract_product (digest);
CREATE TABLE contract_push (
	digest     TEXT   NOT NULL,
	repository TEXT   NOT NULL,
	hash       TEXT   NOT NULL,
	build      TEXT   NOT NULL,
	product    TEXT   NOT NULL,
	pusher     TEXT   NOT NULL,
	pushed     BIGINT NOT NULL,
	due        BIGINT NOT NULL,
	again      BIGINT NOT NULL,
	state      TEXT   NOT NULL,
	told       BIGINT NOT NULL,
	touched    BIGINT NOT NULL,
	PRIMARY KEY (digest, repository)
);
CREATE INDEX contract_push_again ON contract_push (again) WHERE again > 0;
CREATE INDEX contract_push_pushed ON contract_push (pushed);
CREATE TABLE contract_item (
	digest     TEXT   NOT NULL,
	repository TEXT   NOT NULL,
	item       TEXT   NOT NULL,
	type       TEXT   NOT NULL,
	arrived    BIGINT NOT NULL,
	reason     TEXT   NOT NULL,
	PRIMARY KEY (digest, repository, item)
);`}}

func putText(ctx context.Context, tx *store.Tx, c *Contract) error {
	b, err := yaml.Marshal(c.Spec)
	if err != nil {
		return fault.Wrap(fault.Internal, err)
	}
	_, err = tx.Exec(ctx, `INSERT INTO contract_text (hash, name, version, spec) VALUES (?, ?, ?, ?) ON CONFLICT (hash) DO NOTHING`, c.hash, c.Name, c.Spec.Version, string(b))
	return err
}

func getText(ctx context.Context, tx *store.Tx, hash string) (*Contract, error) {
	var name, spec string
	if err := tx.QueryRow(ctx, `SELECT name, spec FROM contract_text WHERE hash = ?`, hash).Scan(&name, &spec); err != nil {
		return nil, err
	}
	var s Spec
	if err := strictyaml.Unmarshal([]byte(spec), &s); err != nil {
		return nil, fault.Newf(fault.Tampered, "contract %s: %w", name, err)
	}
	c, err := Compile(name, s)
	if err == nil && c.hash != hash {
		err = fault.Newf(fault.Tampered, "contract %s version %d: the text was altered in the store", name, s.Version)
	}
	return c, err
}

// push is a row of contract_push.
type push struct {
	digest             artifact.Digest
	repository         string
	hash               string
	build, product     string
	pusher             string
	pushed, due, again int64
	state              string
	told               bool
	touched            int64
}

const (
	statePending  = "pending"
	stateComplete = "complete"
	stateMissing  = "missing"
)

const pushColumns = `digest, repository, hash, build, product, pusher, pushed, due, again, state, told, touched`

type scanner interface{ Scan(dest ...any) error }

func scanPush(r scanner) (*push, error) {
	var p push
	var told int64
	err := r.Scan(&p.digest, &p.repository, &p.hash, &p.build, &p.product, &p.pusher, &p.pushed, &p.due, &p.again, &p.state, &told, &p.touched)
	p.told = told != 0
	return &p, err
}

func findPush(ctx context.Context, tx *store.Tx, d artifact.Digest, repository string) (*push, error) {
	p, err := scanPush(tx.QueryRow(ctx, `SELECT `+pushColumns+` FROM contract_push WHERE digest = ? AND repository = ?`, string(d), repository))
	if errors.Is(err, fault.NotFound) {
		return nil, nil
	}
	return p, err
}

// bind writes a push with what its contract expects, in the place of what was
// expected before.
func bind(ctx context.Context, tx *store.Tx, p *push, c *Contract) error {
	if err := putText(ctx, tx, c); err != nil {
		return err
	}
	told := int64(0)
	if p.told {
		told = 1
	}
	if _, err := tx.Exec(ctx, `INSERT INTO contract_push (`+pushColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (digest, repository) DO UPDATE SET hash = excluded.hash, build = excluded.build, product = excluded.product, pusher = excluded.pusher,
		pushed = excluded.pushed, due = excluded.due, again = excluded.again, state = excluded.state, told = excluded.told`,
		string(p.digest), p.repository, p.hash, p.build, p.product, p.pusher, p.pushed, p.due, p.again, p.state, told, p.touched); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM contract_item WHERE digest = ? AND repository = ?`, string(p.digest), p.repository); err != nil {
		return err
	}
	for _, o := range c.Owed(p.repository, p.product) {
		if _, err := tx.Exec(ctx, `INSERT INTO contract_item (digest, repository, item, type, arrived, reason) VALUES (?, ?, ?, ?, 0, ?)`,
			string(p.digest), p.repository, o.Name, o.PredicateType, "not looked for yet"); err != nil {
			return err
		}
	}
	return nil
}

// itemRow is a row of contract_item.
type itemRow struct {
	name, predicateType, reason string
	arrived                     int64
}

func items(ctx context.Context, tx *store.Tx, d artifact.Digest, repository string) (out []itemRow, err error) {
	rows, err := tx.Query(ctx, `SELECT item, type, arrived, reason FROM contract_item WHERE digest = ? AND repository = ? ORDER BY item`, string(d), repository)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var i itemRow
		if err := rows.Scan(&i.name, &i.predicateType, &i.arrived, &i.reason); err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, rows.Err()
}

// Build is a build that began.
type Build struct {
	ID         string    `json:"id"` // bld_…
	Repository string    `json:"repository"`
	Workflow   string    `json:"workflow,omitempty"`
	Contract   string    `json:"contract,omitempty"` // name; "": no contract expects anything of it
	Version    int       `json:"version,omitempty"`
	Actor      string    `json:"actor"`
	Invocation string    `json:"invocation,omitempty"` // provenance's invocationId
	Started    time.Time `json:"started"`
	Finished   time.Time `json:"finished,omitzero"`
	Outcome    string    `json:"outcome,omitempty"` // passed or failed; "" while it runs
	hash       string
}

const buildColumns = `b.id, b.repository, b.workflow, b.hash, b.actor, b.invocation, b.started, b.finished, b.outcome`

func scanBuild(r scanner) (*Build, error) {
	var b Build
	var started, finished int64
	if err := r.Scan(&b.ID, &b.Repository, &b.Workflow, &b.hash, &b.Actor, &b.Invocation, &started, &finished, &b.Outcome); err != nil {
		return nil, err
	}
	b.Started = time.UnixMicro(started).UTC()
	if finished > 0 {
		b.Finished = time.UnixMicro(finished).UTC()
	}
	return &b, nil
}

// builder finds the build that a push comes from: one that names the digest, or
// the newest that is not over, of the same actor and repository.
func builder(ctx context.Context, tx *store.Tx, d artifact.Digest, repository, pusher string, at int64) (*Build, string, error) {
	var product string
	rows, err := tx.Query(ctx, `SELECT `+buildColumns+`, COALESCE(p.name, '') FROM contract_build b LEFT JOIN contract_product p ON p.build = b.id AND p.digest = ?
		WHERE b.repository = ? AND b.started <= ? AND b.started > ? AND (p.digest IS NOT NULL OR b.finished = 0)
		ORDER BY CASE WHEN p.digest IS NULL THEN 1 ELSE 0 END, b.started DESC, b.id LIMIT 64`, string(d), repository, at, at-maxBuild.Microseconds())
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		b, err := scanBuild(scanFunc(func(dest ...any) error { return rows.Scan(append(dest, &product)...) }))
		if err != nil {
			return nil, "", err
		}
		if sameActor(b.Actor, pusher) {
			return b, product, nil
		}
	}
	return nil, "", rows.Err()
}

type scanFunc func(dest ...any) error

func (f scanFunc) Scan(dest ...any) error { return f(dest...) }

// maxBuild is how long after its start a build is thought to push.
const maxBuild = 24 * time.Hour

// sameActor says whether who began a build is who pushed. The owner of the data
// folder, who talks through the admin socket, begins builds for others.
func sameActor(began, pushed string) bool {
	return began == pushed || strings.HasPrefix(began, "system:")
}
