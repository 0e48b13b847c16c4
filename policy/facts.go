// Package policy turns facts into a result: may this artifact run here, and
// how do we know?
//
// [Facts] is what typed Go has verified about one artifact: who signed, who
// attested what, who built it from what source. A [Policy] says what is
// wanted, as plain YAML requirements, as Rego v1, or both; both compile to the
// same evaluation and yield [Check] lines that name what was expected, what
// was found, the evidence, and the command that would mend it.
//
// The default is deny. A policy without a rule, a match over nothing, evidence
// that was cut short and an evaluation that fails are all denials.
//
// The package does no input or output and verifies no signature: everything in
// Facts has been verified by those who made it.
package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

const (
	// FactsSchema is the value of Facts.Schema. Members are only ever added,
	// and are left out when they have nothing to say, so that the address of
	// facts recorded earlier stays what it was.
	FactsSchema = "assay/facts/v1"
	// MaxFacts is the most that canonical facts may hold, in bytes.
	MaxFacts = 64 << 10
)

// Facts is the verified knowledge about one artifact in one scope. Its
// canonical JSON is the input of every policy, and is what a decision is
// replayed from. The schema is facts.schema.json.
//
// There is no time of collection and no trust epoch in it: neither changes
// what is known, and both would change the address of unchanged facts.
type Facts struct {
	Schema       string        `json:"schema"`                  // FactsSchema
	Subject      Subject       `json:"subject"`                 // what the facts are about
	Scope        Scope         `json:"scope"`                   // where it is to run
	Signatures   []Signature   `json:"signatures"`              // verified signatures over the artifact itself
	Attestations []Attestation `json:"attestations"`            // verified statements about it
	Provenance   []Provenance  `json:"provenance"`              // one view of each provenance attestation
	Traces       []Trace       `json:"traces,omitempty"`        // one view of each trace of a build
	FailedBuilds []FailedBuild `json:"failed_builds,omitempty"` // statements that a build failed which left the artifact
	Reports      []Report      `json:"reports,omitempty"`       // one view of each report: tests, coverage, findings, fuzzing, licences, review
	Sources      []SourceFact  `json:"sources,omitempty"`       // statements about the commits that the provenance names, and of the archive that the artifact is
	Contract     *ContractFact `json:"contract,omitempty"`      // what there is of what the site's contract expects; absent: no contract binds it
	Runners      []Runner      `json:"runners,omitempty"`       // machines that built it
	Rebuilds     []Rebuild     `json:"rebuilds,omitempty"`      // builds of it by others
	Layouts      []LayoutFact  `json:"layouts,omitempty"`       // whether it came about as layouts demand that the policy names
	// Vulnerabilities are its flaws, as far as this site knows; absent: it knows
	// nothing of them.
	Vulnerabilities *Vulnerabilities `json:"vulnerabilities,omitempty"`
	// Service is whose it is, as far as this site knows; absent: no policy asked.
	Service *ServiceFact `json:"service,omitempty"`
	// Workload and Mesh are what the scope's cluster says of the workloads that run it;
	// absent: no policy asked.
	Workload *WorkloadFact `json:"workload,omitempty"`
	Mesh     *MeshFact     `json:"mesh,omitempty"`
	// Components are the ages and licences of its components, one for each requirement
	// that asks for them.
	Components []ComponentsFact `json:"components,omitempty"`
	// Exceptions are those for the artifact in this scope; absent: there are none.
	Exceptions []ExceptionFact `json:"exceptions,omitempty"`
	Rejected   []Rejected      `json:"rejected"`  // evidence that did not verify; proves nothing, is shown
	Truncated  bool            `json:"truncated"` // more evidence exists than was read; always a deny
	Trust      Trust           `json:"trust"`     // state of what the evidence was verified with
}

// Kind is what sort of thing an artifact is.
type Kind string

// The kinds of artifact.
const (
	Image Kind = "image" // an OCI manifest or index
	File  Kind = "file"  // any bytes
)

// Subject names the artifact. The digest alone identifies it; the rest says
// where it was met.
type Subject struct {
	Digest     artifact.Digest `json:"digest"`
	Kind       Kind            `json:"kind"`
	MediaType  string          `json:"media_type,omitempty"`
	Registry   string          `json:"registry,omitempty"`   // host, for artifacts of another registry than our own
	Repository string          `json:"repository,omitempty"` // without the host: "team-a/app"; empty for files
	Tags       []string        `json:"tags,omitempty"`       // sorted
	Profile    string          `json:"profile,omitempty"`    // of the own repository: "dev" for work in progress, else absent
}

// Scope is where the artifact is to run. Empty members are unknown, and a
// policy that selects on one does not match them.
type Scope struct {
	ID          string `json:"id"` // stable name of the scope, the second half of a decision's key
	Environment string `json:"environment,omitempty"`
	Cluster     string `json:"cluster,omitempty"`
	Namespace   string `json:"namespace,omitempty"`
	Team        string `json:"team,omitempty"`
	Service     string `json:"service,omitempty"`
	Tier        string `json:"tier,omitempty"`
}

// Identity is whom a certificate names: the OIDC issuer, the subject
// alternative name, and the Fulcio extensions by their camel-case names
// ("sourceRepositoryURI").
type Identity struct {
	Issuer     string            `json:"issuer"`
	Subject    string            `json:"subject"`
	Extensions map[string]string `json:"extensions,omitempty"`
}

// Evidence is what is known of one verified bundle.
type Evidence struct {
	ID          string    `json:"id"`                     // att_<sha256 of the bundle>
	Source      string    `json:"source"`                 // where it was read: "evidence", "oci:ghcr.io", "file"
	Repository  string    `json:"repository,omitempty"`   // repository that it came from
	Legacy      bool      `json:"legacy,omitzero"`        // came by a .sig or .att tag
	Identity    *Identity `json:"identity,omitempty"`     // keyless; exactly one of Identity and Key
	Key         string    `json:"key,omitempty"`          // keyed: "sha256:" and the hex SHA-256 of the key's PKIX form
	Root        string    `json:"root,omitempty"`         // name of the trust root that verified it
	Scheme      string    `json:"scheme"`                 // "message", "dsse" or "notation"
	TrustedTime string    `json:"trusted_time,omitempty"` // RFC 3339, UTC, whole seconds; empty: no trusted time
	TimeSource  string    `json:"time_source,omitempty"`  // "tsa", "log", or "authority" (a Notation signing authority's word)
	LogIndex    *int64    `json:"log_index,omitempty"`    // absent: not logged
	LogID       string    `json:"log_id,omitempty"`       // hex
	Witnesses   []string  `json:"witnesses,omitempty"`    // known witnesses that cosigned the log's checkpoint, each once
	// Delegation is by which it counts, where the signer is somebody's delegate.
	Delegation *Delegation `json:"delegation,omitempty"`
}

// Delegation is the chain by which the organisation's root handed the signer
// what it signed, verified for this repository and predicate type.
type Delegation struct {
	Name  string   `json:"name"`  // of the last link
	Chain []string `json:"chain"` // from the root's link to the last
}

// At is the trusted time; ok is false when there is none.
func (e *Evidence) At() (at time.Time, ok bool) {
	at, err := time.Parse(time.RFC3339, e.TrustedTime)
	return at, err == nil
}

// Party is whom the evidence counts for in a threshold: two bundles by one
// identity, or by one key, are one, and so is one workflow on whatever branch or
// commit it ran: who can push a branch would else be as many as they like.
func (e *Evidence) Party() string {
	if e.Identity == nil {
		return e.Key
	}
	subject := e.Identity.Subject
	if i := strings.LastIndex(subject, "@refs/"); i >= 0 {
		subject = subject[:i]
	} else if at := strings.LastIndexByte(subject, '@'); at > strings.LastIndexByte(subject, '/') && strings.Contains(subject, "://") {
		subject = subject[:at] // a workflow by the commit or tag that it was called at
	}
	return e.Identity.Issuer + "\x00" + subject
}

// Signer is who signed, exactly.
func (e *Evidence) Signer() string {
	if e.Identity != nil {
		return e.Identity.Issuer + "\x00" + e.Identity.Subject
	}
	return e.Key
}

// SignerText is the signer for people.
func (e *Evidence) SignerText() string {
	if e.Identity != nil {
		return clip(e.Identity.Subject, 200) + " (issuer " + clip(e.Identity.Issuer, 120) + ")"
	}
	return "key " + clip(e.Key, 80)
}

// Signature is a verified signature over the artifact itself: a plain
// signature of its bytes, or a statement of type
// https://sigstore.dev/cosign/sign/v1.
type Signature struct {
	Evidence
}

// Attestation is a verified statement about the artifact. Fields holds the
// predicate's top-level scalars and the members that a policy names, by path
// (see [Path]); Large lists named members that exist but are over 4 KiB.
type Attestation struct {
	Evidence
	PredicateType string         `json:"predicate_type"`
	Fields        map[string]any `json:"fields,omitempty"`
	Large         []string       `json:"large,omitempty"`
}

// Provenance is what a provenance attestation says, over all of its versions.
// Level is what the configured builders grant, never what the document claims.
type Provenance struct {
	Attestation        string         `json:"attestation"` // id of the attestation
	BuilderID          string         `json:"builder_id"`
	BuildType          string         `json:"build_type,omitempty"`
	Level              int            `json:"level"` // SLSA build level, 0 to 4
	Source             Source         `json:"source"`
	ExternalParameters map[string]any `json:"external_parameters,omitempty"`
	InvocationID       string         `json:"invocation_id,omitempty"`
	ProvenanceBuild
}

// Source is the source that a build says it was made from.
type Source struct {
	URI    string `json:"uri,omitempty"`    // without "git+" and without the ref: "https://github.com/org/repo"
	Digest string `json:"digest,omitempty"` // "alg:hex" of the commit: "gitCommit:…", "sha1:…"
	Ref    string `json:"ref,omitempty"`    // "refs/heads/main"
}

// Rejected is evidence that did not verify. It never counts, and by itself
// never denies: anyone who may push could attach it.
type Rejected struct {
	ID     string `json:"id"`
	Source string `json:"source"`
	Code   string `json:"code"`   // fixed word: "malformed", "unverified", "wrong_subject", ...
	Reason string `json:"reason"` // at most 200 bytes, printable
}

// Trust is the state of the roots and lists that the evidence was checked with.
type Trust struct {
	Roots []string `json:"roots"` // names of the roots in use, sorted
	Stale bool     `json:"stale"` // a root or list is older than its own limit; always a deny
	// Revocations say of each root whether a list of revocations was asked; sorted
	// by root.
	Revocations []Revocations `json:"revocations,omitempty"`
	// Revoked is set when the artifact itself is revoked; always a deny.
	Revoked *Revoked `json:"revoked,omitempty"`
}

// Revocations is the state of one root's list. Its version is not in it: that
// rises with every renewal, and what is known stays the same.
type Revocations struct {
	Root    string `json:"root"`
	State   string `json:"state"`             // "current", "stale" or "not_configured"
	Entries string `json:"entries,omitempty"` // "sha256:" and hex, of what is revoked; absent when not configured
}

// Revoked says since when an artifact is revoked, and why.
type Revoked struct {
	Since  string `json:"since"` // RFC 3339
	Reason string `json:"reason"`
}

// Normalize fills what must not be absent and sorts what has no order of its
// own, so that the same knowledge has one canonical form.
func (f *Facts) Normalize() {
	f.Schema = FactsSchema
	f.Signatures = orEmpty(f.Signatures)
	f.Attestations = orEmpty(f.Attestations)
	f.Provenance = orEmpty(f.Provenance)
	f.Rejected = orEmpty(f.Rejected)
	f.Trust.Roots = orEmpty(f.Trust.Roots)
	slices.Sort(f.Trust.Roots)
	slices.SortStableFunc(f.Trust.Revocations, func(a, b Revocations) int { return strings.Compare(a.Root, b.Root) })
	slices.Sort(f.Subject.Tags)
	slices.SortStableFunc(f.Signatures, func(a, b Signature) int { return compareEvidence(&a.Evidence, &b.Evidence) })
	slices.SortStableFunc(f.Attestations, func(a, b Attestation) int {
		if c := strings.Compare(a.PredicateType, b.PredicateType); c != 0 {
			return c
		}
		return compareEvidence(&a.Evidence, &b.Evidence)
	})
	slices.SortStableFunc(f.Provenance, func(a, b Provenance) int { return strings.Compare(a.Attestation, b.Attestation) })
	f.sortBuild()
	slices.SortStableFunc(f.Sources, func(a, b SourceFact) int {
		if c := compareEvidence(&a.Evidence, &b.Evidence); c != 0 {
			return c
		}
		return strings.Compare(a.Commit, b.Commit)
	})
	slices.SortStableFunc(f.Reports, func(a, b Report) int { return strings.Compare(a.Attestation, b.Attestation) })
	slices.SortStableFunc(f.Runners, func(a, b Runner) int { return strings.Compare(a.Attestation, b.Attestation) })
	slices.SortStableFunc(f.Rebuilds, func(a, b Rebuild) int { return strings.Compare(a.Attestation, b.Attestation) })
	slices.SortStableFunc(f.Rejected, func(a, b Rejected) int {
		if c := strings.Compare(a.ID, b.ID); c != 0 {
			return c
		}
		return strings.Compare(a.Code, b.Code)
	})
}

func compareEvidence(a, b *Evidence) int {
	if c := strings.Compare(a.ID, b.ID); c != 0 {
		return c
	}
	return strings.Compare(a.Source, b.Source)
}

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// Canonical is the RFC 8785 form of normalised facts. Over MaxFacts it is
// fault.TooLarge; the collector then drops evidence and marks the facts
// truncated.
func (f *Facts) Canonical() ([]byte, error) {
	f.Normalize()
	b, err := strictjson.Canonical(f)
	if err != nil {
		return nil, fault.Newf(fault.Internal, "write facts: %w", err)
	}
	if len(b) > MaxFacts {
		return nil, fault.Newf(fault.TooLarge, "facts of %d bytes, at most %d are kept", len(b), MaxFacts)
	}
	return b, nil
}

// ParseFacts reads recorded facts, strictly: an unknown member is an error.
func ParseFacts(b []byte) (*Facts, error) {
	if len(b) > MaxFacts {
		return nil, fault.Newf(fault.TooLarge, "facts of %d bytes, at most %d are kept", len(b), MaxFacts)
	}
	var f Facts
	if err := strictjson.Unmarshal(b, &f, strictjson.RejectUnknown()); err != nil {
		return nil, fault.Newf(fault.Invalid, "read facts: %w", err)
	}
	if f.Schema != FactsSchema {
		return nil, fault.Newf(fault.Invalid, "facts of schema %.60q, want %s", f.Schema, FactsSchema)
	}
	if err := f.Subject.Digest.Validate(); err != nil {
		return nil, err
	}
	return &f, nil
}

// FactsID is the content address of canonical facts: facts_<sha256>.
func FactsID(canonical []byte) string {
	sum := sha256.Sum256(canonical)
	return "facts_" + hex.EncodeToString(sum[:])
}

// Target is the artifact as a command line names it: the reference pinned to
// the digest where the place is known, else the digest alone.
func (s Subject) Target() string {
	if s.Repository == "" {
		return string(s.Digest)
	}
	t := s.Repository + "@" + string(s.Digest)
	if s.Registry != "" {
		t = s.Registry + "/" + t
	}
	return t
}

// clip bounds and cleans a string that others made, for one line of text.
func clip(s string, n int) string { return excerpt.Line(s, n, '?') }
