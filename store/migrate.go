package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"assay/internal/fault"
)

// Migrations is the ordered set of steps that makes a package's tables.
type Migrations struct {
	Name  string   // the package, for example "event"
	Steps []string // SQL texts, append-only: step i+1 leads to version i+1; each may hold several statements
}

// own is what this package keeps.
var own = Migrations{Name: "store", Steps: []string{`
CREATE TABLE lease (
	name    TEXT NOT NULL PRIMARY KEY,
	holder  TEXT NOT NULL,
	epoch   BIGINT NOT NULL, -- raised at each change of holder
	expires BIGINT NOT NULL  -- microseconds
);`}}

// Migrate brings the database to the last step of each set, in the given
// order, in one transaction that excludes every other Migrate of the database,
// in any process. The store's own tables come first. Sets that are not given
// are left alone.
//
// A database with more steps than a set, or with a step whose text was
// another, is [fault.Conflict], and nothing is changed: it belongs to a newer
// or to a different binary.
func (db *DB) Migrate(ctx context.Context, sets ...Migrations) error {
	sets = append([]Migrations{own}, sets...)
	seen := map[string]bool{}
	for _, set := range sets {
		if set.Name == "" || seen[set.Name] {
			return fault.Newf(fault.Internal, "migrate: set %q has no name or is given twice", set.Name)
		}
		seen[set.Name] = true
	}
	err := db.backend.migrate(ctx, func(tx *Tx) error {
		if _, err := tx.Exec(ctx, `CREATE TABLE IF NOT EXISTS schema_version (
			name    TEXT NOT NULL,
			version BIGINT NOT NULL,
			hash    TEXT NOT NULL,   -- hex SHA-256 of the step's text
			applied BIGINT NOT NULL, -- microseconds
			PRIMARY KEY (name, version))`); err != nil {
			return err
		}
		for _, set := range sets {
			if err := set.apply(ctx, tx); err != nil {
				return fmt.Errorf("%s: %w", set.Name, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// apply checks the steps that the database has and runs those that it lacks.
func (m Migrations) apply(ctx context.Context, tx *Tx) error {
	have, err := m.applied(ctx, tx)
	if err != nil {
		return err
	}
	if len(have) > len(m.Steps) {
		return fault.Newf(fault.Conflict, "the database is at version %d, this binary knows %d: run the newer binary", len(have), len(m.Steps))
	}
	for i, step := range m.Steps {
		sum := sha256.Sum256([]byte(step))
		hash := hex.EncodeToString(sum[:])
		if i < len(have) {
			if have[i] != hash {
				return fault.Newf(fault.Conflict, "step %d was applied with the text %.12s…, this binary has %.12s…: an applied step is never edited; add a step instead", i+1, have[i], hash)
			}
			continue
		}
		if err := tx.script(ctx, step); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO schema_version (name, version, hash, applied) VALUES (?, ?, ?, ?)`,
			m.Name, i+1, hash, tx.Now()); err != nil {
			return err
		}
	}
	return nil
}

// applied reads the hashes of the steps that the database has.
func (m Migrations) applied(ctx context.Context, tx *Tx) ([]string, error) {
	rows, err := tx.Query(ctx, `SELECT version, hash FROM schema_version WHERE name = ? ORDER BY version`, m.Name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var have []string
	for rows.Next() {
		var version int
		var hash string
		if err := rows.Scan(&version, &hash); err != nil {
			return nil, err
		}
		if version != len(have)+1 {
			return nil, fault.Newf(fault.Tampered, "the version table skips from %d to %d", len(have), version)
		}
		have = append(have, hash)
	}
	return have, rows.Err()
}

// script runs every statement of a text.
func (tx *Tx) script(ctx context.Context, q string) error {
	all, err := translate(tx.db.dialect, q)
	if err != nil {
		return tx.fail(err)
	}
	for i := range all {
		if all[i].params > 0 {
			return tx.fail(fault.Newf(fault.Internal, "a step takes no arguments: %s", brief(all[i].text)))
		}
		if _, err := tx.q.exec(ctx, &all[i], nil); err != nil {
			return tx.fail(describe(err, all[i].text))
		}
	}
	return nil
}
