// Package contract says which evidence a build owes, and keeps the books: what
// was expected of which artifact, what came, what is missing.
//
// A [Contract] is a document of `assay apply`: for the repositories that it
// names it lists attestation types, by whom each must be signed, and how good a
// bill of materials must be. The start of a build, and else the push itself,
// enters what the contract expects into the [Ledger]; what is missing when the
// contract's time is over is named by an event, once, whoever restarts meanwhile.
//
// Evidence counts as it does everywhere: verified now, under today's roots and
// revocations, and only by identities that the contract names.
package contract

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/internal/glob"
	"assay/internal/strictjson"
	"assay/policy"
)

// Spec is a contract as it is written: the spec of a document of kind Contract.
type Spec struct {
	// Version rises with every change: a changed contract of an old version is
	// refused.
	Version      int      `yaml:"version" json:"version"`
	Repositories []string `yaml:"repositories" json:"repositories"` // patterns (internal/glob) of the repositories that products are pushed to
	// Workflows are patterns over the workflow that the build's own OIDC token
	// names (GitHub: job_workflow_ref or workflow_ref; GitLab: ci_config_ref_uri);
	// absent: any.
	Workflows []string `yaml:"workflows,omitempty" json:"workflows,omitempty"`
	// Starters are identities, of the API, whose builds it is for; absent: any.
	Starters []policy.IdentityMatch `yaml:"starters,omitempty" json:"starters,omitempty"`
	Within   policy.Duration        `yaml:"within,omitempty" json:"within,omitempty"` // from the push until all must be there; default 60s
	Evidence []Expected             `yaml:"evidence" json:"evidence"`
}

// Expected is one piece of evidence that is owed.
type Expected struct {
	Name          string                 `yaml:"name,omitempty" json:"name,omitempty"`                   // default: the last words of the type
	PredicateType string                 `yaml:"predicateType,omitempty" json:"predicateType,omitempty"` // exact; or signature
	Signature     bool                   `yaml:"signature,omitempty" json:"signature,omitzero"`          // a signature over the artifact itself
	Threshold     *int                   `yaml:"threshold,omitempty" json:"threshold,omitempty"`         // distinct signers; default 1
	Identities    []policy.IdentityMatch `yaml:"identities,omitempty" json:"identities,omitempty"`       // any one of them; others do not count
	Signers       string                 `yaml:"signers,omitempty" json:"signers,omitempty"`             // "delegated", in place of identities
	// Products are patterns over the repository, or over the product's name as the
	// build's end tells it; absent: every product owes this.
	Products []string    `yaml:"products,omitempty" json:"products,omitempty"`
	SBOM     *SBOMDemand `yaml:"sbom,omitempty" json:"sbom,omitempty"` // how a bill of materials must be
}

// SBOMDemand is how good a bill of materials must be to count.
type SBOMDemand struct {
	Formats      []string `yaml:"formats,omitempty" json:"formats,omitempty"`           // cyclonedx-json, spdx-json, …; absent: any
	SpecVersions []string `yaml:"specVersions,omitempty" json:"specVersions,omitempty"` // "1.6", "2.3"; absent: any
	LeastQuality int      `yaml:"leastQuality,omitempty" json:"leastQuality,omitzero"`  // score, 0 to 100
	Complete     bool     `yaml:"complete,omitempty" json:"complete,omitzero"`          // one that may not hold everything does not count
}

// Limits of a contract.
const (
	DefaultWithin = time.Minute
	maxWithin     = 24 * time.Hour
	maxExpected   = 64
	maxPatterns   = 64
	// TypeSignature stands in the place of a predicate type for a signature.
	TypeSignature = "signature"
)

// Contract is a compiled contract. It is immutable.
type Contract struct {
	Name string
	Spec Spec
	hash string

	repositories, workflows []glob.Glob
	starters                []policy.Matcher
	items                   []*item
}

type item struct {
	name, predicateType string
	threshold           int
	delegated           bool
	signers             []policy.Matcher
	products            []glob.Glob
	sbom                *SBOMDemand
}

// Compile checks a contract. Errors are fault.Invalid and name the field.
func Compile(name string, s Spec) (*Contract, error) {
	c := &Contract{Name: name, Spec: s}
	if s.Version < 1 || s.Version > 1<<30 {
		return nil, fault.Newf(fault.Invalid, "version %d: want 1 or more, and more with every change", s.Version)
	}
	if time.Duration(s.Within) > maxWithin || s.Within != 0 && time.Duration(s.Within) < time.Second {
		return nil, fault.Newf(fault.Invalid, "within %s: want 1s to %s", time.Duration(s.Within), maxWithin)
	}
	var err error
	if c.repositories, err = patterns("repositories", s.Repositories); err != nil {
		return nil, err
	}
	if len(c.repositories) == 0 {
		return nil, fault.Newf(fault.Invalid, "repositories: want at least one pattern")
	}
	if c.workflows, err = patterns("workflows", s.Workflows); err != nil {
		return nil, err
	}
	if c.starters, err = matchers(s.Starters); err != nil {
		return nil, fmt.Errorf("starters: %w", err)
	}
	if len(s.Evidence) == 0 || len(s.Evidence) > maxExpected {
		return nil, fault.Newf(fault.Invalid, "evidence: %d items, want 1 to %d: a contract that expects nothing is always complete", len(s.Evidence), maxExpected)
	}
	for i, e := range s.Evidence {
		it, err := e.compile()
		if err != nil {
			return nil, fmt.Errorf("evidence[%d]: %w", i, err)
		}
		if slices.ContainsFunc(c.items, func(o *item) bool { return o.name == it.name }) {
			return nil, fault.Newf(fault.Invalid, "evidence[%d]: name %q stands twice: name one of them otherwise", i, it.name)
		}
		c.items = append(c.items, it)
	}
	b, err := strictjson.Canonical(struct {
		Name string `json:"name"`
		Spec Spec   `json:"spec"`
	}{name, s})
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "write contract: %w", err)
	}
	sum := sha256.Sum256(b)
	c.hash = hex.EncodeToString(sum[:])
	return c, nil
}

func patterns(field string, in []string) ([]glob.Glob, error) {
	if len(in) > maxPatterns {
		return nil, fault.Newf(fault.Invalid, "%s: %d patterns, at most %d", field, len(in), maxPatterns)
	}
	out := make([]glob.Glob, 0, len(in))
	for _, p := range in {
		g, err := glob.Parse(p)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		out = append(out, g)
	}
	return out, nil
}

func matchers(in []policy.IdentityMatch) ([]policy.Matcher, error) {
	if len(in) > maxPatterns {
		return nil, fault.Newf(fault.Invalid, "%d identities, at most %d", len(in), maxPatterns)
	}
	out := make([]policy.Matcher, 0, len(in))
	for i, m := range in {
		c, err := m.Compile()
		if err != nil {
			return nil, fmt.Errorf("identities[%d]: %w", i, err)
		}
		out = append(out, c)
	}
	return out, nil
}

func (e *Expected) compile() (*item, error) {
	it := &item{name: e.Name, predicateType: e.PredicateType, threshold: 1, sbom: e.SBOM}
	switch {
	case e.Signature == (e.PredicateType != ""):
		return nil, fault.Newf(fault.Invalid, "want exactly one of predicateType and signature: true")
	case e.Signature:
		it.predicateType = TypeSignature
	case !strings.Contains(e.PredicateType, ":") || len(e.PredicateType) > 512:
		return nil, fault.Newf(fault.Invalid, "predicateType %.80q: want the type's whole URI, for example https://slsa.dev/provenance/v1", e.PredicateType)
	}
	if it.name == "" {
		it.name = shortName(it.predicateType)
	}
	if len(it.name) > 120 || strings.ContainsFunc(it.name, func(r rune) bool { return r < 0x21 || r == 0x7f || r == ',' }) {
		return nil, fault.Newf(fault.Invalid, "name %.60q: want at most 120 bytes without spaces and commas", it.name)
	}
	if e.Threshold != nil {
		it.threshold = *e.Threshold
	}
	if it.threshold < 1 || it.threshold > 16 {
		return nil, fault.Newf(fault.Invalid, "threshold %d: want 1 to 16 distinct signers", it.threshold)
	}
	var err error
	switch {
	case e.Signers == policy.Delegated && len(e.Identities) == 0:
		it.delegated = true
	case e.Signers != "":
		return nil, fault.Newf(fault.Invalid, "signers %.40q: want %q, without identities beside it", e.Signers, policy.Delegated)
	case len(e.Identities) == 0:
		return nil, fault.Newf(fault.Invalid, "identities: want who must sign it; evidence by anybody is none")
	}
	if it.signers, err = matchers(e.Identities); err != nil {
		return nil, err
	}
	if it.products, err = patterns("products", e.Products); err != nil {
		return nil, err
	}
	return it, e.SBOM.validate(e.PredicateType)
}

func (d *SBOMDemand) validate(predicateType string) error {
	if d == nil {
		return nil
	}
	if !strings.HasPrefix(predicateType, "https://cyclonedx.org/bom") && !strings.HasPrefix(predicateType, "https://spdx.dev/Document") {
		return fault.Newf(fault.Invalid, "sbom: the predicateType is no bill of materials: want https://cyclonedx.org/bom or https://spdx.dev/Document")
	}
	if d.LeastQuality < 0 || d.LeastQuality > 100 {
		return fault.Newf(fault.Invalid, "sbom.leastQuality %d: want 0 to 100", d.LeastQuality)
	}
	for _, list := range [][]string{d.Formats, d.SpecVersions} {
		if len(list) > 16 || slices.Contains(list, "") {
			return fault.Newf(fault.Invalid, "sbom: formats and specVersions want at most 16 words each")
		}
	}
	return nil
}

// shortName is the last words of a predicate type: "provenance/v1".
func shortName(t string) string {
	t = strings.TrimRight(t, "/")
	if i := strings.LastIndexByte(t, '/'); i >= 0 {
		if j := strings.LastIndexByte(t[:i], '/'); j >= 0 {
			return t[j+1:]
		}
	}
	return t
}

// Version is spec.version.
func (c *Contract) Version() int { return c.Spec.Version }

// Hash is 64 hex digits, SHA-256 of the canonical contract.
func (c *Contract) Hash() string { return c.hash }

// Within is how long after a push all must be there.
func (c *Contract) Within() time.Duration {
	if c.Spec.Within == 0 {
		return DefaultWithin
	}
	return time.Duration(c.Spec.Within)
}

// Supersedes says whether c may take the place of the contract old: an error is
// that it differs and has no higher version.
func (c *Contract) Supersedes(old *Contract) error {
	if old == nil || old.hash == c.hash || c.Spec.Version > old.Spec.Version {
		return nil
	}
	return fault.Newf(fault.Conflict, "contract %s differs from the one in force, and both are of version %d: raise spec.version to %d", c.Name, old.Spec.Version, old.Spec.Version+1)
}

// Starter is who began a build, as the API knows it.
type Starter struct {
	Workflow string          // of the token's own claims; "" when it has none
	Identity policy.Identity // issuer and subject of the token
	Names    []string        // further names of the same principal
}

// Set chooses among contracts. The zero Set has none.
type Set struct {
	all []*Contract
	by  map[string]*Contract
}

// NewSet joins contracts; two of one name are fault.Conflict.
func NewSet(cs ...*Contract) (*Set, error) {
	s := &Set{all: slices.Clone(cs), by: map[string]*Contract{}}
	for _, c := range cs {
		if s.by[c.Name] != nil {
			return nil, fault.Newf(fault.Conflict, "contract %s stands twice", c.Name)
		}
		s.by[c.Name] = c
	}
	slices.SortFunc(s.all, func(a, b *Contract) int { return strings.Compare(a.Name, b.Name) })
	return s, nil
}

// All lists the contracts by name.
func (s *Set) All() []*Contract {
	if s == nil {
		return nil
	}
	return s.all
}

// Get is the contract of a name, or nil.
func (s *Set) Get(name string) *Contract {
	if s == nil {
		return nil
	}
	return s.by[name]
}

// For is the contract that binds what is pushed to a repository by a build, or,
// with a nil starter, by an unknown one; nil when there is none.
//
// The most telling pattern decides: a name without star before patterns, a
// longer one before a shorter. Among equals, one that says who builds comes
// before one that does not; for an unknown build the other way round, and then
// those that say it bind as well, since not being known must free of nothing.
// Contracts that are still equal are taken by name.
func (s *Set) For(repository string, by *Starter) *Contract {
	var best *Contract
	bestScore := -1
	for _, c := range s.All() {
		score := c.reach(repository)
		if score < 0 {
			continue
		}
		score *= 4
		said := len(c.workflows)+len(c.starters) > 0
		switch {
		case by == nil && !said, by != nil && said && c.startedBy(by):
			score += 2
		case by != nil && said:
			continue
		}
		if score > bestScore {
			best, bestScore = c, score
		}
	}
	return best
}

// reach says how tellingly the contract names a repository; below zero: not.
func (c *Contract) reach(repository string) int {
	best := -1
	for _, g := range c.repositories {
		if !g.Match(repository) {
			continue
		}
		score := len(g.String())
		if g.IsExact() {
			score += 1 << 16
		}
		best = max(best, score)
	}
	return best
}

func (c *Contract) startedBy(by *Starter) bool {
	if len(c.workflows) > 0 && !slices.ContainsFunc(c.workflows, func(g glob.Glob) bool { return by.Workflow != "" && g.Match(by.Workflow) }) {
		return false
	}
	if len(c.starters) == 0 {
		return true
	}
	for _, name := range append([]string{by.Identity.Subject}, by.Names...) {
		e := policy.Evidence{Identity: &policy.Identity{Issuer: by.Identity.Issuer, Subject: name}}
		if name != "" && slices.ContainsFunc(c.starters, func(m policy.Matcher) bool { return m.Match(&e) }) {
			return true
		}
	}
	return false
}
