package attestation

import (
	"encoding/json"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"assay/internal/fault"
	"assay/internal/strictjson"
)

// The results that a verification summary can state.
const (
	VSAPassed = "PASSED"
	VSAFailed = "FAILED"
)

// VSA is a SLSA Verification Summary Attestation, predicate
// https://slsa.dev/verification_summary/v1 (SLSA 1.2, "VSA"): somebody
// verified the subject against a policy, with this result.
type VSA struct {
	Verifier           VSAVerifier          `json:"verifier"`
	TimeVerified       time.Time            `json:"timeVerified,omitzero"` // UTC; claimed unless a timestamp backs it
	ResourceURI        string               `json:"resourceUri"`           // where consumers look for the subject
	Policy             ResourceDescriptor   `json:"policy"`
	InputAttestations  []ResourceDescriptor `json:"inputAttestations,omitempty"`
	VerificationResult string               `json:"verificationResult"` // VSAPassed or VSAFailed
	VerifiedLevels     []string             `json:"verifiedLevels"`     // for example SLSA_BUILD_LEVEL_3; empty when failed
	DependencyLevels   map[string]uint64    `json:"dependencyLevels,omitempty"`
	SLSAVersion        string               `json:"slsaVersion,omitempty"`

	// Extensions are the members that the predicate's definition does not
	// name; those of Assay are URIs. They survive reading and writing.
	Extensions map[string]jsontext.Value `json:",embed"`
}

// VSAVerifier says who verified. ID is a URI that stands for the verifier and
// all it trusts; a consumer ties it to the signer, never believes it alone.
type VSAVerifier struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version,omitempty"`
}

// ParseVSA reads the predicate of a statement of type [PredicateVSA]. The
// caller has compared the type; see [Statement.VSA].
func ParseVSA(predicate []byte) (*VSA, error) {
	// Unknown members land in Extensions, so a misspelt known one must be
	// looked for here: the reader has no unknown name to stumble over.
	var v VSA
	if err := strictjson.Unmarshal(predicate, &v); err != nil {
		return nil, fault.Newf(fault.KindOf(err), "verification summary: %w", err)
	}
	if err := strictjson.Unmarshal(predicate, &vsaNames{}); err != nil {
		return nil, fault.Newf(fault.KindOf(err), "verification summary: %w", err)
	}
	if len(v.Extensions) == 0 {
		v.Extensions = nil
	}
	v.TimeVerified = v.TimeVerified.UTC()
	if err := v.Validate(); err != nil {
		return nil, err
	}
	return &v, nil
}

// vsaNames are the known members of a VSA without the fallback.
type vsaNames struct {
	Verifier           jsontext.Value `json:"verifier"`
	TimeVerified       jsontext.Value `json:"timeVerified"`
	ResourceURI        jsontext.Value `json:"resourceUri"`
	Policy             jsontext.Value `json:"policy"`
	InputAttestations  jsontext.Value `json:"inputAttestations"`
	VerificationResult jsontext.Value `json:"verificationResult"`
	VerifiedLevels     jsontext.Value `json:"verifiedLevels"`
	DependencyLevels   jsontext.Value `json:"dependencyLevels"`
	SLSAVersion        jsontext.Value `json:"slsaVersion"`
}

// VSA reads the statement's predicate as a verification summary; a statement
// of another type is an error.
func (s *Statement) VSA() (*VSA, error) {
	if s.PredicateType != PredicateVSA {
		return nil, invalid("verification summary: predicateType is %.100q, want %q exactly", s.PredicateType, PredicateVSA)
	}
	return ParseVSA(s.Predicate)
}

// Provenance reads the statement's predicate by [ParseProvenance].
func (s *Statement) Provenance() (*Provenance, error) {
	return ParseProvenance(s.PredicateType, s.Predicate)
}

// Validate checks what the predicate's definition requires: a verifier, the
// resource, a policy by URI or digest, and a known result.
func (v *VSA) Validate() error {
	switch {
	case v.Verifier.ID == "":
		return invalid("verification summary: verifier.id is absent")
	case v.ResourceURI == "":
		return invalid("verification summary: resourceUri is absent")
	case v.Policy.URI == "" && len(v.Policy.Digest) == 0:
		return invalid("verification summary: policy has neither uri nor digest")
	case v.VerificationResult != VSAPassed && v.VerificationResult != VSAFailed:
		return invalid("verification summary: verificationResult is %.40q, want %s or %s", v.VerificationResult, VSAPassed, VSAFailed)
	}
	for _, d := range append([]ResourceDescriptor{v.Policy}, v.InputAttestations...) {
		if err := ValidateDigestSet(d.Digest); err != nil {
			return invalid("verification summary: %.80q: %w", d.URI, err)
		}
	}
	return nil
}

// Statement makes the in-toto Statement v1 that says v of the subjects, ready
// for [SignStatement].
func (v *VSA) Statement(subjects ...Subject) (*Statement, error) {
	if err := v.Validate(); err != nil {
		return nil, err
	}
	w := *v
	w.TimeVerified = w.TimeVerified.UTC()
	raw, err := strictjson.Canonical(w)
	if err != nil {
		return nil, fault.Newf(fault.KindOf(err), "verification summary: %w", err)
	}
	return NewStatement(PredicateVSA, json.RawMessage(raw), subjects...)
}
