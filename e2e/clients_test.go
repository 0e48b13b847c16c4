//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	alice = "alice@example.com"
	bob   = "bob@example.com"
)

// pushImage makes an image of a file and pushes it by crane; it gives the
// reference by digest.
func pushImage(t *testing.T, s *site, env []string, repo, content string) string {
	t.Helper()
	dir := shortTemp(t) // crane splits -f at commas, which a subtest's folder has
	if err := os.WriteFile(filepath.Join(dir, "layer.txt"), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, env, "tar", "-C", dir, "-cf", filepath.Join(dir, "layer.tar"), "layer.txt")
	ref := s.Services.Registry + "/" + repo
	out := must(t, env, "crane", "append", "-f", filepath.Join(dir, "layer.tar"), "-t", ref+":v1", "--oci-empty-base")
	digest := strings.TrimSpace(must(t, env, "crane", "digest", ref+":v1"))
	if !strings.Contains(out, digest) {
		t.Fatalf("crane pushed %q, the tag names %s", out, digest)
	}
	return ref + "@" + digest
}

// TestCosign drives an unmodified cosign through all that it does against the
// embedded services, with nothing but the TUF repository's root.
func TestCosign(t *testing.T) {
	s := up(t)
	env := s.home(alice)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	s.assay("trust", "root", "--out", path("root.json"))
	must(t, env, "cosign", "initialize", "--mirror", s.Services.TUF, "--root", path("root.json"))

	image := pushImage(t, s, env, "team/app", "one")
	who := []string{"--certificate-identity", alice, "--certificate-oidc-issuer", s.Services.OIDC}
	verify := func(command string, id []string, args ...string) []string {
		return append(append([]string{command}, id...), args...)
	}
	wrongIdentity := []string{"--certificate-identity", bob, "--certificate-oidc-issuer", s.Services.OIDC}
	wrongIssuer := []string{"--certificate-identity", alice, "--certificate-oidc-issuer", "https://accounts.example.com"}

	t.Run("sign and verify", func(t *testing.T) {
		refused(t, nil, env, "cosign", verify("verify", who, image)...)
		must(t, env, "cosign", "sign", "--yes", "--identity-token", s.token(alice, "sigstore"), image)
		must(t, env, "cosign", verify("verify", who, image)...)
		refused(t, nil, env, "cosign", verify("verify", wrongIdentity, image)...)
		refused(t, nil, env, "cosign", verify("verify", wrongIssuer, image)...)
		// What cosign signed, assay verifies, on the server and without it.
		s.assay(verify("verify", who, "--subject", alice, image)...)
		s.assayRefused(1, []string{bob}, verify("verify", wrongIdentity, "--subject", alice, image)...)
	})
	t.Run("attest and verify-attestation", func(t *testing.T) {
		if err := os.WriteFile(path("predicate.json"), []byte(`{"buildDefinition": {"buildType": "https://example.com/b", "externalParameters": {}}, "runDetails": {"builder": {"id": "https://example.com/builder"}}}`), 0o644); err != nil {
			t.Fatal(err)
		}
		must(t, env, "cosign", "attest", "--yes", "--type", "slsaprovenance1", "--predicate", path("predicate.json"), "--identity-token", s.token(alice, "sigstore"), image)
		must(t, env, "cosign", verify("verify-attestation", who, "--type", "slsaprovenance1", image)...)
		refused(t, nil, env, "cosign", verify("verify-attestation", who, "--type", "spdxjson", image)...)
		refused(t, nil, env, "cosign", verify("verify-attestation", wrongIdentity, "--type", "slsaprovenance1", image)...)
		list := s.assay("evidence", "list", "--subject", alice, image)
		if !strings.Contains(list, "https://slsa.dev/provenance/v1") || !strings.Contains(list, alice) {
			t.Errorf("the evidence store does not know what cosign attested:\n%s", list)
		}
	})
	t.Run("blobs, keyless", func(t *testing.T) {
		if err := os.WriteFile(path("blob"), []byte("a file"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path("other"), []byte("another file"), 0o644); err != nil {
			t.Fatal(err)
		}
		must(t, env, "cosign", "sign-blob", "--yes", "--identity-token", s.token(alice, "sigstore"), "--bundle", path("blob.bundle"), path("blob"))
		must(t, env, "cosign", verify("verify-blob", who, "--bundle", path("blob.bundle"), path("blob"))...)
		refused(t, nil, env, "cosign", verify("verify-blob", who, "--bundle", path("blob.bundle"), path("other"))...)
		s.assay("trust", "export", "--out", path("trusted_root.json"))
		offline := append([]string{"--bundle", path("blob.bundle"), "--trusted-root", path("trusted_root.json")}, who...)
		none := cleanEnv()
		must(t, none, assayBin(t), append(append([]string{"verify"}, offline...), path("blob"))...)
		refused(t, nil, none, assayBin(t), append(append([]string{"verify"}, offline...), path("other"))...)
	})
	t.Run("assay signs, cosign verifies", func(t *testing.T) {
		image := pushImage(t, s, env, "team/own", "two")
		s.assay("sign", "--subject", alice, image)
		must(t, env, "cosign", verify("verify", who, image)...)
		s.assay("sign", "--subject", alice, "--bundle", path("own.bundle"), path("blob"))
		must(t, env, "cosign", verify("verify-blob", who, "--bundle", path("own.bundle"), path("blob"))...)
		if err := os.WriteFile(path("sbom.json"), []byte(`{"spdxVersion": "SPDX-2.3"}`), 0o644); err != nil {
			t.Fatal(err)
		}
		s.assay("attest", "--subject", alice, "--type", "spdxjson", "--predicate", path("sbom.json"), image)
		must(t, env, "cosign", verify("verify-attestation", who, "--type", "spdxjson", image)...)
	})
	t.Run("edited trusted root", func(t *testing.T) {
		s.assay("trust", "export", "--out", path("trusted_root.json"))
		// cosign with the whole root verifies, and with any part gone it refuses.
		must(t, env, "cosign", verify("verify-blob", who, "--new-bundle-format", "--trusted-root", path("trusted_root.json"), "--bundle", path("blob.bundle"), path("blob"))...)
		for _, part := range []string{"certificateAuthorities", "tlogs", "timestampAuthorities", "ctlogs"} {
			edited := path("without-" + part + ".json")
			without(t, path("trusted_root.json"), part, edited)
			refused(t, nil, env, "cosign", verify("verify-blob", who, "--new-bundle-format", "--trusted-root", edited, "--bundle", path("blob.bundle"), path("blob"))...)
			refused(t, nil, cleanEnv(), assayBin(t), verify("verify", who, "--trusted-root", edited, "--bundle", path("blob.bundle"), path("blob"))...)
		}
	})
}

// TestCosignKey is cosign with a key of its own, logged and timestamped here.
func TestCosignKey(t *testing.T) {
	s := up(t)
	env := append(s.home(alice), "COSIGN_PASSWORD=secret")
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	s.assay("trust", "root", "--out", path("root.json"))
	must(t, env, "cosign", "initialize", "--mirror", s.Services.TUF, "--root", path("root.json"))
	runInDir(t, dir, env, "cosign", "generate-key-pair")
	if err := os.WriteFile(path("blob"), []byte("a file"), 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, env, "cosign", "sign-blob", "--yes", "--key", path("cosign.key"), "--bundle", path("blob.bundle"), path("blob"))
	must(t, env, "cosign", "verify-blob", "--key", path("cosign.pub"), "--bundle", path("blob.bundle"), path("blob"))
	s.assay("trust", "export", "--out", path("trusted_root.json"))
	must(t, cleanEnv(), assayBin(t), "verify", "--key", path("cosign.pub"), "--trusted-root", path("trusted_root.json"), "--bundle", path("blob.bundle"), path("blob"))
	image := pushImage(t, s, env, "team/keyed", "three")
	must(t, env, "cosign", "sign", "--yes", "--key", path("cosign.key"), image)
	must(t, env, "cosign", "verify", "--key", path("cosign.pub"), image)
	s.assay("verify", "--subject", alice, "--key", path("cosign.pub"), image)
}

func runInDir(t *testing.T, dir string, env []string, program string, args ...string) {
	t.Helper()
	if r := runIn(t, dir, env, program, args...); r.code != 0 {
		t.Fatalf("%s: exit code %d\n%s%s", program, r.code, r.stdout, r.stderr)
	}
}

// without writes a trusted root with one of its four lists emptied.
func without(t *testing.T, from, part, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	if _, there := doc[part]; !there {
		t.Fatalf("the trusted root has no %s", part)
	}
	delete(doc, part)
	if b, err = json.Marshal(doc); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestRegistryClients pushes, pulls, copies and discovers with what people use.
func TestRegistryClients(t *testing.T) {
	s := up(t)
	env := s.home(alice)
	reg := s.Services.Registry
	image := pushImage(t, s, env, "team/app", "content")
	dir := t.TempDir()

	t.Run("crane", func(t *testing.T) {
		must(t, env, "crane", "copy", image, reg+"/team/copy:v1")
		must(t, env, "crane", "pull", image, filepath.Join(dir, "image.tar"))
		must(t, env, "crane", "validate", "--remote", image)
		if got := must(t, env, "crane", "ls", reg+"/team/copy"); strings.TrimSpace(got) != "v1" {
			t.Errorf("tags of the copy: %q", got)
		}
		refused(t, []string{"may not delete"}, env, "crane", "delete", reg+"/team/copy:v1")
	})
	t.Run("oras", func(t *testing.T) {
		doc := filepath.Join(dir, "sbom.json")
		if err := os.WriteFile(doc, []byte(`{"spdxVersion": "SPDX-2.3"}`), 0o644); err != nil {
			t.Fatal(err)
		}
		runInDir(t, dir, env, "oras", "push", "--plain-http", reg+"/team/files:v1", "sbom.json:application/spdx+json")
		runInDir(t, dir, env, "oras", "attach", "--plain-http", "--artifact-type", "application/spdx+json", image, "sbom.json:application/spdx+json")
		out := must(t, env, "oras", "discover", "--plain-http", "--format", "json", image)
		if !strings.Contains(out, "application/spdx+json") {
			t.Errorf("oras discover does not show what was attached:\n%s", out)
		}
		must(t, env, "oras", "cp", "-r", "--from-plain-http", "--to-plain-http", image, reg+"/team/with-referrers:v1")
		must(t, env, "oras", "pull", "--plain-http", "-o", t.TempDir(), reg+"/team/files:v1")
	})
	t.Run("skopeo", func(t *testing.T) {
		must(t, env, "skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+image, "docker://"+reg+"/team/skopeo:v1")
		must(t, env, "skopeo", "inspect", "--tls-verify=false", "docker://"+reg+"/team/skopeo:v1")
		must(t, env, "skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "docker://"+reg+"/team/skopeo:v1", "oci:"+filepath.Join(dir, "layout")+":v1")
	})
	t.Run("without credentials", func(t *testing.T) {
		refused(t, []string{"UNAUTHORIZED"}, cleanEnv("HOME="+t.TempDir(), "DOCKER_CONFIG="+t.TempDir()), "crane", "digest", image)
	})
	t.Run("a token of another audience", func(t *testing.T) {
		for _, audience := range []string{"sigstore", "assay-api"} {
			refused(t, nil, cleanEnv("HOME="+t.TempDir(), "DOCKER_CONFIG="+t.TempDir()), "skopeo", "inspect", "--tls-verify=false", "--creds", "assay:"+s.token(alice, audience), "docker://"+image)
		}
	})
}
