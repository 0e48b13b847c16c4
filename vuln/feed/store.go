package feed

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/store"
	"assay/vuln"

	"github.com/klauspost/compress/zstd"
)

// Store keeps feeds. Methods may be called concurrently; two imports of one feed
// follow each other by a lease.
type Store struct {
	db     *store.DB
	lim    Limits
	log    *slog.Logger
	pack   *zstd.Encoder
	unpack *zstd.Decoder
	recent cache
	memo   memo

	// Before is asked before an operation comes into force, with its records
	// readable through [Store.Changed] and [Store.Preview]. A [BlockError] holds
	// the operation back until it is accepted, any other error refuses it.
	Before func(ctx context.Context, op Operation) error
}

// NewStore makes a store over a database that was migrated with [Migrations] and
// event.Migrations.
func NewStore(db *store.DB, lim Limits, log *slog.Logger) (*Store, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	pack, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	unpack, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(4*vuln.MaxAdvisory), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return &Store{db: db, lim: lim, log: log, pack: pack, unpack: unpack}, nil
}

// Source is a feed in the state that counts.
type Source struct {
	Name      string    `json:"name"`
	Ecosystem string    `json:"ecosystem"`
	Operation int64     `json:"operation"` // in force; 0: none was ever
	Checked   time.Time `json:"checked"`   // last looked at with success; zero: never
	Changed   time.Time `json:"changed"`   // since when the operation is in force
	Records   int64     `json:"records"`
	Archive   string    `json:"archive,omitempty"`
	ETag      string    `json:"etag,omitempty"`
	Problem   string    `json:"problem,omitempty"` // why the last attempt failed; "" when it did not
	Failed    time.Time `json:"failed,omitzero"`
	// Blocked is why what is in force is not believed any longer: it counts as
	// stale until the operation is accepted, or followed by another.
	Blocked string `json:"blocked,omitempty"`
}

// Sources lists the feeds.
func (s *Store) Sources(ctx context.Context) (all []Source, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		all, err = sources(ctx, tx, `ORDER BY name, ecosystem`)
		return err
	})
	return all, err
}

// SourcesIn is Sources within a transaction.
func (s *Store) SourcesIn(ctx context.Context, tx *store.Tx) ([]Source, error) {
	return sources(ctx, tx, `ORDER BY name, ecosystem`)
}

// Source is one feed; fault.NotFound when it was never imported.
func (s *Store) Source(ctx context.Context, name, ecosystem string) (src Source, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		src, err = source(ctx, tx, name, ecosystem)
		return err
	})
	return src, err
}

func source(ctx context.Context, tx *store.Tx, name, ecosystem string) (Source, error) {
	all, err := sources(ctx, tx, `WHERE name = ? AND ecosystem = ?`, name, ecosystem)
	if err == nil && len(all) == 0 {
		err = fault.Newf(fault.NotFound, "no feed %q of ecosystem %q was ever imported", name, ecosystem)
	}
	if err != nil {
		return Source{}, err
	}
	return all[0], nil
}

func sources(ctx context.Context, tx *store.Tx, where string, args ...any) (all []Source, err error) {
	rows, err := tx.Query(ctx, `SELECT name, ecosystem, operation, checked, changed, records, archive, etag, problem, failed, blocked FROM feed_source `+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s Source
		var checked, changed, failed int64
		if err := rows.Scan(&s.Name, &s.Ecosystem, &s.Operation, &checked, &changed, &s.Records, &s.Archive, &s.ETag, &s.Problem, &failed, &s.Blocked); err != nil {
			return nil, err
		}
		s.Checked, s.Changed, s.Failed = at(checked), at(changed), at(failed)
		all = append(all, s)
	}
	return all, rows.Err()
}

func at(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

// Record is a version of an advisory.
type Record struct {
	Name      string // of the feed
	Ecosystem string // of the feed
	Operation int64  // since when
	*vuln.Advisory
}

// Get gives the versions of a record that are in force: one for each feed that
// has it. fault.NotFound when none has.
func (s *Store) Get(ctx context.Context, id string) ([]Record, error) {
	all, err := s.read(ctx, `SELECT name, ecosystem, operation, body FROM feed_record WHERE id = ? AND until = 0 AND `+visible, id)
	if err == nil && len(all) == 0 {
		err = fault.Newf(fault.NotFound, "no feed in force has an advisory %q", id)
	}
	return all, err
}

// visible are the rows of operations in force, or that were once.
const visible = `length(body) > 0 AND operation IN (SELECT id FROM feed_operation WHERE state IN (1, 3))`

// ByPackage gives the records in force that name a package.
func (s *Store) ByPackage(ctx context.Context, p vuln.Package) ([]Record, error) {
	return s.read(ctx, `SELECT r.name, r.ecosystem, r.operation, r.body FROM feed_package p
		JOIN feed_operation o ON o.id = p.operation AND o.state IN (1, 3)
		JOIN feed_record r ON r.name = o.name AND r.ecosystem = o.ecosystem AND r.id = p.id AND r.operation = p.operation AND r.until = 0
		WHERE p.ecosystem = ? AND p.package = ? AND length(r.body) > 0`, p.Ecosystem, p.Name)
}

// Covers says whether a feed has a record about a package of an ecosystem, with its
// release; those of malicious packages alone do not tell which have flaws.
func (s *Store) Covers(ctx context.Context, name, of, ecosystem string) (is bool, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		var n int64
		is = false
		// Releases of Ubuntu with long support are called so, and components are not.
		for _, e := range []string{ecosystem, ecosystem + ":LTS", strings.TrimSuffix(ecosystem, ":LTS")} {
			if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM (SELECT 1 FROM feed_package p JOIN feed_operation o ON o.id = p.operation AND o.state IN (1, 3) AND o.name = ? AND o.ecosystem = ?
				WHERE p.ecosystem = ? AND NOT (p.id >= 'MAL-' AND p.id < 'MAL.') LIMIT 1) x`, name, of, e).Scan(&n); err != nil {
				return err
			}
			if is = is || n > 0; is {
				return nil
			}
		}
		return nil
	})
	return is, err
}

// InForce is a feed's version of a record that is in force; nil when there is
// none.
func (s *Store) InForce(ctx context.Context, name, ecosystem, id string) (*vuln.Advisory, error) {
	all, err := s.read(ctx, `SELECT name, ecosystem, operation, body FROM feed_record WHERE name = ? AND ecosystem = ? AND id = ? AND until = 0 AND `+visible, name, ecosystem, id)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return all[0].Advisory, nil
}

// ByAlias gives the records in force that are about the same flaw as a name says:
// those of that name, and those that name it as theirs.
func (s *Store) ByAlias(ctx context.Context, name string) ([]Record, error) {
	return s.read(ctx, `SELECT name, ecosystem, operation, body FROM feed_record WHERE id = ? AND until = 0 AND `+visible+`
		UNION ALL SELECT r.name, r.ecosystem, r.operation, r.body FROM feed_alias a
		JOIN feed_operation o ON o.id = a.operation AND o.state IN (1, 3)
		JOIN feed_record r ON r.name = o.name AND r.ecosystem = o.ecosystem AND r.id = a.id AND r.operation = a.operation AND r.until = 0
		WHERE a.alias = ? AND a.id <> ? AND length(r.body) > 0`, name, name, name)
}

func (s *Store) read(ctx context.Context, q string, args ...any) (all []Record, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		all = nil
		rows, err := tx.Query(ctx, q, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var r Record
			var body []byte
			if err := rows.Scan(&r.Name, &r.Ecosystem, &r.Operation, &body); err != nil {
				return err
			}
			if r.Advisory, err = s.open(body); err != nil {
				return err
			}
			all = append(all, r)
		}
		return rows.Err()
	})
	return all, err
}

// open reads a stored body.
func (s *Store) open(body []byte) (*vuln.Advisory, error) {
	key := sha256.Sum256(body)
	if a := s.recent.get(key); a != nil {
		return a, nil
	}
	raw, err := s.unpack.DecodeAll(body, nil)
	if err != nil {
		return nil, fault.Newf(fault.Tampered, "a stored advisory does not unpack: %w", err)
	}
	a, err := vuln.ParseAdvisory(raw)
	if err != nil {
		return nil, fault.Newf(fault.Tampered, "a stored advisory: %w", err)
	}
	s.recent.put(key, a, len(raw))
	return a, nil
}

// Change is what an operation did to one record.
type Change struct {
	ID     string
	Before *vuln.Advisory // nil: added
	After  *vuln.Advisory // nil: removed
}

// Changed gives every record that an operation added, changed or removed, in
// order of their names, a page at a time.
func (s *Store) Changed(ctx context.Context, operation int64, fn func(Change) error) error {
	const page = 500
	after := ""
	for {
		var changes []Change
		err := s.db.View(ctx, func(tx *store.Tx) error {
			changes = nil
			rows, err := tx.Query(ctx, `SELECT n.id, n.body, o.body FROM feed_record n
				LEFT JOIN feed_record o ON o.name = n.name AND o.ecosystem = n.ecosystem AND o.id = n.id AND o.operation = (
					SELECT MAX(p.operation) FROM feed_record p JOIN feed_operation q ON q.id = p.operation AND q.state IN (1, 3)
					WHERE p.name = n.name AND p.ecosystem = n.ecosystem AND p.id = n.id AND p.operation < n.operation)
				WHERE n.operation = ? AND n.id > ? ORDER BY n.id LIMIT ?`, operation, after, page)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var c Change
				var now, before []byte
				if err := rows.Scan(&c.ID, &now, &before); err != nil {
					return err
				}
				if len(now) > 0 {
					if c.After, err = s.open(now); err != nil {
						return err
					}
				}
				if len(before) > 0 {
					if c.Before, err = s.open(before); err != nil {
						return err
					}
				}
				changes = append(changes, c)
			}
			return rows.Err()
		})
		if err != nil {
			return err
		}
		for _, c := range changes {
			if err := fn(c); err != nil {
				return err
			}
			after = c.ID
		}
		if len(changes) < page {
			return nil
		}
	}
}

// Operation is one import.
type Operation struct {
	ID        int64     `json:"id"`
	Name      string    `json:"name"`
	Ecosystem string    `json:"ecosystem"`
	State     string    `json:"state"` // reading, in_force, refused, superseded, blocked
	Started   time.Time `json:"started"`
	Finished  time.Time `json:"finished,omitzero"`
	Added     int64     `json:"added"`
	Changed   int64     `json:"changed"` // withdrawn ones are among them
	Withdrawn int64     `json:"withdrawn"`
	Removed   int64     `json:"removed"`
	Unchanged int64     `json:"unchanged,omitempty"` // only of the import itself
	Skipped   []string  `json:"skipped,omitempty"`   // records that could not be read, where they were few
	Archive   string    `json:"archive,omitempty"`
	Problem   string    `json:"problem,omitempty"`
	Reason    string    `json:"reason,omitempty"` // why it was taken all the same

	before int64 // records in force before, of one that was blocked
}

var stateNames = map[int64]string{reading: "reading", inForce: "in_force", refused: "refused", superseded: Superseded, blocked: Blocked}

// Operations lists the imports of a feed, newest first.
func (s *Store) Operations(ctx context.Context, name, ecosystem string, limit int) (all []Operation, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		all, err = operations(ctx, tx, `WHERE name = ? AND (? = '' OR ecosystem = ?) ORDER BY id DESC LIMIT ?`, name, ecosystem, ecosystem, limit)
		return err
	})
	return all, err
}

func operation(ctx context.Context, tx *store.Tx, id int64) (Operation, error) {
	all, err := operations(ctx, tx, `WHERE id = ?`, id)
	if err == nil && len(all) == 0 {
		err = fault.Newf(fault.NotFound, "no import of a feed has the number %d", id)
	}
	if err != nil {
		return Operation{}, err
	}
	return all[0], nil
}

func operations(ctx context.Context, tx *store.Tx, where string, args ...any) (all []Operation, err error) {
	rows, err := tx.Query(ctx, `SELECT id, name, ecosystem, state, started, finished, added, changed, withdrawn, removed, skipped, archive, problem, reason FROM feed_operation `+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var op Operation
		var state, started, finished int64
		var skipped string
		if err := rows.Scan(&op.ID, &op.Name, &op.Ecosystem, &state, &started, &finished, &op.Added, &op.Changed, &op.Withdrawn, &op.Removed, &skipped, &op.Archive, &op.Problem, &op.Reason); err != nil {
			return nil, err
		}
		op.State, op.Started, op.Finished, op.Skipped = stateNames[state], at(started), at(finished), lines(skipped)
		all = append(all, op)
	}
	return all, rows.Err()
}

// Operation is one import; fault.NotFound when there is none of this number.
func (s *Store) Operation(ctx context.Context, id int64) (op Operation, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		op, err = operation(ctx, tx, id)
		return err
	})
	return op, err
}

// Superseded is the state of an operation that was in force once.
const Superseded = "superseded"

// isRefusal says that it was the feed, not we, that failed.
func isRefusal(err error) bool {
	return errors.Is(err, fault.Invalid) || errors.Is(err, fault.TooLarge) || errors.Is(err, fault.Unverified) || errors.Is(err, fault.Conflict) || errors.Is(err, fault.Denied)
}
