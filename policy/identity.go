package policy

import (
	"fmt"
	"maps"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
)

// IdentityMatch names signers: a key, or an issuer and a subject, each exactly
// or by an expression. Expressions are RE2 and anchored at both ends, unlike
// cosign's; a part that is left out is an error, never a wildcard
// (CVE-2025-29778, CVE-2026-22772).
type IdentityMatch struct {
	Issuer        string            `yaml:"issuer,omitempty" json:"issuer,omitempty"`
	IssuerRegexp  string            `yaml:"issuerRegexp,omitempty" json:"issuerRegexp,omitempty"`
	Subject       string            `yaml:"subject,omitempty" json:"subject,omitempty"`
	SubjectRegexp string            `yaml:"subjectRegexp,omitempty" json:"subjectRegexp,omitempty"`
	Extensions    map[string]string `yaml:"extensions,omitempty" json:"extensions,omitempty"` // Fulcio extensions that must all be equal, by name
	Key           string            `yaml:"key,omitempty" json:"key,omitempty"`               // "sha256:" and the lowercase hex SHA-256 of the public key's PKIX form
	Root          string            `yaml:"root,omitempty" json:"root,omitempty"`             // beside the others: the root of trust that must have verified it (assay trust roots list); absent: any that counts
}

// identity is a compiled IdentityMatch.
type identity struct {
	src              IdentityMatch
	issuer, subject  *regexp.Regexp // nil: exact
	text             string
	extensionsSorted []string
	delegated        bool // anybody whom a delegation covers; then src is empty
}

const maxRegexp = 2048

// compileRegexp anchors an expression at both ends. It is first compiled by
// itself, so that "a)|(b" cannot reach around the anchors.
func compileRegexp(s string) (*regexp.Regexp, error) {
	if len(s) > maxRegexp {
		return nil, fault.Newf(fault.Invalid, "expression of %d bytes: at most %d", len(s), maxRegexp)
	}
	if _, err := syntax.Parse(s, syntax.Perl); err != nil {
		return nil, fault.Newf(fault.Invalid, "expression %.80q: %w", s, err)
	}
	re, err := regexp.Compile(`\A(?:` + s + `)\z`)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "expression %.80q: %w", s, err)
	}
	return re, nil
}

func (m IdentityMatch) compile() (*identity, error) {
	out := &identity{src: m}
	if m.Key != "" {
		if m.Issuer+m.IssuerRegexp+m.Subject+m.SubjectRegexp != "" || len(m.Extensions) > 0 {
			return nil, fault.Newf(fault.Invalid, "an identity is a key, or an issuer and a subject, not both")
		}
		if d, err := artifact.ParseDigest(m.Key); err != nil || d.Algorithm() != artifact.SHA256 {
			return nil, fault.Newf(fault.Invalid, "key %.80q: want sha256: and 64 lowercase hex digits, the fingerprint of the key's PKIX form", m.Key)
		}
		out.text = "key " + m.Key + m.rootText()
		return out, nil
	}
	if (m.Issuer == "") == (m.IssuerRegexp == "") {
		return nil, fault.Newf(fault.Invalid, "an identity wants exactly one of issuer and issuerRegexp")
	}
	if (m.Subject == "") == (m.SubjectRegexp == "") {
		return nil, fault.Newf(fault.Invalid, "an identity wants exactly one of subject and subjectRegexp")
	}
	// Grants take "*" in a subject; here it would be a letter that no subject has.
	if strings.Contains(m.Issuer+m.Subject, "*") {
		return nil, fault.Newf(fault.Invalid, "identity %.200q of issuer %.120q: both are compared exactly and \"*\" stands for itself; say subjectRegexp or issuerRegexp for a pattern", m.Subject, m.Issuer)
	}
	var err error
	issuer, subject := m.Issuer, m.Subject
	if m.IssuerRegexp != "" {
		if out.issuer, err = compileRegexp(m.IssuerRegexp); err != nil {
			return nil, err
		}
		issuer = "/" + m.IssuerRegexp + "/"
	}
	if m.SubjectRegexp != "" {
		if out.subject, err = compileRegexp(m.SubjectRegexp); err != nil {
			return nil, err
		}
		subject = "/" + m.SubjectRegexp + "/"
	}
	out.text = fmt.Sprintf("%s (issuer %s)", clip(subject, 200), clip(issuer, 120)) + m.rootText()
	out.extensionsSorted = slices.Sorted(maps.Keys(m.Extensions))
	for _, k := range out.extensionsSorted {
		if k == "" || m.Extensions[k] == "" {
			return nil, fault.Newf(fault.Invalid, "extension %.60q: name and value are wanted", k)
		}
		out.text += fmt.Sprintf(" with %s=%s", clip(k, 60), clip(m.Extensions[k], 120))
	}
	return out, nil
}

func (m *IdentityMatch) rootText() string {
	if m.Root == "" {
		return ""
	}
	return " under root " + clip(m.Root, 60)
}

// matches says whether the evidence is by this identity.
func (m *identity) matches(e *Evidence) bool {
	switch {
	case m.delegated:
		return e.Delegation != nil
	case m.src.Root != "" && m.src.Root != e.Root:
		return false
	case m.src.Key != "":
		return e.Identity == nil && e.Key == m.src.Key
	}
	id := e.Identity
	if id == nil || id.Issuer == "" || id.Subject == "" {
		return false
	}
	if m.issuer != nil && !m.issuer.MatchString(id.Issuer) || m.issuer == nil && m.src.Issuer != id.Issuer {
		return false
	}
	if m.subject != nil && !m.subject.MatchString(id.Subject) || m.subject == nil && m.src.Subject != id.Subject {
		return false
	}
	for k, want := range m.src.Extensions {
		if id.Extensions[k] != want {
			return false
		}
	}
	return true
}

// exact says whether only one signer can match.
func (m *identity) exact() bool { return !m.delegated && m.issuer == nil && m.subject == nil }

// Matcher is a compiled IdentityMatch for use outside of a policy.
type Matcher struct{ id *identity }

// Compile checks and compiles the identity; errors are fault.Invalid.
func (m IdentityMatch) Compile() (Matcher, error) {
	id, err := m.compile()
	return Matcher{id}, err
}

// Match says whether the evidence is by the identity. The zero Matcher matches
// nothing.
func (m Matcher) Match(e *Evidence) bool { return m.id != nil && m.id.matches(e) }

func matchAny(ids []*identity, e *Evidence) bool {
	for _, id := range ids {
		if id.matches(e) {
			return true
		}
	}
	return false
}

func compileIdentities(in []IdentityMatch) ([]*identity, error) {
	if len(in) == 0 {
		return nil, fault.Newf(fault.Invalid, "identities is empty: name who is trusted")
	}
	out := make([]*identity, len(in))
	for i, m := range in {
		id, err := m.compile()
		if err != nil {
			return nil, fmt.Errorf("identities[%d]: %w", i, err)
		}
		out[i] = id
	}
	return out, nil
}

func identitiesText(ids []*identity) string {
	var parts []string
	for i, id := range ids {
		if i == 4 && len(ids) > 5 {
			parts = append(parts, fmt.Sprintf("%d more", len(ids)-i))
			break
		}
		parts = append(parts, id.text)
	}
	return strings.Join(parts, " or ")
}
