package tier

import (
	"context"
	"errors"

	"assay/internal/fault"
	"assay/store"
)

// Migrations are the tables of tiers.
//
//   - tier_mark: what decisions were made again for: the catalogue's fingerprint,
//     and of repositories whether something runs in production that lies there.
var Migrations = store.Migrations{Name: "vuln/tier", Steps: []string{`
CREATE TABLE tier_mark (
	name  TEXT NOT NULL PRIMARY KEY,
	value TEXT NOT NULL
);`}}

// The names of marks.
const (
	MarkCatalogue  = "catalogue"
	MarkProduction = "production/" // and a repository
)

// Mark notes a value, and says whether it was another before.
func Mark(ctx context.Context, tx *store.Tx, name, value string) (changed bool, err error) {
	var was string
	err = tx.QueryRow(ctx, `SELECT value FROM tier_mark WHERE name = ?`, name).Scan(&was)
	if err != nil && !errors.Is(err, fault.NotFound) {
		return false, err
	}
	if err == nil && was == value {
		return false, nil
	}
	_, err = tx.Exec(ctx, `INSERT INTO tier_mark (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
	return true, err
}

// Marked gives the value that was last noted; "" when none was.
func Marked(ctx context.Context, tx *store.Tx, name string) (value string, err error) {
	err = tx.QueryRow(ctx, `SELECT value FROM tier_mark WHERE name = ?`, name).Scan(&value)
	if errors.Is(err, fault.NotFound) {
		err = nil
	}
	return value, err
}
