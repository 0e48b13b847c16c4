//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/config"
	"assay/event"
	"assay/internal/fault"
	"assay/policy"
	"assay/registry/collect"
	"assay/registry/registrytest"
	"assay/store/storetest"
)

// stored counts the blobs of a site, and their bytes.
func (s *site) stored() (n int, size int64) {
	s.t.Helper()
	return storedIn(filepath.Join(s.data, "blobs", "sha256"))
}

func storedIn(dir string) (n int, size int64) {
	_ = filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if i, err := e.Info(); err == nil {
				n, size = n+1, size+i.Size()
			}
		}
		return nil
	})
	return n, size
}

// TestGarbage: real clients push, attach, delete and collect; what was deleted
// cannot be pulled, its evidence is gone, its bytes are free, and what stays is
// whole.
func TestGarbage(t *testing.T) {
	s := up(t)
	garbage(t, s, s.stored)
}

// TestGarbageS3 is the same over a bucket of a real S3 server.
func TestGarbageS3(t *testing.T) {
	s, srv := s3Site(t)
	s.start("127.0.0.1:0")
	garbage(t, s, func() (int, int64) {
		return storedIn(filepath.Join(srv.Dir, "assay-blobs", "site", "one", "sha256"))
	})
	if n, _ := s.stored(); n != 0 {
		t.Errorf("%d blobs in the data folder", n)
	}
}

func garbage(t *testing.T, s *site, stored func() (int, int64)) {
	env := s.home(alice)
	grant := filepath.Join(shortTemp(t), "grant.yaml")
	if err := os.WriteFile(grant, fmt.Appendf(nil, "apiVersion: assay/v1\nkind: Grant\nmetadata: {name: alice}\nspec: {issuer: %q, subject: %s, role: admin, scope: \"**\"}\n", s.Services.OIDC, alice), 0o600); err != nil {
		t.Fatal(err)
	}
	s.assay("apply", "-f", grant)
	kept := pushImage(t, s, env, "team/kept", "what stays")
	before, _ := stored()
	image := pushImage(t, s, env, "team/app", strings.Repeat("what goes ", 1<<18))
	file := filepath.Join(shortTemp(t), "note.txt")
	if err := os.WriteFile(file, []byte("about the image"), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, env, "oras", "attach", "--plain-http", "--disable-path-validation", "--artifact-type", "application/vnd.test", image, file)
	if out := must(t, env, "oras", "discover", "--plain-http", image); !strings.Contains(out, "application/vnd.test") {
		t.Fatalf("nothing is attached: %s", out)
	}
	dir := t.TempDir()
	s.assay("trust", "root", "--out", filepath.Join(dir, "root.json"))
	must(t, env, "cosign", "initialize", "--mirror", s.Services.TUF, "--root", filepath.Join(dir, "root.json"))
	must(t, env, "cosign", "sign", "--yes", "--identity-token", s.token(alice, "sigstore"), image)
	_, full := stored()

	tag := strings.Split(image, "@")[0] + ":v1"
	must(t, env, "crane", "delete", tag) // the tag alone
	s.assay("registry", "gc", "--grace", "0s")
	must(t, env, "crane", "manifest", image)
	must(t, env, "crane", "delete", image)
	if out := s.assay("registry", "gc", "--dry-run"); !strings.Contains(out, "would be deleted") {
		t.Fatalf("dry run: %s", out)
	}
	out := s.assay("registry", "gc", "--grace", "0s")
	refused(t, []string{"MANIFEST_UNKNOWN"}, env, "crane", "manifest", image)
	refused(t, []string{"not found"}, env, "oras", "discover", "--plain-http", image)
	if n, size := stored(); n > before+1 || size >= full {
		t.Errorf("%d blobs and %d bytes are left, before the push there were %d, with it %d bytes\n%s", n, size, before, full, out)
	}
	must(t, env, "crane", "validate", "--remote", kept)
	pushImage(t, s, env, "team/app", strings.Repeat("what goes ", 1<<18))
	must(t, env, "crane", "validate", "--remote", tag)
}

// TestOCIConformanceBesideCollector: a collector that never rests and has a
// grace of seconds is not noticed by the suite, with a gate or without.
func TestOCIConformanceBesideCollector(t *testing.T) {
	program, err := exec.LookPath("conformance")
	if err != nil {
		t.Fatal(`the suite is not on PATH: PATH="$(tools/install.sh conformance):$PATH"`)
	}
	for name, gate := range map[string][]registrytest.Option{
		"open":   nil,
		"staged": {withGate(t, config.ModeStaged, policy.Enforce)},
		"strict": {withGate(t, config.ModeStrict, policy.Warn)},
	} {
		t.Run(name, func(t *testing.T) { besideCollector(t, program, gate...) })
	}
}

func besideCollector(t *testing.T, program string, gate ...registrytest.Option) {
	t.Helper()
	db := storetest.Open(t, storetest.Dialects[0])
	s := registrytest.Start(t, db, gate...)
	if err := db.Migrate(t.Context(), event.Migrations, collect.Migrations); err != nil {
		t.Fatal(err)
	}
	c, err := collect.New(collect.Options{DB: db, Blobs: s.Blobs, Registry: s.Registry, Grace: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	var manifests, runs int64
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			r, err := c.Collect(ctx, collect.Request{})
			if err != nil {
				if ctx.Err() == nil && fault.KindOf(err) != fault.Conflict {
					t.Errorf("collect: %v", err)
				}
				return
			}
			manifests, runs = manifests+r.Manifests, runs+1
		}
	}()
	runConformance(t, program, s, "dev", map[string]string{"Sparse Manifests": "Disabled", "Blob anonymous mount": "Skip"})
	stop()
	<-done
	if runs < 3 {
		t.Fatalf("%d collections ran beside the suite", runs)
	}
	t.Logf("%d collections, %d manifests", runs, manifests)
}
