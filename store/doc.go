// Package store keeps rows: one SQL text for SQLite and PostgreSQL, read-write
// transactions that are durable when they return, read-only snapshots, ordered
// migrations and leases. It names no domain; SQL lives beside its domain and
// takes a [*Tx].
//
// # One SQL text
//
// Statements are written once, in the part of SQL that both databases share,
// and translated at first use (then cached):
//
//   - Placeholders are "?", one for each argument, in order.
//   - Column types are TEXT, BIGINT, BYTES and DOUBLE PRECISION, in capitals.
//     BYTES becomes BLOB or BYTEA. On SQLite tables are STRICT, so that a value
//     of another type is refused as PostgreSQL refuses it; on PostgreSQL TEXT
//     columns collate "C", so that both order and compare bytes alike. LIKE
//     minds case on both.
//   - Booleans are BIGINT 0 or 1 and times BIGINT microseconds since 1970, UTC;
//     arguments of type bool and time.Time are converted (see [Micros]). A nil
//     []byte is NULL.
//   - INSERT ... ON CONFLICT (...) DO NOTHING or DO UPDATE, RETURNING, partial
//     indexes and common table expressions work on both. Autoincrement,
//     triggers, dollar quotes, casts with "::", and double-quoted strings do
//     not, and are refused on both.
//   - Text is valid UTF-8 without NUL; others are [fault.Invalid] on both.
//
// The stricter of the two rules holds on both, so that the tests on SQLite say
// something about PostgreSQL: after a statement fails, its transaction fails;
// no statement may start while rows of another are still open.
//
// # Durability
//
// On SQLite (WAL, synchronous=FULL) one writer runs all updates. Updates that
// wait at the same time become savepoints of one transaction and are
// acknowledged together, after its COMMIT and so after its fsync: a hundred
// callers share one fsync. What any View can see is durable. On PostgreSQL an
// Update is a SERIALIZABLE transaction with synchronous_commit on, run again
// when it loses a serialisation race.
//
// # Migrations
//
// [DB.Migrate] is small and its own because the usual library (goose) keeps
// one ordered set of files for a database: here each domain package brings its
// own ordered set, in this package's one SQL text, which must pass the
// translation above; and the text of every applied step is remembered by hash,
// so that an edited step is refused instead of silently differing between
// installations.
package store
