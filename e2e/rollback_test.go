//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// before is the last commit of the version before this one.
const before = "c3e5255"

// oldBin builds the version before, once, into the cache of the tools. A clone
// without that commit (a shallow one) has TestUpgradeAndBack in server, on a
// folder that version made.
func oldBin(t *testing.T) string {
	t.Helper()
	if err := exec.Command("git", "cat-file", "-e", before+"^{commit}").Run(); err != nil {
		t.Skipf("skipped: this clone has no commit %s: git fetch --unshallow", before)
	}
	cache := os.Getenv("ASSAY_TOOLS")
	if cache == "" {
		home, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(home, "assay-tools")
	}
	bin := filepath.Join(cache, "assay-"+before, "assay")
	if _, err := os.Stat(bin); err == nil {
		return bin
	}
	src := filepath.Join(t.TempDir(), "src")
	must(t, os.Environ(), "git", "worktree", "add", "--detach", src, before)
	t.Cleanup(func() { _ = exec.Command("git", "worktree", "remove", "--force", src).Run() })
	if err := os.MkdirAll(filepath.Dir(bin), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", bin+".new", "./cmd/assay")
	cmd.Dir = src
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", before, err, out)
	}
	if err := os.Rename(bin+".new", bin); err != nil {
		t.Fatal(err)
	}
	return bin
}

// TestRollback has the version before and this one take turns on one data
// folder: each starts, holds the log, and signs.
func TestRollback(t *testing.T) {
	old := oldBin(t)
	s := &site{t: t, data: filepath.Join(shortTemp(t), "data"), bin: old}
	listen := freeAddress(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	for turn, bin := range []string{old, "", old, ""} {
		s.bin = bin
		s.start(listen)
		s.assay("sign", "--subject", alice, "--bundle", file+".json", file)
		s.assay("log", "verify")
		if turn == 0 {
			s.assay("push", "--subject", alice, "--product", file, s.Services.Registry+"/team/app:v1")
		}
		must(t, s.home(alice), "crane", "manifest", s.Services.Registry+"/team/app:v1")
		s.stop()
	}
}
