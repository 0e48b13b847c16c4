package store

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/internal/clock"
	"assay/internal/fault"
)

// Dialect is a kind of database.
type Dialect string

// The dialects. A domain that has to ask for one has lost the one SQL text.
const (
	SQLite     Dialect = "sqlite"
	PostgreSQL Dialect = "postgres"
)

// DB is one open database. It is safe for concurrent use.
type DB struct {
	dialect  Dialect
	backend  backend
	clock    clock.Clock
	log      *slog.Logger
	metrics  *metrics
	texts    sync.Map     // statement as written -> *statement
	cached   atomic.Int64 // entries of texts
	ordinal  atomic.Int64
	watchers watchers

	changesMu sync.Mutex
	changes   atomic.Pointer[[]*Changes]
}

// backend is what differs between the databases.
type backend interface {
	// update runs fn in a read-write transaction and returns once it is
	// durable; what it leaves to do after the commit is in the last Tx of fn.
	update(ctx context.Context, fn func(*Tx) error) error
	// view runs fn on a read-only snapshot.
	view(ctx context.Context, fn func(*Tx) error) error
	// migrate runs fn in a read-write transaction that excludes every other
	// migration of this database, in any process.
	migrate(ctx context.Context, fn func(*Tx) error) error
	// check reads every page, as far as the database can.
	check(ctx context.Context) error
	close() error
}

// Option changes how [Open] opens.
type Option func(*options)

type options struct {
	clock      clock.Clock
	log        *slog.Logger
	registerer prometheus.Registerer
}

// WithClock sets what tells [Tx.Now] and when leases end; default: the
// machine's clock.
func WithClock(c clock.Clock) Option { return func(o *options) { o.clock = c } }

// WithLogger sets where slow transactions and retries are told; default:
// nowhere.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.log = l } }

// WithRegisterer sets where metrics are registered; default: nowhere.
func WithRegisterer(r prometheus.Registerer) Option { return func(o *options) { o.registerer = r } }

// Open opens the database that dsn names:
//
//	sqlite:/absolute/path/assay.db     one file, made if absent (mode 0600 in a folder 0700)
//	postgres://user@host:5432/name     also postgresql://; the usual libpq parameters
//
// A malformed dsn is [fault.Invalid]; a file or folder that group or others
// can reach is [fault.Denied]; a file that is no database is [fault.Tampered];
// an unreachable server is [fault.Unavailable].
func Open(ctx context.Context, dsn string, opts ...Option) (*DB, error) {
	o := options{clock: clock.System, log: slog.New(slog.DiscardHandler)}
	for _, opt := range opts {
		opt(&o)
	}
	target, err := parseDSN(dsn)
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(o.registerer)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	db := &DB{dialect: target.dialect, clock: o.clock, log: o.log, metrics: m}
	switch target.dialect {
	case SQLite:
		db.backend, err = openSQLite(ctx, db, target.path)
	default:
		db.backend, err = openPostgres(ctx, db, target.pg)
	}
	if err != nil {
		return nil, fmt.Errorf("open store: %w", classify(err))
	}
	return db, nil
}

// Close waits for the updates that run, refuses those that wait with
// [fault.Unavailable], and closes the database.
func (db *DB) Close() error {
	if err := db.backend.close(); err != nil {
		return fmt.Errorf("close store: %w", classify(err))
	}
	return nil
}

// Dialect says which database this is, for messages and tests.
func (db *DB) Dialect() Dialect { return db.dialect }

// Now is the store's clock, in UTC and whole microseconds, as times are kept.
func (db *DB) Now() time.Time { return db.clock().UTC().Truncate(time.Microsecond) }

// Update runs fn in one read-write transaction and returns after its COMMIT is
// durable. When fn returns an error or panics, nothing of it is kept and the
// caller alone gets the error or the panic.
//
// fn may run more than once and must have no effect outside tx; effects go
// into [Tx.OnCommit]. fn must not call Update or Migrate of the same DB: on
// SQLite that would wait for itself. It should not call View either, which sees
// the state before fn and takes a second connection. On SQLite updates run one
// after another, in fair order, so slow work (network, crypto) belongs before
// Update.
//
// A context that ends before fn starts gives its error and changes nothing;
// after that the outcome is awaited. Failures of the database are
// [fault.NoSpace], [fault.Unavailable], [fault.Conflict] (a constraint) or
// [fault.Tampered] (a damaged file).
func (db *DB) Update(ctx context.Context, fn func(tx *Tx) error) error {
	start := time.Now()
	err := db.backend.update(ctx, fn)
	db.metrics.update(time.Since(start), err)
	return err
}

// View runs fn on one consistent read-only snapshot; many run at once. What it
// sees is durable.
func (db *DB) View(ctx context.Context, fn func(tx *Tx) error) error {
	return db.backend.view(ctx, fn)
}

// Check reads the whole database and gives [fault.Tampered] when its structure
// is damaged. It is slow: for doctors, not for start-up.
func (db *DB) Check(ctx context.Context) error {
	return classify(db.backend.check(ctx))
}

var errClosed = fault.Newf(fault.Unavailable, "the store is closed")

func newTx(db *DB, q querier, readOnly bool) *Tx {
	return &Tx{db: db, q: q, readOnly: readOnly, began: db.clock()}
}

// statement translates q once for this database.
func (db *DB) statement(q string) (*statement, error) {
	if s, ok := db.texts.Load(q); ok {
		return s.(*statement), nil
	}
	all, err := translate(db.dialect, q)
	if err != nil {
		return nil, err
	}
	if len(all) != 1 {
		return nil, fault.Newf(fault.Internal, "SQL text holds %d statements, want one: %s", len(all), brief(q))
	}
	// Texts are constants of the program, or built from a few parts. The cap
	// only keeps a mistake from growing without end.
	if db.cached.Add(1) <= maxTexts {
		db.texts.Store(q, &all[0])
	}
	return &all[0], nil
}

const maxTexts = 4096

// Micros is t as it is kept in a BIGINT column: microseconds since 1970-01-01
// UTC. The zero Time is 0.
func Micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// Time is the inverse of [Micros], in UTC; 0 is the zero Time.
func Time(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
