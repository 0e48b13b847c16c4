//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

var shBlock = regexp.MustCompile("(?s)```sh\n(.*?)```")

// TestReadme runs every block of the README's tour, in order, in one shell, in
// a copy of the tree's files that it needs.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := shBlock.FindAllStringSubmatch(string(readme), -1)
	if len(blocks) < 5 {
		t.Fatalf("the README's tour has %d blocks", len(blocks))
	}
	address := freeAddress(t)
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := shortTemp(t)
	// The tour builds a module's program: it needs go.mod and the example.
	for _, p := range []string{"go.mod", "go.sum", "examples/hello/main.go"} {
		b, err := os.ReadFile(filepath.Join(root, p))
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
	var script strings.Builder
	script.WriteString("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait || true' EXIT\n")
	// The binary is built already: make build has nothing to do here.
	script.WriteString("make() { :; }\n")
	for i, b := range blocks {
		text := strings.ReplaceAll(b[1], "127.0.0.1:8484", address)
		script.WriteString("echo '--- block " + string(rune('1'+i)) + "'\n" + text)
		if strings.Contains(text, "assay up") {
			// A reader waits for the ready line; a script asks.
			script.WriteString("for i in $(seq 100); do curl -fsS http://" + address + "/readyz >/dev/null 2>&1 && break; sleep 0.1; done\n")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script.String())
	cmd.Dir, cmd.Env = dir, cleanEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("the tour ended with %v\n%s", err, out.String())
	}
}
