//go:build unix

package backup_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"assay/backup"
	"assay/internal/fault"
)

// dying is a repository whose process is killed at the n-th operation.
type dying struct {
	backup.Repo
	left *atomic.Int64
}

func (d dying) tick() {
	if d.left.Add(-1) == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func (d dying) Put(ctx context.Context, name string, b []byte) error {
	d.tick()
	return d.Repo.Put(ctx, name, b)
}

func (d dying) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	d.tick()
	return d.Repo.Get(ctx, name, limit)
}

// TestKilledChild is the process that dies, started by the tests below.
func TestKilledChild(t *testing.T) {
	what := os.Getenv("ASSAY_TEST_KILL")
	if what == "" {
		t.Skip("started by the other tests")
	}
	n, err := strconv.ParseInt(os.Getenv("ASSAY_TEST_KILL_AT"), 10, 64)
	ok(t, err)
	var left atomic.Int64
	left.Store(n)
	if what == "restore" {
		w := &world{t: t, repo: must(backup.OpenFolder(os.Getenv("ASSAY_TEST_REPO"), false))(t)}
		to := w.target("")
		to.Data = os.Getenv("ASSAY_TEST_TO")
		l := must(backup.Get(t.Context(), w.repo, os.Getenv("ASSAY_TEST_ID"), ""))(t)
		_, err := backup.Restore(t.Context(), l, dying{w.repo, &left}, backup.Keys{Identities: []byte(os.Getenv("ASSAY_TEST_IDENTITY"))}, to)
		t.Fatalf("the restore ended before its death: %v", err)
	}
	w := full(t, sqlite(t))
	w.dir = os.Getenv("ASSAY_TEST_REPO")
	w.repo = must(backup.OpenFolder(w.dir, true))(t)
	_, err = backup.Create(t.Context(), w.site, dying{w.repo, &left}, w.keys(), w.key)
	t.Fatalf("the backup ended before its death: %v", err)
}

func killed(t *testing.T, env ...string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledChild$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !strings.Contains(exit.String(), "killed") {
		t.Fatalf("the child ended with %v, want kill -9\n%s", err, out)
	}
}

// A backup that is killed leaves no backup, and the next is made beside its
// remains.
func TestBackupKilled(t *testing.T) {
	for _, at := range []string{"1", "7", "15"} {
		dir := t.TempDir() + "/repo"
		killed(t, "ASSAY_TEST_KILL=create", "ASSAY_TEST_KILL_AT="+at, "ASSAY_TEST_REPO="+dir)
		w := full(t, sqlite(t))
		w.dir, w.repo = dir, must(backup.OpenFolder(dir, true))(t)
		if ids := must(backup.IDs(t.Context(), w.repo))(t); len(ids) != 0 {
			t.Fatalf("a killed backup exists: %v", ids)
		}
		l := w.create()
		must(backup.Verify(t.Context(), l, w.repo, nil))(t)
		_, _, err := w.restore(l, "")
		ok(t, err)
	}
}

// A restore that is killed leaves a folder that says so.
func TestRestoreKilled(t *testing.T) {
	w := full(t, sqlite(t))
	l := w.create()
	for _, at := range []string{"2", "5", "14"} {
		to := t.TempDir() + "/to"
		killed(t, "ASSAY_TEST_KILL=restore", "ASSAY_TEST_KILL_AT="+at, "ASSAY_TEST_REPO="+w.dir, "ASSAY_TEST_TO="+to,
			"ASSAY_TEST_ID="+l.ID, "ASSAY_TEST_IDENTITY="+w.id.String())
		m := must(backup.ReadMarker(to))(t)
		if m == nil || m.State != backup.Incomplete {
			t.Fatalf("killed at %s: marker %+v", at, m)
		}
		target := w.target("")
		target.Data = to
		_, err := backup.Restore(t.Context(), l, w.repo, w.keys(), target)
		wantKind(t, "a restore over it", err, fault.Conflict)
	}
}
