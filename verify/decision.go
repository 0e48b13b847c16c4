package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/policy"
)

// Decision answers "may this artifact run here, and how do we know?". It is
// f(facts, policy, scope), signed and stored; what changes while it stands is
// ValidUntil and TrustEpoch alone.
type Decision struct {
	ID         string          `json:"id"` // dec_<sha256 of the summary's statement>
	Digest     artifact.Digest `json:"digest"`
	ScopeID    string          `json:"scope"`
	Verdict    policy.Verdict  `json:"verdict"`
	Mode       policy.Mode     `json:"mode"`
	Policy     string          `json:"policy"` // its name
	PolicyHash string          `json:"policy_hash"`
	FactsHash  string          `json:"facts_hash"` // facts_<sha256>
	Checks     []policy.Check  `json:"checks"`
	DecidedAt  time.Time       `json:"decided_at"`
	ValidUntil time.Time       `json:"valid_until"` // earliest expiry among its inputs, or the configured maximum
	TrustEpoch int64           `json:"trust_epoch"` // under which it was last found to hold
	VSA        jsontext.Value  `json:"vsa"`         // DSSE envelope over a https://slsa.dev/verification_summary/v1 statement
}

// Allowed says whether the verdict is an allow.
func (d *Decision) Allowed() bool { return d.Verdict == policy.Allow }

// Blocks says whether a door must refuse: a deny in mode enforce.
func (d *Decision) Blocks() bool { return d.Verdict != policy.Allow && d.Mode == policy.Enforce }

// Err is nil for an allow, else fault.Denied naming the first failed checks.
func (d *Decision) Err() error {
	if d.Allowed() {
		return nil
	}
	return fault.Newf(fault.Denied, "%s is denied by policy %s in %s: %s", d.Digest, d.Policy, clip(d.ScopeID, 100), failures(d.Checks, 2))
}

// The members of a summary's predicate that its definition does not name.
const (
	vsaScope = "urn:assay:scope"
	vsaFacts = "urn:assay:facts"
	vsaMode  = "urn:assay:mode"
	// vsaExceptions are the ids of the exceptions for which checks only warn.
	vsaExceptions = "urn:assay:exceptions"
	// slsaVersion is what the levels are measured by.
	slsaVersion = "1.2"
)

// summary is the statement that a decision is: a SLSA verification summary.
func summary(verifierID string, t Target, f *policy.Facts, factsID string, p *policy.Policy, res policy.Result, now time.Time) (*attestation.Statement, error) {
	v := attestation.VSA{
		Verifier:           attestation.VSAVerifier{ID: verifierID},
		TimeVerified:       now.UTC().Truncate(time.Second),
		ResourceURI:        t.uri(),
		Policy:             attestation.ResourceDescriptor{URI: "urn:assay:policy:" + p.Name(), Digest: artifact.DigestSet{artifact.SHA256: p.Hash()}},
		VerificationResult: attestation.VSAFailed,
		VerifiedLevels:     []string{},
		SLSAVersion:        slsaVersion,
		Extensions:         map[string]jsontext.Value{},
	}
	if res.Verdict == policy.Allow {
		v.VerificationResult = attestation.VSAPassed
		v.VerifiedLevels = []string{level(res.Level)}
	}
	for _, ids := range [][]string{signatureIDs(f), attestationIDs(f)} {
		for _, id := range ids {
			v.InputAttestations = append(v.InputAttestations, attestation.ResourceDescriptor{
				URI: "urn:assay:evidence:" + id, Digest: artifact.DigestSet{artifact.SHA256: id[len("att_"):]},
			})
		}
	}
	for k, s := range map[string]string{vsaScope: f.Scope.ID, vsaFacts: factsID, vsaMode: string(res.Mode)} {
		b, err := strictjson.Canonical(s)
		if err != nil {
			return nil, err
		}
		v.Extensions[k] = b
	}
	var excepted []string
	for _, c := range res.Checks {
		if c.Exception != "" && c.Status == policy.Warned && !slices.Contains(excepted, c.Exception) {
			excepted = append(excepted, c.Exception)
		}
	}
	if len(excepted) > 0 {
		b, err := strictjson.Canonical(excepted)
		if err != nil {
			return nil, err
		}
		v.Extensions[vsaExceptions] = b
	}
	return v.Statement(attestation.Subject{Name: t.uri(), Digest: t.Digest.Set()})
}

func level(n int) string {
	if n == 0 {
		return "SLSA_BUILD_LEVEL_UNEVALUATED"
	}
	return "SLSA_BUILD_LEVEL_" + string(rune('0'+min(n, 3))) // SLSA 1.x ends at 3
}

func signatureIDs(f *policy.Facts) (ids []string) {
	for i := range f.Signatures {
		ids = append(ids, f.Signatures[i].ID)
	}
	return ids
}

func attestationIDs(f *policy.Facts) (ids []string) {
	for i := range f.Attestations {
		ids = append(ids, f.Attestations[i].ID)
	}
	return ids
}

// decisionID is made of the signed statement's bytes.
func decisionID(payload []byte) string {
	sum := sha256.Sum256(payload)
	return "dec_" + hex.EncodeToString(sum[:])
}
