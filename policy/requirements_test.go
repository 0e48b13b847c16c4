package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func mustParse(t testing.TB, s string) *Policy {
	t.Helper()
	p, err := ParseRequirements([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Each row changes the facts of a passing evaluation, and names the checks
// that then fail.
func TestRequirements(t *testing.T) {
	p := mustParse(t, full)
	for name, c := range map[string]struct {
		change func(f *Facts)
		fail   string // names of the failing checks
		found  string // part of the first one's Found
	}{
		"nothing":        {func(f *Facts) {}, "", ""},
		"truncated":      {func(f *Facts) { f.Truncated = true }, "evidence/complete", "more that was not read"},
		"stale":          {func(f *Facts) { f.Trust.Stale = true }, "trust/fresh", "stale"},
		"unsigned":       {func(f *Facts) { f.Signatures = nil }, "signatures/release-signers", "0 of 1: no signature"},
		"another signer": {func(f *Facts) { f.Signatures[0].Identity.Subject = "eve@example.org" }, "signatures/release-signers", "signed by others: eve@example.org"},
		"another issuer": {func(f *Facts) { f.Signatures[0].Identity.Issuer = "https://evil.example" }, "signatures/release-signers", "https://evil.example"},
		"expression":     {func(f *Facts) { f.Signatures[0].Identity.Subject = "bob@ops.example.org" }, "", ""},
		"key": {func(f *Facts) {
			f.Signatures[0].Identity, f.Signatures[0].Key = nil, "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
		}, "", ""},
		"another key": {func(f *Facts) { f.Signatures[0].Identity, f.Signatures[0].Key = nil, "sha256:"+strings.Repeat("a", 64) }, "signatures/release-signers", "key sha256:aaa"},
		"key and identity": {func(f *Facts) {
			f.Signatures[0].Identity.Subject = ""
			f.Signatures[0].Key = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
		}, "signatures/release-signers", ""},
		"not logged":      {func(f *Facts) { f.Signatures[0].LogIndex = nil }, "signatures/release-signers", "1 not logged"},
		"log time alone":  {func(f *Facts) { f.Signatures[0].TimeSource = "log" }, "signatures/release-signers", "1 without timestamp"},
		"too old":         {func(f *Facts) { f.Signatures[0].TrustedTime = testNow.AddDate(0, 0, -30).Format(time.RFC3339) }, "signatures/release-signers", "1 older than 720h"},
		"no trusted time": {func(f *Facts) { f.Signatures[0].TrustedTime = "" }, "signatures/release-signers", "without trusted time"},
		"rejected beside": {func(f *Facts) {
			f.Rejected = []Rejected{{ID: attID(7), Source: "file", Code: "unverified", Reason: "bad"}}
		}, "", ""},
		"another predicate type": {func(f *Facts) { f.Attestations[0].PredicateType += "0" }, "attestations/provenance/v1", "no attestation of this type"},
		"predicate type's case":  {func(f *Facts) { f.Attestations[0].PredicateType = strings.ToUpper(slsa1) }, "attestations/provenance/v1", ""},
		"attester":               {func(f *Facts) { f.Attestations[0].Identity.Subject += "x" }, "attestations/provenance/v1 provenance/builder provenance/level", "signed by others"},
		"field":                  {func(f *Facts) { f.Attestations[0].Fields["buildDefinition.buildType"] = "other" }, "attestations/provenance/v1 attestations/provenance/v1/buildDefinition.buildType", "a field that does not hold"},
		"field absent":           {func(f *Facts) { delete(f.Attestations[0].Fields, "runs") }, "attestations/provenance/v1 attestations/provenance/v1/runs", ""},
		"field too small":        {func(f *Facts) { f.Attestations[0].Fields["runs"] = int64(1) }, "attestations/provenance/v1 attestations/provenance/v1/runs", ""},
		"field of another kind":  {func(f *Facts) { f.Attestations[0].Fields["runs"] = "3" }, "attestations/provenance/v1 attestations/provenance/v1/runs", ""},
		"builder":                {func(f *Facts) { f.Provenance[0].BuilderID += "/evil" }, "provenance/builder provenance/level", builder + "/evil"},
		"no provenance":          {func(f *Facts) { f.Provenance = nil }, "provenance", "no provenance"},
		"view of nothing":        {func(f *Facts) { f.Provenance[0].Attestation = attID(99) }, "provenance", "no provenance"},
		"source":                 {func(f *Facts) { f.Provenance[0].Source.URI = "https://git.example/team-a/app/evil" }, "provenance/source", ""},
		"source absent":          {func(f *Facts) { f.Provenance[0].Source.URI = "" }, "provenance/source", "none"},
		"ref":                    {func(f *Facts) { f.Provenance[0].Source.Ref = "refs/heads/main2" }, "provenance/ref", ""},
		"tag":                    {func(f *Facts) { f.Provenance[0].Source.Ref = "refs/tags/v1.2" }, "", ""},
		"unknown parameter":      {func(f *Facts) { f.Provenance[0].ExternalParameters["debug"] = true }, "provenance/externalParameters", "debug is not named"},
		"unknown inner":          {func(f *Facts) { f.Provenance[0].ExternalParameters["workflow"].(map[string]any)["shell"] = "x" }, "provenance/externalParameters", "workflow.shell"},
		"parameter's value":      {func(f *Facts) { f.Provenance[0].ExternalParameters["workflow"].(map[string]any)["ref"] = "x" }, "provenance/externalParameters", "workflow.ref = x"},
		"parameter absent":       {func(f *Facts) { f.Provenance[0].ExternalParameters = nil }, "provenance/externalParameters", "workflow.ref is absent"},
	} {
		f := goodFacts()
		c.change(f)
		r, err := p.Evaluate(context.Background(), f, testNow)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var fail, found []string
		for _, k := range r.Checks {
			if k.Status == Fail {
				fail, found = append(fail, k.Name), append(found, k.Found)
				if k.Mend == "" {
					t.Errorf("%s: %s has no way to mend it", name, k.Name)
				}
			}
		}
		if got := strings.Join(fail, " "); got != c.fail || (r.Verdict == Allow) != (c.fail == "") {
			t.Errorf("%s: %s, fails %q, want %q", name, r.Verdict, got, c.fail)
		}
		if len(found) > 0 && !strings.Contains(found[0], c.found) {
			t.Errorf("%s: found %q, want %q in it", name, found[0], c.found)
		}
	}
}

// One identity that signs twice is one signer (CVE-2026-49834).
func TestThreat_Bundle_IdentityCountedTwice(t *testing.T) {
	p := mustParse(t, strings.Replace(signers(`{issuer: "https://issuer.example", subjectRegexp: ".*"}`), "- identities", "- threshold: 2\n      identities", 1))
	f := goodFacts()
	f.Signatures = append(f.Signatures, signature(3, issuer, "alice@example.org"), signature(4, issuer, "alice@example.org"))
	if r, err := p.Evaluate(context.Background(), f, testNow); err != nil || r.Verdict != Deny || !strings.HasPrefix(r.Checks[2].Found, "1 of 2") {
		t.Errorf("%+v, %v", r, err)
	}
	f.Signatures = append(f.Signatures, signature(5, issuer, "bob@example.org"))
	if r, err := p.Evaluate(context.Background(), f, testNow); err != nil || r.Verdict != Allow {
		t.Errorf("%+v, %v", r, err)
	}
}

// An expression holds for the whole text, whatever it says of itself
// (CVE-2025-29778, CVE-2026-22772).
func TestThreat_Identity_RegexUnanchoredOrIgnored(t *testing.T) {
	for _, c := range []struct {
		re, subject string
		want        bool
	}{
		{`alice@example.org`, "alice@example.org", true},
		{`alice@example.org`, "alice@example.org.evil", false},
		{`alice@example.org`, "malice@example.org", false},
		{`a|b`, "b", true},
		{`a|b`, "bc", false},
		{`a|b`, "xa", false},
		{`(?m)^alice$`, "alice\nevil", false},
		{`(?m)alice$`, "alice\nevil", false},
		{`.*@example\.org`, "x\n@example.org", false},
	} {
		m, err := IdentityMatch{Issuer: issuer, SubjectRegexp: c.re}.Compile()
		if err != nil {
			t.Fatal(err)
		}
		e := evidence(1, issuer, c.subject)
		if got := m.Match(&e); got != c.want {
			t.Errorf("/%s/ on %q: %v, want %v", c.re, c.subject, got, c.want)
		}
	}
	for name, m := range map[string]IdentityMatch{
		"reaches around":  {Issuer: "a", SubjectRegexp: "x)|(.*"},
		"broken":          {Issuer: "a", SubjectRegexp: "["},
		"no subject":      {Issuer: "a"},
		"no issuer":       {Subject: "a"},
		"both":            {Issuer: "a", Subject: "b", SubjectRegexp: "c"},
		"nothing":         {},
		"key and issuer":  {Key: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", Issuer: "a"},
		"short key":       {Key: "sha256:e3b0"},
		"key's algorithm": {Key: "md5:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		"extension":       {Issuer: "a", Subject: "b", Extensions: map[string]string{"runnerEnvironment": ""}},
		"endless":         {Issuer: "a", SubjectRegexp: strings.Repeat("a", maxRegexp+1)},
	} {
		if _, err := m.Compile(); err == nil {
			t.Errorf("%s: compiled", name)
		}
	}
	var zero Matcher
	e := evidence(1, issuer, "x")
	if zero.Match(&e) {
		t.Error("the zero matcher matches")
	}
}

// Without evidence, without rules, without a policy: deny.
func TestThreat_Policy_VacuousAll(t *testing.T) {
	empty := &Facts{Subject: Subject{Digest: testDigest, Kind: Image, Repository: "x"}, Scope: Scope{ID: "s"}}
	empty.Normalize()
	set, err := NewSet(mustParse(t, full))
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]*Policy{
		"requirements":    mustParse(t, full),
		"outside any":     set.For(empty.Subject, empty.Scope),
		"a zero policy":   {name: "zero"},
		"unit of nothing": {name: "zero", units: []*unit{{name: "u"}}},
		"rego every":      regoPolicy(t, rules("allow if { every s in input.signatures { s.scheme == \"dsse\" }; count(input.signatures) > 0 }")),
	} {
		r, err := p.Evaluate(context.Background(), empty, testNow)
		if err != nil || r.Verdict != Deny {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if _, err := mustParse(t, full).Evaluate(context.Background(), &Facts{}, testNow); err == nil {
		t.Error("facts of nothing are evaluated")
	}
	if _, err := mustParse(t, full).Evaluate(context.Background(), nil, testNow); err == nil {
		t.Error("no facts are evaluated")
	}
}

// A document's own claim of a level or a builder counts for nothing.
func TestThreat_Attestation_DocumentClaimsOwnLevel(t *testing.T) {
	p := mustParse(t, head+"  requirements: {provenance: {minLevel: 3}}\n")
	f := goodFacts()
	f.Provenance[0].ExternalParameters["level"] = int64(4)
	f.Attestations[0].Fields["level"] = int64(4)
	if r, err := p.Evaluate(context.Background(), f, testNow); err != nil || r.Verdict != Deny {
		t.Errorf("%+v, %v", r, err)
	}
	f.Provenance[0].Level = 3 // what the configured builders grant
	if r, err := p.Evaluate(context.Background(), f, testNow); err != nil || r.Verdict != Allow {
		t.Errorf("%+v, %v", r, err)
	}
}

// A named member that is missing is not satisfied by another type's.
func TestThreat_Attestation_AnotherPredicateType(t *testing.T) {
	p := mustParse(t, full)
	f := goodFacts()
	other := f.Attestations[0]
	other.PredicateType = "https://slsa.dev/provenance/v0.2"
	f.Attestations = []Attestation{other}
	if r, err := p.Evaluate(context.Background(), f, testNow); err != nil || r.Verdict != Deny {
		t.Errorf("%+v, %v", r, err)
	}
}

// DefaultKeyless equals cosign's flags: this identity, any statement.
func TestDefaultKeyless(t *testing.T) {
	p, err := DefaultKeyless("alice@example.org", issuer)
	if err != nil {
		t.Fatal(err)
	}
	f := goodFacts()
	for name, c := range map[string]struct {
		change func()
		want   Verdict
	}{
		"1 signature":         {func() {}, Allow},
		"2 another identity":  {func() { f.Signatures[0].Identity.Subject = "alice@example.orgx" }, Deny},
		"3 attestation alone": {func() { f.Signatures = nil; f.Attestations[0].Identity.Subject = "alice@example.org" }, Allow},
		"4 issuer":            {func() { f.Attestations[0].Identity.Issuer = "https://other.example" }, Deny},
	} {
		f = goodFacts()
		if name[0] == '4' {
			f.Signatures = nil
		}
		c.change()
		if r, err := p.Evaluate(context.Background(), f, testNow); err != nil || r.Verdict != c.want {
			t.Errorf("%s: %v, %v, want %v", name, r.Verdict, err, c.want)
		}
	}
	if _, err := DefaultKeyless("", issuer); err == nil {
		t.Error("an empty identity is a policy")
	}
	if _, err := DefaultKeyless("a", ""); err == nil {
		t.Error("an empty issuer is a policy")
	}
}

// The same facts, policy and instant give the same bytes, and evaluating
// changes neither facts nor policy.
func TestEvaluateIsDeterministic(t *testing.T) {
	p := Combine(mustParse(t, full), regoPolicy(t, regoAllow), mustParse(t, signers("{issuer: x, subject: y}")))
	f := goodFacts()
	before, err := f.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	var first []byte
	for range 20 {
		parsed, err := ParseFacts(before)
		if err != nil {
			t.Fatal(err)
		}
		r, err := p.Evaluate(context.Background(), parsed, testNow)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := json.Marshal(r)
		if first == nil {
			first = b
		}
		if !bytes.Equal(b, first) {
			t.Fatalf("%s\n%s", first, b)
		}
		if after, _ := parsed.Canonical(); !bytes.Equal(after, before) {
			t.Fatal(cmp.Diff(string(before), string(after)))
		}
	}
}

func BenchmarkEvaluate(b *testing.B) {
	p, f := mustParse(b, full), goodFacts()
	for i := range 20 {
		f.Signatures = append(f.Signatures, signature(i+10, issuer, "other@example.org"))
	}
	for b.Loop() {
		if r, err := p.Evaluate(context.Background(), f, testNow); err != nil || r.Verdict != Allow {
			b.Fatal(r, err)
		}
	}
}

// Who asks for a signature among attestations is told where to ask.
func TestSignatureAmongAttestations(t *testing.T) {
	p, err := ParseRequirements([]byte(`apiVersion: assay/v1
kind: Policy
metadata: {name: team}
spec:
  requirements:
    attestations:
      - predicateType: https://sigstore.dev/cosign/sign/v1
        identities: [{issuer: "https://issuer.example", subject: me@example.com}]
`))
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.Evaluate(context.Background(), goodFacts(), testNow)
	if err != nil || r.Verdict == Allow {
		t.Fatalf("%v, %v", r, err)
	}
	for _, c := range r.Checks {
		if c.Status == Fail && !strings.Contains(c.Mend, "under signatures") {
			t.Errorf("%s: mend %q", c.Name, c.Mend)
		}
	}
}
