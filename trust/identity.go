package trust

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"assay/internal/fault"
)

// Identity is whom a certificate names, as its issuer proved it: an OIDC
// issuer and a subject alternative name. A key-signed bundle names nobody.
type Identity struct {
	Issuer     string            // OIDC issuer URL, Fulcio OID 1.3.6.1.4.1.57264.1.8 (or .1)
	Subject    string            // the one SAN: URI, email address, or Fulcio's otherName
	SubjectKey string            // kind of SAN: "uri", "email", "other", "dns"
	Extensions map[string]string // see ExtensionNames; absent ones are absent
}

// fulcioArc is 1.3.6.1.4.1.57264.1, under which Fulcio's extensions stand.
var fulcioArc = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1}

// extensionNames maps the last arc to Assay's name (fulcio docs/oid-info.md).
// Arcs 1 to 6 hold raw text, the later ones a DER UTF8String.
var extensionNames = map[int]string{
	2: "github_workflow_trigger", 3: "github_workflow_sha", 4: "github_workflow_name",
	5: "github_workflow_repository", 6: "github_workflow_ref",
	9: "build_signer_uri", 10: "build_signer_digest", 11: "runner_environment",
	12: "source_repository_uri", 13: "source_repository_digest", 14: "source_repository_ref",
	15: "source_repository_identifier", 16: "source_repository_owner_uri", 17: "source_repository_owner_identifier",
	18: "build_config_uri", 19: "build_config_digest", 20: "build_trigger", 21: "run_invocation_uri",
	22: "source_repository_visibility_at_signing", 23: "deployment_environment", 24: "token_subject",
}

// ExtensionNames lists the names that [Identity].Extensions and
// [IdentityMatch].Extensions know, sorted.
func ExtensionNames() []string { return slices.Sorted(maps.Values(extensionNames)) }

// CertificateIdentity reads whom a Fulcio-style certificate names. It refuses
// (CodeIdentityMissing) a certificate with no SAN or several, one whose two
// issuer extensions disagree, and text that could fool a reader. A certificate
// without issuer extensions has the Issuer "" and matches no [IdentityMatch].
func CertificateIdentity(c *x509.Certificate) (Identity, error) {
	id := Identity{Extensions: map[string]string{}}
	var old string
	for _, e := range c.Extensions {
		if len(e.Id) != len(fulcioArc)+1 || !e.Id[:len(fulcioArc)].Equal(fulcioArc) {
			continue
		}
		arc := e.Id[len(fulcioArc)]
		name := extensionNames[arc]
		if arc != 1 && arc != 8 && name == "" {
			continue
		}
		text, ok := string(e.Value), true
		if arc >= 8 {
			text, ok = readUTF8(e.Value)
		}
		if !ok || !plain(text) {
			return id, refuse(CodeIdentityMissing, "signing certificate: extension %s is not plain text", e.Id)
		}
		switch arc {
		case 1:
			old = text
		case 8:
			id.Issuer = text
		default:
			id.Extensions[name] = text
		}
	}
	if old != "" && id.Issuer != "" && old != id.Issuer {
		return id, refuse(CodeIdentityMissing, "signing certificate names two issuers: %q and %q", clip(id.Issuer), clip(old))
	}
	if id.Issuer == "" {
		id.Issuer = old
	}
	return id, id.readSAN(c)
}

func (id *Identity) readSAN(c *x509.Certificate) error {
	type san struct{ kind, text string }
	var all []san
	for _, u := range c.URIs {
		all = append(all, san{"uri", u.String()})
	}
	for _, e := range c.EmailAddresses {
		all = append(all, san{"email", e})
	}
	for _, d := range c.DNSNames {
		all = append(all, san{"dns", d})
	}
	for _, ip := range c.IPAddresses {
		all = append(all, san{"ip", ip.String()})
	}
	for _, e := range c.Extensions {
		if e.Id.Equal(oidSAN) {
			for _, o := range otherNames(e.Value) {
				all = append(all, san{"other", o})
			}
		}
	}
	if len(all) != 1 || all[0].text == "" || !plain(all[0].text) {
		return refuse(CodeIdentityMissing, "signing certificate has %d subject alternative names, want one: nobody can say which of them signed", len(all))
	}
	id.SubjectKey, id.Subject = all[0].kind, all[0].text
	return nil
}

// otherNames gives Fulcio's otherName SANs (1.3.6.1.4.1.57264.1.7, UTF8String);
// any other otherName is given as "", which names nobody.
func otherNames(ext []byte) []string {
	var out []string
	in := cryptobyte.String(ext)
	var names cryptobyte.String
	if !in.ReadASN1(&names, cbasn1.SEQUENCE) {
		return nil
	}
	for !names.Empty() {
		var el cryptobyte.String
		var tag cbasn1.Tag
		if !names.ReadAnyASN1(&el, &tag) {
			return []string{""}
		}
		if tag != tag0.Constructed() {
			continue
		}
		var oid asn1.ObjectIdentifier
		var val, text cryptobyte.String
		if el.ReadASN1ObjectIdentifier(&oid) && oid.Equal(append(slices.Clone(fulcioArc), 7)) &&
			el.ReadASN1(&val, tag0.Constructed()) && val.ReadASN1(&text, cbasn1.UTF8String) {
			out = append(out, string(text))
		} else {
			out = append(out, "")
		}
	}
	return out
}

func readUTF8(der []byte) (string, bool) {
	in := cryptobyte.String(der)
	var s cryptobyte.String
	ok := in.ReadASN1(&s, cbasn1.UTF8String) && in.Empty()
	return string(s), ok
}

// plain refuses what could end a string early or write to a terminal.
func plain(s string) bool {
	return len(s) <= 4096 && utf8.ValidString(s) && strings.IndexFunc(s, unicode.IsControl) < 0
}

// IdentityMatch is a condition on who signed. Issuer and subject must both be
// given, each exact or as an RE2 pattern that has to match the whole text
// (it is anchored as ^(?:…)$); every named extension must be there and equal.
type IdentityMatch struct {
	Issuer        string
	IssuerRegexp  string
	Subject       string
	SubjectRegexp string
	Extensions    map[string]string // name as in ExtensionNames -> exact value
}

// Matcher is a compiled IdentityMatch, safe for concurrent use.
type Matcher struct {
	match           IdentityMatch
	issuer, subject *regexp.Regexp
}

// Compile checks m: fault.Invalid when issuer or subject has no condition or
// two, when a pattern does not compile or is longer than 1,024 bytes, and when
// an extension's name is unknown (a typo must not match everybody).
func (m IdentityMatch) Compile() (*Matcher, error) {
	c := &Matcher{match: m}
	var err error
	if c.issuer, err = compileOne("issuer", m.Issuer, m.IssuerRegexp); err != nil {
		return nil, err
	}
	if c.subject, err = compileOne("subject", m.Subject, m.SubjectRegexp); err != nil {
		return nil, err
	}
	for name := range m.Extensions {
		if !slices.Contains(ExtensionNames(), name) {
			return nil, fault.Newf(fault.Invalid, "identity: unknown certificate extension %.60q, want one of %s", name, strings.Join(ExtensionNames(), ", "))
		}
	}
	return c, nil
}

func compileOne(what, exact, pattern string) (*regexp.Regexp, error) {
	switch {
	case exact != "" && pattern != "":
		return nil, fault.Newf(fault.Invalid, "identity: %s is given both exact and as a pattern, want one", what)
	case exact != "":
		return nil, nil
	case pattern == "":
		return nil, fault.Newf(fault.Invalid, "identity: no %s given; an empty condition would accept anyone", what)
	case len(pattern) > 1024:
		return nil, fault.Newf(fault.Invalid, "identity: %s pattern has %d bytes, want at most 1024", what, len(pattern))
	}
	// The pattern must stand on its own, so that it cannot close the group that
	// anchors it.
	if _, err := regexp.Compile(pattern); err != nil {
		return nil, fault.Newf(fault.Invalid, "identity: %s pattern: %w", what, err)
	}
	return regexp.Compile(`^(?:` + pattern + `)$`)
}

// Match gives nil, or CodeIdentity with what was expected and found.
func (c *Matcher) Match(id Identity) error {
	want := func(what, exact, pattern, found string) error {
		if exact == "" {
			exact = "a match of " + pattern
		}
		return refuse(CodeIdentity, "signed by another identity: want %s %q, found %q; if that signer is right, name it in the command or policy", what, exact, clip(found))
	}
	if id.Issuer == "" || !matches(c.issuer, c.match.Issuer, id.Issuer) {
		return want("issuer", c.match.Issuer, c.match.IssuerRegexp, id.Issuer)
	}
	if id.Subject == "" || !matches(c.subject, c.match.Subject, id.Subject) {
		return want("subject", c.match.Subject, c.match.SubjectRegexp, id.Subject)
	}
	for _, name := range slices.Sorted(maps.Keys(c.match.Extensions)) {
		if got, ok := id.Extensions[name]; !ok || got != c.match.Extensions[name] {
			return want("certificate extension "+name, c.match.Extensions[name], "", got)
		}
	}
	return nil
}

func matches(re *regexp.Regexp, exact, found string) bool {
	if re == nil {
		return exact == found
	}
	return re.MatchString(found)
}

// matchAny accepts id when one of the conditions does.
func matchAny(id Identity, conds []IdentityMatch) error {
	var last error
	for i, m := range conds {
		c, err := m.Compile()
		if err != nil {
			return fmt.Errorf("identity %d: %w", i, err)
		}
		if last = c.Match(id); last == nil {
			return nil
		}
	}
	return last
}
