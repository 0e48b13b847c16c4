package contract

import (
	"errors"
	"strings"
	"testing"

	"assay/internal/fault"
	"assay/internal/strictyaml"
	"assay/policy"
)

const (
	issuer = "https://issuer.example"
	prov   = "https://slsa.dev/provenance/v1"
	bom    = "https://cyclonedx.org/bom"
)

func mustContract(t testing.TB, name, text string) *Contract {
	t.Helper()
	var s Spec
	if err := strictyaml.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	c, err := Compile(name, s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const ci = "{issuer: https://issuer.example, subject: ci@example.com}"

const release = `
version: 1
repositories: ["team/**"]
evidence:
  - {predicateType: https://slsa.dev/provenance/v1, identities: [` + ci + `]}
  - name: bom
    predicateType: https://cyclonedx.org/bom
    identities: [` + ci + `]
    sbom: {formats: [cyclonedx-json], specVersions: ["1.6"], leastQuality: 50, complete: true}
  - {name: cli-only, signature: true, identities: [` + ci + `], products: ["team/cli", cli]}
`

func evidenceBy(id, who string) policy.Evidence {
	return policy.Evidence{ID: id, Identity: &policy.Identity{Issuer: issuer, Subject: who}}
}

func TestJudge(t *testing.T) {
	c := mustContract(t, "release", release)
	doc := func(s SBOM) func(string) (SBOM, bool) { return func(string) (SBOM, bool) { return s, true } }
	good := SBOM{Format: "cyclonedx-json", SpecVersion: "1.6", Score: 80}
	att := func(typ, who string) policy.Attestation {
		return policy.Attestation{PredicateType: typ, Evidence: evidenceBy("att_"+typ+who, who)}
	}
	both := policy.Facts{Attestations: []policy.Attestation{att(prov, "ci@example.com"), att(bom, "ci@example.com")}}
	foreign := policy.Facts{Attestations: []policy.Attestation{att(prov, "eve@example.com"), att(bom, "ci@example.com")}}
	other := policy.Facts{Attestations: []policy.Attestation{att(prov+".0", "ci@example.com"), att(bom, "ci@example.com")}}
	signed := policy.Facts{Attestations: both.Attestations, Signatures: []policy.Signature{{Evidence: evidenceBy("att_s", "ci@example.com")}}}
	with := func(change func(*SBOM)) func(string) (SBOM, bool) { s := good; change(&s); return doc(s) }
	for name, k := range map[string]struct {
		repository, product string
		facts               policy.Facts
		sbom                func(string) (SBOM, bool)
		missing, reason     string
	}{
		"all":                  {"team/app", "", both, doc(good), "", ""},
		"none":                 {"team/app", "", policy.Facts{}, doc(good), "provenance/v1 bom", "there is none"},
		"foreign identity":     {"team/app", "", foreign, doc(good), "provenance/v1", "signed by others: eve@example.com"},
		"another type":         {"team/app", "", other, doc(good), "provenance/v1", "there is none"},
		"format":               {"team/app", "", both, with(func(s *SBOM) { s.Format = "spdx-json" }), "bom", "its format is spdx-json"},
		"version":              {"team/app", "", both, with(func(s *SBOM) { s.SpecVersion = "1.4" }), "bom", "of version 1.4"},
		"quality":              {"team/app", "", both, with(func(s *SBOM) { s.Score = 49 }), "bom", "its quality is 49"},
		"incomplete":           {"team/app", "", both, with(func(s *SBOM) { s.Incomplete = true }), "bom", "does not hold everything"},
		"unreadable":           {"team/app", "", both, doc(SBOM{Problem: "x"}), "bom", "could not be read"},
		"unknown document":     {"team/app", "", both, func(string) (SBOM, bool) { return SBOM{}, false }, "bom", "not read yet"},
		"product by its place": {"team/cli", "", both, doc(good), "cli-only", "there is none"},
		"product by its name":  {"team/app", "cli", signed, doc(good), "", ""},
	} {
		o := c.Judge(k.repository, k.product, &k.facts, k.sbom)
		if got := strings.Join(o.Missing(), " "); got != k.missing || o.Complete() != (k.missing == "") {
			t.Errorf("%s: missing %q, want %q", name, got, k.missing)
		}
		found := k.reason == ""
		for _, i := range o.Items {
			found = found || strings.Contains(i.Reason, k.reason)
		}
		if !found {
			t.Errorf("%s: %+v, want %q", name, o.Items, k.reason)
		}
	}
	if (Outcome{}).Complete() {
		t.Error("an outcome of nothing is complete")
	}
}

// One identity that signs twice is one signer.
func TestThreat_Contract_IdentityCountedTwice(t *testing.T) {
	c := mustContract(t, "two", `{version: 1, repositories: [a], evidence: [{signature: true, threshold: 2, identities: [{issuer: https://issuer.example, subjectRegexp: ".*"}]}]}`)
	f := policy.Facts{Signatures: []policy.Signature{{Evidence: evidenceBy("att_1", "ci@example.com")}, {Evidence: evidenceBy("att_2", "ci@example.com")}}}
	if c.Judge("a", "", &f, nil).Complete() {
		t.Error("counted twice")
	}
	f.Signatures[1] = policy.Signature{Evidence: evidenceBy("att_2", "bob@example.com")}
	if !c.Judge("a", "", &f, nil).Complete() {
		t.Error("two are not counted")
	}
}

// Who can push a branch would be as many signers as they like.
func TestThreat_Contract_WorkflowCountedByRef(t *testing.T) {
	c := mustContract(t, "two", `{version: 1, repositories: [a], evidence: [{signature: true, threshold: 2, identities: [{issuer: https://issuer.example, subjectRegexp: ".*"}]}]}`)
	const workflow = "https://git.example/org/app/.github/workflows/"
	for _, tt := range []struct {
		one, other string
		complete   bool
	}{
		{workflow + "a.yml@refs/heads/main", workflow + "a.yml@refs/heads/other", false},
		{workflow + "a.yml@1111", workflow + "a.yml@v2", false},
		{workflow + "a.yml@refs/heads/main", workflow + "b.yml@refs/heads/main", true},
		{"alice@example.com", "bob@example.com", true},
	} {
		f := &policy.Facts{Signatures: []policy.Signature{{Evidence: evidenceBy("att_1", tt.one)}, {Evidence: evidenceBy("att_2", tt.other)}}}
		if got := c.Judge("a", "", f, nil).Complete(); got != tt.complete {
			t.Errorf("%s and %s: complete %v, want %v", tt.one, tt.other, got, tt.complete)
		}
	}
}

func TestCompileErrors(t *testing.T) {
	sig := "{signature: true, identities: [" + ci + "]}"
	head := "version: 1, repositories: [a], evidence: "
	for name, text := range map[string]string{
		"no version":         "{repositories: [a], evidence: [" + sig + "]}",
		"no repository":      "{version: 1, evidence: [" + sig + "]}",
		"expects nothing":    "{" + head + "[]}",
		"anybody":            "{" + head + "[{signature: true}]}",
		"both":               "{" + head + "[{signature: true, predicateType: https://x.example/y, identities: [" + ci + "]}]}",
		"neither":            "{" + head + "[{identities: [" + ci + "]}]}",
		"short type":         "{" + head + "[{predicateType: slsaprovenance, identities: [" + ci + "]}]}",
		"twice":              "{" + head + "[" + sig + ", " + sig + "]}",
		"pattern":            "{version: 1, repositories: [\"a?\"], evidence: [" + sig + "]}",
		"threshold":          "{" + head + "[{signature: true, threshold: 0, identities: [" + ci + "]}]}",
		"within":             "{within: 48h, " + head + "[" + sig + "]}",
		"sbom of provenance": "{" + head + "[{predicateType: https://slsa.dev/provenance/v1, sbom: {leastQuality: 1}, identities: [" + ci + "]}]}",
		"quality":            "{" + head + "[{predicateType: https://cyclonedx.org/bom, sbom: {leastQuality: 101}, identities: [" + ci + "]}]}",
		"misspelt":           "{" + head + "[{signature: true, identity: [" + ci + "]}]}",
		"delegated and more": "{" + head + "[{signature: true, signers: delegated, identities: [" + ci + "]}]}",
	} {
		var s Spec
		err := strictyaml.Unmarshal([]byte(text), &s)
		if err == nil {
			_, err = Compile("x", s)
		}
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The most telling contract binds; who builds is of the token, and not being
// known frees of nothing.
func TestFor(t *testing.T) {
	one := func(name, head string) *Contract {
		return mustContract(t, name, "version: 1\n"+head+"\nevidence: [{signature: true, identities: ["+ci+"]}]")
	}
	s, err := NewSet(
		one("all", `repositories: ["**"]`), one("team", `repositories: ["team/**"]`), one("app", `repositories: [team/app]`),
		one("nightly", "repositories: [team/app]\nworkflows: [\"org/app/.github/workflows/nightly.yml@refs/**\"]"),
		one("robot", "repositories: [team/tool]\nstarters: ["+ci+"]"),
	)
	if err != nil {
		t.Fatal(err)
	}
	by := func(workflow, who string) *Starter {
		return &Starter{Workflow: workflow, Identity: policy.Identity{Issuer: issuer, Subject: who}}
	}
	for _, c := range []struct {
		repository string
		by         *Starter
		want       string
	}{
		{"other", nil, "all"}, {"team/x/y", nil, "team"}, {"team/app", nil, "app"}, {"team/app", by("", "ci@example.com"), "app"},
		{"team/app", by("org/app/.github/workflows/nightly.yml@refs/heads/main", "x"), "nightly"},
		{"team/app", by("evil/app/.github/workflows/nightly.yml@refs/heads/main", "x"), "app"},
		{"team/tool", by("", "ci@example.com"), "robot"}, {"team/tool", by("", "eve@example.com"), "team"}, {"team/tool", nil, "robot"},
	} {
		got := s.For(c.repository, c.by)
		if got == nil || got.Name != c.want {
			t.Errorf("%s by %+v: %+v, want %s", c.repository, c.by, got, c.want)
		}
	}
	if (&Set{}).For("a", nil) != nil || (*Set)(nil).For("a", nil) != nil {
		t.Error("no contract binds")
	}
	a, b := one("app", `repositories: [x]`), one("app", `repositories: [y]`)
	if err := b.Supersedes(a); !errors.Is(err, fault.Conflict) {
		t.Errorf("%v: a changed contract of the same version is taken", err)
	}
	if a.Supersedes(a) != nil || a.Supersedes(nil) != nil {
		t.Error("the same is refused")
	}
}

func FuzzCompile(f *testing.F) {
	f.Add([]byte(release))
	f.Add([]byte(`{version: 1, repositories: [a], within: 5m, evidence: [{signature: true, signers: delegated}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s Spec
		if strictyaml.Unmarshal(b, &s) != nil {
			return
		}
		c, err := Compile("x", s)
		if err != nil {
			return
		}
		if o := c.Judge("a", "", &policy.Facts{}, nil); o.Complete() {
			t.Fatal("complete without evidence")
		}
	})
}
