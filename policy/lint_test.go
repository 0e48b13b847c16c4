package policy

import (
	"strings"
	"testing"
)

func TestLint(t *testing.T) {
	const head = "apiVersion: assay/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n"
	for name, tt := range map[string]struct {
		spec string
		want string // part of a finding; "": none
	}{
		"tight":            {"  requirements:\n    requireLog: true\n    signatures:\n      - identities: [{issuer: \"https://i.example\", subject: a@example.org}]\n", ""},
		"everybody":        {"  requirements:\n    requireLog: true\n    signatures:\n      - identities: [{issuer: \"https://i.example\", subjectRegexp: \"(.*)\"}]\n", "matches everything"},
		"dot":              {"  requirements:\n    requireLog: true\n    signatures:\n      - identities: [{issuer: \"https://i.example\", subjectRegexp: \".*@example.org\"}]\n", "any letter"},
		"escaped":          {"  requirements:\n    requireLog: true\n    signatures:\n      - identities: [{issuer: \"https://i.example\", subjectRegexp: \".*@example\\\\.org\"}]\n", ""},
		"audit":            {"  mode: audit\n  requirements:\n    requireLog: true\n    signatures:\n      - identities: [{issuer: \"https://i.example\", subject: a@example.org}]\n", "refuses nobody"},
		"no time":          {"  requirements:\n    signatures:\n      - identities: [{issuer: \"https://i.example\", subject: a@example.org}]\n", "trusted time"},
		"any content":      {"  requirements:\n    requireLog: true\n    attestations:\n      - {predicateType: \"https://example.org/t/v1\", identities: [{issuer: \"https://i.example\", subject: a@example.org}]}\n", "any content"},
		"allow whatever":   {"  rego: |\n    package assay.policy\n    default allow := true\n    deny contains \"x\" if input.truncated\n", "whatever the facts"},
		"allow if a thing": {"  rego: |\n    package assay.policy\n    allow if count(input.signatures) > 0\n", ""},
	} {
		d, err := ParseDocument([]byte(head + tt.spec))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var all []string
		for _, f := range Lint(d) {
			all = append(all, f.Says)
		}
		got := strings.Join(all, "; ")
		if tt.want == "" && got != "" || tt.want != "" && !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestSetMode(t *testing.T) {
	const text = "# why\napiVersion: assay/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  # who\n  requirements:\n    signatures:\n      - identities: [{issuer: \"https://i.example\", subject: a@example.org}]\n"
	for _, in := range []string{text, strings.Replace(text, "spec:\n", "spec:\n  mode: audit\n", 1)} {
		out, err := SetMode([]byte(in), Warn)
		if err != nil {
			t.Fatal(err)
		}
		p, err := ParseRequirements(out)
		if err != nil || p.Mode() != Warn || !strings.Contains(string(out), "# who") || !strings.HasPrefix(string(out), "# why") {
			t.Errorf("%s, %v", out, err)
		}
	}
	if _, err := SetMode([]byte(text), "loud"); err == nil {
		t.Error("mode loud is taken")
	}
}
