package source

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/strictjson"
)

const slsaVersion = "1.2"

// LevelName is a level as verification summaries write it.
func LevelName(n int) string { return "SLSA_SOURCE_LEVEL_" + string(rune('0'+min(max(n, 0), 3))) }

// The members of a source summary that its definition does not name.
const (
	// VSASignatures counts the commits by the outcome of their signature.
	VSASignatures = "urn:assay:source:signatures"
	// VSANext is what keeps the next level away.
	VSANext = "urn:assay:source:next"
)

// Summary is what a source verification summary says (SLSA 1.2, "Source:
// Verification summary attestation").
type Summary struct {
	Verifier   string // URI of who verified
	Repository string // URI: "git+https://…"
	Ref        string // the branch whose revision it is, "" for none
	Commit     string
	Policy     attestation.ResourceDescriptor
	Passed     bool
	Level      int
	Next       *Next
	Signatures map[Status]int            // of the commits that were judged; nil: not judged
	Merges     *attestation.SourceMerges // of these, made again; nil: none was
	At         time.Time
	Inputs     []string // ids of the attestations that it rests on
}

// Statement makes the in-toto statement about the commit.
func (s *Summary) Statement() (*attestation.Statement, error) {
	v := attestation.VSA{
		Verifier: attestation.VSAVerifier{ID: s.Verifier}, TimeVerified: s.At.UTC().Truncate(time.Second), ResourceURI: s.Repository,
		Policy: s.Policy, VerificationResult: attestation.VSAFailed, VerifiedLevels: []string{}, SLSAVersion: slsaVersion,
		Extensions: map[string]jsontext.Value{},
	}
	if s.Passed {
		v.VerificationResult, v.VerifiedLevels = attestation.VSAPassed, []string{LevelName(s.Level)}
	}
	for _, id := range s.Inputs {
		v.InputAttestations = append(v.InputAttestations, attestation.ResourceDescriptor{
			URI: "urn:assay:evidence:" + id, Digest: artifact.DigestSet{artifact.SHA256: id[len("att_"):]},
		})
	}
	extensions := map[string]any{}
	if s.Signatures != nil {
		extensions[VSASignatures] = s.Signatures
	}
	if s.Next != nil {
		extensions[VSANext] = s.Next
	}
	if s.Merges != nil {
		extensions[attestation.VSASourceMerges] = s.Merges
	}
	for k, e := range extensions {
		b, err := strictjson.Canonical(e)
		if err != nil {
			return nil, err
		}
		v.Extensions[k] = b
	}
	sub := attestation.Subject{URI: s.Repository, Digest: artifact.DigestSet{"gitCommit": s.Commit}}
	if s.Ref != "" {
		sub.Annotations = map[string]any{"source_refs": []string{s.Ref}}
	}
	return v.Statement(sub)
}

// Summary makes the summary of a report.
func (r *Report) Summary(verifier, repository string, at time.Time) *Summary {
	s := &Summary{
		Verifier: verifier, Repository: repository, Commit: r.Head, At: at, Level: r.Level, Passed: r.Verdict == Passed, Next: r.Next,
		Policy:     attestation.ResourceDescriptor{URI: "urn:assay:source-policy:" + r.Policy, Digest: artifact.DigestSet{artifact.SHA256: artifact.Digest(r.PolicyDigest).Hex()}},
		Signatures: map[Status]int{},
	}
	if r.Merged {
		s.Ref = r.Branch
	}
	for _, c := range r.Commits {
		s.Signatures[c.Signature.Status]++
	}
	s.Merges = &attestation.SourceMerges{}
	for _, m := range r.Merges {
		switch m.State {
		case MergeClean:
			s.Merges.Clean++
		case MergeResolved:
			s.Merges.Resolved++
		case MergeChanged:
			if s.Merges.Changed++; len(s.Merges.Commits) < attestation.MaxSourceMerges {
				s.Merges.Commits = append(s.Merges.Commits, m.Commit)
			}
		default:
			s.Merges.Unknown++
		}
	}
	if r.Controls != nil && r.Controls.Evidence != "" {
		s.Inputs = append(s.Inputs, r.Controls.Evidence)
	}
	return s
}
