package layout

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"encoding/json"
	"path"
	"slices"
	"sort"
	"strings"
	"time"
	"unicode/utf8"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// The caps.
const (
	MaxDocument   = 8 << 20 // bytes of a layout or a link
	maxSteps      = 256
	maxRules      = 1024 // of one step
	maxArtifacts  = 1 << 16
	maxKeys       = 256
	maxSignatures = 16
)

// Layout is the signed part of a layout.
type Layout struct {
	Type    string            `json:"_type"`
	Steps   []Step            `json:"steps"`
	Inspect []json.RawMessage `json:"inspect"`
	Keys    map[string]Key    `json:"keys"`
	Expires string            `json:"expires"`
	Readme  string            `json:"readme"`
	// Certificates as functionaries are of some implementations; a layout that
	// names them is refused.
	RootCAs         map[string]json.RawMessage `json:"rootcas,omitempty"`
	IntermediateCAs map[string]json.RawMessage `json:"intermediatecas,omitempty"`

	expires time.Time
	keys    map[string]*publicKey
}

// Step is one step of a layout.
type Step struct {
	Type              string            `json:"_type"`
	Name              string            `json:"name"`
	ExpectedMaterials [][]string        `json:"expected_materials"`
	ExpectedProducts  [][]string        `json:"expected_products"`
	PubKeys           []string          `json:"pubkeys"`
	ExpectedCommand   []string          `json:"expected_command"`
	Threshold         int               `json:"threshold"`
	CertConstraints   []json.RawMessage `json:"cert_constraints,omitempty"`
}

// Link is what a functionary says of a step: what went in, what came out.
type Link struct {
	Name      string
	Command   []string
	Materials Artifacts
	Products  Artifacts
}

// Artifacts are digests by cleaned name.
type Artifacts map[string]artifact.DigestSet

// wireLink is a link of the specification.
type wireLink struct {
	Type        string                        `json:"_type"`
	Name        string                        `json:"name"`
	Command     json.RawMessage               `json:"command"`
	Materials   map[string]artifact.DigestSet `json:"materials"`
	Products    map[string]artifact.DigestSet `json:"products"`
	ByProducts  json.RawMessage               `json:"byproducts"`
	Environment json.RawMessage               `json:"environment"`
}

// Metadata is a signed document that is read and not yet verified. Exactly one
// of Layout and Link is set.
type Metadata struct {
	Layout *Layout
	Link   *Link
	signed []byte   // the bytes that are signed
	sigs   [][]byte // over them
}

// Parse reads a signed layout or link. Errors are fault.Invalid or
// fault.TooLarge.
func Parse(b []byte) (*Metadata, error) {
	if len(b) > MaxDocument {
		return nil, fault.Newf(fault.TooLarge, "in-toto metadata of %d bytes: at most %d are read", len(b), MaxDocument)
	}
	var shape struct {
		Signed      json.RawMessage `json:"signed"`
		PayloadType string          `json:"payloadType"`
		Signatures  []struct {
			KeyID string `json:"keyid"`
			Sig   string `json:"sig"`
			Cert  string `json:"cert"`
		} `json:"signatures"`
	}
	if err := strictjson.Unmarshal(b, &shape); err != nil {
		return nil, fault.Newf(fault.Invalid, "in-toto metadata: %w", err)
	}
	if shape.PayloadType != "" {
		return parseEnvelope(b)
	}
	if len(shape.Signed) == 0 {
		return nil, fault.Newf(fault.Invalid, "in-toto metadata: want a member signed, or a DSSE envelope")
	}
	if n := len(shape.Signatures); n == 0 || n > maxSignatures {
		return nil, fault.Newf(fault.Invalid, "in-toto metadata: %d signatures, want 1 to %d", n, maxSignatures)
	}
	m := &Metadata{}
	for i, s := range shape.Signatures {
		sig, err := hex.DecodeString(s.Sig)
		if err != nil || len(sig) == 0 {
			return nil, fault.Newf(fault.Invalid, "in-toto metadata: signatures[%d].sig is not hex", i)
		}
		m.sigs = append(m.sigs, sig)
	}
	var err error
	if m.signed, err = canonical(shape.Signed); err != nil {
		return nil, err
	}
	// What is read is the value that the canonical bytes are written of; those may
	// hold line ends within texts, and are no JSON then.
	return m, m.fill(shape.Signed)
}

func parseEnvelope(b []byte) (*Metadata, error) {
	lim := attestation.DefaultLimits()
	e, err := attestation.ParseEnvelope(b, lim)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "in-toto metadata: %w", err)
	}
	if e.PayloadType != attestation.PayloadType {
		return nil, fault.Newf(fault.Invalid, "in-toto metadata: payloadType %.80q, want %s", e.PayloadType, attestation.PayloadType)
	}
	m := &Metadata{signed: attestation.PAE(e.PayloadType, e.Payload)}
	for _, s := range e.Signatures {
		m.sigs = append(m.sigs, s.Sig)
	}
	return m, m.fill(e.Payload)
}

// fill reads the payload as what its type says that it is.
func (m *Metadata) fill(payload []byte) (err error) {
	var head struct {
		Type string `json:"_type"`
	}
	if err := strictjson.Unmarshal(payload, &head); err != nil {
		return fault.Newf(fault.Invalid, "in-toto metadata: %w", err)
	}
	switch head.Type {
	case "layout":
		m.Layout, err = parseLayout(payload)
	case "link":
		m.Link, err = parseLink(payload)
	case attestation.StatementV1, attestation.StatementV01:
		m.Link, err = parseStatement(payload)
	default:
		err = fault.Newf(fault.Invalid, "in-toto metadata of _type %.60q: want layout, link or a Statement", head.Type)
	}
	return err
}

func parseLink(b []byte) (*Link, error) {
	var w wireLink
	if err := strictjson.Unmarshal(b, &w, strictjson.RejectUnknown()); err != nil {
		return nil, fault.Newf(fault.Invalid, "link: %w", err)
	}
	l := &Link{Name: w.Name}
	if len(w.Command) > 0 && string(w.Command) != "null" && strictjson.Unmarshal(w.Command, &l.Command) != nil {
		return nil, fault.Newf(fault.Invalid, "link %.60q: command is no list of texts", w.Name)
	}
	var err error
	if l.Materials, err = artifactsOf(w.Materials); err != nil {
		return nil, fault.Newf(fault.Invalid, "link %.60q: materials: %w", w.Name, err)
	}
	if l.Products, err = artifactsOf(w.Products); err != nil {
		return nil, fault.Newf(fault.Invalid, "link %.60q: products: %w", w.Name, err)
	}
	return l, l.check()
}

func (l *Link) check() error {
	if l.Name == "" || len(l.Name) > 256 {
		return fault.Newf(fault.Invalid, "link: want a name of at most 256 bytes")
	}
	return nil
}

// parseStatement reads a link attestation, whose subjects are the products.
func parseStatement(b []byte) (*Link, error) {
	s, err := attestation.ParseStatement(b, attestation.DefaultLimits())
	if err != nil {
		return nil, err
	}
	return FromStatement(s)
}

// typeLinkV1 is the older type of link statements, whose predicate is the link of
// the specification.
const typeLinkV1 = "https://in-toto.io/Link/v1"

// LinkTypes are the predicate types of statements that are read as links.
func LinkTypes() []string { return []string{attestation.PredicateLink, typeLinkV1} }

// FromStatement is the link that a statement of one of the [LinkTypes] holds.
func FromStatement(s *attestation.Statement) (*Link, error) {
	switch s.PredicateType {
	case typeLinkV1:
		return parseLink(s.Predicate)
	case attestation.PredicateLink:
	default:
		return nil, fault.Newf(fault.Invalid, "statement of type %.100q: want one of %s", s.PredicateType, strings.Join(LinkTypes(), ", "))
	}
	var p struct {
		Name      string   `json:"name"`
		Command   []string `json:"command"`
		Materials []struct {
			Name   string             `json:"name"`
			Digest artifact.DigestSet `json:"digest"`
		} `json:"materials"`
	}
	if err := strictjson.Unmarshal(s.Predicate, &p); err != nil {
		return nil, fault.Newf(fault.Invalid, "link: %w", err)
	}
	l := &Link{Name: p.Name, Command: p.Command, Materials: Artifacts{}, Products: Artifacts{}}
	for _, m := range p.Materials {
		if err := l.Materials.add(m.Name, m.Digest); err != nil {
			return nil, fault.Newf(fault.Invalid, "link %.60q: materials: %w", p.Name, err)
		}
	}
	for _, sub := range s.Subject {
		if err := l.Products.add(sub.Name, sub.Digest); err != nil {
			return nil, fault.Newf(fault.Invalid, "link %.60q: subjects: %w", p.Name, err)
		}
	}
	return l, l.check()
}

func artifactsOf(in map[string]artifact.DigestSet) (Artifacts, error) {
	if len(in) > maxArtifacts {
		return nil, fault.Newf(fault.TooLarge, "%d artifacts, at most %d", len(in), maxArtifacts)
	}
	out := Artifacts{}
	for name, d := range in {
		if err := out.add(name, d); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (a Artifacts) add(name string, d artifact.DigestSet) error {
	clean := path.Clean(name)
	switch {
	case name == "" || len(name) > 4096 || !utf8.ValidString(name):
		return fault.Newf(fault.Invalid, "a name of %d bytes: want 1 to 4096 of UTF-8", len(name))
	case len(d.Strong()) == 0:
		return fault.Newf(fault.Invalid, "%.100q has no sha256 or other strong digest", name)
	case a[clean] != nil:
		return fault.Newf(fault.Invalid, "%.100q stands twice", clean)
	case len(a) >= maxArtifacts:
		return fault.Newf(fault.TooLarge, "more than %d artifacts", maxArtifacts)
	}
	a[clean] = d
	return nil
}

// names lists the artifacts in order.
func (a Artifacts) names() []string {
	out := make([]string, 0, len(a))
	for n := range a {
		out = append(out, n)
	}
	sort.Strings(out)
	return out
}

// equal says whether two links name the same artifacts.
func (a Artifacts) equal(b Artifacts) bool {
	if len(a) != len(b) {
		return false
	}
	for n, d := range a {
		if b[n] == nil || !d.Match(b[n]) {
			return false
		}
	}
	return true
}

func parseLayout(b []byte) (*Layout, error) {
	var l Layout
	if err := strictjson.Unmarshal(b, &l, strictjson.RejectUnknown()); err != nil {
		return nil, fault.Newf(fault.Invalid, "layout: %w", err)
	}
	if len(l.RootCAs)+len(l.IntermediateCAs) > 0 {
		return nil, fault.Newf(fault.Invalid, "layout: rootcas and intermediatecas are not read: functionaries are keys here")
	}
	if len(l.Steps) == 0 || len(l.Steps) > maxSteps || len(l.Keys) > maxKeys {
		return nil, fault.Newf(fault.Invalid, "layout: %d steps and %d keys, want 1 to %d and at most %d: a layout of no step is always followed", len(l.Steps), len(l.Keys), maxSteps, maxKeys)
	}
	var err error
	if l.expires, err = time.Parse(time.RFC3339, l.Expires); err != nil {
		return nil, fault.Newf(fault.Invalid, "layout: expires %.40q, want RFC 3339 such as 2030-01-02T15:04:05Z", l.Expires)
	}
	l.keys = map[string]*publicKey{}
	for id, k := range l.Keys {
		if l.keys[id], err = k.parse(); err != nil {
			return nil, fault.Newf(fault.Invalid, "layout: key %.80q: %w", id, err)
		}
	}
	seen := map[string]bool{}
	for i := range l.Steps {
		s := &l.Steps[i]
		if err := s.check(&l); err != nil {
			return nil, fault.Newf(fault.Invalid, "layout: step %.60q: %w", s.Name, err)
		}
		if seen[s.Name] {
			return nil, fault.Newf(fault.Invalid, "layout: step %.60q stands twice", s.Name)
		}
		seen[s.Name] = true
	}
	return &l, nil
}

func (s *Step) check(l *Layout) error {
	if s.Name == "" || len(s.Name) > 256 || s.Name != path.Base(s.Name) {
		return fault.Newf(fault.Invalid, "want a name of at most 256 bytes without /")
	}
	if len(s.CertConstraints) > 0 {
		return fault.Newf(fault.Invalid, "cert_constraints are not read: functionaries are keys here")
	}
	if len(s.ExpectedMaterials) > maxRules || len(s.ExpectedProducts) > maxRules {
		return fault.Newf(fault.TooLarge, "more than %d rules", maxRules)
	}
	distinct := map[string]bool{}
	for _, id := range s.PubKeys {
		if l.keys[id] == nil {
			return fault.Newf(fault.Invalid, "key %.80q is not among the layout's", id)
		}
		distinct[l.keys[id].fingerprint] = true
	}
	if s.Threshold < 1 || s.Threshold > len(distinct) {
		return fault.Newf(fault.Invalid, "threshold %d of %d distinct keys can never be met, or asks for nobody", s.Threshold, len(distinct))
	}
	for _, r := range append(slices.Clone(s.ExpectedMaterials), s.ExpectedProducts...) {
		// With parameters still in it; the pattern is read again without.
		if _, err := parseRule(r, true); err != nil {
			return err
		}
	}
	return nil
}

// SignedBy says whether one of the signatures is by the key.
func (m *Metadata) SignedBy(pub crypto.PublicKey) bool {
	k, err := newPublicKey(pub, "")
	return err == nil && m.signedBy(k)
}

func (m *Metadata) signedBy(k *publicKey) bool {
	return slices.ContainsFunc(m.sigs, func(sig []byte) bool { return k.verify(m.signed, sig) })
}

// canonical writes JSON in the form that metadata blocks are signed in (OLPC
// canonical JSON, as securesystemslib writes it): members sorted, no space, and
// in texts only quotes and backslashes escaped.
func canonical(b []byte) ([]byte, error) {
	v, err := strictjson.UnmarshalAny(b)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "in-toto metadata: %w", err)
	}
	var out bytes.Buffer
	if err := writeCanonical(&out, v); err != nil {
		return nil, fault.Newf(fault.Invalid, "in-toto metadata: %w", err)
	}
	return out.Bytes(), nil
}

var escapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

func writeCanonical(out *bytes.Buffer, v any) error {
	text := func(s string) { out.WriteString(`"` + escapes.Replace(s) + `"`) }
	switch v := v.(type) {
	case nil:
		out.WriteString("null")
	case bool:
		if v {
			out.WriteString("true")
		} else {
			out.WriteString("false")
		}
	case int64:
		b, _ := json.Marshal(v)
		out.Write(b)
	case string:
		text(v)
	case []any:
		out.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := writeCanonical(out, e); err != nil {
				return err
			}
		}
		out.WriteByte(']')
	case map[string]any:
		names := make([]string, 0, len(v))
		for n := range v {
			names = append(names, n)
		}
		sort.Strings(names)
		out.WriteByte('{')
		for i, n := range names {
			if i > 0 {
				out.WriteByte(',')
			}
			text(n)
			out.WriteByte(':')
			if err := writeCanonical(out, v[n]); err != nil {
				return err
			}
		}
		out.WriteByte('}')
	default:
		return fault.Newf(fault.Invalid, "a number with a fraction has no canonical form")
	}
	return nil
}
