package source

import (
	"testing"
	"time"

	vsa "github.com/in-toto/attestation/go/predicates/vsa/v1"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/intoto"
)

// TestSummaryOfSchema reads a source verification summary by in-toto's own
// definitions, of statements and of the predicate.
func TestSummaryOfSchema(t *testing.T) {
	s := &Summary{
		Verifier: "https://assay.example", Repository: "git+https://git.example/a/b", Ref: "refs/heads/main", Commit: "0123456789012345678901234567890123456789",
		Policy: attestation.ResourceDescriptor{URI: "urn:assay:source-policy:x", Digest: artifact.SHA256Of([]byte("p")).Set()},
		Passed: true, Level: 2, Signatures: map[Status]int{Good: 3}, At: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Inputs: []string{"att_" + artifact.SHA256Of([]byte("a")).Hex()},
	}
	st, err := s.Statement()
	if err != nil {
		t.Fatal(err)
	}
	b, err := st.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	intoto.Statement(t, b)
	m, is := intoto.Predicate(t, st.PredicateType, st.Predicate).(*vsa.VerificationSummary)
	if !is || m.GetVerifiedLevels()[0] != "SLSA_SOURCE_LEVEL_2" || m.GetResourceUri() != s.Repository || m.GetTimeVerified().AsTime().Nanosecond() != 0 || len(m.GetInputAttestations()) != 1 {
		t.Errorf("%v of %s", m, st.Predicate)
	}
}
