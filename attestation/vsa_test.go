package attestation

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"assay/artifact"
	"assay/internal/fault"
)

var goodVSA = `{"verifier":{"id":"https://example.com/verifier","version":{"assay":"1"}},"timeVerified":"2024-05-01T10:00:00Z",
 "resourceUri":"pkg:oci/app","policy":{"uri":"https://example.com/policy","digest":{"sha256":"` + sumB + `"}},
 "inputAttestations":[{"uri":"u","digest":{"sha256":"` + sumA + `"}}],"verificationResult":"PASSED",
 "verifiedLevels":["SLSA_BUILD_LEVEL_3"],"dependencyLevels":{"SLSA_BUILD_LEVEL_1":2},"slsaVersion":"1.2","https://assay.dev/decision/v1":{"id":"dec_1"}}`

func TestVSA(t *testing.T) {
	want := &VSA{
		Verifier:     VSAVerifier{ID: "https://example.com/verifier", Version: map[string]string{"assay": "1"}},
		TimeVerified: time.Date(2024, 5, 1, 10, 0, 0, 0, time.UTC), ResourceURI: "pkg:oci/app",
		Policy:            ResourceDescriptor{URI: "https://example.com/policy", Digest: artifact.DigestSet{"sha256": sumB}},
		InputAttestations: []ResourceDescriptor{{URI: "u", Digest: artifact.DigestSet{"sha256": sumA}}}, VerificationResult: VSAPassed,
		VerifiedLevels: []string{"SLSA_BUILD_LEVEL_3"}, DependencyLevels: map[string]uint64{"SLSA_BUILD_LEVEL_1": 2}, SLSAVersion: "1.2",
		Extensions: map[string]jsontext.Value{"https://assay.dev/decision/v1": jsontext.Value(`{"id":"dec_1"}`)},
	}
	got, err := ParseVSA([]byte(goodVSA))
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Fatalf("%v (-want +got):\n%s", err, d)
	}
	// Written, it is a statement that reads back the same, and equal summaries
	// are equal bytes.
	sub := Subject{Name: "app", Digest: artifact.DigestSet{"sha256": sumA}}
	s, err := got.Statement(sub)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := s.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	read, err := ParseStatement(raw, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := read.VSA()
	if d := cmp.Diff(want, again); err != nil || d != "" {
		t.Errorf("round trip: %v (-want +got):\n%s", err, d)
	}
	moved := *got
	moved.TimeVerified = got.TimeVerified.In(time.FixedZone("", 7200))
	s2, err := moved.Statement(sub)
	if err != nil || string(s2.Predicate) != string(s.Predicate) {
		t.Errorf("another zone, another predicate: %s, %v", s2.Predicate, err)
	}
	// Without a time there is no member.
	moved.TimeVerified = time.Time{}
	if s, err := moved.Statement(sub); err != nil || strings.Contains(string(s.Predicate), "timeVerified") {
		t.Errorf("no time: %s, %v", s.Predicate, err)
	}
	// A failed summary has a list of levels all the same.
	failed := VSA{Verifier: VSAVerifier{ID: "v"}, ResourceURI: "r", Policy: ResourceDescriptor{URI: "p"}, VerificationResult: VSAFailed}
	if s, err := failed.Statement(sub); err != nil || !json.Valid(s.Predicate) || !strings.Contains(string(s.Predicate), `"verifiedLevels":[]`) {
		t.Errorf("failed: %s, %v", s.Predicate, err)
	}
}

func TestVSARefuses(t *testing.T) {
	for name, c := range map[string][2]string{
		"no verifier":      {`"verifier":{"id":"https://example.com/verifier",`, `"verifier":{`},
		"no resource":      {`"resourceUri":"pkg:oci/app",`, ""},
		"no policy":        {`{"uri":"https://example.com/policy","digest":{"sha256":"` + sumB + `"}}`, "{}"},
		"result":           {`"PASSED"`, `"passed"`},
		"result null":      {`"PASSED"`, `null`},
		"levels a string":  {`["SLSA_BUILD_LEVEL_3"]`, `"SLSA_BUILD_LEVEL_3"`},
		"negative level":   {`:2}`, `:-2}`},
		"bad digest":       {sumB, "zz"},
		"bad input digest": {sumA, "zz"},
		"bad time":         {"2024-05-01T10:00:00Z", "2024-05-01"},
		"folded result":    {`"verificationResult"`, `"VerificationResult"`},
		"folded id":        {`{"id":`, `{"ID":`},
		"result twice":     {`"verificationResult":`, `"verificationResult":"FAILED","verificationResult":`},
		"snake result":     {`"slsaVersion":"1.2"`, `"verification_result":"FAILED"`},
	} {
		in := strings.Replace(goodVSA, c[0], c[1], 1)
		if in == goodVSA {
			t.Fatalf("%s: %q is not in the document", name, c[0])
		}
		if v, err := ParseVSA([]byte(in)); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %+v, %v, want invalid", name, v, err)
		}
	}
}
