//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRebuildAssay: Assay builds itself, wrapped, from a clean clone of
// this repository; somebody else rebuilds it from the provenance alone, the same
// bytes come out, and a policy that wants two builders allows it.
//
// Both share the compiler's cache, so that it takes a minute and not ten; with
// ASSAY_E2E_COLD=1 the rebuild compiles everything itself.
func TestRebuildAssay(t *testing.T) {
	top := strings.TrimSpace(must(t, cleanEnv(), "git", "rev-parse", "--show-toplevel"))
	s := up(t)
	work := t.TempDir()
	must(t, cleanEnv(), "git", "clone", "--quiet", "--no-local", top, filepath.Join(work, "assay"))
	env := append(s.environ(), "CGO_ENABLED=0")
	for _, name := range []string{"GOMODCACHE", "GOPROXY", "GOSUMDB", "GOFLAGS", "GOTOOLCHAIN", "GOCACHE"} {
		if v := strings.TrimSpace(must(t, cleanEnv(), "go", "env", name)); v != "" {
			env = append(env, name+"="+v)
		}
	}
	command := func(code int, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, s.program(), args...)
		cmd.Dir, cmd.Env = filepath.Join(work, "assay"), env
		var out, errOut bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errOut
		if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != code {
			t.Fatalf("assay %s: %v, want exit code %d\n%s%s", strings.Join(args, " "), err, code, out.String(), errOut.String())
		}
		return out.String() + errOut.String()
	}
	command(0, "run", "--subject", "ci@example.com", "--env", "CGO_ENABLED", "--products", "bin/assay", "--",
		"go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", "bin/assay", "./cmd/assay")

	pass := "GOMODCACHE,GOPROXY,GOSUMDB,GOFLAGS,GOTOOLCHAIN"
	if os.Getenv("ASSAY_E2E_COLD") == "" {
		pass += ",GOCACHE"
	}
	who := []string{"--certificate-identity", "ci@example.com", "--certificate-oidc-issuer", s.Services.OIDC}
	started := time.Now()
	got := command(0, append([]string{
		"rebuild", "--yes", "--repo", top, "--pass-env", pass, "--subject", "rebuilder@example.com", "bin/assay",
	}, who...)...)
	if !strings.Contains(got, "identical") {
		t.Fatalf("not identical:\n%s", got)
	}
	t.Logf("rebuilt in %s", time.Since(started).Round(time.Second))

	two := filepath.Join(work, "two.yaml")
	if err := os.WriteFile(two, []byte(`apiVersion: assay/v1
kind: Policy
metadata: {name: two}
spec:
  requirements:
    builders:
      atLeast: 2
      identities:
        - {issuer: "`+s.Services.OIDC+`", subject: ci@example.com}
        - {issuer: "`+s.Services.OIDC+`", subject: rebuilder@example.com}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := command(0, "verify", "--subject", "me@example.com", "--policy", two, "bin/assay"); !strings.Contains(got, "ALLOWED") {
		t.Error(got)
	}
	// One that stamps itself comes out otherwise, and it is said in what.
	command(0, "run", "--subject", "ci@example.com", "--products", "bin/stamped", "--", "sh", "-c", "mkdir -p bin; date +%s%N > bin/stamped")
	got = command(1, append([]string{
		"rebuild", "--yes", "--repo", top, "--pass-env", pass, "--subject", "rebuilder@example.com", "bin/stamped",
	}, who...)...)
	if !strings.Contains(got, "differs") || !strings.Contains(got, "from offset") {
		t.Error(got)
	}
}
