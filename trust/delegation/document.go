package delegation

import (
	"bytes"
	"crypto"
	"regexp"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/glob"
	"assay/internal/strictjson"
	"assay/trust"
)

// PredicateType is the type of the statements of this package.
const PredicateType = "urn:assay:delegation:v1"

const (
	// Signatures, among Document.PredicateTypes, stands for signatures of the
	// artifact itself, which have no predicate type.
	Signatures = "signature"
	// AnyType, alone, stands for every predicate type and for signatures.
	AnyType = "*"

	maxDocument  = 256 << 10
	maxPatterns  = 64
	maxTypes     = 64
	maxDelegates = 256
	// MaxDepth is how many links a chain may have: names have at most as many
	// segments.
	MaxDepth = 4
	// MaxDelegations bounds a set.
	MaxDelegations = 1024
)

// Document is what a delegation says: the predicate of its statement, in
// canonical JSON.
type Document struct {
	// Name is where the delegation stands in the chain: "payments" is given by
	// the root, "payments/ci" by a delegate of "payments".
	Name string `json:"name"`
	// Version rises with each change; a lower one than is known is refused.
	Version int64 `json:"version"`
	// Removed ends the delegation: the rest is then empty.
	Removed bool `json:"removed,omitzero"`

	Patterns       []string   `json:"patterns,omitempty"`        // repositories, internal/glob's grammar; of another registry with its host
	PredicateTypes []string   `json:"predicate_types,omitempty"` // exact; Signatures; or AnyType alone
	Delegates      []Delegate `json:"delegates,omitempty"`       // any one of them
	NotBefore      time.Time  `json:"not_before,omitzero"`       // signatures of an earlier trusted time do not count
	Expires        time.Time  `json:"expires,omitzero"`          // nor do later ones; after it, none
	Depth          int        `json:"depth,omitzero"`            // how many more links delegates may add below
	Reason         string     `json:"reason,omitempty"`          // for people, at most 1 KiB
}

// Delegate is an identity or a key to which something is handed. An issuer is
// exact; the subject is exact or an RE2 expression that has to match the whole.
type Delegate struct {
	Issuer        string `json:"issuer,omitempty"`
	Subject       string `json:"subject,omitempty"`
	SubjectRegexp string `json:"subject_regexp,omitempty"`
	Key           string `json:"key,omitempty"` // PEM of a public key, instead of the others
}

var nameGrammar = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?(/[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?)*$`)

// ParseDocument reads a document strictly and checks it by itself, without the
// chain. Errors are fault.Invalid or fault.TooLarge.
func ParseDocument(b []byte) (*Document, error) {
	var d Document
	if err := strictjson.Unmarshal(b, &d, strictjson.RejectUnknown(), strictjson.WithMaxBytes(maxDocument)); err != nil {
		return nil, fault.Newf(fault.KindOf(err), "delegation: %w", err)
	}
	if _, err := compile(&d); err != nil {
		return nil, err
	}
	return &d, nil
}

// Parent is the name of the delegation above; "" for one that the root gives.
func (d *Document) Parent() string {
	if i := strings.LastIndexByte(d.Name, '/'); i >= 0 {
		return d.Name[:i]
	}
	return ""
}

// Statement is the in-toto statement to be signed. Its subject is the canonical
// document itself.
func (d *Document) Statement() (*attestation.Statement, error) {
	if _, err := compile(d); err != nil {
		return nil, err
	}
	body, err := strictjson.Canonical(d)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "delegation: %w", err)
	}
	return &attestation.Statement{
		Type: attestation.StatementV1, PredicateType: PredicateType, Predicate: body,
		Subject: []attestation.Subject{{Name: "delegation:" + d.Name, Digest: artifact.SHA256Of(body).Set()}},
	}, nil
}

// fromStatement reads the document of a verified statement. The predicate must
// be canonical: two writings of one delegation would have two digests.
func fromStatement(s *attestation.Statement) (*Document, error) {
	if s.PredicateType != PredicateType {
		return nil, fault.Newf(fault.Invalid, "statement of type %.120q, want %s", s.PredicateType, PredicateType)
	}
	canonical, err := strictjson.CanonicalBytes(s.Predicate)
	if err != nil || !bytes.Equal(canonical, s.Predicate) {
		return nil, fault.Newf(fault.Invalid, "delegation is not in canonical form (RFC 8785)")
	}
	if len(s.Subject) != 1 || !s.Subject[0].Digest.Match(artifact.SHA256Of(canonical).Set()) {
		return nil, fault.Newf(fault.Invalid, "delegation: the statement's subject is another document")
	}
	return ParseDocument(canonical)
}

// compiled is a document with its patterns and identities ready to match.
type compiled struct {
	doc      *Document
	patterns []glob.Glob
	subjects []*regexp.Regexp // beside doc.Delegates; nil: exact, or a key
	keys     []string         // fingerprints beside doc.Delegates; "": an identity
	public   []crypto.PublicKey
}

func invalid(d *Document, format string, args ...any) error {
	return fault.Newf(fault.Invalid, "delegation %.120q: "+format, append([]any{d.Name}, args...)...)
}

// compile checks a document by itself. Nothing is a wildcard by being left out.
func compile(d *Document) (*compiled, error) {
	segments := strings.Count(d.Name, "/") + 1
	switch {
	case !nameGrammar.MatchString(d.Name) || len(d.Name) > 255:
		return nil, fault.Newf(fault.Invalid, "delegation: name %.120q: want lower-case letters, digits, \".\", \"_\" and \"-\", below another delegation with its name and \"/\" before", d.Name)
	case segments > MaxDepth:
		return nil, invalid(d, "a chain has at most %d links", MaxDepth)
	case d.Version < 1:
		return nil, invalid(d, "version %d, want 1 or more", d.Version)
	case len(d.Reason) > 1024:
		return nil, invalid(d, "reason of %d bytes, want at most 1,024", len(d.Reason))
	}
	c := &compiled{doc: d}
	if d.Removed {
		if len(d.Patterns)+len(d.PredicateTypes)+len(d.Delegates)+d.Depth != 0 {
			return nil, invalid(d, "one that is removed hands out nothing")
		}
		return c, nil
	}
	switch {
	case len(d.Patterns) == 0 || len(d.Patterns) > maxPatterns:
		return nil, invalid(d, "%d patterns, want 1 to %d; \"**\" is everything", len(d.Patterns), maxPatterns)
	case len(d.PredicateTypes) == 0 || len(d.PredicateTypes) > maxTypes:
		return nil, invalid(d, "%d predicate types, want 1 to %d; %q stands for signatures, %q for every type", len(d.PredicateTypes), maxTypes, Signatures, AnyType)
	case len(d.Delegates) == 0 || len(d.Delegates) > maxDelegates:
		return nil, invalid(d, "%d delegates, want 1 to %d", len(d.Delegates), maxDelegates)
	case d.NotBefore.IsZero() || d.Expires.IsZero():
		return nil, invalid(d, "not_before and expires are wanted: nothing is handed out for ever")
	case !d.Expires.After(d.NotBefore):
		return nil, invalid(d, "expires %s is not after not_before %s", stamp(d.Expires), stamp(d.NotBefore))
	case d.Depth < 0 || d.Depth+segments > MaxDepth:
		return nil, invalid(d, "depth %d below a name of %d segments, want at most %d links in all", d.Depth, segments, MaxDepth)
	}
	for _, p := range d.Patterns {
		g, err := glob.Parse(p)
		if err != nil {
			return nil, invalid(d, "%w", err)
		}
		c.patterns = append(c.patterns, g)
	}
	for i, t := range d.PredicateTypes {
		if t == AnyType && len(d.PredicateTypes) > 1 || slices.Contains(d.PredicateTypes[:i], t) {
			return nil, invalid(d, "predicate type %.120q is given beside %q, or twice", t, AnyType)
		}
		if t != AnyType && t != Signatures && !strings.Contains(t, ":") {
			return nil, invalid(d, "predicate type %.120q: want the whole URI, %q or %q", t, Signatures, AnyType)
		}
	}
	for i := range d.Delegates {
		if err := c.delegate(&d.Delegates[i]); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *compiled) delegate(g *Delegate) error {
	var fingerprint string
	var re *regexp.Regexp
	var public crypto.PublicKey
	switch {
	case g.Key != "":
		if g.Issuer+g.Subject+g.SubjectRegexp != "" {
			return invalid(c.doc, "a delegate is a key, or an issuer and a subject, not both")
		}
		var err error
		if public, err = trust.ParsePublicKey([]byte(g.Key)); err != nil {
			return invalid(c.doc, "%w", err)
		}
		if fingerprint, err = trust.KeyFingerprint(public); err != nil {
			return invalid(c.doc, "%w", err)
		}
	default:
		// Anchors, and refuses what is empty or given twice.
		if _, err := (trust.IdentityMatch{Issuer: g.Issuer, Subject: g.Subject, SubjectRegexp: g.SubjectRegexp}).Compile(); err != nil {
			return invalid(c.doc, "%w", err)
		}
		if g.SubjectRegexp != "" {
			re = regexp.MustCompile(`\A(?:` + g.SubjectRegexp + `)\z`)
		}
	}
	c.keys, c.subjects, c.public = append(c.keys, fingerprint), append(c.subjects, re), append(c.public, public)
	return nil
}

// names says whether the i-th delegate is this signer.
func (c *compiled) names(i int, s Signer) bool {
	g := c.doc.Delegates[i]
	switch {
	case c.keys[i] != "":
		return s.Issuer == "" && s.Key == c.keys[i]
	case s.Issuer == "" || s.Subject == "" || s.Issuer != g.Issuer:
		return false
	case c.subjects[i] != nil:
		return c.subjects[i].MatchString(s.Subject)
	}
	return s.Subject == g.Subject
}

func (c *compiled) namesAny(s Signer) bool {
	for i := range c.doc.Delegates {
		if c.names(i, s) {
			return true
		}
	}
	return false
}

// covers says whether repository and type are handed out.
func (c *compiled) covers(repository, predicateType string) bool {
	if predicateType == "" || predicateType == attestation.PredicateCosignSign {
		// cosign signs images by a statement of a type of its own.
		predicateType = Signatures
	}
	if !slices.Contains(c.doc.PredicateTypes, predicateType) && c.doc.PredicateTypes[0] != AnyType {
		return false
	}
	return slices.ContainsFunc(c.patterns, func(g glob.Glob) bool {
		return g.Everything() || repository != "" && g.Match(repository)
	})
}

// narrows says why c may not stand below up, or nil.
func (c *compiled) narrows(up *compiled) error {
	d, p := c.doc, up.doc
	for i, g := range c.patterns {
		if !slices.ContainsFunc(up.patterns, g.Within) {
			return invalid(d, "pattern %q is not within %q (%s): a delegation can only narrow", d.Patterns[i], p.Patterns, p.Name)
		}
	}
	for _, t := range d.PredicateTypes {
		if p.PredicateTypes[0] != AnyType && !slices.Contains(p.PredicateTypes, t) {
			return invalid(d, "predicate type %q is not among %q (%s): a delegation can only narrow", t, p.PredicateTypes, p.Name)
		}
	}
	switch {
	case d.Depth >= p.Depth:
		return invalid(d, "depth %d, but %s has depth %d: a link below has less", d.Depth, p.Name, p.Depth)
	case d.NotBefore.Before(p.NotBefore) || d.Expires.After(p.Expires):
		return invalid(d, "holds %s to %s, which is not within %s to %s (%s)", stamp(d.NotBefore), stamp(d.Expires), stamp(p.NotBefore), stamp(p.Expires), p.Name)
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
