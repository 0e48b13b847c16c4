package supply

import (
	"context"
	"errors"

	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/store"
)

// Migrations are the tables of what scans found.
//
//   - supply_scan: one row for each run that was handed in; estate is what it
//     scanned, drift what was otherwise than in its baseline, and body the
//     inventory under gzip.
//   - supply_baseline: the scan of each estate that is as it should be.
var Migrations = store.Migrations{Name: "supply", Steps: []string{`
CREATE TABLE supply_scan (
	id          TEXT   NOT NULL PRIMARY KEY,
	estate      TEXT   NOT NULL,
	provider    TEXT   NOT NULL,
	url         TEXT   NOT NULL,
	targets     TEXT   NOT NULL,
	actor       TEXT   NOT NULL,
	claimed     BIGINT NOT NULL,
	taken       BIGINT NOT NULL,
	items       BIGINT NOT NULL,
	findings    BIGINT NOT NULL,
	unknown     BIGINT NOT NULL,
	state       TEXT   NOT NULL,
	drift       TEXT   NOT NULL,
	fingerprint TEXT   NOT NULL,
	body        BYTES  NOT NULL,
	size        BIGINT NOT NULL,
	accepted_by TEXT   NOT NULL,
	accepted    BIGINT NOT NULL,
	reason      TEXT   NOT NULL
);
CREATE INDEX supply_scan_estate ON supply_scan (estate, taken, id);
CREATE TABLE supply_baseline (
	estate TEXT NOT NULL PRIMARY KEY,
	scan   TEXT NOT NULL
);`}}

const scanColumns = `s.id, s.estate, s.provider, s.url, s.targets, s.actor, s.claimed, s.taken, s.items, s.findings, s.unknown, s.state, s.drift, s.accepted_by, s.accepted, s.reason,
	(SELECT COUNT(*) FROM supply_baseline b WHERE b.scan = s.id)`

// row is a row of a result, or the only one.
type row interface{ Scan(dst ...any) error }

func readScan(r row) (*Run, error) {
	var x Run
	var targets, drift string
	var claimed, taken, accepted, current int64
	if err := r.Scan(&x.ID, &x.Estate, &x.Provider, &x.URL, &targets, &x.Actor, &claimed, &taken, &x.Items, &x.Findings, &x.Unknown, &x.Drift.State, &drift, &x.AcceptedBy, &accepted, &x.Reason, &current); err != nil {
		return nil, err
	}
	x.Current = current > 0
	x.Claimed, x.Taken = store.Time(claimed), store.Time(taken)
	if accepted != 0 {
		x.Accepted = store.Time(accepted)
	}
	if err := strictjson.Unmarshal([]byte(targets), &x.Targets, strictjson.WithMaxBytes(maxBaseline)); err != nil {
		return nil, fault.Newf(fault.Tampered, "scan %s: %w", x.ID, err)
	}
	if err := strictjson.Unmarshal([]byte(drift), &x.Drift, strictjson.WithMaxBytes(maxBaseline)); err != nil {
		return nil, fault.Newf(fault.Tampered, "scan %s: %w", x.ID, err)
	}
	return &x, nil
}

func runOf(ctx context.Context, tx *store.Tx, id string) (*Run, error) {
	x, err := readScan(tx.QueryRow(ctx, `SELECT `+scanColumns+` FROM supply_scan s WHERE s.id = ?`, id))
	if errors.Is(err, fault.NotFound) {
		return nil, fault.Newf(fault.NotFound, "scan %.80q: not here; assay inventory scans", id)
	}
	return x, err
}

// baselineOf gives the id of an estate's baseline and, under gzip, what it says;
// "" when there is none.
func baselineOf(ctx context.Context, tx *store.Tx, estate string) (id string, body []byte, err error) {
	err = tx.QueryRow(ctx, `SELECT b.scan, s.body FROM supply_baseline b JOIN supply_scan s ON s.id = b.scan WHERE b.estate = ?`, estate).Scan(&id, &body)
	if errors.Is(err, fault.NotFound) {
		return "", nil, nil
	}
	return id, body, err
}

// insertRun keeps a run, and forgets the oldest of its estate that are no baseline.
func insertRun(ctx context.Context, tx *store.Tx, x *Run, fingerprint string, body []byte, size int) error {
	targets, err := strictjson.Marshal(x.Targets)
	if err != nil {
		return err
	}
	drift, err := strictjson.Marshal(x.Drift)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `INSERT INTO supply_scan (id, estate, provider, url, targets, actor, claimed, taken, items, findings, unknown, state, drift, fingerprint, body, size, accepted_by, accepted, reason)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '', 0, '')`, x.ID, x.Estate, string(x.Provider), x.URL, string(targets), x.Actor, store.Micros(x.Claimed), store.Micros(x.Taken),
		x.Items, x.Findings, x.Unknown, x.Drift.State, string(drift), fingerprint, body, size); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `DELETE FROM supply_scan WHERE estate = ? AND id NOT IN (SELECT scan FROM supply_baseline WHERE estate = ?)
		AND id NOT IN (SELECT id FROM supply_scan WHERE estate = ? ORDER BY taken DESC, id DESC LIMIT ?)`, x.Estate, x.Estate, x.Estate, keptRuns)
	return err
}

// compareAgain holds the newest run of an estate against a baseline that was
// accepted after it came.
func compareAgain(ctx context.Context, tx *store.Tx, estate, baseline string) error {
	var last string
	var now, then []byte
	if err := tx.QueryRow(ctx, `SELECT id, body FROM supply_scan WHERE estate = ? ORDER BY taken DESC, id DESC LIMIT 1`, estate).Scan(&last, &now); err != nil || last == baseline {
		return err
	}
	if err := tx.QueryRow(ctx, `SELECT body FROM supply_scan WHERE id = ?`, baseline).Scan(&then); err != nil {
		return err
	}
	before, err := unpack(baseline, then)
	if err != nil {
		return err
	}
	after, err := unpack(last, now)
	if err != nil {
		return err
	}
	d, err := DriftFrom(before, baseline, after)
	if err != nil {
		return err
	}
	fingerprint := d.fingerprint()
	d.bound()
	b, err := strictjson.Marshal(d)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `UPDATE supply_scan SET state = ?, drift = ?, fingerprint = ? WHERE id = ?`, d.State, string(b), fingerprint, last)
	return err
}
