package suite

import (
	"errors"
	"strings"
	"testing"

	"assay/internal/fault"
)

const module = `package assay.policy

allow if count(input.signatures) > 0

deny contains "many" if {
	count(input.subject.tags) > 3
}
`

func TestRego(t *testing.T) {
	const tests = `package assay.policy_test

import data.assay.policy

test_passes if policy.allow with input as {"signatures": [1], "subject": {"tags": []}}

test_fails if policy.allow with input as {"signatures": [], "subject": {"tags": []}}

todo_test_later if false
`
	r, err := Run(t.Context(), map[string][]byte{"p/a.rego": []byte(module), "p/a_test.rego": []byte(tests), "p/other.txt": nil}, "")
	if err != nil {
		t.Fatal(err)
	}
	if r.Passed != 1 || r.Failed != 1 || r.Skipped != 1 {
		t.Errorf("%+v", r)
	}
	if len(r.Coverage) != 1 || r.Coverage[0].Percent >= 100 || len(r.Coverage[0].Untouched) == 0 {
		t.Errorf("coverage %+v, want lines that no test reached", r.Coverage)
	}
	only, err := Run(t.Context(), map[string][]byte{"p/a.rego": []byte(module), "p/a_test.rego": []byte(tests)}, "passes")
	if err != nil || only.Passed != 1 || only.Failed != 0 {
		t.Errorf("%+v, %v", only, err)
	}
}

// What cannot be tested is said, and never counts as a pass.
func TestRefused(t *testing.T) {
	const head = "package assay.policy_test\nimport data.assay.policy\n"
	for name, tt := range map[string]struct {
		files map[string]string
		want  string
	}{
		"no subject":  {map[string]string{"a_test.rego": head + "test_x if policy.allow\n"}, "want a.rego"},
		"ambiguous":   {map[string]string{"a.rego": module, "b.rego": module, "c_test.rego": head + "test_x if policy.allow\n"}, "which of"},
		"network":     {map[string]string{"a.rego": module, "a_test.rego": head + "test_x if http.send({\"method\": \"get\", \"url\": \"http://127.0.0.1\"}).status_code == 200\n"}, "http.send"},
		"bad module":  {map[string]string{"a.rego": "package other\n"}, "want package assay.policy"},
		"no facts":    {map[string]string{"p.yaml": signed, "t.yaml": cases("nowhere.json", "allow")}, "there is no nowhere.json"},
		"bad verdict": {map[string]string{"p.yaml": signed, "f.json": facts, "t.yaml": cases("f.json", "maybe")}, "want allow or deny"},
		"bad facts":   {map[string]string{"p.yaml": signed, "f.json": `{"schema": "x"}`, "t.yaml": cases("f.json", "deny")}, "schema"},
		"a typo":      {map[string]string{"p.yaml": signed, "f.json": facts, "t.yaml": strings.Replace(cases("f.json", "deny"), "expect", "expects", 1)}, "expects"},
	} {
		files := map[string][]byte{}
		for k, v := range tt.files {
			files[k] = []byte(v)
		}
		if _, err := Run(t.Context(), files, ""); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	// A file of tests without one is a failure, not silence.
	r, err := Run(t.Context(), map[string][]byte{"a.rego": []byte(module), "a_test.rego": []byte(head + "tests_x if policy.allow\n")}, "")
	if err != nil || r.Failed != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

const (
	signed = "apiVersion: assay/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  requirements:\n    signatures:\n      - identities: [{issuer: \"https://i.example\", subject: a@example.org}]\n"
	facts  = `{"attestations":[],"provenance":[],"rejected":[],"schema":"assay/facts/v1","scope":{"id":"default"},"signatures":[],"subject":{"digest":"sha256:2c8b08da5ce60398e1f19af0e5dccc744df274b826abe585eaba68c525434806","kind":"file"},"truncated":false,"trust":{"revocations":[],"roots":[],"stale":false}}`
)

func cases(file, expect string) string {
	return "apiVersion: assay/v1\nkind: PolicyTest\nmetadata: {name: p}\nspec:\n  policy: p.yaml\n  now: 2026-01-01T00:00:00Z\n  cases:\n    - {name: one, facts: " + file + ", expect: " + expect + ", fails: [signatures]}\n"
}

func TestCases(t *testing.T) {
	files := map[string][]byte{"p.yaml": []byte(signed), "f.json": []byte(facts), "t.yaml": []byte(cases("f.json", "deny"))}
	r, err := Run(t.Context(), files, "")
	if err != nil || r.Passed != 1 || r.Failed != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if len(r.Coverage) != 1 || r.Coverage[0].Percent != 50 || len(r.Coverage[0].Untouched) != 1 || r.Coverage[0].Untouched[0] != "signatures never passed" {
		t.Errorf("%+v", r.Coverage)
	}
	files["t.yaml"] = []byte(strings.Replace(cases("f.json", "deny"), "[signatures]", "[provenance]", 1))
	if r, err = Run(t.Context(), files, ""); err != nil || r.Failed != 1 || !strings.Contains(r.Results[0].Detail, "want provenance") {
		t.Errorf("%+v, %v", r, err)
	}
}
