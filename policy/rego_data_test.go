package policy

import (
	"strings"
	"testing"
	"time"
)

const withData = `apiVersion: assay/v1
kind: Policy
metadata: {name: listed}
spec:
  data: {allowed: {repositories: [team/app]}}
  rego:
    - name: main.rego
      text: |
        package assay.policy
        import data.lib.places
        allow if places.known(input.subject.repository)
    - name: places.rego
      text: |
        package lib.places
        known(name) if name in data.allowed.repositories
`

// Modules read the policy's data and its libraries, and nothing else.
func TestRegoLibrariesAndData(t *testing.T) {
	p, err := ParseRequirements([]byte(withData))
	if err != nil {
		t.Fatal(err)
	}
	f := &Facts{Schema: FactsSchema, Subject: Subject{Digest: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", Kind: Image, Repository: "team/app"}}
	now := time.Unix(1_800_000_000, 0)
	res, err := p.Evaluate(t.Context(), f, now)
	if err != nil || res.Verdict != Allow {
		t.Fatalf("%v, %+v", err, res)
	}
	f.Subject.Repository = "team/other"
	if res, err = p.Evaluate(t.Context(), f, now); err != nil || res.Verdict != Deny {
		t.Fatalf("%v, %+v", err, res)
	}
	other, err := ParseRequirements([]byte(strings.Replace(withData, "[team/app]", "[team/other]", 1)))
	if err != nil || other.Hash() == p.Hash() {
		t.Fatalf("%v: data is not in the hash", err)
	}
	for what, text := range map[string]string{
		"data that is not there":     strings.Replace(withData, "data.allowed.repositories", "data.forbidden.repositories", 1),
		"data of the policy's name":  strings.Replace(withData, "data: {allowed:", "data: {assay: {}, allowed:", 1),
		"data of a library's name":   strings.Replace(withData, "data: {allowed:", "data: {lib: {}, allowed:", 1),
		"a library under assay":      strings.ReplaceAll(withData, "lib.places", "assay.places"),
		"libraries alone":            strings.Replace(withData, "package assay.policy\n", "package lib.main\n", 1),
		"a library with the network": strings.Replace(withData, "name in data.allowed.repositories", `http.send({"method": "get", "url": name}).status_code == 200`, 1),
	} {
		if _, err := ParseRequirements([]byte(text)); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}
