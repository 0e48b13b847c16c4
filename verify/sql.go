package verify

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"assay/artifact"
	"assay/evidence"
	"assay/internal/fault"
	"assay/policy"
	"assay/store"
)

// Migrations makes the tables of this package. It needs those of event and
// trust.
var Migrations = store.Migrations{Name: "verify", Steps: []string{`
-- Facts by their content, canonical JSON; a replay starts here.
CREATE TABLE decision_facts (
	id      TEXT NOT NULL PRIMARY KEY, -- facts_<sha256>
	body    BYTES NOT NULL,
	created BIGINT NOT NULL
);
-- Decisions. Rows are never changed.
CREATE TABLE decision (
	id          TEXT NOT NULL PRIMARY KEY, -- dec_<sha256>
	digest      TEXT NOT NULL,
	scope_id    TEXT NOT NULL,
	verdict     TEXT NOT NULL,
	mode        TEXT NOT NULL,
	policy      TEXT NOT NULL,
	policy_hash TEXT NOT NULL,
	facts_id    TEXT NOT NULL,
	trust_epoch BIGINT NOT NULL, -- when it was made
	decided     BIGINT NOT NULL,
	checks      TEXT NOT NULL,   -- the trail, JSON
	vsa         BYTES NOT NULL   -- DSSE envelope, JSON
);
CREATE INDEX decision_by_digest ON decision (digest, decided);
CREATE INDEX decision_by_time ON decision (decided);
-- What holds now, one row for each digest and scope.
CREATE TABLE current_decision (
	digest      TEXT NOT NULL,
	scope_id    TEXT NOT NULL,
	decision_id TEXT NOT NULL,
	trust_epoch BIGINT NOT NULL, -- when it was last found to hold
	valid_until BIGINT NOT NULL,
	checked     BIGINT NOT NULL,
	PRIMARY KEY (digest, scope_id)
);
CREATE INDEX current_decision_by_end ON current_decision (valid_until);
CREATE INDEX current_decision_by_epoch ON current_decision (trust_epoch);`, `
CREATE INDEX decision_by_facts ON decision (facts_id);`, `
-- How often what it rests on changed since it was last found to hold: the
-- decision is due while this is not 0 (Engine.Stir).
ALTER TABLE current_decision ADD COLUMN stirred BIGINT NOT NULL DEFAULT 0;
CREATE INDEX current_decision_by_stir ON current_decision (stirred) WHERE stirred > 0;`}}

const decisionColumns = `d.id, d.digest, d.scope_id, d.verdict, d.mode, d.policy, d.policy_hash, d.facts_id, d.trust_epoch, d.decided, d.checks, d.vsa`

func scanDecision(scan func(...any) error, more ...any) (*Decision, error) {
	var d Decision
	var decided int64
	var checks string
	err := scan(append([]any{&d.ID, &d.Digest, &d.ScopeID, &d.Verdict, &d.Mode, &d.Policy, &d.PolicyHash, &d.FactsHash, &d.TrustEpoch, &decided, &checks, (*[]byte)(&d.VSA)}, more...)...)
	if err != nil {
		return nil, err
	}
	d.DecidedAt = store.Time(decided)
	if err := json.Unmarshal([]byte(checks), &d.Checks); err != nil {
		return nil, fault.Newf(fault.Tampered, "decision %s: its trail does not parse: %w", d.ID, err)
	}
	return &d, nil
}

// current reads what holds; fault.NotFound when nothing was decided.
func current(ctx context.Context, tx *store.Tx, digest artifact.Digest, scopeID string) (*Decision, error) {
	d, _, err := standing(ctx, tx, digest, scopeID)
	return d, err
}

// standing is current with how often the decision was stirred.
func standing(ctx context.Context, tx *store.Tx, digest artifact.Digest, scopeID string) (d *Decision, stirred int64, err error) {
	var epoch, until int64
	d, err = scanDecision(tx.QueryRow(ctx, `SELECT `+decisionColumns+`, c.trust_epoch, c.valid_until, c.stirred
		FROM current_decision c JOIN decision d ON d.id = c.decision_id
		WHERE c.digest = ? AND c.scope_id = ?`, string(digest), scopeID).Scan, &epoch, &until, &stirred)
	if err != nil {
		return nil, 0, err
	}
	d.TrustEpoch, d.ValidUntil = epoch, store.Time(until)
	return d, stirred, nil
}

// byID reads a decision. ValidUntil is zero unless it is the one that holds.
func byID(ctx context.Context, tx *store.Tx, id string) (*Decision, error) {
	var until sql.NullInt64
	var epoch sql.NullInt64
	d, err := scanDecision(tx.QueryRow(ctx, `SELECT `+decisionColumns+`, c.trust_epoch, c.valid_until
		FROM decision d LEFT JOIN current_decision c ON c.decision_id = d.id
		WHERE d.id = ?`, id).Scan, &epoch, &until)
	if err != nil {
		return nil, err
	}
	if until.Valid {
		d.TrustEpoch, d.ValidUntil = epoch.Int64, store.Time(until.Int64)
	}
	return d, nil
}

func list(ctx context.Context, tx *store.Tx, digest artifact.Digest, after string, limit int) (out []*Decision, err error) {
	rows, err := tx.Query(ctx, `SELECT `+decisionColumns+`, c.trust_epoch, c.valid_until
		FROM current_decision c JOIN decision d ON d.id = c.decision_id
		WHERE c.digest = ? AND c.scope_id > ? ORDER BY c.scope_id LIMIT ?`, string(digest), after, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var epoch, until int64
		d, err := scanDecision(rows.Scan, &epoch, &until)
		if err != nil {
			return nil, err
		}
		d.TrustEpoch, d.ValidUntil = epoch, store.Time(until)
		out = append(out, d)
	}
	return out, rows.Err()
}

func readFacts(ctx context.Context, tx *store.Tx, id string) (*policy.Facts, error) {
	var body []byte
	if err := tx.QueryRow(ctx, `SELECT body FROM decision_facts WHERE id = ?`, id).Scan(&body); err != nil {
		return nil, err
	}
	if got := policy.FactsID(body); got != id {
		return nil, fault.Newf(fault.Tampered, "facts %s were altered in the store: found %s; restore from a backup", id, got)
	}
	return policy.ParseFacts(body)
}

// extend keeps a decision that was found to hold still, by what had stirred it
// until it was looked at.
func extend(ctx context.Context, tx *store.Tx, d *Decision, stirred int64) error {
	n, err := tx.Exec(ctx, `UPDATE current_decision SET valid_until = ?, trust_epoch = ?, checked = ?, stirred = CASE WHEN stirred > ? THEN stirred - ? ELSE 0 END
		WHERE digest = ? AND scope_id = ? AND decision_id = ?`,
		store.Micros(d.ValidUntil), d.TrustEpoch, store.Micros(tx.Now()), stirred, stirred, string(d.Digest), d.ScopeID, d.ID)
	if err == nil && n == 0 {
		err = errMoved
	}
	return err
}

// errMoved says that another decision was stored meanwhile.
var errMoved = errors.New("another decision was stored meanwhile")

func insert(ctx context.Context, tx *store.Tx, d *Decision, facts []byte, stirred int64) error {
	checks, err := json.Marshal(d.Checks)
	if err != nil {
		return err
	}
	now := store.Micros(tx.Now())
	if _, err := tx.Exec(ctx, `INSERT INTO decision_facts (id, body, created) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING`, d.FactsHash, facts, now); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `INSERT INTO decision (id, digest, scope_id, verdict, mode, policy, policy_hash, facts_id, trust_epoch, decided, checks, vsa)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`,
		d.ID, string(d.Digest), d.ScopeID, string(d.Verdict), string(d.Mode), d.Policy, d.PolicyHash, d.FactsHash, d.TrustEpoch,
		store.Micros(d.DecidedAt), string(checks), []byte(d.VSA)); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO current_decision (digest, scope_id, decision_id, trust_epoch, valid_until, checked) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (digest, scope_id) DO UPDATE SET decision_id = excluded.decision_id, trust_epoch = excluded.trust_epoch,
			valid_until = excluded.valid_until, checked = excluded.checked,
			stirred = CASE WHEN current_decision.stirred > ? THEN current_decision.stirred - ? ELSE 0 END`,
		string(d.Digest), d.ScopeID, d.ID, d.TrustEpoch, store.Micros(d.ValidUntil), now, stirred, stirred)
	return err
}

// Due is a decision that should be made again, with what is needed for it.
type Due struct {
	Subject policy.Subject
	Scope   policy.Scope
	Stirred int64 // changes of what it rests on that it does not know of
	// Lost says that the facts of the decision are gone or altered: it cannot be
	// made again from them. The others are.
	Lost error
}

func due(ctx context.Context, tx *store.Tx, epoch int64, before time.Time, limit int) (out []Due, err error) {
	rows, err := tx.Query(ctx, `SELECT d.facts_id, c.stirred, c.digest, c.scope_id FROM current_decision c JOIN decision d ON d.id = c.decision_id
		WHERE c.trust_epoch < ? OR c.valid_until <= ? OR c.stirred > 0 ORDER BY c.valid_until LIMIT ?`, epoch, store.Micros(before), limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var facts []string
	for rows.Next() {
		var id string
		var d Due
		if err := rows.Scan(&id, &d.Stirred, &d.Subject.Digest, &d.Scope.ID); err != nil {
			return nil, err
		}
		facts, out = append(facts, id), append(out, d)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	rows.Close()
	for i, id := range facts {
		switch f, err := readFacts(ctx, tx, id); {
		case err == nil:
			out[i].Subject, out[i].Scope = f.Subject, f.Scope
		case errors.Is(err, sql.ErrNoRows):
			out[i].Lost = fault.Newf(fault.Tampered, "facts %s are gone from the store; restore from a backup", id)
		case errors.Is(err, fault.Tampered):
			out[i].Lost = err
		default:
			return nil, err
		}
	}
	return out, nil
}

// Stir has the decisions about what was built from a commit made again, since
// evidence about the commit came: id is the bundle's. Until then what they say
// stands, as it does when any other evidence comes.
func (e *Engine) Stir(ctx context.Context, tx *store.Tx, id string) error {
	_, err := tx.Exec(ctx, `UPDATE current_decision SET stirred = stirred + 1 WHERE digest IN (`+evidence.BuiltFrom+`)`, id)
	return err
}

// StirDigest has the decisions about a digest made again, since what is known of
// it changed otherwise than by evidence.
func (e *Engine) StirDigest(ctx context.Context, tx *store.Tx, digest artifact.Digest) error {
	_, err := tx.Exec(ctx, `UPDATE current_decision SET stirred = stirred + 1 WHERE digest = ?`, string(digest))
	return err
}

// StirFlaws has all decisions made again that looked at vulnerabilities: a list
// about all of them changed.
func (e *Engine) StirFlaws(ctx context.Context, tx *store.Tx) error {
	_, err := tx.Exec(ctx, `UPDATE current_decision SET stirred = stirred + 1 WHERE decision_id IN (
		SELECT d.id FROM decision d JOIN current_decision c ON c.decision_id = d.id WHERE d.checks LIKE '%vulnerabilities%')`)
	return err
}

// StirUnknownFlaws has those decisions made again that deny because something
// about vulnerabilities was not known: a feed came that may say it.
func (e *Engine) StirUnknownFlaws(ctx context.Context, tx *store.Tx) error {
	_, err := tx.Exec(ctx, `UPDATE current_decision SET stirred = stirred + 1 WHERE decision_id IN (
		SELECT d.id FROM decision d JOIN current_decision c ON c.decision_id = d.id WHERE d.verdict = ? AND d.checks LIKE '%vulnerabilities/known%')`, string(policy.Deny))
	return err
}
