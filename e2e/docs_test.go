//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDocs runs every block of the pages in docs/ that is marked sh: those of
// one page in order, in one shell, in a folder with the files of the README's
// tour, against a fresh assay up, with cosign, crane, oras and skopeo on PATH.
func TestDocs(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, path := range pages {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		found := shBlock.FindAllStringSubmatch(string(b), -1)
		if len(found) == 0 {
			continue
		}
		ran++
		t.Run(strings.TrimSuffix(filepath.Base(path), ".md"), func(t *testing.T) {
			s := up(t)
			// The pages' addresses: the site's own, and two that a page's own
			// servers listen on.
			r := strings.NewReplacer("127.0.0.1:8484", s.Services.Registry,
				"127.0.0.1:8443", freeAddress(t), "127.0.0.1:9090", freeAddress(t))
			var script strings.Builder
			script.WriteString("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait || true' EXIT\n")
			for i, m := range found {
				fmt.Fprintf(&script, "echo '--- block %d'\n%s", i+1, r.Replace(m[1]))
			}
			runScript(t, docsFolder(t), script.String(), "ASSAY_DATA="+s.data)
		})
	}
	if ran < 5 {
		t.Errorf("%d pages have blocks to run", ran)
	}
}

// docsFolder is where a page's commands run: the example with its module, and
// the binary.
func docsFolder(t *testing.T) string {
	t.Helper()
	dir := shortTemp(t)
	for _, p := range []string{"go.mod", "go.sum", "examples/hello/main.go"} {
		b, err := os.ReadFile(filepath.Join("..", p))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, p)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, p), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(assayBin(t), filepath.Join(dir, "bin", "assay")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// runScript runs a script in dir, with a home folder of its own but the Go
// caches of the machine.
func runScript(t *testing.T, dir, script string, extra ...string) {
	t.Helper()
	env := cleanEnv(append(extra, "HOME="+filepath.Join(dir, "home"), "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))...)
	for _, name := range []string{"GOCACHE", "GOMODCACHE"} {
		env = append(env, name+"="+strings.TrimSpace(must(t, cleanEnv(), "go", "env", name)))
	}
	if err := os.Mkdir(filepath.Join(dir, "home"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir, cmd.Env = dir, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("the page's commands ended with %v\n%s", err, out.String())
	}
}
