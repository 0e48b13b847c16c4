package storetest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// cluster is the one PostgreSQL of this test process.
type cluster struct {
	once sync.Once
	dir  string // holds the socket
	err  error
	next atomic.Int64 // names databases
}

var shared cluster

var errAbsent = errors.New("PostgreSQL's initdb was found neither in ASSAY_POSTGRES_BIN, in the usual folders, nor in PATH")

// postgresDSN makes a fresh database in the shared cluster, dropped when the
// test ends.
func postgresDSN(t testing.TB) string {
	t.Helper()
	shared.once.Do(func() { shared.dir, shared.err = start() })
	if errors.Is(shared.err, errAbsent) {
		if os.Getenv("ASSAY_REQUIRE_POSTGRES") == "1" {
			t.Fatalf("ASSAY_REQUIRE_POSTGRES=1: %v", shared.err)
		}
		t.Skipf("skipped: %v; install PostgreSQL's server package to run this", shared.err)
	}
	if shared.err != nil {
		t.Fatalf("start a throwaway PostgreSQL: %v", shared.err)
	}
	name := fmt.Sprintf("t%d", shared.next.Add(1))
	admin(t, "CREATE DATABASE "+name+" TEMPLATE template0 ENCODING 'UTF8'")
	t.Cleanup(func() { admin(t, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)") })
	return dsn(name)
}

func dsn(name string) string {
	u := url.URL{Scheme: "postgres", Path: "/" + name, RawQuery: url.Values{
		"host": {shared.dir}, "user": {superuser},
	}.Encode()}
	return u.String()
}

// superuser is the cluster's only role. Its socket stands in a private folder.
const superuser = "assay"

func admin(t testing.TB, statement string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// watchdog starts the server and stops it as soon as its standard input ends,
// which the kernel sees to when the test process is gone, kill -9 included.
// SIGQUIT is PostgreSQL's immediate shutdown. It leaves nothing behind.
const watchdog = `
trap '' INT TERM HUP
"$1/initdb" -D "$2/data" -U assay -A trust -E UTF8 --no-locale --no-sync >"$2/log" 2>&1 || { echo initdb >"$2/failed"; cat >/dev/null; rm -rf "$2"; exit 1; }
"$1/postgres" -D "$2/data" -k "$2" -h '' -c fsync=off -c full_page_writes=off -c max_connections=200 \
  -c shared_buffers=32MB -c jit=off -c max_wal_size=256MB -c autovacuum_naptime=10s </dev/null >>"$2/log" 2>&1 &
pid=$!
cat >/dev/null
kill -QUIT $pid 2>/dev/null
wait $pid
rm -rf "$2"
`

// start makes a cluster and waits until it answers.
func start() (dir string, err error) {
	bin, err := findBin()
	if err != nil {
		return "", err
	}
	// A socket's path holds about a hundred bytes, which TMPDIR may exceed.
	if dir, err = os.MkdirTemp("/tmp", "assay-pg-"); err != nil {
		return "", err
	}
	cmd := exec.Command("/bin/sh", "-c", watchdog, "assay-postgres", bin, dir)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	if err := unprivileged(cmd, dir); err != nil {
		return "", err
	}
	// Never this process's standard output: "go test" would wait for it.
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	lifeline = pipe
	go func() { _ = cmd.Wait() }()
	return dir, await(dir)
}

// lifeline is the watchdog's standard input, open for as long as this process
// lives. A variable, so that it is not collected and thereby closed.
var lifeline any //nolint:unused // held, not read

func await(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	u := url.URL{Scheme: "postgres", Path: "/postgres", RawQuery: url.Values{"host": {dir}, "user": {superuser}}.Encode()}
	for {
		conn, err := pgx.Connect(ctx, u.String())
		if err == nil {
			return conn.Close(ctx)
		}
		_, failed := os.Stat(filepath.Join(dir, "failed"))
		if failed == nil || ctx.Err() != nil {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			return fmt.Errorf("%w\n%s", err, log)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// findBin gives the folder of initdb and postgres, of the newest version.
func findBin() (string, error) {
	if dir := os.Getenv("ASSAY_POSTGRES_BIN"); dir != "" {
		if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
			return "", fmt.Errorf("ASSAY_POSTGRES_BIN: %w", err)
		}
		return dir, nil
	}
	var found []string
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin"} {
		dirs, _ := filepath.Glob(filepath.Join(pattern, "initdb"))
		found = append(found, dirs...)
	}
	if len(found) == 0 {
		path, err := exec.LookPath("initdb")
		if err != nil {
			return "", errAbsent
		}
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return "", err
		}
		found = []string{path}
	}
	// Longer names first, so that 15 comes after 9.
	slices.SortFunc(found, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	return filepath.Dir(found[len(found)-1]), nil
}
