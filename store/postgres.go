package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"assay/internal/fault"
)

// pgDB is a PostgreSQL database.
type pgDB struct {
	db   *DB
	pool *sql.DB
}

// The bounds of running a transaction again after it lost a race.
const (
	maxTries   = 60
	maxBackoff = 100 * time.Millisecond
	pgConns    = 16
)

func openPostgres(ctx context.Context, db *DB, cfg *pgx.ConnConfig) (*pgDB, error) {
	pool := stdlib.OpenDB(*cfg)
	pool.SetMaxOpenConns(pgConns)
	pool.SetMaxIdleConns(pgConns)
	pool.SetConnMaxIdleTime(5 * time.Minute)
	p := &pgDB{db: db, pool: pool}
	if err := p.inspect(ctx); err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	return p, nil
}

// inspect refuses a server whose settings break what this package promises.
func (p *pgDB) inspect(ctx context.Context) error {
	var encoding, fsync string
	var version int
	err := p.pool.QueryRowContext(ctx, `SELECT current_setting('server_encoding'), current_setting('fsync'),
		CAST(current_setting('server_version_num') AS integer)`).Scan(&encoding, &fsync, &version)
	if err != nil {
		return err
	}
	if encoding != "UTF8" {
		return fault.Newf(fault.Invalid, "database encoding is %s, want UTF8: create it with ENCODING 'UTF8'", encoding)
	}
	if version < 130000 {
		return fault.Newf(fault.Invalid, "PostgreSQL is version %d, want 13 or newer", version/10000)
	}
	if fsync != "on" {
		p.db.log.Warn("PostgreSQL runs with fsync off: a power cut loses what was acknowledged")
	}
	return nil
}

// update runs fn in a SERIALIZABLE transaction, again while it loses races.
func (p *pgDB) update(ctx context.Context, fn func(*Tx) error) error {
	backoff := time.Millisecond
	for try := 1; ; try++ {
		tx, err := p.once(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable}, false, "", fn)
		if err == nil {
			tx.committed()
			return nil
		}
		if !retryable(err) || ctx.Err() != nil {
			return err
		}
		p.db.metrics.retry()
		if try == maxTries {
			return fault.Newf(fault.Unavailable, "lost %d serialisation races in a row: %w", try, err)
		}
		// Jitter keeps losers from meeting again.
		select {
		case <-time.After(rand.N(backoff) + backoff/2):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// view runs fn on a snapshot. REPEATABLE READ is one, and never fails for what
// others do.
func (p *pgDB) view(ctx context.Context, fn func(*Tx) error) error {
	_, err := p.once(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}, true, "", fn)
	return err
}

// migrate holds an advisory lock until its commit. READ COMMITTED, since a
// snapshot taken before the lock was granted would not show what the holder
// before did.
func (p *pgDB) migrate(ctx context.Context, fn func(*Tx) error) error {
	const lock = `SELECT pg_advisory_xact_lock(4706321109)` // any number, always the same
	tx, err := p.once(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted}, false, lock, fn)
	if err != nil {
		return err
	}
	tx.committed()
	return nil
}

// once runs fn in one transaction, after the statement first if there is one.
func (p *pgDB) once(ctx context.Context, opts *sql.TxOptions, readOnly bool, first string, fn func(*Tx) error) (*Tx, error) {
	t, err := p.pool.BeginTx(ctx, opts)
	if err != nil {
		return nil, classify(fmt.Errorf("begin: %w", err))
	}
	over := false
	defer func() {
		if !over { // fn failed or panicked
			_ = t.Rollback()
		}
	}()
	if first != "" {
		if _, err := t.ExecContext(ctx, first); err != nil {
			return nil, classify(err)
		}
	}
	tx := newTx(p.db, (*pgTx)(t), readOnly)
	err = fn(tx)
	lost := tx.err // fn may have hidden it in an error of its own
	if err = tx.finish(err); err != nil {
		if lost != nil && retryable(lost) && !retryable(err) {
			err = errors.Join(err, lost)
		}
		return nil, err
	}
	over = true
	if err := t.Commit(); err != nil {
		return nil, classify(fmt.Errorf("commit: %w", err))
	}
	return tx, nil
}

// check asks the server; PostgreSQL verifies its pages itself when it reads
// them, if checksums are on.
func (p *pgDB) check(ctx context.Context) error { return p.pool.PingContext(ctx) }

func (p *pgDB) close() error { return p.pool.Close() }

// pgTx runs statements; the driver caches the prepared ones by text.
type pgTx sql.Tx

func (t *pgTx) exec(ctx context.Context, st *statement, args []any) (sql.Result, error) {
	return (*sql.Tx)(t).ExecContext(ctx, st.text, args...)
}

func (t *pgTx) query(ctx context.Context, st *statement, args []any) (*sql.Rows, error) {
	return (*sql.Tx)(t).QueryContext(ctx, st.text, args...)
}
