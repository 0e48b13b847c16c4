package policy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func componentPolicy(t *testing.T, spec string) *Policy {
	t.Helper()
	p, err := ParseRequirements([]byte("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  requirements:\n    " + spec + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestComponentWords(t *testing.T) {
	for spec, want := range map[string]string{
		`{}`:           "want minAge or licenses",
		`{minAge: 7d}`: "nobody tells an age",
		`{firstSeen: true, licenses: {allow: [MIT]}}`: "firstSeen is about minAge",
		`{licenses: {}}`:                                "want allow or deny",
		`{licenses: {allow: ["MIT OR X11"]}}`:           "no single identifier",
		`{licenses: {allow: [MIT], deny: [mit]}}`:       "allowed and denied",
		`{licenses: {deny: [MIT]}, accept: [anything]}`: "want sbom-incomplete",
		`{licenses: {deny: [MIT]}, identities: []}`:     "whose word counts",
		`{minAge: "-1h", firstSeen: true}`:              "duration",
		`{licences: {deny: [MIT]}}`:                     "licences",
	} {
		_, err := ParseRequirements([]byte("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  requirements:\n    components: " + spec + "\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
}

// Facts gathered for one requirement answer no other's question about whose word
// counts, and any other's about the age that is wanted.
func TestComponentFactsAreOfARequirement(t *testing.T) {
	const who = `identities: [{issuer: "https://issuer.example", subject: %s@example.org}]`
	week := componentPolicy(t, `components: {minAge: 7d, `+strings.ReplaceAll(who, "%s", "alice")+`}`)
	month := componentPolicy(t, `components: {minAge: 30d, `+strings.ReplaceAll(who, "%s", "alice")+`}`)
	other := componentPolicy(t, `components: {minAge: 7d, `+strings.ReplaceAll(who, "%s", "mallory")+`}`)
	now := time.Date(2026, 5, 20, 0, 0, 0, 0, time.UTC)
	f := minimalFacts()
	f.Components = []ComponentsFact{{ID: week.Components()[0].ID, State: "done", Components: 1, Dated: 1, Youngest: []ComponentAge{{Component: "pkg:npm/a@1", Since: "2026-05-01T00:00:00Z", Source: "published"}}}}
	for name, tt := range map[string]struct {
		p     *Policy
		want  Verdict
		lacks []string
	}{"the same": {week, Allow, nil}, "older": {month, Deny, nil}, "another's word": {other, Deny, []string{"components"}}} {
		res, err := tt.p.Evaluate(t.Context(), f, now)
		if err != nil || res.Verdict != tt.want {
			t.Errorf("%s: %s, %v, want %s", name, res.Verdict, err, tt.want)
		}
		if d := cmp.Diff(tt.lacks, tt.p.Lacks(f)); d != "" {
			t.Errorf("%s lacks: %s", name, d)
		}
	}
	vex := componentPolicy(t, `vulnerabilities: {deny: [high], vex: {`+strings.ReplaceAll(who, "%s", "alice")+`}}`)
	f.Vulnerabilities = &Vulnerabilities{Scan: "done", Findings: []Vulnerability{}}
	if got := vex.Lacks(f); !slices.Equal(got, []string{"vulnerabilities.vex"}) {
		t.Errorf("statements that nobody looked for: %q", got)
	}
	if f.Vulnerabilities.VEXOf = vex.VEXOf(); len(vex.Lacks(f)) != 0 {
		t.Errorf("statements that were looked for: %q", vex.Lacks(f))
	}
}

// Nothing that is denied is taken in whatever clothes, and what is taken from two
// lists is taken from each.
func FuzzLicenses(f *testing.F) {
	for _, s := range []string{"MIT", "MIT OR GPL-3.0-only", "(MIT AND X11) OR ISC", "GPL-2.0-only WITH Classpath-exception-2.0", "MIT+", "((((", "MIT WITH", ""} {
		f.Add(s)
	}
	deny, err := licenseLists(nil, []string{"GPL-3.0-only"})
	if err != nil {
		f.Fatal(err)
	}
	allow, err := licenseLists([]string{"MIT", "ISC"}, nil)
	if err != nil {
		f.Fatal(err)
	}
	both, err := licenseLists([]string{"MIT", "ISC"}, []string{"GPL-3.0-only"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if both.ok(text) && !(deny.ok(text) && allow.ok(text)) {
			t.Errorf("%q is taken by both lists together, and not by each", text)
		}
		if allow.ok(text) && allow.ok("("+text+") AND GPL-3.0-only") {
			t.Errorf("%q with what is not allowed is taken", text)
		}
		if deny.ok("GPL-3.0-only") {
			t.Error("what is denied is taken")
		}
	})
}

// A licence is denied by each of its names on the SPDX list.
func TestThreat_Licenses_OtherNames(t *testing.T) {
	for _, tt := range []struct {
		denied, text string
		taken        bool
	}{
		{"GPL-3.0-only", "GPL-3.0", false},
		{"GPL-3.0", "GPL-3.0-only", false},
		{"GPL-3.0-only", "GPL-3.0-or-later", false},
		{"GPL-3.0-only", "GPL-3.0+", false},
		{"GPL-3.0-or-later", "GPL-3.0+", false},
		{"GPL-3.0-or-later", "GPL-3.0-only", true},
		{"GPL-2.0-only", "GPL-2.0 WITH Classpath-exception-2.0", false},
		{"GPL-2.0-only WITH Classpath-exception-2.0", "GPL-2.0 WITH Classpath-exception-2.0", false},
		{"GPL-3.0-only", "MIT OR GPL-3.0", true},
		{"GPL-3.0-only", "LGPL-3.0-only", true},
	} {
		l, err := licenseLists(nil, []string{tt.denied})
		if err != nil {
			t.Fatal(err)
		}
		if got := l.ok(tt.text); got != tt.taken {
			t.Errorf("%s with %s denied: %v, want %v", tt.text, tt.denied, got, tt.taken)
		}
	}
	if l, err := licenseLists(nil, []string{"GPL-3.0-only"}); err != nil || !l.names("GPL-3.0 (or so)") {
		t.Errorf("a text that is no expression: %v", err)
	}
}
