package policy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/internal/fault"
	"assay/internal/vectors"
)

const full = `apiVersion: assay/v1
kind: Policy
metadata: {name: production, description: what runs in production}
spec:
  scope: {repositories: ["team-a/**"], environments: [production]}
  mode: enforce
  requirements:
    signatures:
      - name: release-signers
        threshold: 1
        identities:
          - {issuer: "https://issuer.example", subject: alice@example.org}
          - {issuerRegexp: "https://issuer\\..*", subjectRegexp: ".*@ops.example.org"}
          - {key: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
    attestations:
      - predicateType: https://slsa.dev/provenance/v1
        identities: [{issuer: "https://issuer.example", subject: "https://builder.example/v1/workflow"}]
        fields:
          - {path: buildDefinition.buildType, equals: "https://type.example/v1"}
          - {path: runs, atLeast: 2}
    provenance:
      builders: [{id: "https://builder.example/v1", signer: {issuer: "https://issuer.example", subject: "https://builder.example/v1/workflow"}, level: 3}]
      minLevel: 3
      sources: ["git+https://git.example/team-a/*"]
      refs: [refs/heads/main, "refs/tags/v*"]
      externalParameters: {allow: {workflow.ref: [refs/heads/main]}, allowAny: [workflow.path]}
    maxAge: 30d
    requireLog: true
    requireTimestamp: true
`

func TestParseRequirements(t *testing.T) {
	p, err := ParseRequirements([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.Evaluate(context.Background(), goodFacts(), testNow)
	if err != nil || r.Verdict != Allow {
		t.Fatalf("%v\n%s", err, statuses(r))
	}
	want := "evidence/complete=pass trust/fresh=pass signatures/release-signers=pass attestations/provenance/v1=pass " +
		"attestations/provenance/v1/buildDefinition.buildType=pass attestations/provenance/v1/runs=pass provenance/builder=pass " +
		"provenance/level=pass provenance/source=pass provenance/ref=pass provenance/externalParameters=pass provenance/evidence=pass"
	if got := statuses(r); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if want := testNow.AddDate(0, 0, 30).Add(-60 * 60e9); !r.ValidUntil.Equal(want) {
		t.Errorf("valid until %v, want %v", r.ValidUntil, want)
	}
}

// Layout, comments and descriptions do not change the hash; a rule does.
func TestHash(t *testing.T) {
	parse := func(s string) string {
		t.Helper()
		p, err := ParseRequirements([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		return p.Hash()
	}
	base := parse(full)
	for name, s := range map[string]string{
		"comment":     "# hello\n" + full,
		"description": strings.Replace(full, "what runs in production", "other words", 1),
		"default":     strings.Replace(full, "  mode: enforce\n", "", 1),
		"quotes":      strings.Replace(full, "alice@example.org", `"alice@example.org"`, 1),
		"hours":       strings.Replace(full, "30d", "720h", 1),
	} {
		if s == full || parse(s) != base {
			t.Errorf("%s changed the hash", name)
		}
	}
	for _, r := range [][2]string{{"alice@", "bob@"}, {"enforce", "audit"}, {"team-a/**", "team-b/**"}, {"minLevel: 3", "minLevel: 2"}, {"requireLog: true", "requireLog: false"}, {"name: production", "name: other"}} {
		if parse(strings.Replace(full, r[0], r[1], 1)) == base {
			t.Errorf("%s -> %s did not change the hash", r[0], r[1])
		}
	}
}

const head = "apiVersion: assay/v1\nkind: Policy\nmetadata: {name: x}\nspec:\n"

func signers(identity string) string {
	return head + "  requirements:\n    signatures:\n    - identities: [" + identity + "]\n"
}

// A typing error must not fail open (CVE-2025-29778: subjectRegExp ignored).
func TestThreat_YAML_AliasBombDuplicateUnknownKey(t *testing.T) {
	good := `{issuer: a, subject: b}`
	if _, err := ParseRequirements([]byte(signers(good))); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ text, want string }{
		"empty":              {"", "found 0"},
		"unknown at the top": {signers(good) + "enforcment: deny\n", "line 8"},
		"unknown deep":       {signers(`{issuer: a, subjectRegExp: b}`), "line 7: field subjectRegExp not found"},
		"duplicate":          {signers(`{issuer: a, subject: b, issuer: c}`), "line 7"},
		"duplicate block":    {signers(good) + "spec: {}\n", "line 8"},
		"alias":              {signers(`&a {issuer: a, subject: b}, *a`), "line 7"},
		"merge":              {signers(`{<<: {issuer: a}, subject: b}`), "line 7"},
		"bomb":               {"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n", "line 1"},
		"two documents":      {signers(good) + "---\n" + signers(good), "found 2"},
		"tab":                {head + "\trequirements: {}\n", "line 5"},
		"kind":               {strings.Replace(signers(good), "Policy", "policy", 1), "want assay/v1, Policy"},
		"version":            {strings.Replace(signers(good), "assay/v1", "assay/v2", 1), "want assay/v1"},
		"name":               {strings.Replace(signers(good), "name: x", "name: X y", 1), "metadata.name"},
		"mode":               {strings.Replace(signers(good), "spec:\n", "spec:\n  mode: enforced\n", 1), "spec.mode"},
		"no rule":            {head + "  mode: audit\n", "neither requirements nor rego"},
		"null spec":          {"apiVersion: assay/v1\nkind: Policy\nmetadata: {name: x}\nspec:\n", "neither requirements nor rego"},
		"empty requirements": {head + "  requirements: {}\n", "name nothing"},
		"empty signatures":   {head + "  requirements: {signatures: []}\n", "name nothing"},
		"only an age":        {head + "  requirements: {maxAge: 1h}\n", "name nothing"},
		"scope of nothing":   {strings.Replace(signers(good), "spec:\n", "spec:\n  scope: {}\n", 1), "selects on nothing"},
		"empty list":         {strings.Replace(signers(good), "spec:\n", "spec:\n  scope: {teams: []}\n", 1), "teams is empty"},
		"pattern":            {strings.Replace(signers(good), "spec:\n", "spec:\n  scope: {repositories: [\"a[bc]\"]}\n", 1), "no meaning"},
		"kinds":              {strings.Replace(signers(good), "spec:\n", "spec:\n  scope: {kinds: [images]}\n", 1), "image or file"},
		"age without unit":   {strings.Replace(signers(good), "  requirements:\n", "  requirements:\n    maxAge: 30\n", 1), "line 6: duration"},
		"negative age":       {strings.Replace(signers(good), "  requirements:\n", "  requirements:\n    maxAge: -1h\n", 1), "line 6: duration"},
		"threshold 0":        {strings.Replace(signers(good), "- identities", "- threshold: 0\n      identities", 1), "at least 1"},
		"threshold 2 of 1":   {strings.Replace(signers(good), "- identities", "- threshold: 2\n      identities", 1), "can never be met"},
		"no identities":      {signers(""), "identities is empty"},
		"module field":       {head + "  rego: [{name: a, txt: b}]\n", "field txt not found"},
		"rego map":           {head + "  rego: {a: b}\n", "line 5"},
		"present false":      {head + "  requirements: {attestations: [{predicateType: urn:t, identities: [" + good + "], fields: [{path: a, present: false}]}]}\n", "present: false"},
		"two conditions":     {head + "  requirements: {attestations: [{predicateType: urn:t, identities: [" + good + "], fields: [{path: a, equals: 1, matches: b}]}]}\n", "exactly one"},
		"no condition":       {head + "  requirements: {attestations: [{predicateType: urn:t, identities: [" + good + "], fields: [{path: a}]}]}\n", "exactly one"},
		"empty equals":       {head + "  requirements: {attestations: [{predicateType: urn:t, identities: [" + good + "], fields: [{path: a, equals: \"\"}]}]}\n", "counts as absent"},
		"bad path":           {head + "  requirements: {attestations: [{predicateType: urn:t, identities: [" + good + "], fields: [{path: a..b, present: true}]}]}\n", "column 3"},
		"big integer":        {head + "  requirements: {attestations: [{predicateType: urn:t, identities: [" + good + "], fields: [{path: a, equals: 9007199254740993}]}]}\n", "2^53"},
		"anyone's level 1":   {head + "  requirements: {provenance: {minLevel: 1}}\n", "name builders"},
		"level too high":     {head + "  requirements: {provenance: {minLevel: 3, builders: [{id: a, signer: " + good + ", level: 2}]}}\n", "can never be met"},
		"builder no level":   {head + "  requirements: {provenance: {builders: [{id: a, signer: " + good + "}]}}\n", "level 0"},
		"no sources":         {head + "  requirements: {provenance: {minLevel: 2, sources: []}}\n", "sources is empty"},
		"too long":           {strings.Repeat("#", maxDocument+1), "at most"},
		"not UTF-8":          {signers("{issuer: \"\xff\", subject: b}"), ""},
	} {
		_, err := ParseRequirements([]byte(c.text))
		if err == nil || !errors.Is(err, fault.Invalid) && !errors.Is(err, fault.TooLarge) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want invalid with %q", name, err, c.want)
		}
	}
}

func TestHostileVectors(t *testing.T) {
	dir := vectors.Dir(t, "hostile/yaml")
	files, err := os.ReadDir(dir)
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		// Alone, and as a part of a policy that is otherwise good.
		for _, text := range []string{string(b), full + "\n" + string(b)} {
			if _, err := ParseRequirements([]byte(text)); !errors.Is(err, fault.Invalid) {
				t.Errorf("%s: %v, want invalid", f.Name(), err)
			}
		}
	}
}

func FuzzParseRequirements(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(signers(`{key: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}`)))
	f.Add([]byte(head + "  rego: |\n    package assay.policy\n    allow if input.truncated == false\n"))
	f.Add([]byte("a: &a [*a]"))
	empty := &Facts{Subject: Subject{Digest: testDigest, Kind: Image}}
	empty.Normalize()
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseRequirements(b)
		if err != nil {
			if !errors.Is(err, fault.Invalid) && !errors.Is(err, fault.TooLarge) {
				t.Errorf("%v is of no kind that a reader expects", err)
			}
			return
		}
		if len(p.units) == 0 || p.mode.strictness() == 0 || len(p.hash) != 64 {
			t.Fatalf("a policy without rule, mode or hash: %+v", p)
		}
		again, err := ParseRequirements(b)
		if err != nil || again.Hash() != p.Hash() {
			t.Errorf("a second reading gives %v, %v", again, err)
		}
		// Without evidence, requirements never allow.
		if p.units[0].reqs != nil {
			if r, err := p.Evaluate(context.Background(), empty, testNow); err == nil && r.Verdict != Deny {
				t.Errorf("allowed without evidence: %s", statuses(r))
			}
		}
	})
}
