//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCosignReadsScansAndVEX: an unmodified cosign verifies what assay scan --attest
// and assay vex attest wrote, by type and signer, and nothing else as that; and what
// cosign attests about flaws counts where a policy names its signer.
func TestCosignReadsScansAndVEX(t *testing.T) {
	s := up(t)
	env := s.home(alice)
	dir := shortTemp(t)
	path := func(name string) string { return filepath.Join(dir, name) }
	s.assay("trust", "root", "--out", path("root.json"))
	must(t, env, "cosign", "initialize", "--mirror", s.Services.TUF, "--root", path("root.json"))
	write(t, path("package-lock.json"), []byte(`{"name": "a", "version": "1.0.0", "lockfileVersion": 3, "packages": {"": {"name": "a", "version": "1.0.0", "dependencies": {"left-pad": "1.0.0"}}, "node_modules/left-pad": {"version": "1.0.0"}}}`))
	must(t, env, "tar", "-C", dir, "-cf", path("layer.tar"), "package-lock.json")
	tag := s.Services.Registry + "/team/scanned:v1"
	must(t, env, "crane", "append", "-f", path("layer.tar"), "-t", tag, "--oci-empty-base")
	image := s.Services.Registry + "/team/scanned@" + strings.TrimSpace(must(t, env, "crane", "digest", tag))
	if err := os.Mkdir(path("advisories"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, path("advisories/GHSA-1.json"), []byte(`{"id": "GHSA-1", "modified": "2024-01-01T00:00:00Z", "aliases": ["CVE-2024-1"], "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
		"affected": [{"package": {"ecosystem": "npm", "name": "left-pad"}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}, {"fixed": "1.1.0"}]}]}]}`))
	s.assay("feed", "import", "--name", "internal", "--ecosystem", "npm", path("advisories"))

	by := func(who, kind string) []string {
		return []string{"verify-attestation", "--certificate-identity", who, "--certificate-oidc-issuer", s.Services.OIDC, "--type", kind, image}
	}
	const inToto = "https://in-toto.io/attestation/vulns/v0.2"
	for _, one := range []struct{ flag, kind, wants string }{{"vulns", inToto, "scanFinishedOn"}, {"vuln", "vuln", "findings"}} {
		refused(t, nil, env, "cosign", by(alice, one.kind)...)
		if r := run(t, s.environ(), s.program(), "scan", image, "--attest", "--attest-type", one.flag, "--subject", alice, "-o", "json"); r.code != 1 || !strings.Contains(r.stdout, "CVE-2024-1") {
			t.Fatalf("scan: %d %s%s", r.code, r.stdout, r.stderr)
		}
		predicate := verifiedBy(t, must(t, env, "cosign", by(alice, one.kind)...))
		if !strings.Contains(predicate, "CVE-2024-1") || !strings.Contains(predicate, one.wants) || !strings.Contains(predicate, "pkg:npm/left-pad@1.0.0") {
			t.Errorf("%s: %s", one.kind, predicate)
		}
		refused(t, nil, env, "cosign", by(bob, one.kind)...)
	}

	refused(t, nil, env, "cosign", by(alice, "openvex")...)
	s.assay("vex", "attest", "--subject", alice, "--vulnerability", "CVE-2024-1", "--status", "not_affected", "--component", "pkg:npm/left-pad",
		"--justification", "vulnerable_code_not_in_execute_path", "--impact", "only the tests call it", "--until", "90d", image)
	predicate := verifiedBy(t, must(t, env, "cosign", by(alice, "openvex")...))
	for _, want := range []string{"https://openvex.dev/ns", "CVE-2024-1", "not_affected", "vulnerable_code_not_in_execute_path", "pkg:oci/scanned@sha256"} {
		if !strings.Contains(predicate, want) {
			t.Errorf("%q is not in %s", want, predicate)
		}
	}
	refused(t, nil, env, "cosign", by(bob, "openvex")...)

	// The other way round: bob's statement, attested by cosign, counts by the policy.
	s.assay("sbom", "--attest", "--subject", alice, image)
	policy := strings.NewReplacer("ISSUER", s.Services.OIDC, "BOB", bob).Replace(`apiVersion: assay/v1
kind: Policy
metadata: {name: flaws}
spec:
  requirements:
    vulnerabilities:
      deny: [high]
      accept: [sbom-incomplete]
      vex: {identities: [{issuer: "ISSUER", subject: BOB}]}
`)
	s.assay("apply", "-f", write(t, path("policy.yaml"), []byte(policy)))
	verdict := func() string {
		r := run(t, s.environ(), s.program(), "verify", image, "-o", "json")
		return r.stdout
	}
	within(t, "the finding denies: alice is not named", verdict, func(v string) bool { return strings.Contains(v, "CVE-2024-1 in pkg:npm/left-pad@1.0.0") })
	write(t, path("vex.json"), []byte(`{"@context": "https://openvex.dev/ns/v0.2.0", "@id": "https://example.com/1", "author": "bob", "timestamp": "2024-01-01T00:00:00Z", "version": 1,
		"statements": [{"vulnerability": {"name": "CVE-2024-1"}, "products": [{"@id": "pkg:npm/left-pad@1.0.0"}], "status": "not_affected", "justification": "vulnerable_code_not_present"}]}`))
	bobs := s.home(bob)
	must(t, bobs, "cosign", "initialize", "--mirror", s.Services.TUF, "--root", path("root.json"))
	must(t, bobs, "cosign", "attest", "--yes", "--type", "openvex", "--predicate", path("vex.json"), "--identity-token", s.token(bob, "sigstore"), image)
	within(t, "what bob states counts", verdict, func(v string) bool {
		return strings.Contains(v, `"verdict": "allow"`) && strings.Contains(v, "CVE-2024-1 not_affected by "+bob)
	})
}

// within asks again until an answer is as it should be.
func within(t *testing.T, what string, ask func() string, is func(string) bool) {
	t.Helper()
	got := ask()
	for end := time.Now().Add(20 * time.Second); !is(got) && time.Now().Before(end); got = ask() {
		time.Sleep(50 * time.Millisecond)
	}
	if !is(got) {
		t.Errorf("%s: %s", what, got)
	}
}

// verifiedBy is the statements in what cosign verify-attestation prints.
func verifiedBy(t *testing.T, out string) string {
	t.Helper()
	var all strings.Builder
	for l := range strings.Lines(out) {
		var e struct{ Payload string }
		if json.Unmarshal([]byte(l), &e) != nil || e.Payload == "" {
			continue
		}
		b, err := base64.StdEncoding.DecodeString(e.Payload)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}
