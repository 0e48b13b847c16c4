package attestation

import (
	"testing"

	vsa "github.com/in-toto/attestation/go/predicates/vsa/v1"

	"assay/artifact"
	"assay/internal/intoto"
)

// TestOfSchema reads statements that are written here by in-toto's own
// definitions, which know no other members than the specification's.
func TestOfSchema(t *testing.T) {
	v, err := ParseVSA([]byte(goodVSA))
	if err != nil {
		t.Fatal(err)
	}
	s, err := v.Statement(Subject{Name: "app", Digest: artifact.DigestSet{"sha256": sumA}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	// The definition is of SLSA 1.0; verifier.version came with 1.1.
	intoto.Statement(t, b, "version")
	m, is := intoto.Predicate(t, s.PredicateType, s.Predicate, "version").(*vsa.VerificationSummary)
	if !is || m.GetVerificationResult() != "PASSED" || m.GetDependencyLevels()["SLSA_BUILD_LEVEL_1"] != 2 || m.GetPolicy().GetDigest()["sha256"] != sumB {
		t.Errorf("%v of %s", m, s.Predicate)
	}
}
