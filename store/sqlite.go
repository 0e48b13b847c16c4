package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"modernc.org/sqlite"

	"assay/internal/durable"
	"assay/internal/fault"
)

// liteDB is a SQLite file: one writing connection, owned by the writer, and a
// few reading ones.
type liteDB struct {
	db     *DB
	pool   *sql.DB // makes connections; they are kept below, not in the pool
	path   string
	writer *writer

	slots   chan struct{} // one for each reader that may exist
	mu      sync.Mutex
	idle    []*session // last in, first out, for warm caches
	closed  bool
	reading sync.WaitGroup
}

const busyTimeout = "10000" // ms that one process waits for another's transaction

func openSQLite(ctx context.Context, db *DB, path string) (_ *liteDB, err error) {
	// Without it, POSIX drops every lock of this process on the file as soon
	// as anything in the process closes any descriptor of it (a backup, a
	// hash). Where the kernel lacks such locks, the old ones serve.
	_, _ = sqlite.OFDLocking(true)
	if err := preparePath(path); err != nil {
		return nil, err
	}
	pool, err := sql.Open("sqlite", liteURL(path))
	if err != nil {
		return nil, err
	}
	pool.SetMaxIdleConns(0)
	l := &liteDB{db: db, pool: pool, path: path, slots: make(chan struct{}, max(8, 2*runtime.GOMAXPROCS(0)))}
	defer func() {
		if err != nil {
			err = errors.Join(err, pool.Close())
		}
	}()
	first, err := l.connect(ctx, false)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var mode string
	if err := first.conn.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if mode != "wal" {
		return nil, fault.Newf(fault.Invalid, "%s: journal mode is %q, want wal: keep the file on a local file system", path, mode)
	}
	l.writer = newWriter(db, first, func(ctx context.Context) (*session, error) { return l.connect(ctx, false) })
	return l, nil
}

// preparePath makes the file and its folder with the modes that they must
// have, or checks those that are there. SQLite gives the -wal and -shm files
// the mode of the file.
func preparePath(path string) error {
	dir := filepath.Dir(path)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := durable.CheckPrivate(dir); err != nil {
		return err
	}
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		if err := durable.CreateFile(path, nil, 0o600); err != nil && !errors.Is(err, fault.Conflict) {
			return err
		}
	}
	for _, p := range []string{path, path + "-wal", path + "-shm"} {
		if err := durable.CheckPrivate(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func liteURL(path string) string {
	q := url.Values{}
	q.Set("mode", "rw") // never makes a file: preparePath does, with its mode
	q.Set("_dqs", "0")  // "x" names a column and is never a string
	for _, p := range []string{
		"busy_timeout(" + busyTimeout + ")", // first: the next ones may have to wait
		"journal_mode(wal)",
		"synchronous(full)", // fsync at each commit, not only at checkpoints
		"fullfsync(1)",      // macOS: fsync that reaches the disk
		"checkpoint_fullfsync(1)",
		"foreign_keys(1)",
		"case_sensitive_like(1)", // as PostgreSQL
		"trusted_schema(0)",
		"cell_size_check(1)",
		"temp_store(memory)",
		"cache_size(-1024)",        // KiB for each connection; the system caches the file anyway
		"wal_autocheckpoint(4000)", // pages of 4 KiB: 16 MiB
		"journal_size_limit(67108864)",
	} {
		q.Add("_pragma", p)
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

// connect opens one more connection to the file.
func (l *liteDB) connect(ctx context.Context, readOnly bool) (*session, error) {
	conn, err := l.pool.Conn(ctx)
	if err != nil {
		return nil, classify(err)
	}
	s := &session{conn: conn, stmts: map[*statement]*sql.Stmt{}, interrupt: readOnly}
	if readOnly {
		if _, err := conn.ExecContext(ctx, "PRAGMA query_only=1"); err != nil {
			return nil, errors.Join(classify(err), s.close())
		}
	}
	return s, nil
}

func (l *liteDB) update(ctx context.Context, fn func(*Tx) error) error {
	return l.writer.update(ctx, fn)
}

// migrate needs no lock of its own: a write transaction excludes every other,
// in every process.
func (l *liteDB) migrate(ctx context.Context, fn func(*Tx) error) error {
	return l.writer.update(ctx, fn)
}

func (l *liteDB) view(ctx context.Context, fn func(*Tx) error) (err error) {
	s, err := l.reader(ctx)
	if err != nil {
		return err
	}
	ok := false
	defer func() { l.release(s, ok) }() // also when fn panics
	snap := &snapshot{session: s}
	tx := newTx(l.db, snap, true)
	tx.notice()
	err = tx.finish(fn(tx))
	// Nothing was written; COMMIT only ends the snapshot.
	if snap.begun {
		if cerr := s.run(stCommit); cerr != nil {
			return errors.Join(err, cerr)
		}
	}
	ok = true
	return err
}

// snapshot begins with its first statement: SQLite takes the snapshot no sooner
// ("Read transactions versus write transactions" in lang_transaction.html), and
// a View that finds in memory what it asks for costs no statement at all.
type snapshot struct {
	*session
	begun bool
}

func (s *snapshot) query(ctx context.Context, st *statement, args []any) (*sql.Rows, error) {
	if !s.begun {
		if err := s.run(stBegin); err != nil {
			return nil, err
		}
		s.begun = true
	}
	return s.session.query(ctx, st, args)
}

// reader takes an idle reading connection or opens one.
func (l *liteDB) reader(ctx context.Context) (*session, error) {
	select {
	case l.slots <- struct{}{}:
	default:
		select {
		case l.slots <- struct{}{}:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a reader: %w", ctx.Err())
		}
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		<-l.slots
		return nil, errClosed
	}
	l.reading.Add(1)
	var s *session
	if n := len(l.idle); n > 0 {
		s, l.idle = l.idle[n-1], l.idle[:n-1]
	}
	l.mu.Unlock()
	if s != nil {
		return s, nil
	}
	s, err := l.connect(ctx, true)
	if err != nil {
		l.release(nil, false)
		return nil, err
	}
	return s, nil
}

// release gives a reader back, or drops it when its state is unknown.
func (l *liteDB) release(s *session, reuse bool) {
	if reuse {
		l.mu.Lock()
		l.idle = append(l.idle, s)
		l.mu.Unlock()
	} else if s != nil {
		_ = s.close()
	}
	l.reading.Done()
	<-l.slots
}

func (l *liteDB) check(ctx context.Context) error {
	s, err := l.reader(ctx)
	if err != nil {
		return err
	}
	ok := false
	defer func() { l.release(s, ok) }()
	var verdict string
	if err := s.conn.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&verdict); err != nil {
		return err
	}
	ok = true
	if verdict != "ok" {
		return fault.Newf(fault.Tampered, "%s is damaged: %s: restore it from a backup", l.path, verdict)
	}
	return nil
}

func (l *liteDB) close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	l.reading.Wait()
	var errs []error
	for _, s := range l.idle {
		errs = append(errs, s.close())
	}
	// The writer is last: closing the last connection folds the -wal file in.
	errs = append(errs, l.writer.close(), l.pool.Close())
	return errors.Join(errs...)
}

// The statements of transactions themselves.
var (
	stBegin          = &statement{text: "BEGIN"}
	stBeginImmediate = &statement{text: "BEGIN IMMEDIATE"}
	stCommit         = &statement{text: "COMMIT"}
	stRollback       = &statement{text: "ROLLBACK"}
	stSave           = &statement{text: "SAVEPOINT u"}
	stRelease        = &statement{text: "RELEASE u"}
	stRollbackTo     = &statement{text: "ROLLBACK TO u"}
)

// session is one connection with its prepared statements. One goroutine at a
// time uses it.
type session struct {
	conn      *sql.Conn
	stmts     map[*statement]*sql.Stmt
	interrupt bool // a context that ends interrupts a statement that runs
}

const maxStmts = 512 // prepared statements of one connection

func (s *session) prepared(st *statement) (*sql.Stmt, error) {
	if p, ok := s.stmts[st]; ok {
		return p, nil
	}
	if len(s.stmts) >= maxStmts {
		for k, p := range s.stmts {
			_ = p.Close()
			delete(s.stmts, k)
		}
	}
	p, err := s.conn.PrepareContext(context.Background(), st.text)
	if err != nil {
		return nil, err
	}
	s.stmts[st] = p
	return p, nil
}

// exec is never interrupted half-way: SQLite answers an interrupted write by
// rolling the whole transaction back, the work of neighbours included.
func (s *session) exec(_ context.Context, st *statement, args []any) (sql.Result, error) {
	p, err := s.prepared(st)
	if err != nil {
		return nil, err
	}
	return p.ExecContext(context.Background(), args...)
}

func (s *session) query(ctx context.Context, st *statement, args []any) (*sql.Rows, error) {
	if !s.interrupt {
		ctx = context.Background()
	}
	p, err := s.prepared(st)
	if err != nil {
		return nil, err
	}
	return p.QueryContext(ctx, args...)
}

// run executes one of the statements above.
func (s *session) run(st *statement) error {
	_, err := s.exec(context.Background(), st, nil)
	if err != nil {
		return classify(fmt.Errorf("%s: %w", st.text, err))
	}
	return nil
}

func (s *session) close() error {
	// Statements of a connection that database/sql has closed by itself must
	// not be touched: the driver would follow a pointer into nothing.
	if err := s.conn.Raw(func(any) error { return nil }); err != nil {
		return nil //nolint:nilerr // closed already is closed
	}
	for _, p := range s.stmts {
		_ = p.Close()
	}
	return s.conn.Close()
}
