package trust

import (
	"context"
	"errors"

	"assay/internal/fault"
	"assay/store"
)

// Migrations makes the tables of this package.
var Migrations = store.Migrations{Name: "trust", Steps: []string{`
CREATE TABLE trust_epoch (
	id     BIGINT NOT NULL PRIMARY KEY, -- always 1: there is one epoch
	epoch  BIGINT NOT NULL,
	raised BIGINT NOT NULL,             -- microseconds, of the last raise
	why    TEXT NOT NULL                -- what changed, for people
);`, `
CREATE TABLE trust_document (
	kind    TEXT NOT NULL,   -- see DocumentKind
	name    TEXT NOT NULL,
	version BIGINT NOT NULL, -- rises only
	body    BYTES NOT NULL,  -- empty: deleted
	applied BIGINT NOT NULL, -- microseconds
	PRIMARY KEY (kind, name)
);`}}

// Epoch is the trust epoch: a number that every change of a root, a revocation
// or a delegation raises, in the same transaction. A decision made under
// another epoch is due for recomputation. It is 0 before the first change.
func Epoch(ctx context.Context, tx *store.Tx) (int64, error) {
	var e int64
	err := tx.QueryRow(ctx, `SELECT epoch FROM trust_epoch WHERE id = 1`).Scan(&e)
	if errors.Is(err, fault.NotFound) {
		return 0, nil
	}
	return e, err
}

// RaiseEpoch raises the epoch by one and gives the new one. why says what
// changed ("trusted root sha256:…").
func RaiseEpoch(ctx context.Context, tx *store.Tx, why string) (int64, error) {
	var e int64
	err := tx.QueryRow(ctx, `
		INSERT INTO trust_epoch (id, epoch, raised, why) VALUES (1, 1, ?, ?)
		ON CONFLICT (id) DO UPDATE SET epoch = trust_epoch.epoch + 1, raised = excluded.raised, why = excluded.why
		RETURNING epoch`, tx.Now().UnixMicro(), clip(why)).Scan(&e)
	return e, err
}
