package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"assay/internal/fault"
)

// Tx is one transaction, for the goroutine that [DB.Update] or [DB.View]
// called. It is of no use after that call.
type Tx struct {
	db       *DB
	q        querier
	began    time.Time
	now      time.Time
	readOnly bool
	err      error     // why the transaction failed, or that it is over
	open     *sql.Rows // rows of the last query, perhaps not closed
	onCommit []func()
	signals  []string // topics to wake after the commit
	touched  uint8    // bits of the Changes whose tables statements name
	states   [maxChanges]uint64
}

// querier runs a translated statement in a transaction.
type querier interface {
	exec(ctx context.Context, st *statement, args []any) (sql.Result, error)
	query(ctx context.Context, st *statement, args []any) (*sql.Rows, error)
}

// Exec runs one statement and tells how many rows it changed. Any error fails
// the whole transaction; a broken constraint is [fault.Conflict].
func (tx *Tx) Exec(ctx context.Context, q string, args ...any) (rowsAffected int64, err error) {
	if tx.readOnly {
		return 0, tx.fail(fault.Newf(fault.Internal, "Exec in a View: %s", brief(q)))
	}
	st, args, err := tx.prepare(ctx, q, args)
	if err != nil {
		return 0, err
	}
	res, err := tx.q.exec(ctx, st, args)
	if err != nil {
		return 0, tx.fail(describe(err, q))
	}
	n, err := res.RowsAffected()
	if err != nil {
		return 0, tx.fail(describe(err, q))
	}
	return n, nil
}

// Query runs one statement that gives rows. They must be read or closed before
// the next statement of tx starts; any error but the one of a Scan fails the
// whole transaction.
func (tx *Tx) Query(ctx context.Context, q string, args ...any) (*sql.Rows, error) {
	st, args, err := tx.prepare(ctx, q, args)
	if err != nil {
		return nil, err
	}
	rows, err := tx.q.query(ctx, st, args)
	if err != nil {
		return nil, tx.fail(describe(err, q))
	}
	tx.open = rows
	return rows, nil
}

// QueryRow runs one statement of which the first row counts. Its error comes
// with [Row.Scan], which must be called.
func (tx *Tx) QueryRow(ctx context.Context, q string, args ...any) Row {
	rows, err := tx.Query(ctx, q, args...)
	return Row{tx: tx, rows: rows, err: err}
}

// Row is the first row of a query.
type Row struct {
	tx   *Tx
	rows *sql.Rows
	err  error
}

var errNoRow = fault.Wrap(fault.NotFound, sql.ErrNoRows)

// Scan copies the columns into dest. No row at all is [fault.NotFound], which
// also is sql.ErrNoRows and does not fail the transaction.
func (r Row) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer func() { _ = r.rows.Close() }()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return r.tx.fail(err)
		}
		return errNoRow
	}
	if err := r.rows.Scan(dest...); err != nil {
		return fault.Newf(fault.Internal, "read row: %w", err)
	}
	if err := r.rows.Close(); err != nil {
		return r.tx.fail(err)
	}
	return nil
}

// Now is one instant for the whole transaction, from the store's clock, in UTC
// and whole microseconds.
func (tx *Tx) Now() time.Time {
	if tx.now.IsZero() {
		tx.now = tx.db.Now()
	}
	return tx.now
}

// Age is how long ago the transaction began: what it reads may be that old, and
// whoever remembers it for others must count from there.
func (tx *Tx) Age() time.Duration { return max(0, tx.db.clock().Sub(tx.began)) }

// Ordinal gives a number greater than all it gave before in this process. It
// orders what happens at one instant.
func (tx *Tx) Ordinal() int64 { return tx.db.ordinal.Add(1) }

// ReadOnly says whether the transaction is a View: what it reads is committed.
func (tx *Tx) ReadOnly() bool { return tx.readOnly }

// OnCommit has fn run after the commit is durable and before Update returns,
// in the caller's goroutine. It is dropped when the transaction is.
func (tx *Tx) OnCommit(fn func()) { tx.onCommit = append(tx.onCommit, fn) }

// prepare checks that a statement may start, translates it, and brings the
// arguments into the form that both drivers take alike.
func (tx *Tx) prepare(ctx context.Context, q string, args []any) (*statement, []any, error) {
	if tx.err != nil {
		return nil, nil, tx.err
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, tx.fail(err)
	}
	if tx.open != nil {
		if _, err := tx.open.Columns(); err == nil { // fails once they are closed
			return nil, nil, tx.fail(fault.Newf(fault.Internal, "rows of the query before are still open; close them before: %s", brief(q)))
		}
		tx.open = nil
	}
	st, err := tx.db.statement(q)
	if err != nil {
		return nil, nil, tx.fail(err)
	}
	if st.params != len(args) {
		return nil, nil, tx.fail(fault.Newf(fault.Internal, "%d placeholders but %d arguments: %s", st.params, len(args), brief(q)))
	}
	if !tx.readOnly {
		tx.touch(q)
	}
	vals := make([]any, len(args)) // the caller's slice stays as it is
	for i, a := range args {
		if vals[i], err = value(a); err != nil {
			return nil, nil, tx.fail(fmt.Errorf("argument %d of %s: %w", i+1, brief(q), err))
		}
	}
	return st, vals, nil
}

// fail marks the transaction as failed, as PostgreSQL does by itself.
func (tx *Tx) fail(err error) error {
	if tx.err == nil {
		tx.err = classify(err)
	}
	return classify(err)
}

// finish ends the use of tx after fn gave err, and gives the outcome.
func (tx *Tx) finish(err error) error {
	if tx.open != nil {
		// Rows that fn read to their end but whose error it did not ask for.
		if rerr := tx.open.Err(); rerr != nil && err == nil {
			err = classify(rerr)
		}
		_ = tx.open.Close()
		tx.open = nil
	}
	if err == nil {
		err = tx.err
	}
	tx.err = errOver
	return err
}

// committed does what was to happen after the commit.
func (tx *Tx) committed() {
	for _, topic := range tx.signals {
		tx.db.Signal(topic)
	}
	for _, fn := range tx.onCommit {
		fn()
	}
}

var errOver = fault.Newf(fault.Internal, "the transaction is over")

// value converts an argument to int64, float64, string, []byte or nil.
func value(a any) (any, error) {
	switch v := a.(type) {
	case nil, int64, float64:
		return v, nil
	case string:
		return v, checkText(v)
	case int:
		return int64(v), nil
	case []byte:
		if v == nil {
			return nil, nil
		}
		return v, nil
	case bool:
		if v {
			return int64(1), nil
		}
		return int64(0), nil
	case time.Time:
		return Micros(v), nil
	}
	v, err := driver.DefaultParameterConverter.ConvertValue(a)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err)
	}
	switch v.(type) {
	case bool, time.Time, string, []byte:
		return value(v)
	}
	return v, nil
}

// checkText refuses what PostgreSQL refuses and SQLite would keep.
func checkText(s string) error {
	if !utf8.ValidString(s) {
		return fault.Newf(fault.Invalid, "text is not valid UTF-8")
	}
	if strings.IndexByte(s, 0) >= 0 {
		return fault.Newf(fault.Invalid, "text holds a NUL byte")
	}
	return nil
}

func describe(err error, q string) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%s: %w", brief(q), err)
}
