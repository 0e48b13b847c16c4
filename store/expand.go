package store

import (
	"context"
	"regexp"
	"strings"

	"assay/internal/fault"
)

// Upgrade and rollback. A step that only adds (new tables, indexes, columns that
// have a default) leaves a database that the binary before can go on using: it
// does not see what is new. Such a step expands; every other one contracts, and
// shuts older binaries out.
//
//   - schema_version holds the steps that every binary on this database must
//     know, as it always did.
//   - schema_expansion holds the expanding steps that were applied to a set that
//     was there before. Binaries that know nothing of expansions do not look
//     there, and so find the set as they left it.
//   - schema_reader says for each set how many of its steps a binary must know.
//     A binary that knows fewer steps than the database has, but as many as this,
//     runs.
//
// When a contracting step comes, the expansions before it move to
// schema_version.

const expandTables = `
CREATE TABLE IF NOT EXISTS schema_expansion (
	name    TEXT NOT NULL,
	version BIGINT NOT NULL,
	hash    TEXT NOT NULL,
	applied BIGINT NOT NULL,
	PRIMARY KEY (name, version));
CREATE TABLE IF NOT EXISTS schema_reader (
	name   TEXT NOT NULL PRIMARY KEY,
	reader BIGINT NOT NULL)`

var (
	createTable = regexp.MustCompile(`(?is)^\s*CREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?(\w+)`)
	createIndex = regexp.MustCompile(`(?is)^\s*CREATE\s+(UNIQUE\s+)?INDEX\s+(?:IF\s+NOT\s+EXISTS\s+)?(\w+)\s+ON\s+(\w+)`)
	dropIndex   = regexp.MustCompile(`(?is)^\s*DROP\s+INDEX\s+(?:IF\s+EXISTS\s+)?(\w+)\s*$`)
	addColumn   = regexp.MustCompile(`(?is)^\s*ALTER\s+TABLE\s+\w+\s+ADD\s+(?:COLUMN\s+)?\w+\s+(.*)$`)
	insertInto  = regexp.MustCompile(`(?is)^\s*INSERT\s+INTO\s+(\w+)`)
	sqlComment  = regexp.MustCompile(`(?m)--.*$`)
)

// expands says whether a step only adds. A step that does more but that the
// binary before can live with says so itself in a line "-- expand: WHY".
// Indexes that are not unique may go: they are speed and nothing else. unique
// has the names of those that are.
func expands(step string, unique map[string]bool) bool {
	if strings.Contains(step, "-- expand: ") {
		return true
	}
	made := map[string]bool{}
	for _, st := range strings.Split(sqlComment.ReplaceAllString(step, ""), ";") {
		if strings.TrimSpace(st) == "" {
			continue
		}
		if m := createTable.FindStringSubmatch(st); m != nil {
			made[m[1]] = true
			continue
		}
		if m := createIndex.FindStringSubmatch(st); m != nil && (m[1] == "" || made[m[3]]) {
			continue
		}
		if m := dropIndex.FindStringSubmatch(st); m != nil && !unique[m[1]] {
			continue
		}
		if m := insertInto.FindStringSubmatch(st); m != nil && made[m[1]] {
			continue
		}
		if m := addColumn.FindStringSubmatch(st); m != nil {
			words := strings.ToUpper(strings.Join(strings.Fields(m[1]), " "))
			if strings.Contains(words, " DEFAULT ") || !strings.Contains(words, "NOT NULL") {
				continue
			}
		}
		return false
	}
	return true
}

// expands says whether step i only adds.
func (m Migrations) expands(i int) bool {
	unique := map[string]bool{}
	for _, step := range m.Steps[:i] {
		for _, st := range strings.Split(sqlComment.ReplaceAllString(step, ""), ";") {
			if x := createIndex.FindStringSubmatch(st); x != nil && x[1] != "" {
				unique[x[2]] = true
			}
		}
	}
	return expands(m.Steps[i], unique)
}

// reader is how many steps a binary must know to use a database that has all of
// m: up to the last that contracts, and the first.
func (m Migrations) reader() int {
	n := min(1, len(m.Steps))
	for i := 1; i < len(m.Steps); i++ {
		if !m.expands(i) {
			n = i + 1
		}
	}
	return n
}

// settle makes the expansions of a set part of what all must know.
func (m Migrations) settle(ctx context.Context, tx *Tx) error {
	if _, err := tx.Exec(ctx, `INSERT INTO schema_version (name, version, hash, applied)
		SELECT name, version, hash, applied FROM schema_expansion WHERE name = ?`, m.Name); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `DELETE FROM schema_expansion WHERE name = ?`, m.Name)
	return err
}

// readable is the reader that the database records for a set, 0 for none.
func (m Migrations) readable(ctx context.Context, tx *Tx) (int, error) {
	n := 0
	err := tx.each(ctx, `SELECT reader FROM schema_reader WHERE name = ?`, func(scan func(...any) error) error { return scan(&n) }, m.Name)
	return n, err
}

// Steps lists the steps that the database has, of all sets.
func (tx *Tx) Steps(ctx context.Context) ([]Step, error) {
	var all []Step
	err := tx.each(ctx, `SELECT name, version, hash FROM schema_version UNION ALL SELECT name, version, hash FROM schema_expansion ORDER BY 1, 2`,
		func(scan func(...any) error) error {
			var s Step
			err := scan(&s.Set, &s.Version, &s.Hash)
			all = append(all, s)
			return err
		})
	return all, err
}

// Upto gives the sets cut to the steps that another database had, for data that
// comes from there. Steps that this binary does not know, or knows with another
// text, are [fault.Conflict].
func Upto(steps []Step, sets []Migrations) ([]Migrations, error) {
	known, count := map[string]Migrations{own.Name: own}, map[string]int{}
	for _, m := range sets {
		known[m.Name] = m
	}
	for _, s := range steps {
		m, ok := known[s.Set]
		if !ok || s.Version < 1 || s.Version > len(m.Steps) {
			return nil, fault.Newf(fault.Conflict, "the data has step %d of %s, which this binary does not know: use the newer binary that wrote it", s.Version, s.Set)
		}
		if got := stepHash(m.Steps[s.Version-1]); got != s.Hash {
			return nil, fault.Newf(fault.Conflict, "step %d of %s was %.12s… where the data comes from, here it is %.12s…", s.Version, s.Set, s.Hash, got)
		}
		count[s.Set]++
		if count[s.Set] != s.Version {
			return nil, fault.Newf(fault.Tampered, "the steps of %s are not in order", s.Set)
		}
	}
	var out []Migrations
	for _, m := range sets {
		if n := count[m.Name]; n > 0 {
			out = append(out, Migrations{Name: m.Name, Steps: m.Steps[:n]})
		}
	}
	return out, nil
}
