// Package intoto is for tests: it holds statements against the protocol buffer
// definitions that in-toto publishes of them, which know no other members.
package intoto

import (
	"encoding/json"
	"strings"
	"testing"

	link "github.com/in-toto/attestation/go/predicates/link/v0"
	provenance "github.com/in-toto/attestation/go/predicates/provenance/v1"
	release "github.com/in-toto/attestation/go/predicates/release/v0"
	scai "github.com/in-toto/attestation/go/predicates/scai/v0"
	results "github.com/in-toto/attestation/go/predicates/test_result/v0"
	vsa "github.com/in-toto/attestation/go/predicates/vsa/v1"
	vulns "github.com/in-toto/attestation/go/predicates/vulns/v02"
	v1 "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// of gives what a predicate type is defined as; nil for those without a
// definition.
func of(predicateType string) proto.Message {
	switch predicateType {
	case "https://slsa.dev/provenance/v1":
		return &provenance.Provenance{}
	case "https://slsa.dev/verification_summary/v1":
		return &vsa.VerificationSummary{}
	case "https://in-toto.io/attestation/link/v0.3":
		return &link.Link{}
	case "https://in-toto.io/attestation/test-result/v0.1":
		return &results.TestResult{}
	case "https://in-toto.io/attestation/vulns/v0.2":
		return &vulns.Vulns{}
	case "https://in-toto.io/attestation/scai/v0.3":
		return &scai.AttributeReport{}
	case "https://in-toto.io/attestation/release/v0.1":
		return &release.Release{}
	}
	return nil
}

// Predicate fails the test when a predicate has members, or members of a form,
// that its definition does not know. Extensions are left out: members whose
// name is a URI, as in-toto's rules for parsing demand of them, and extra.
// It gives the predicate as read; nil for a type without a definition.
func Predicate(t testing.TB, predicateType string, predicate []byte, extra ...string) proto.Message {
	t.Helper()
	m := of(predicateType)
	if m == nil {
		return nil
	}
	var v any
	if err := json.Unmarshal(predicate, &v); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(plain(v, extra))
	if err != nil {
		t.Fatal(err)
	}
	if err := protojson.Unmarshal(b, m); err != nil {
		t.Errorf("%s: its definition does not know this: %v\n%s", predicateType, err, predicate)
	}
	return m
}

// Statement is [Predicate] for a whole statement, which it holds against
// in-toto's rules as well.
func Statement(t testing.TB, statement []byte, extra ...string) *v1.Statement {
	t.Helper()
	var s v1.Statement
	if err := protojson.Unmarshal(statement, &s); err != nil {
		t.Fatalf("not a Statement: %v\n%s", err, statement)
	}
	if err := s.Validate(); err != nil {
		t.Errorf("Statement: %v\n%s", err, statement)
	}
	predicate, err := s.GetPredicate().MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	Predicate(t, s.GetPredicateType(), predicate, extra...)
	return &s
}

// plain is a value without its extensions.
func plain(v any, extra []string) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			if !extension(k, extra) {
				out[k] = plain(e, extra)
			}
		}
		return out
	case []any:
		for i := range v {
			v[i] = plain(v[i], extra)
		}
	}
	return v
}

func extension(name string, extra []string) bool {
	for _, e := range extra {
		if name == e {
			return true
		}
	}
	return strings.Contains(name, "://") || strings.HasPrefix(name, "urn:")
}
