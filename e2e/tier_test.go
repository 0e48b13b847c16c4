//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const tierDocs = `apiVersion: assay/v1
kind: Grant
metadata: {name: alice}
spec: {issuer: "%[1]s", subject: alice@example.com, role: publisher, scope: "**"}
---
apiVersion: assay/v1
kind: Grant
metadata: {name: bob}
spec: {issuer: "%[1]s", subject: bob@example.com, role: viewer, scope: "**"}
---
apiVersion: assay/v1
kind: Services
metadata: {name: all}
spec:
  teams: {blue: {contacts: ["#blue"]}}
  services:
    pay:   {tier: 1, team: blue, environment: production, repositories: ["pay/**"]}
    tools: {tier: 3, team: blue, environment: staging, exposure: internal, repositories: ["tools/**"]}
---
apiVersion: assay/v1
kind: Repository
metadata: {name: staged}
spec: {pattern: "**", mode: staged}
---
apiVersion: assay/v1
kind: Policy
metadata: {name: flaws}
spec:
  requirements:
    signatures: [{name: alice, identities: [{issuer: "%[1]s", subject: alice@example.com}]}]
    vulnerabilities: {deny: [high]}
`

// TestTiers: unmodified clients push, sign and attest. Of tier 1, and of what
// nobody classified, the gate waits for the match: the answer to the attestation is
// the verdict. Of tier 3 it lets pass, and takes back what the match finds.
func TestTiers(t *testing.T) {
	s := serve(t, tierDocs)
	env, bobs := s.home(alice), s.home(bob)
	dir := shortTemp(t)
	s.assay("trust", "root", "--out", filepath.Join(dir, "root.json"))
	must(t, env, "cosign", "initialize", "--mirror", s.Services.TUF, "--root", filepath.Join(dir, "root.json"))
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	advisory := func(id, name, fixed, more string) string {
		return fmt.Sprintf(`{"id": "GHSA-%s", "modified": "2024-01-01T00:00:00Z", "aliases": ["CVE-2024-%[1]s"], %s "database_specific": {"severity": "CRITICAL"}, "affected": [{"package": {"ecosystem": "npm", "name": %q}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}, {"fixed": %q}]}]}]}`, id, more, name, fixed)
	}
	write("advisories/GHSA-1001.json", advisory("1001", "left-pad", "1.1.0", ""))
	s.assay("feed", "import", "--name", "internal", "--ecosystem", "npm", filepath.Join(dir, "advisories"))
	bom := func(component, version string) string {
		return write(component+version+".json", fmt.Sprintf(`{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"metadata":{"component":{"bom-ref":"root","type":"application","name":"app","version":"1"}},
			"components":[{"type":"library","bom-ref":"a","name":%q,"version":%q,"purl":"pkg:npm/%[1]s@%[2]s"}],"dependencies":[{"ref":"root","dependsOn":["a"]}]}`, component, version))
	}
	publish := func(repository, bom string) (ref, name string) {
		t.Helper()
		image := pushImage(t, s, env, repository, "of "+repository)
		must(t, env, "cosign", "sign", "--yes", "--identity-token", s.token(alice, "sigstore"), image)
		must(t, env, "cosign", "attest", "--yes", "--type", "cyclonedx", "--predicate", bom, "--identity-token", s.token(alice, "sigstore"), image)
		_, digest, _ := strings.Cut(image, "@")
		return image, repository + "@" + digest
	}
	// A tag that waited moves when what it names is promoted, and stays.
	promoted := func(tag, digest string) bool {
		return strings.Contains(s.assay("registry", "history", tag, "-o", "json"), digest)
	}
	bad, good := bom("left-pad", "1.0.0"), bom("left-pad", "1.2.0")

	for _, repository := range []string{"pay/bad", "nobodys/bad"} {
		ref, name := publish(repository, bad)
		// At once: the push of the attestation was answered when the match was done.
		s.assayRefused(1, []string{"STAGED", "CVE-2024-1001 in pkg:npm/left-pad@1.0.0", "mended in 1.1.0"}, "registry", "status", name)
		refused(t, []string{"is staged"}, bobs, "crane", "manifest", ref)
		if _, digest, _ := strings.Cut(ref, "@"); promoted(repository+":v1", digest) {
			t.Errorf("%s was promoted before it was matched", repository)
		}
	}
	for _, repository := range []string{"pay/good", "nobodys/good"} {
		ref, name := publish(repository, good)
		if out := s.assay("registry", "status", name); !strings.Contains(out, "ACTIVE") {
			t.Errorf("%s: %s", repository, out)
		}
		must(t, bobs, "crane", "manifest", ref)
	}

	ref, name := publish("tools/bad", bad)
	until(t, "what was promoted is taken back", func() bool {
		r := run(t, s.environ(), s.program(), "registry", "status", name)
		return r.code == 1 && strings.Contains(r.stdout, "REJECTED") && strings.Contains(r.stdout, "CVE-2024-1001")
	})
	refused(t, []string{"rejected", "CVE-2024-1001"}, bobs, "crane", "manifest", ref)
	_, digest, _ := strings.Cut(ref, "@")
	if !promoted("tools/bad:v1", digest) {
		t.Error("it was not promoted before the match")
	}
	kept, name := publish("tools/good", good)
	until(t, "what is clean stays", func() bool {
		out := s.assay("vuln", "cost", "-o", "json", "--scans")
		_, d, _ := strings.Cut(kept, "@")
		return strings.Contains(out, d)
	})
	must(t, bobs, "crane", "manifest", kept)
	s.assay("registry", "status", name)
	if out := s.assay("vuln", "cost"); !strings.Contains(out, "background, 0.15 processors") {
		t.Error(out)
	}

	// It runs in production: from now on the gate waits, whatever the catalogue says.
	_, d, _ := strings.Cut(kept, "@")
	running := write("running.json", fmt.Sprintf(`[{"name": "tools", "image": %q, "digest": %q}]`, strings.TrimSuffix(kept, "@"+d)+":v1", d))
	s.assay("inventory", "report", "--cluster", "prod", "--environment", "production", "--complete", running)
	until(t, "what runs is of tier 1", func() bool {
		decision := regexp.MustCompile(`dec_[0-9a-f]{64}`).FindString(s.assay("registry", "status", name, "-o", "json"))
		return strings.Contains(s.assay("policy", "facts", decision), `"tier_source":"workloads"`)
	})
	image := pushImage(t, s, env, "tools/good", "a later one")
	must(t, env, "cosign", "sign", "--yes", "--identity-token", s.token(alice, "sigstore"), image)
	must(t, env, "cosign", "attest", "--yes", "--type", "cyclonedx", "--predicate", bad, "--identity-token", s.token(alice, "sigstore"), image)
	_, digest, _ = strings.Cut(image, "@")
	s.assayRefused(1, []string{"STAGED", "CVE-2024-1001"}, "registry", "status", "tools/good@"+digest)
	if promoted("tools/good:v1", digest) {
		t.Error("it was promoted before it was matched")
	}

	// The record is corrected: what came out clean was not, and the gate follows.
	write("advisories/GHSA-1001.json", advisory("1001", "left-pad", "1.3.0", `"published": "2024-01-01T00:00:00Z",`))
	s.assay("feed", "import", "--name", "internal", "--ecosystem", "npm", filepath.Join(dir, "advisories"))
	until(t, "the miss is listed", func() bool {
		r := run(t, s.environ(), s.program(), "vuln", "list", "--missed")
		return r.code == 1 && strings.Contains(r.stdout, "GHSA-1001") && strings.Contains(r.stdout, "pkg:npm/left-pad@1.2.0") && strings.Contains(r.stdout, "record")
	})
	until(t, "what was active is rejected", func() bool {
		return run(t, s.environ(), s.program(), "registry", "status", name).code == 1
	})
}

// until waits for something that comes about by itself.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("not within 30 s: %s", what)
}
