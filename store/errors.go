package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"assay/internal/fault"
)

// classify gives an error that came from a database its kind, unless it has
// one.
func classify(err error) error {
	if err == nil || fault.KindOf(err) != fault.Internal {
		return err
	}
	if k := kindOf(err); k != nil && !errors.Is(err, k) {
		return fault.Wrap(k, err)
	}
	return err
}

func kindOf(err error) *fault.Kind {
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		return sqliteKind(lite.Code())
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return postgresKind(pg)
	}
	var connect *pgconn.ConnectError
	var network net.Error
	switch {
	case errors.As(err, &connect), errors.As(err, &network),
		errors.Is(err, driver.ErrBadConn), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF),
		errors.Is(err, net.ErrClosed), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		pgconn.Timeout(err), pgconn.SafeToRetry(err):
		return fault.Unavailable
	}
	// A connection that broke earlier in the transaction tells so in words only.
	if m := err.Error(); strings.HasSuffix(m, "conn closed") || strings.HasSuffix(m, "connection is already closed") {
		return fault.Unavailable
	}
	return nil
}

// sqliteKind reads a result code; the low byte is the class
// (https://www.sqlite.org/rescode.html).
func sqliteKind(code int) *fault.Kind {
	switch code {
	case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
		sqlite3.SQLITE_CONSTRAINT_ROWID, sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
		return fault.Conflict // the others (NOT NULL, CHECK, type) are faults of the program
	}
	switch code & 0xff {
	case sqlite3.SQLITE_FULL:
		return fault.NoSpace
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN,
		sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PROTOCOL:
		return fault.Unavailable
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fault.Tampered
	case sqlite3.SQLITE_TOOBIG:
		return fault.TooLarge
	}
	return nil
}

// postgresKind reads an SQLSTATE
// (https://www.postgresql.org/docs/current/errcodes-appendix.html).
func postgresKind(e *pgconn.PgError) *fault.Kind {
	if len(e.Code) != 5 {
		return nil
	}
	switch e.Code {
	case "23505", "23503", "23P01": // unique_violation, foreign_key_violation, exclusion_violation
		return fault.Conflict // the others of class 23 are faults of the program
	case "53100": // disk_full
		return fault.NoSpace
	case "40001", "40P01", "55P03", "58030", "25006":
		// serialization_failure and deadlock_detected (retries are used up),
		// lock_not_available, io_error, read_only_sql_transaction (a standby)
		return fault.Unavailable
	case "XX001", "XX002": // data_corrupted, index_corrupted
		return fault.Tampered
	case "22021", "22P05", "22001", "22003":
		// not in repertoire, untranslatable character, too long, out of range
		return fault.Invalid
	case "57014": // query_canceled
		return fault.Unavailable
	}
	switch e.Code[:2] {
	case "08", "53", "57": // connection, resources, operator intervention
		return fault.Unavailable
	case "28": // invalid authorization
		return fault.Unavailable
	case "54": // program limit exceeded
		return fault.TooLarge
	}
	return nil
}

// retryable says whether a PostgreSQL transaction may succeed when run again.
func retryable(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code {
	case "40001", "40P01":
		return true
	case "0A000":
		// Another process migrated while this connection held a plan.
		return strings.Contains(pg.Message, "cached plan")
	}
	return false
}
