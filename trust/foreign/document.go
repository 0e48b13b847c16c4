package foreign

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"regexp"
	"slices"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/internal/glob"
	"assay/internal/strictjson"
	"assay/trust"
)

// Type is what sort of trust is imported.
type Type string

// The types.
const (
	Sigstore Type = "sigstore" // a trusted_root.json: public-good, private, GitHub's
	Keys     Type = "keys"     // plain public keys
	X509     Type = "x509"     // certificate authorities without Fulcio's extensions
	Notation Type = "notation" // Notation trust stores and a trust policy
)

// Types lists them, for help.
func Types() []Type { return []Type{Sigstore, Keys, X509, Notation} }

const (
	// MaxRoots bounds how many roots may be imported.
	MaxRoots    = 64
	maxDocument = 4 << 20
	maxList     = 64
)

// Document is one imported root, in canonical JSON.
type Document struct {
	Name    string `json:"name"`             // lower-case letters, digits, "." and "-"; shown in facts and decisions
	Version int64  `json:"version"`          // rises with every change
	Removed bool   `json:"removed,omitzero"` // ends it: the rest is then empty
	Type    Type   `json:"type,omitempty"`

	// Namespaces are the repositories for whose artifacts it counts, in
	// internal/glob's grammar; "**" is everything, also what has no repository.
	Namespaces []string  `json:"namespaces,omitempty"`
	NotBefore  time.Time `json:"not_before,omitzero"` // closes every window of the root from below
	NotAfter   time.Time `json:"not_after,omitzero"`  // and from above
	// Thresholds say who must vouch; absent: one certificate log, one log and one
	// trusted time for sigstore, one timestamp authority for x509, the verifying
	// root's own for keys, none for notation.
	Thresholds *Thresholds `json:"thresholds,omitempty"`
	Reason     string      `json:"reason,omitempty"` // for people, at most 1 KiB

	TrustedRoot  json.RawMessage `json:"trusted_root,omitempty"` // sigstore
	PublicKeys   []string        `json:"public_keys,omitempty"`  // keys: PEM
	Certificates []string        `json:"certificates,omitempty"` // x509: PEM, authorities in any order
	TSA          []string        `json:"tsa,omitempty"`          // x509: PEM, of timestamp authorities
	TrustStores  []TrustStore    `json:"trust_stores,omitempty"` // notation
	TrustPolicy  json.RawMessage `json:"trust_policy,omitempty"` // notation: trustpolicy.json
}

// Thresholds are how many distinct parties must vouch for a signature.
type Thresholds struct {
	SCT  int `json:"sct"`  // certificate logs
	Log  int `json:"log"`  // transparency logs
	TSA  int `json:"tsa"`  // timestamp authorities
	Time int `json:"time"` // sources of trusted time in all
}

func (t *Thresholds) trust() trust.Thresholds {
	return trust.Thresholds{SCT: t.SCT, TLog: t.Log, TSA: t.TSA, Time: t.Time}
}

// TrustStore is one named store of Notation: x509/TYPE/NAME.
type TrustStore struct {
	Type         string   `json:"type"` // ca, signingAuthority, tsa
	Name         string   `json:"name"`
	Certificates []string `json:"certificates"` // PEM
}

var nameGrammar = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

// ParseDocument reads a document strictly and compiles it for a trial. Errors
// are fault.Invalid or fault.TooLarge.
func ParseDocument(b []byte) (*Document, error) {
	var d Document
	if err := strictjson.Unmarshal(b, &d, strictjson.RejectUnknown(), strictjson.WithMaxBytes(maxDocument)); err != nil {
		return nil, fault.Newf(fault.KindOf(err), "foreign root: %w", err)
	}
	if _, err := Compile(&d); err != nil {
		return nil, err
	}
	return &d, nil
}

// JSON writes the document in canonical form.
func (d *Document) JSON() ([]byte, error) {
	b, err := strictjson.Canonical(d)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "foreign root %q: %w", d.Name, err)
	}
	if len(b) > maxDocument {
		return nil, fault.Newf(fault.TooLarge, "foreign root %q of %d bytes: at most %d", d.Name, len(b), maxDocument)
	}
	return b, nil
}

// Root is a compiled document. It is immutable and safe for concurrent use.
type Root struct {
	Document   *Document
	namespaces []glob.Glob
	root       *trust.Root // sigstore, x509
	keys       []trust.Key // keys
	thresholds *trust.Thresholds
	notation   *notation
}

func invalid(d *Document, format string, args ...any) error {
	return fault.Newf(fault.Invalid, "foreign root %.80q: "+format, append([]any{d.Name}, args...)...)
}

// Compile checks a document. Nothing is a wildcard by being left out: a root
// without namespaces, or one that could accept nothing, is fault.Invalid.
func Compile(d *Document) (*Root, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	r := &Root{Document: d}
	if d.Removed {
		return r, nil
	}
	for _, p := range d.Namespaces {
		g, err := glob.Parse(p)
		if err != nil {
			return nil, invalid(d, "namespaces: %w", err)
		}
		r.namespaces = append(r.namespaces, g)
	}
	if d.Thresholds != nil {
		t := d.Thresholds.trust()
		r.thresholds = &t
	}
	var err error
	switch d.Type {
	case Sigstore:
		r.root, err = d.sigstore()
	case Keys:
		r.keys, err = d.publicKeys()
	case X509:
		r.root, err = d.authorities()
	case Notation:
		r.notation, err = compileNotation(d)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (d *Document) check() error {
	given := map[Type]bool{
		Sigstore: len(d.TrustedRoot) > 0, Keys: len(d.PublicKeys) > 0,
		X509: len(d.Certificates)+len(d.TSA) > 0, Notation: len(d.TrustStores)+len(d.TrustPolicy) > 0,
	}
	switch {
	case !nameGrammar.MatchString(d.Name):
		return fault.Newf(fault.Invalid, "foreign root: name %.80q: want lower-case letters, digits, \".\" and \"-\", at most 63", d.Name)
	case d.Version < 1:
		return invalid(d, "version %d, want 1 or more", d.Version)
	case len(d.Reason) > 1024:
		return invalid(d, "reason of %d bytes, want at most 1,024", len(d.Reason))
	case d.Removed:
		if d.Type != "" || len(d.Namespaces) > 0 || slices.Contains([]bool{given[Sigstore], given[Keys], given[X509], given[Notation]}, true) {
			return invalid(d, "one that is removed holds nothing")
		}
		return nil
	case !slices.Contains(Types(), d.Type):
		return invalid(d, "type %.40q, want one of %v", string(d.Type), Types())
	case len(d.Namespaces) == 0 || len(d.Namespaces) > maxList:
		return invalid(d, "%d namespaces, want 1 to %d repository patterns; \"**\" is everything", len(d.Namespaces), maxList)
	case !d.NotAfter.IsZero() && !d.NotAfter.After(d.NotBefore):
		return invalid(d, "not_after %s is not after not_before %s", stamp(d.NotAfter), stamp(d.NotBefore))
	}
	for t, has := range given {
		if has != (t == d.Type) {
			return invalid(d, "of type %s: it has parts of another type, or none of its own", d.Type)
		}
	}
	if t := d.Thresholds; t != nil {
		for _, n := range []int{t.SCT, t.Log, t.TSA, t.Time} {
			if n < 0 || n > 16 {
				return invalid(d, "threshold %d, want 0 to 16", n)
			}
		}
	}
	return nil
}

func (d *Document) window() trust.Window { return trust.Window{Start: d.NotBefore, End: d.NotAfter} }

// sigstore makes the root of a trusted_root.json, narrowed to the window.
func (d *Document) sigstore() (*trust.Root, error) {
	whole, err := trust.ParseTrustedRoot(d.TrustedRoot)
	if err != nil {
		return nil, invalid(d, "%w", err)
	}
	want := trust.DefaultThresholds()
	if d.Thresholds != nil {
		want = d.Thresholds.trust()
	}
	parts := whole.Parts().Within(d.window())
	if len(parts.CAs) == 0 && len(parts.Logs) == 0 {
		return nil, invalid(d, "no authority and no log is left within %s: it could vouch for nothing", d.window())
	}
	// A threshold that nothing can meet is a mistake, and it is told before
	// everything is refused.
	for _, c := range []struct {
		what, flag string
		want, have int
	}{{"certificate logs", "--min-sct", want.SCT, len(parts.CTLogs)}, {"transparency logs", "--min-log", want.TLog, len(parts.Logs)}, {"timestamp authorities", "--min-tsa", want.TSA, len(parts.TSAs)}} {
		if c.want > c.have && (len(parts.CAs) > 0 || c.flag != "--min-sct") {
			return nil, invalid(d, "%d %s must vouch, and it names %d; lower the threshold on purpose: %s %d", c.want, c.what, c.have, c.flag, c.have)
		}
	}
	r, err := trust.NewRoot(parts, trust.WithName(d.Name), trust.WithThresholds(want))
	if err != nil {
		return nil, invalid(d, "%w", err)
	}
	return r, nil
}

func (d *Document) publicKeys() ([]trust.Key, error) {
	if len(d.PublicKeys) > maxList {
		return nil, invalid(d, "%d keys, want at most %d", len(d.PublicKeys), maxList)
	}
	var out []trust.Key
	for i, text := range d.PublicKeys {
		k, err := trust.ParsePublicKey([]byte(text))
		if err != nil {
			return nil, invalid(d, "public_keys[%d]: %w", i, err)
		}
		out = append(out, trust.Key{Public: k, Window: d.window()})
	}
	return out, nil
}

// authorities makes the root of plain X.509 authorities.
func (d *Document) authorities() (*trust.Root, error) {
	want := trust.Thresholds{TSA: 1, Time: 1}
	if d.Thresholds != nil {
		want = d.Thresholds.trust()
	}
	if want.SCT > 0 || want.TLog > 0 {
		return nil, invalid(d, "plain X.509 authorities have no logs; want SCT and log thresholds of 0")
	}
	if len(d.TSA) == 0 {
		return nil, invalid(d, "no timestamp authority is given: nothing would date a signature, and a certificate counts at a trusted time alone; give its certificates")
	}
	cas, err := d.chains("certificates", d.Certificates)
	if err != nil {
		return nil, err
	}
	tsas, err := d.chains("tsa", d.TSA)
	if err != nil {
		return nil, err
	}
	parts := trust.Parts{CAs: cas, TSAs: tsas}.Within(d.window())
	if len(parts.CAs) == 0 || len(parts.TSAs) == 0 {
		return nil, invalid(d, "no authority is left within %s", d.window())
	}
	r, err := trust.NewRoot(parts, trust.WithName(d.Name), trust.WithThresholds(want), trust.WithX509(d.Name))
	if err != nil {
		return nil, invalid(d, "%w", err)
	}
	return r, nil
}

// chains sorts certificates into the chain of each that no other was issued by:
// from it up to one whose issuer is not among them, which is the trust anchor.
func (d *Document) chains(what string, texts []string) ([]trust.Authority, error) {
	certs, err := d.parseCertificates(what, texts)
	if err != nil {
		return nil, err
	}
	issuer := func(c *x509.Certificate) *x509.Certificate {
		for _, up := range certs {
			if !up.Equal(c) && up.IsCA && c.CheckSignatureFrom(up) == nil {
				return up
			}
		}
		return nil
	}
	issues := map[*x509.Certificate]bool{}
	for _, c := range certs {
		if up := issuer(c); up != nil {
			issues[up] = true
		}
	}
	var out []trust.Authority
	for _, c := range certs {
		if issues[c] {
			continue
		}
		var chain []*x509.Certificate
		for up := c; up != nil && len(chain) < 8 && !slices.Contains(chain, up); up = issuer(up) {
			chain = append(chain, up)
		}
		last := chain[len(chain)-1]
		out = append(out, trust.Authority{URL: d.Name + " " + last.Subject.CommonName, Chain: chain, Window: trust.Window{Start: last.NotBefore, End: last.NotAfter}})
	}
	return out, nil
}

func (d *Document) parseCertificates(what string, texts []string) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for i, text := range texts {
		rest := []byte(text)
		for {
			block, more := pem.Decode(rest)
			if block == nil {
				break
			}
			if rest = more; block.Type != "CERTIFICATE" {
				return nil, invalid(d, "%s[%d]: a PEM block %.40q, want CERTIFICATE", what, i, block.Type)
			}
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, invalid(d, "%s[%d]: %w", what, i, err)
			}
			if !slices.ContainsFunc(out, c.Equal) {
				out = append(out, c)
			}
		}
		if strings.TrimSpace(string(rest)) != "" {
			return nil, invalid(d, "%s[%d]: something beside PEM certificates", what, i)
		}
	}
	if len(out) == 0 || len(out) > maxList {
		return nil, invalid(d, "%s: %d certificates, want 1 to %d", what, len(out), maxList)
	}
	return out, nil
}

// Name is the root's name.
func (r *Root) Name() string { return r.Document.Name }

// Covers says whether the root counts for artifacts of a repository: its name
// here, with the host before it for another registry; "" for what has none.
func (r *Root) Covers(repository string) bool {
	return slices.ContainsFunc(r.namespaces, func(g glob.Glob) bool {
		return g.Everything() || repository != "" && g.Match(repository)
	})
}

// Root is what bundles are verified under; nil for keys and notation.
func (r *Root) Root() *trust.Root { return r.root }

// Keys are the public keys of a root of type keys, with what their bundles must
// carry (nil: what the verifying root asks for).
func (r *Root) Keys() ([]trust.Key, *trust.Thresholds) { return r.keys, r.thresholds }

// IsNotation says whether the root verifies Notation signatures.
func (r *Root) IsNotation() bool { return r.notation != nil }

// Fingerprints are the public keys of the root's trust anchors, for people.
func (r *Root) Fingerprints() []string {
	var out []string
	add := func(k crypto.PublicKey) {
		if fp, err := trust.KeyFingerprint(k); err == nil && !slices.Contains(out, fp) {
			out = append(out, fp)
		}
	}
	for _, k := range r.keys {
		add(k.Public)
	}
	if r.root != nil {
		for _, a := range r.root.Parts().CAs {
			add(a.Chain[len(a.Chain)-1].PublicKey)
		}
	}
	if r.notation != nil {
		for _, certs := range r.notation.stores {
			for _, c := range certs {
				add(c.PublicKey)
			}
		}
	}
	slices.Sort(out)
	return out
}

// Schema is what [Published] says of itself.
const Schema = "assay/foreign-roots/v1"

// Published is the TUF target foreign_roots.json.
type Published struct {
	Schema  string            `json:"schema"`
	Version int64             `json:"version"` // rises with every change; clients refuse a lower one than they saw
	Roots   []json.RawMessage `json:"roots"`   // documents, removed ones too
	// Registry is the host of the publisher's own registry, whose repositories
	// patterns name without it.
	Registry string `json:"registry,omitempty"`
}

// JSON writes the target in canonical form.
func (p *Published) JSON() ([]byte, error) {
	p.Schema = Schema
	if p.Roots == nil {
		p.Roots = []json.RawMessage{}
	}
	return strictjson.Canonical(p)
}

// ParsePublished reads foreign_roots.json and compiles what is in force.
func ParsePublished(b []byte) (*Published, []*Root, error) {
	var p Published
	if err := strictjson.Unmarshal(b, &p, strictjson.RejectUnknown(), strictjson.WithMaxBytes(16<<20)); err != nil {
		return nil, nil, fault.Newf(fault.KindOf(err), "foreign roots: %w", err)
	}
	if p.Schema != Schema || p.Version < 1 {
		return nil, nil, fault.Newf(fault.Invalid, "foreign roots of schema %.60q and version %d, want %s and a version above 0", p.Schema, p.Version, Schema)
	}
	docs := make([][]byte, len(p.Roots))
	for i, r := range p.Roots {
		docs[i] = r
	}
	roots, err := CompileAll(docs)
	return &p, roots, err
}

// NewerThan refuses a published set that is older than one that was seen.
func (p *Published) NewerThan(seen int64) error {
	if p.Version < seen {
		return fault.Newf(fault.Unverified, "foreign roots of version %d are older than version %d, which was seen before: somebody brings back what was changed", p.Version, seen)
	}
	return nil
}

// CompileAll reads documents; removed ones are left out. A name that is there
// twice is fault.Invalid.
func CompileAll(docs [][]byte) ([]*Root, error) {
	var out []*Root
	seen := map[string]bool{}
	for i, b := range docs {
		d, err := ParseDocument(b)
		if err != nil {
			return nil, fault.Newf(fault.KindOf(err), "foreign roots[%d]: %w", i, err)
		}
		if seen[d.Name] {
			return nil, fault.Newf(fault.Invalid, "foreign root %q is there twice", d.Name)
		}
		if seen[d.Name] = true; d.Removed {
			continue
		}
		r, err := Compile(d)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	if len(out) > MaxRoots {
		return nil, fault.Newf(fault.TooLarge, "%d foreign roots, want at most %d", len(out), MaxRoots)
	}
	return out, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Draft reads a document whose version is not given yet; it is 1 until then.
func Draft(b []byte) (*Document, error) {
	var d Document
	if err := strictjson.Unmarshal(b, &d, strictjson.RejectUnknown(), strictjson.WithMaxBytes(maxDocument)); err != nil {
		return nil, fault.Newf(fault.KindOf(err), "foreign root: %w", err)
	}
	d.Version = 1
	_, err := Compile(&d)
	return &d, err
}
