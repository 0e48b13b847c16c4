package slsa

import (
	"slices"
	"strconv"
	"strings"

	"assay/attestation"
	"assay/trust"
)

// CodeVSA is the code of a verification summary that does not say what is expected.
const CodeVSA = "slsa.vsa"

// ExpectVSA is what a consumer of a verification summary expects (SLSA 1.2,
// "How to verify VSAs"). All but Levels is required.
type ExpectVSA struct {
	VerifierID  string
	ResourceURI string
	Subjects    []attestation.Subject // of which one must be a subject, all its digests equal
	Levels      []string              // each must be reached; a higher level of the same track reaches it
}

// CheckVSA compares a verified summary with e.
func CheckVSA(v *trust.Verified, e ExpectVSA) (*attestation.VSA, error) {
	if v == nil || v.Statement == nil || v.Statement.PredicateType != attestation.PredicateVSA {
		return nil, trust.Refuse(CodeVSA, "statement is no verification summary (%s)", attestation.PredicateVSA)
	}
	vsa, err := v.Statement.VSA()
	if err != nil {
		return nil, trust.Refuse(CodeVSA, "verification summary: %w", err)
	}
	switch {
	case e.VerifierID == "" || vsa.Verifier.ID != e.VerifierID:
		return nil, trust.Refuse(CodeVSA, "verification summary is by %.160q, want %q", vsa.Verifier.ID, e.VerifierID)
	case e.ResourceURI == "" || vsa.ResourceURI != e.ResourceURI:
		return nil, trust.Refuse(CodeVSA, "verification summary is for %.200q, want %q", vsa.ResourceURI, e.ResourceURI)
	case vsa.VerificationResult != attestation.VSAPassed:
		return nil, trust.Refuse(CodeVSA, "verification summary says %.20q, want %s", vsa.VerificationResult, attestation.VSAPassed)
	case !slices.ContainsFunc(e.Subjects, func(s attestation.Subject) bool { return names(v.Subjects, s) }):
		return nil, trust.Refuse(CodeVSA, "verification summary is about other subjects")
	}
	for _, want := range e.Levels {
		if !slices.ContainsFunc(vsa.VerifiedLevels, func(have string) bool { return reaches(have, want) }) {
			return nil, trust.Refuse(CodeVSA, "verification summary states levels %.200q, want %q", vsa.VerifiedLevels, want)
		}
	}
	return vsa, nil
}

func names(all []attestation.Subject, want attestation.Subject) bool {
	return len(want.Digest) > 0 && slices.ContainsFunc(all, func(s attestation.Subject) bool {
		for alg, sum := range want.Digest {
			if s.Digest[alg] != sum {
				return false
			}
		}
		return true
	})
}

// reaches compares levels: SLSA_BUILD_LEVEL_3 reaches SLSA_BUILD_LEVEL_2;
// labels of others are compared whole.
func reaches(have, want string) bool {
	if have == want {
		return true
	}
	i := strings.LastIndex(want, "_LEVEL_")
	if !strings.HasPrefix(want, "SLSA_") || i < 0 || !strings.HasPrefix(have, want[:i+len("_LEVEL_")]) {
		return false
	}
	h, err1 := strconv.Atoi(have[i+len("_LEVEL_"):])
	w, err2 := strconv.Atoi(want[i+len("_LEVEL_"):])
	return err1 == nil && err2 == nil && h >= w
}
