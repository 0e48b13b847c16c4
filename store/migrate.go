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
// A database with a step whose text was another is [fault.Conflict], and nothing
// is changed: it belongs to a different binary. So does one of a newer binary,
// unless all that it has more only adds: a binary that is one minor version older
// goes on on it (expand.go).
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
		if err := tx.script(ctx, expandTables); err != nil {
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
	for i := range min(len(have), len(m.Steps)) {
		if hash := stepHash(m.Steps[i]); have[i] != hash {
			return fault.Newf(fault.Conflict, "step %d was applied with the text %.12s…, this binary has %.12s…: an applied step is never edited; add a step instead", i+1, have[i], hash)
		}
	}
	if len(have) > len(m.Steps) {
		reader, err := m.readable(ctx, tx)
		if err != nil {
			return err
		}
		if reader == 0 || reader > len(m.Steps) {
			return fault.Newf(fault.Conflict, "the database is at version %d, this binary knows %d: run the newer binary", len(have), len(m.Steps))
		}
		tx.db.log.Warn("the database was used by a newer version; what that one added stays and is not used", "set", m.Name, "version", len(have), "known", len(m.Steps))
		return nil
	}
	fresh := len(have) == 0
	for i := len(have); i < len(m.Steps); i++ {
		if err := tx.script(ctx, m.Steps[i]); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
		table := "schema_version"
		if m.expands(i) && !fresh {
			table = "schema_expansion"
		} else if err := m.settle(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO `+table+` (name, version, hash, applied) VALUES (?, ?, ?, ?)`,
			m.Name, i+1, stepHash(m.Steps[i]), tx.Now()); err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, `INSERT INTO schema_reader (name, reader) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET reader = excluded.reader`,
		m.Name, m.reader())
	return err
}

func stepHash(step string) string {
	sum := sha256.Sum256([]byte(step))
	return hex.EncodeToString(sum[:])
}

// applied reads the hashes of the steps that the database has, expansions last.
func (m Migrations) applied(ctx context.Context, tx *Tx) (have []string, err error) {
	for _, table := range []string{"schema_version", "schema_expansion"} {
		if err := tx.each(ctx, `SELECT version, hash FROM `+table+` WHERE name = ? ORDER BY version`, func(scan func(...any) error) error {
			var version int
			var hash string
			if err := scan(&version, &hash); err != nil {
				return err
			}
			if version != len(have)+1 {
				return fault.Newf(fault.Tampered, "the version table skips from %d to %d", len(have), version)
			}
			have = append(have, hash)
			return nil
		}, m.Name); err != nil {
			return nil, err
		}
	}
	return have, nil
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

// Behind says whether the database lacks steps of these sets: who only reads asks
// before, since a query about a column that is not there yet says little.
func (db *DB) Behind(ctx context.Context, sets ...Migrations) (behind bool, err error) {
	err = db.View(ctx, func(tx *Tx) error {
		for _, set := range sets {
			have, err := set.applied(ctx, tx)
			if err != nil {
				return err
			}
			behind = behind || len(have) < len(set.Steps)
		}
		return nil
	})
	return behind, err
}
