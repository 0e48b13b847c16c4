//go:build e2e

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shortTemp is a folder whose path leaves room for a socket's name.
func shortTemp(t testing.TB) string {
	dir, err := os.MkdirTemp("", "bench") //nolint:usetesting // t.TempDir carries the name of the test and is too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// TestQuick measures everything once, shortly, with the real binary: each
// figure is there with a value, nothing is left behind, and it ends in time.
// The figures themselves are not judged: other tests share the machine.
func TestQuick(t *testing.T) {
	assay := os.Getenv("ASSAY_BIN")
	if assay == "" {
		t.Skip("ASSAY_BIN is not set: run this test with make e2e")
	}
	temp := shortTemp(t)
	out := filepath.Join(t.TempDir(), "bin", "bench.json")
	t.Setenv("TMPDIR", temp)
	began := time.Now()
	var stdout, stderr bytes.Buffer
	if code := command(t.Context(), []string{"-assay", assay, "-quick", "-out", out}, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d\n%s", code, &stderr)
	}
	if took := time.Since(began); took > 3*time.Minute { // a minute on a machine of its own
		t.Errorf("took %s", took)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]Figure{}
	for line := range strings.Lines(string(b)) {
		var f Figure
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		if f.Value <= 0 || f.Min > f.Value || f.Max < f.Value || f.Unit == "" || f.Rounds < 1 || f.Peer != "" && f.Ratio <= 0 {
			t.Errorf("figure %+v", f)
		}
		found[f.Name] = f
	}
	for _, name := range []string{
		"up.fresh", "up.existing", "log.append.1024", "log.append.1", "sign.keyless", "evidence.ingest", "verify.keyless", "verify.trust-depth", "revoke.plan",
		"decision.make", "decision.read", "decision.read.database",
		"registry.pull.1mb", "registry.push.1mb", "registry.push.chunked", "registry.pull.10mb", "registry.mixed",
		"gate.staged.pull.1mb", "gate.strict.pull.10mb", "gate.staged.push.1mb", "gate.staged.push.chunked", "gate.strict.mixed", "registry.memory", "gate.staged.memory",
	} {
		if _, ok := found[name]; !ok {
			t.Errorf("no figure %s\n%s", name, &stderr)
		}
		if !strings.Contains(stdout.String(), name) {
			t.Errorf("the table has no %s", name)
		}
	}
	for _, name := range []string{"up.fresh", "log.append.1024", "log.append.1", "evidence.ingest", "decision.read"} {
		if found[name].Aim == nil || found[name].Met == nil {
			t.Errorf("%s is not held against its aim", name)
		}
	}
	left, err := os.ReadDir(temp)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("%s was left behind", e.Name())
	}
}
