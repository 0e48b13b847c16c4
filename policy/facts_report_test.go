package policy

import (
	"context"
	"strings"
	"testing"
	"time"
)

const ciIdentity = "{issuer: https://issuer.example, subject: ci@example.org}"

// reportFacts are facts with one report, signed by who at a second.
func reportFacts(reports ...Report) *Facts {
	f := goodFacts()
	f.Attestations, f.Provenance = nil, nil
	for i, r := range reports {
		who := "ci@example.org"
		if w, ok := strings.CutPrefix(r.Attestation, "by "); ok {
			who = w
		}
		r.Attestation = attID(50 + i)
		e := evidence(50+i, issuer, who)
		e.TrustedTime = testNow.Add(time.Duration(i-10) * time.Minute).Format(time.RFC3339)
		f.Attestations = append(f.Attestations, Attestation{Evidence: e, PredicateType: "https://example.org/report"})
		f.Reports = append(f.Reports, r)
	}
	f.Normalize()
	return f
}

func tests(result string, passed, failed int) *TestsFact {
	return &TestsFact{Result: result, Passed: passed, Failed: failed}
}

func percent(p float64) *float64 { return &p }

// Each row: a wish, reports in the order of their signing, and what is wrong.
func TestReportRequirements(t *testing.T) {
	two := 2
	for name, c := range map[string]struct {
		wish    string
		reports []Report
		found   string // part of Found where it fails; "": holds
	}{
		"passed":                  {"tests: {passed: true, min: 1, IDS}", []Report{{Tests: tests("PASSED", 1, 0)}}, ""},
		"none":                    {"tests: {IDS}", nil, "no report of tests"},
		"zero is no pass":         {"tests: {IDS}", []Report{{Tests: tests("PASSED", 0, 0)}}, "0 tests passed, fewer than 1"},
		"too few":                 {"tests: {min: 5, IDS}", []Report{{Tests: tests("PASSED", 4, 0)}}, "4 tests passed, fewer than 5"},
		"failed":                  {"tests: {IDS}", []Report{{Tests: tests("FAILED", 4, 1)}}, "did not pass"},
		"warned":                  {"tests: {IDS}", []Report{{Tests: tests("WARNED", 4, 0)}}, "did not pass"},
		"skipped unknown":         {"tests: {maxSkipped: 9, IDS}", []Report{{Tests: tests("PASSED", 4, 0)}}, "does not say"},
		"skipped":                 {"tests: {maxSkipped: 1, IDS}", []Report{{Tests: &TestsFact{"PASSED", 4, 0, &two}}}, "2 skipped, more than 1"},
		"somebody else":           {"tests: {IDS}", []Report{{Attestation: "by eve@example.org", Tests: tests("PASSED", 4, 0)}}, "signed by others: eve@example.org"},
		"else's failure":          {"tests: {IDS}", []Report{{Tests: tests("PASSED", 4, 0)}, {Attestation: "by eve@example.org", Tests: tests("FAILED", 0, 1)}}, ""},
		"another kind":            {"tests: {IDS}", []Report{{Coverage: &CoverageFact{Lines: percent(100)}}}, "no report of tests"},
		"later failure":           {"tests: {IDS}", []Report{{Tests: tests("PASSED", 4, 0)}, {Tests: tests("FAILED", 3, 1)}}, "did not pass"},
		"later success":           {"tests: {IDS}", []Report{{Tests: tests("FAILED", 3, 1)}, {Tests: tests("PASSED", 4, 0)}}, ""},
		"another suite fails":     {"tests: {IDS}", []Report{{Name: "unit", Tests: tests("FAILED", 3, 1)}, {Name: "e2e", Tests: tests("PASSED", 4, 0)}}, "unit: did not pass"},
		"suite missing":           {"tests: {names: [unit, e2e], IDS}", []Report{{Name: "unit", Tests: tests("PASSED", 3, 0)}}, "no report named e2e"},
		"covered":                 {"coverage: {least: 80, IDS}", []Report{{Coverage: &CoverageFact{Statements: percent(80)}}}, ""},
		"lines in place":          {"coverage: {least: 80, IDS}", []Report{{Coverage: &CoverageFact{Lines: percent(81)}}}, ""},
		"not covered":             {"coverage: {least: 80, IDS}", []Report{{Coverage: &CoverageFact{Statements: percent(79.99), Lines: percent(99)}}}, "79.99 %, less than 80"},
		"not measured":            {"coverage: {least: 80, of: branches, IDS}", []Report{{Coverage: &CoverageFact{Lines: percent(99)}}}, "does not measure branches"},
		"clean scan":              {"sarif: {IDS}", []Report{{SARIF: &SARIFFact{Tools: []string{"a"}, Warning: 5, Complete: true}}}, ""},
		"errors by default":       {"sarif: {IDS}", []Report{{SARIF: &SARIFFact{Tools: []string{"a"}, Error: 1, Complete: true}}}, "1 errors, more than 0"},
		"warnings":                {"sarif: {maxWarnings: 4, IDS}", []Report{{SARIF: &SARIFFact{Tools: []string{"a"}, Warning: 5, Complete: true}}}, "5 warnings"},
		"suppressed":              {"sarif: {maxSuppressed: 0, IDS}", []Report{{SARIF: &SARIFFact{Tools: []string{"a"}, Suppressed: 1, Complete: true}}}, "1 suppressed"},
		"incomplete":              {"sarif: {IDS}", []Report{{SARIF: &SARIFFact{Tools: []string{"a"}}}}, "not complete"},
		"scanner missing":         {"sarif: {tools: [a, b], IDS}", []Report{{SARIF: &SARIFFact{Tools: []string{"a"}, Complete: true}}}, "no report by b"},
		"scanner replaces none":   {"sarif: {IDS}", []Report{{SARIF: &SARIFFact{Tools: []string{"a"}, Error: 1, Complete: true}}, {SARIF: &SARIFFact{Tools: []string{"b"}, Complete: true}}}, "1 errors"},
		"fuzzed":                  {"fuzzing: {minSeconds: 60, IDS}", []Report{{Fuzzing: &FuzzingFact{Seconds: 60}}}, ""},
		"fuzzed too short":        {"fuzzing: {minSeconds: 60, IDS}", []Report{{Fuzzing: &FuzzingFact{Seconds: 59}}}, "59 s, less than 60"},
		"not fuzzed":              {"fuzzing: {IDS}", []Report{{Fuzzing: &FuzzingFact{}}}, "0 s, less than 1"},
		"crash":                   {"fuzzing: {IDS}", []Report{{Fuzzing: &FuzzingFact{Seconds: 60, Crashes: 1}}}, "1 crashes"},
		"licences":                {"licenses: {allow: [MIT], IDS}", []Report{{Licenses: &LicensesFact{Packages: 2, Licenses: []string{"GPL-3.0-only OR MIT", "MIT"}}}}, ""},
		"licence not allowed":     {"licenses: {allow: [MIT], IDS}", []Report{{Licenses: &LicensesFact{Packages: 2, Licenses: []string{"GPL-3.0-only AND MIT"}}}}, "GPL-3.0-only AND MIT is not allowed"},
		"licence unknown":         {"licenses: {allow: [MIT], IDS}", []Report{{Licenses: &LicensesFact{Packages: 2, Unknown: 1, Licenses: []string{"MIT"}}}}, "1 packages of unknown licence"},
		"reviewed":                {"review: {IDS}", []Report{{Review: &ReviewFact{Commit: "x", Approvals: []string{"bob"}}}}, ""},
		"reviewed by too few":     {"review: {min: 2, IDS}", []Report{{Review: &ReviewFact{Commit: "x", Approvals: []string{"bob"}}}}, "1 approved, fewer than 2"},
		"somebody wants changes":  {"review: {IDS}", []Report{{Review: &ReviewFact{Commit: "x", Approvals: []string{"bob"}, Rejected: []string{"cy"}}}}, "cy wants changes"},
		"older than evidence may": {"tests: {IDS}\n    maxAge: 5m", []Report{{Tests: tests("PASSED", 4, 0)}}, "older than"},
	} {
		p := mustParse(t, head+"  requirements:\n    "+strings.Replace(c.wish, "IDS", "identities: ["+ciIdentity+"]", 1)+"\n")
		r, err := p.Evaluate(context.Background(), reportFacts(c.reports...), testNow)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		last := r.Checks[len(r.Checks)-1]
		if (r.Verdict == Allow) != (c.found == "") || !strings.Contains(last.Found, c.found) || (last.Status == Fail) != (last.Mend != "") {
			t.Errorf("%s: %s, %+v, want %q", name, r.Verdict, last, c.found)
		}
	}
}

// Reports of one second, or without trusted time, all count: a failure cannot be
// hidden by a success whose place after it is not proven.
func TestReportsOfUnknownOrder(t *testing.T) {
	p := mustParse(t, head+"  requirements:\n    tests: {identities: ["+ciIdentity+"]}\n")
	for _, at := range []string{"", testNow.Add(-time.Hour).Format(time.RFC3339)} {
		f := reportFacts(Report{Tests: tests("FAILED", 0, 1)}, Report{Tests: tests("PASSED", 1, 0)})
		for i := range f.Attestations {
			f.Attestations[i].TrustedTime = at
		}
		if r, err := p.Evaluate(context.Background(), f, testNow); err != nil || r.Verdict != Deny {
			t.Errorf("%q: %+v, %v", at, r, err)
		}
	}
}

// Whose report counts is for the policy to say: one without signers is an error.
func TestThreat_Policy_ReportByAnyone(t *testing.T) {
	for _, bad := range []string{
		"tests: {}", "tests: {passed: false, IDS}", "tests: {min: 0, IDS}", "coverage: {IDS}", "coverage: {least: 101, IDS}", "coverage: {least: .nan, IDS}",
		"coverage: {least: 5, of: words, IDS}", "sarif: {maxErrors: -1, IDS}", "licenses: {IDS}", "licenses: {allow: [MIT OR X], IDS}", "review: {min: 0, IDS}",
		"fuzzing: {minSeconds: -1, IDS}", "tests: {minimum: 1, IDS}", "tests: {names: ['']}",
	} {
		if p, err := ParseRequirements([]byte(head + "  requirements:\n    " + strings.Replace(bad, "IDS", "identities: ["+ciIdentity+"]", 1) + "\n")); err == nil {
			t.Errorf("%s: compiled as %s", bad, p.Name())
		}
	}
}

func TestLicensed(t *testing.T) {
	allowed, err := licenseLists([]string{"MIT", "Apache-2.0"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"MIT": true, "mit": false, "GPL-2.0": false, "GPL-2.0 OR MIT": true, "GPL-2.0 AND MIT": false, "MIT AND Apache-2.0": true,
		"(GPL-2.0 OR MIT) AND Apache-2.0": true, "GPL-2.0 OR (MIT AND BSD)": false, "Apache-2.0 WITH LLVM-exception": true,
		"MIT OR": false, "OR MIT": false, "(MIT": false, "MIT)": false, "MIT MIT": false, "": false, "MIT WITH": false, "GPL-2.0 OR (MIT": false,
		strings.Repeat("(", 50) + "MIT" + strings.Repeat(")", 50): false,
	} {
		if got := allowed.ok(text); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
