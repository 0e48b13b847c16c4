//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestRevokedCosignKey: what an unmodified cosign signed with a key that is
// revoked is refused, by the server and without it; what its timestamp proves to
// be older than the theft still counts.
func TestRevokedCosignKey(t *testing.T) {
	s := up(t)
	cache := t.TempDir()
	env := append(s.home(alice), "COSIGN_PASSWORD=secret")
	none := cleanEnv("ASSAY_CACHE=" + cache)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	s.assay("trust", "root", "--out", path("root.json"))
	s.assay("trust", "export", "--out", path("trusted_root.json"))
	must(t, env, "cosign", "initialize", "--mirror", s.Services.TUF, "--root", path("root.json"))
	runInDir(t, dir, env, "cosign", "generate-key-pair")
	if err := os.WriteFile(path("blob"), []byte("a file"), 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, env, "cosign", "sign-blob", "--yes", "--key", path("cosign.key"), "--bundle", path("blob.bundle"), path("blob"))
	verify := []string{"verify", "--key", path("cosign.pub"), "--trusted-root", path("trusted_root.json"), "--bundle", path("blob.bundle"),
		"--revocations", path("revocations.json"), "--tuf-root", path("root.json"), path("blob")}
	export := func() { s.assay("revocations", "export", "--out", path("revocations.json")) }
	export()
	must(t, none, assayBin(t), verify...)

	// Stolen an hour from now: the timestamp is older.
	later := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	s.assay("revoke", "--key", path("cosign.pub"), "--since", later, "--reason", "to be retired", "--yes")
	export()
	must(t, none, assayBin(t), verify...)

	// Stolen an hour ago: it is not.
	before := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	s.assay("revoke", "--key", path("cosign.pub"), "--since", before, "--reason", "stolen", "--yes")
	old := path("old.json")
	if err := os.Rename(path("revocations.json"), old); err != nil {
		t.Fatal(err)
	}
	export()
	refused(t, []string{"is revoked since", "stolen"}, none, assayBin(t), verify...)
	// The list from before does not help: a newer one was seen.
	if err := os.Rename(old, path("revocations.json")); err != nil {
		t.Fatal(err)
	}
	refused(t, []string{"older than list"}, none, assayBin(t), verify...)

	// Keyless, and a whole image, by the server.
	image := pushImage(t, s, env, "team/app", "one")
	who := []string{"--certificate-identity", alice, "--certificate-oidc-issuer", s.Services.OIDC}
	must(t, env, "cosign", "sign", "--yes", "--identity-token", s.token(alice, "sigstore"), image)
	s.assay(append(append([]string{"verify", "--subject", alice}, who...), image)...)
	s.assay("revoke", "--identity", alice, "--issuer", s.Services.OIDC, "--since", before, "--reason", "laptop stolen", "--yes")
	s.assayRefused(1, []string{"is revoked since", "laptop stolen"}, append(append([]string{"verify", "--subject", alice}, who...), image)...)
}
