package slsa_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/vectors"
	"assay/trust"
	"assay/trust/slsa"
	"assay/trust/trusttest"
)

const generatorGo = "https://github.com/slsa-framework/slsa-github-generator/.github/workflows/builder_go_slsa3.yml"

// signProvenance makes verified provenance with a workflow's certificate and a
// builder.id, as an attacker would choose them.
func signProvenance(t *testing.T, w *trusttest.World, workflow, builderID string) *trust.Verified {
	t.Helper()
	sum := sha256.Sum256([]byte("artifact"))
	st := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v0.1","subject":[{"name":"a","digest":{"sha256":"%s"}}],"predicateType":%q,"predicate":{
		"builder":{"id":%q},"buildType":"https://github.com/slsa-framework/slsa-github-generator/go@v1","slsaLevel":4,
		"invocation":{"configSource":{"uri":"git+https://github.com/org/repo@refs/heads/main"}},
		"materials":[{"uri":"git+https://github.com/org/repo@refs/heads/main"}]}}`, hex.EncodeToString(sum[:]), attestation.PredicateProvenanceV02, builderID)
	b := w.Sign(t, trusttest.Request{Statement: []byte(st), Leaf: trusttest.Leaf{
		Issuer: slsa.GitHubIssuer, Subject: workflow, Extensions: map[int]string{12: "https://github.com/org/repo"},
	}})
	v, err := w.Root(t).VerifyBundle(t.Context(), b, trust.VerifyOptions{AnyArtifact: true, AnyIdentity: true})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestThreat_Attestation_OwnLevelOrBuilder: what a document says of its own
// builder and level decides nothing; the certificate and the configured roots do.
func TestThreat_Attestation_OwnLevelOrBuilder(t *testing.T) {
	w := trusttest.New(t)
	const own = "https://github.com/org/repo/.github/workflows/release.yml"
	trusted := slsa.GitHubGenerator()
	for _, c := range []struct {
		name, workflow, builderID, expect string
		code                              string
		level                             int
	}{
		{"the trusted builder", generatorGo + "@refs/tags/v2.1.0", generatorGo + "@refs/tags/v2.1.0", "", "", 3},
		{"own workflow that claims the trusted builder", own + "@refs/tags/v1.0.0", generatorGo + "@refs/tags/v2.1.0", "", slsa.CodeBuilder, 0},
		{"… and the consumer expects it", own + "@refs/tags/v1.0.0", generatorGo + "@refs/tags/v2.1.0", generatorGo, slsa.CodeBuilder, 0},
		{"… and the consumer names the workflow", own + "@refs/tags/v1.0.0", generatorGo + "@refs/tags/v2.1.0", own, slsa.CodeBuilder, 0},
		{"own workflow, named", own + "@refs/tags/v1.0.0", own + "@refs/tags/v1.0.0", own, "", 1},
		{"own workflow, not named", own + "@refs/tags/v1.0.0", own + "@refs/tags/v1.0.0", "", slsa.CodeBuilder, 0},
		{"the trusted builder at a branch", generatorGo + "@refs/heads/main", generatorGo + "@refs/heads/main", "", slsa.CodeBuilder, 0},
		{"the trusted builder at a prerelease", generatorGo + "@refs/tags/v2.1.0-rc.1", generatorGo + "@refs/tags/v2.1.0-rc.1", "", slsa.CodeBuilder, 0},
		{"a fork of the trusted builder", "https://github.com/evil/slsa-github-generator/.github/workflows/builder_go_slsa3.yml@refs/tags/v2.1.0", generatorGo + "@refs/tags/v2.1.0", "", slsa.CodeBuilder, 0},
		{"another version than signed", generatorGo + "@refs/tags/v2.1.0", generatorGo + "@refs/tags/v9.9.9", "", slsa.CodeBuilder, 0},
	} {
		v := signProvenance(t, w, c.workflow, c.builderID)
		r, err := trusted.Check(v, slsa.Expect{Source: "github.com/org/repo", Builder: c.expect})
		if trust.Code(err) != c.code || (err == nil) != (c.code == "") {
			t.Errorf("%s: code %q, want %q: %v", c.name, trust.Code(err), c.code, err)
		}
		if err == nil && r.Level != c.level {
			t.Errorf("%s: level %d, want %d", c.name, r.Level, c.level)
		}
		wantLevel := 1
		if strings.HasPrefix(c.workflow, generatorGo) {
			wantLevel = 3
		}
		if got := trusted.Level(v); got != wantLevel {
			t.Errorf("%s: the set gives level %d, want %d", c.name, got, wantLevel)
		}
	}
}

// FuzzCheckCloudBuild never panics, and accepts nothing but what a key signed.
func FuzzCheckCloudBuild(f *testing.F) {
	files, err := filepath.Glob(filepath.Join(vectors.Dir(f, "slsa-verifier"), "testdata", "gcb_container", "v0.3", "*.json"))
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	image := artifact.Digest("sha256:f472ca4b68898c951ac3b476cba919d0d56fca4ced631fabcead51e4b2b690e7")
	f.Fuzz(func(t *testing.T, doc []byte) {
		keys := cloudKeys(t)
		if r, err := slsa.CloudBuild().CheckCloudBuild(doc, keys, image, slsa.Expect{Source: "github.com/laurentsimon/gcb-tests"}); err == nil && r.Provenance == nil {
			t.Error("accepted without provenance")
		}
		if _, err := slsa.CloudBuild().CheckCloudBuild(doc, nil, image, slsa.Expect{Source: "github.com/laurentsimon/gcb-tests"}); err == nil {
			t.Error("accepted without keys")
		}
	})
}
