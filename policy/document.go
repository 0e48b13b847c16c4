package policy

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/internal/strictyaml"

	"go.yaml.in/yaml/v3"
)

// Document is a policy as it is written. The schema for editors is
// policy.schema.json; [ParseRequirements] reads it strictly.
type Document struct {
	APIVersion string   `yaml:"apiVersion" json:"apiVersion"` // "assay/v1"
	Kind       string   `yaml:"kind" json:"kind"`             // "Policy"
	Metadata   Metadata `yaml:"metadata" json:"metadata"`
	Spec       Spec     `yaml:"spec" json:"spec"`
}

// Metadata names a policy.
type Metadata struct {
	Name        string            `yaml:"name" json:"name"`                                   // lower-case letters, digits, "-" and "."; at most 63
	Description string            `yaml:"description,omitempty" json:"description,omitempty"` // for people; not part of the hash
	Labels      map[string]string `yaml:"labels,omitempty" json:"labels,omitempty"`           // for people; not part of the hash
}

// Spec says where the policy holds, how hard, and what it wants. Requirements
// and Rego are combined by AND; one of them must be there.
type Spec struct {
	Scope        *Selector     `yaml:"scope,omitempty" json:"scope,omitempty"`     // absent: holds everywhere
	Mode         Mode          `yaml:"mode,omitempty" json:"mode,omitempty"`       // default enforce
	Rollout      []Rollout     `yaml:"rollout,omitempty" json:"rollout,omitempty"` // modes of single rules, by stages
	Facts        *Selection    `yaml:"facts,omitempty" json:"facts,omitempty"`     // predicate members that the Rego modules read
	Requirements *Requirements `yaml:"requirements,omitempty" json:"requirements,omitempty"`
	Rego         Modules       `yaml:"rego,omitempty" json:"rego,omitempty"`
	// Tenant is an allow list, in place of requirements and rego: it holds beside the
	// policy that applies.
	Tenant *Tenant `yaml:"tenant,omitempty" json:"tenant,omitempty"`
	// Data is what the modules read beside the facts, as data.NAME.
	Data map[string]Value `yaml:"data,omitempty" json:"data,omitempty"`
}

// Mode is what a denial does.
type Mode string

// The modes. A policy's verdict is the same in each; the doors act on it.
const (
	Audit   Mode = "audit"   // the denial is recorded
	Warn    Mode = "warn"    // recorded, and told to the caller
	Enforce Mode = "enforce" // the caller is refused
)

// strictness orders modes; 0 is none.
func (m Mode) strictness() int {
	switch m {
	case Audit:
		return 1
	case Warn:
		return 2
	case Enforce:
		return 3
	}
	return 0
}

// Selection declares predicate members that enter the facts beyond those that
// the requirements name.
type Selection struct {
	Fields []FieldSelection `yaml:"fields" json:"fields"`
}

// FieldSelection names members of one predicate type by [Path].
type FieldSelection struct {
	PredicateType string   `yaml:"predicateType" json:"predicateType"`
	Paths         []string `yaml:"paths" json:"paths"`
}

// Requirements are the common wishes. All that are given must hold.
type Requirements struct {
	Signatures   []SignatureRequirement   `yaml:"signatures,omitempty" json:"signatures,omitempty"`
	Attestations []AttestationRequirement `yaml:"attestations,omitempty" json:"attestations,omitempty"`
	Provenance   *ProvenanceRequirement   `yaml:"provenance,omitempty" json:"provenance,omitempty"`
	Build        *BuildRequirement        `yaml:"build,omitempty" json:"build,omitempty"`
	Source       *SourceRequirement       `yaml:"source,omitempty" json:"source,omitempty"`
	Tenant       string                   `yaml:"tenant,omitempty" json:"tenant,omitempty"`     // "listed": a tenant's allow list holds where the artifact is to run
	Contract     string                   `yaml:"contract,omitempty" json:"contract,omitempty"` // "complete": all that the site's contract expects of the artifact is there; "in-time": and came in its time
	Runner       *RunnerRequirement       `yaml:"runner,omitempty" json:"runner,omitempty"`     // the machines that built it
	Builders     *BuildersRequirement     `yaml:"builders,omitempty" json:"builders,omitempty"` // how many built it, each by itself
	Service      *ServiceRequirement      `yaml:"service,omitempty" json:"service,omitempty"`   // to which service it belongs, by the site's catalogue
	Mesh         *MeshRequirement         `yaml:"mesh,omitempty" json:"mesh,omitempty"`         // how its workloads are reached, by their cluster's API server
	Workload     *WorkloadRequirement     `yaml:"workload,omitempty" json:"workload,omitempty"` // which identities its workloads have
	SBOM         *SBOMRequirement         `yaml:"sbom,omitempty" json:"sbom,omitempty"`         // its bill of materials, and who signed it
	// Vulnerabilities that an artifact may not have, and what must be known of them.
	Vulnerabilities    *VulnerabilityRequirement `yaml:"vulnerabilities,omitempty" json:"vulnerabilities,omitempty"`
	Components         *ComponentRequirement     `yaml:"components,omitempty" json:"components,omitempty"` // how old its components must be, and under which licences
	Layouts            []LayoutRequirement       `yaml:"layouts,omitempty" json:"layouts,omitempty"`       // signed in-toto layouts that were followed
	ReportRequirements `yaml:",inline"`
	MaxAge             Duration `yaml:"maxAge,omitempty" json:"maxAge,omitempty"`                    // evidence older than this, by trusted time, does not count; "720h" or "30d"
	RequireLog         bool     `yaml:"requireLog,omitempty" json:"requireLog,omitzero"`             // evidence without a verified log entry does not count
	RequireWitnesses   int      `yaml:"requireWitnesses,omitempty" json:"requireWitnesses,omitzero"` // evidence whose log entry fewer distinct known witnesses cosigned does not count
	RequireTimestamp   bool     `yaml:"requireTimestamp,omitempty" json:"requireTimestamp,omitzero"` // evidence without an RFC 3161 timestamp does not count
}

// SignatureRequirement wants signatures by at least Threshold distinct signers.
type SignatureRequirement struct {
	Name                string          `yaml:"name,omitempty" json:"name,omitempty"`
	Threshold           *int            `yaml:"threshold,omitempty" json:"threshold,omitempty"`                    // distinct signers; default 1
	Identities          []IdentityMatch `yaml:"identities,omitempty" json:"identities,omitempty"`                  // any one of them makes a signer count
	Signers             string          `yaml:"signers,omitempty" json:"signers,omitempty"`                        // "delegated", in place of identities: whom the organisation's root delegated this repository and type to
	IncludeAttestations bool            `yaml:"includeAttestations,omitempty" json:"includeAttestations,omitzero"` // count a signed statement of any type as a signature
}

// AttestationRequirement wants statements of exactly one predicate type, whose
// fields all hold, by at least Threshold distinct signers.
type AttestationRequirement struct {
	Name          string          `yaml:"name,omitempty" json:"name,omitempty"`
	PredicateType string          `yaml:"predicateType" json:"predicateType"` // exact
	Threshold     *int            `yaml:"threshold,omitempty" json:"threshold,omitempty"`
	Identities    []IdentityMatch `yaml:"identities,omitempty" json:"identities,omitempty"`
	Signers       string          `yaml:"signers,omitempty" json:"signers,omitempty"` // "delegated", in place of identities
	Fields        []FieldMatch    `yaml:"fields,omitempty" json:"fields,omitempty"`
}

// ProvenanceRequirement wants one provenance attestation for which all that is
// given holds at once.
type ProvenanceRequirement struct {
	Builders           []Builder           `yaml:"builders,omitempty" json:"builders,omitempty"`     // any one of them; absent: builders configured on the instance, by level
	MinLevel           int                 `yaml:"minLevel,omitempty" json:"minLevel,omitzero"`      // SLSA build level, 1 to 4
	BuildTypes         []string            `yaml:"buildTypes,omitempty" json:"buildTypes,omitempty"` // exact
	Sources            []string            `yaml:"sources,omitempty" json:"sources,omitempty"`       // patterns (see internal/glob) over the source URI, without "git+" and ref
	Refs               []string            `yaml:"refs,omitempty" json:"refs,omitempty"`             // patterns over the source ref
	ExternalParameters *ExternalParameters `yaml:"externalParameters,omitempty" json:"externalParameters,omitempty"`
}

// Builder is a builder that is believed up to a level when the named identity
// signs for it.
type Builder struct {
	ID     string        `yaml:"id" json:"id"`         // exact builder.id
	Signer IdentityMatch `yaml:"signer" json:"signer"` // who may sign provenance of this builder
	Level  int           `yaml:"level" json:"level"`   // SLSA build level that it is believed at, 1 to 4
}

// ExternalParameters lists the build inputs that are allowed. Every parameter
// that the provenance names and this does not is a refusal. A name may go
// inside an object with dots: "workflow.ref". A name in Allow must be there,
// unless null is among its values.
type ExternalParameters struct {
	Allow    map[string][]Value `yaml:"allow,omitempty" json:"allow,omitempty"`       // name to allowed values
	AllowAny []string           `yaml:"allowAny,omitempty" json:"allowAny,omitempty"` // names whose value does not matter
}

// FieldMatch wants one member of a predicate. Exactly one of the conditions is
// given; an absent, null or empty member satisfies none.
type FieldMatch struct {
	Path    string   `yaml:"path" json:"path"` // see Path
	Equals  *Value   `yaml:"equals,omitempty" json:"equals,omitempty"`
	In      []Value  `yaml:"in,omitempty" json:"in,omitempty"`
	Matches string   `yaml:"matches,omitempty" json:"matches,omitempty"` // RE2, anchored at both ends
	AtLeast *float64 `yaml:"atLeast,omitempty" json:"atLeast,omitempty"`
	AtMost  *float64 `yaml:"atMost,omitempty" json:"atMost,omitempty"`
	Present *bool    `yaml:"present,omitempty" json:"present,omitempty"` // true alone
}

// Value is any JSON value in a policy.
type Value struct{ JSON any }

// UnmarshalYAML reads a plain YAML value; a date stays the text it is.
func (v *Value) UnmarshalYAML(n *yaml.Node) (err error) {
	v.JSON, err = fromYAML(n)
	return err
}

// MarshalJSON writes the value.
func (v Value) MarshalJSON() ([]byte, error) { return canonicalJSON(v.JSON) }

// MarshalYAML writes the value.
func (v Value) MarshalYAML() (any, error) { return v.JSON, nil }

func fromYAML(n *yaml.Node) (any, error) {
	switch n.Kind {
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			v, err := fromYAML(n.Content[i+1])
			if err != nil {
				return nil, err
			}
			m[n.Content[i].Value] = v
		}
		return m, nil
	case yaml.SequenceNode:
		l := make([]any, 0, len(n.Content))
		for _, c := range n.Content {
			v, err := fromYAML(c)
			if err != nil {
				return nil, err
			}
			l = append(l, v)
		}
		return l, nil
	case yaml.ScalarNode:
		switch n.Tag {
		case "!!str", "!!timestamp":
			return n.Value, nil
		case "!!bool":
			return strconv.ParseBool(strings.ToLower(n.Value))
		case "!!null":
			return nil, nil
		case "!!int":
			i, err := strconv.ParseInt(n.Value, 0, 64)
			if err != nil || i > 1<<53 || i < -1<<53 {
				return nil, fmt.Errorf("line %d: integer %.40s is beyond 2^53; write it in quotes", n.Line, n.Value)
			}
			return i, nil
		case "!!float":
			f, err := strconv.ParseFloat(n.Value, 64)
			if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
				return nil, fmt.Errorf("line %d: number %.40s is not finite", n.Line, n.Value)
			}
			return f, nil
		}
	}
	return nil, fmt.Errorf("line %d: a value of tag %.40s is not read here", n.Line, n.Tag)
}

// Duration is a length of time in a policy: Go's form, and also whole days
// ("30d"). Zero is absent.
type Duration time.Duration

// UnmarshalYAML reads "90m", "720h" or "30d".
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	var out time.Duration
	var err error
	if days, ok := strings.CutSuffix(n.Value, "d"); ok {
		var k uint64
		k, err = strconv.ParseUint(days, 10, 16)
		out = time.Duration(k) * 24 * time.Hour
	} else {
		out, err = time.ParseDuration(n.Value)
	}
	if n.Kind != yaml.ScalarNode || err != nil || out <= 0 {
		return fmt.Errorf("line %d: duration %.40q, want one above zero such as 90m, 720h or 30d", n.Line, n.Value)
	}
	*d = Duration(out)
	return nil
}

// MarshalYAML writes Go's form.
func (d Duration) MarshalYAML() (any, error) { return time.Duration(d).String(), nil }

// MarshalJSON writes Go's form, or "" when absent.
func (d Duration) MarshalJSON() ([]byte, error) {
	if d == 0 {
		return []byte(`""`), nil
	}
	return strconv.AppendQuote(nil, time.Duration(d).String()), nil
}

// Module is one Rego module.
type Module struct {
	Name string `yaml:"name" json:"name"` // file name, for messages and checks
	Text string `yaml:"text" json:"text"` // Rego v1, package assay.policy; of any other package it is a library of the others
}

// Modules is one Rego text, or a list of named ones. Each is evaluated by
// itself and all must allow.
type Modules []Module

// UnmarshalYAML reads a text or a list of {name, text}.
func (m *Modules) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		*m = Modules{{Name: "policy", Text: n.Value}}
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		return fmt.Errorf("line %d: rego wants a text, or a list of {name, text}", n.Line)
	}
	for _, c := range n.Content { // KnownFields does not reach through a method
		for i := 0; c.Kind == yaml.MappingNode && i < len(c.Content); i += 2 {
			if k := c.Content[i].Value; k != "name" && k != "text" {
				return fmt.Errorf("line %d: field %.40s not found in a rego module; want name and text", c.Content[i].Line, k)
			}
		}
		var one Module
		if err := c.Decode(&one); err != nil {
			return err
		}
		*m = append(*m, one)
	}
	return nil
}

// ParseDocument reads one policy document strictly: unknown and duplicate
// fields, aliases and anchors, several documents and over-long texts are
// fault.Invalid (or fault.TooLarge), with the line.
func ParseDocument(b []byte) (*Document, error) {
	if len(b) > maxDocument {
		return nil, fault.Newf(fault.TooLarge, "policy of %d bytes: at most %d are read", len(b), maxDocument)
	}
	docs, err := strictyaml.Split(b)
	if err != nil {
		return nil, tidyYAML(err)
	}
	if len(docs) != 1 {
		return nil, fault.Newf(fault.Invalid, "want one policy document, found %d", len(docs))
	}
	var d Document
	// From the text as it was given, so that the lines in errors are its own.
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&d); err != nil {
		return nil, tidyYAML(err)
	}
	return &d, nil
}

const maxDocument = 1 << 20

var goType = regexp.MustCompile(` in type policy\.(\w+)`)

// tidyYAML says "not found in Spec" instead of naming a Go type.
func tidyYAML(err error) error {
	var te *yaml.TypeError
	if errors.As(err, &te) {
		return fault.Newf(fault.Invalid, "policy: %s", goType.ReplaceAllString(strings.Join(te.Errors, "; "), " in $1"))
	}
	return fault.Newf(fault.Invalid, "policy: %s", strings.TrimPrefix(err.Error(), "yaml: "))
}

// ParseRequirements reads and compiles one policy document. Errors are
// fault.Invalid; YAML ones name the line, others the field.
func ParseRequirements(b []byte) (*Policy, error) {
	d, err := ParseDocument(b)
	if err != nil {
		return nil, err
	}
	return Compile(d)
}

// DefaultKeyless is the policy that equals cosign's flags
// --certificate-identity and --certificate-oidc-issuer: any verified signature
// or statement over the artifact by exactly this identity.
func DefaultKeyless(identity, issuer string) (*Policy, error) {
	return DefaultIdentities("certificate-identity", IdentityMatch{Subject: identity, Issuer: issuer})
}

// DefaultKey is the policy that equals cosign's --key: any verified signature
// or statement by this key, named by its fingerprint.
func DefaultKey(fingerprint string) (*Policy, error) {
	return DefaultIdentities("key", IdentityMatch{Key: fingerprint})
}

// DefaultIdentities is the policy that wants one signature or statement of any
// type by one of the identities; it is what a check without a policy file uses.
func DefaultIdentities(name string, ids ...IdentityMatch) (*Policy, error) {
	return Compile(&Document{
		APIVersion: APIVersion, Kind: KindPolicy, Metadata: Metadata{Name: name},
		Spec: Spec{Requirements: &Requirements{Signatures: []SignatureRequirement{
			{Name: name, Identities: ids, IncludeAttestations: true},
		}}},
	})
}

// The fixed head of a policy document.
const (
	APIVersion = "assay/v1"
	KindPolicy = "Policy"
)

var nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)
