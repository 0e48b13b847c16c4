package identity

import (
	"net/url"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/sigstore/fulcio/pkg/certificate"
)

// CertificateIdentity is an identity in the form of a Fulcio certificate:
// either Email or URI is the subject alternative name, and Extensions are
// Fulcio's own, 1.3.6.1.4.1.57264.1.x (fulcio docs/oid-info.md).
type CertificateIdentity struct {
	Email      string
	URI        *url.URL
	Extensions certificate.Extensions
}

// Name is the subject alternative name as text; empty for an identity that
// cannot be put into a certificate.
func (c CertificateIdentity) Name() string {
	if c.Email != "" {
		return c.Email
	}
	if c.URI != nil {
		return c.URI.String()
	}
	return ""
}

const (
	maxSubject    = 1024
	maxGroups     = 256
	maxClaims     = 64
	maxClaimBytes = 1 << 10
)

// identify turns verified claims into a principal and a certificate identity.
func (t *Token) identify(cfg *IssuerConfig) (Principal, error) {
	c := t.claims
	t.Subject = c.text("sub")
	if t.Subject == "" || len(t.Subject) > maxSubject {
		return Principal{}, refuse("want a sub claim of 1 to %d bytes", maxSubject)
	}
	if strings.ContainsFunc(t.Subject, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return Principal{}, refuse("its sub claim holds a control character")
	}
	t.Challenge = t.Subject
	t.Certificate.Extensions = certificate.Extensions{Issuer: t.Issuer, Subject: t.Subject}
	p := Principal{Issuer: t.Issuer, Subject: t.Subject, Kind: KindWorkload}
	var err error
	switch cfg.Type {
	case TypeEmail:
		p.Kind = KindUser
		p.Email, err = c.verifiedEmail()
		t.Certificate.Email, t.Challenge = p.Email, p.Email
		p.Person = "mailto:" + strings.ToLower(p.Email)
	case TypeURI:
		t.Certificate.URI, err = subjectURI(t.Subject, cfg.SubjectDomain)
	case TypeSPIFFE:
		t.Certificate.URI, err = spiffeID(t.Subject, cfg.TrustDomain)
	case TypeKubernetes:
		t.Certificate.URI, err = c.serviceAccount(t.Subject)
	case TypeGitHub:
		err = t.github(cfg.WebURL)
	case TypeGitLab:
		err = t.gitlab(cfg.WebURL)
	case TypeLocal:
		err = t.local(&p)
	default:
		err = refuse("issuer of unknown type %.40q", cfg.Type)
	}
	if err != nil {
		return Principal{}, err
	}
	if p.Name = t.Certificate.Name(); p.Name == "" {
		p.Name = t.Subject
	}
	groups := cfg.GroupsClaim
	if groups == "" {
		groups = "groups"
	}
	if p.Groups, err = c.list(groups); err != nil {
		return Principal{}, err
	}
	p.Claims = c.scalars()
	if cfg.Type == TypeKubernetes {
		// They stand nested in the token; serviceAccount held them against sub.
		ns, name, _ := strings.Cut(strings.TrimPrefix(t.Subject, "system:serviceaccount:"), ":")
		p.Claims["kubernetes.io/namespace"], p.Claims["kubernetes.io/serviceaccount"] = ns, name
	}
	return p, nil
}

// local is the embedded issuer's rule: it knows its subjects, so an address
// that it states is verified, but it vouches for no person.
func (t *Token) local(p *Principal) error {
	p.Kind = KindRobot
	if t.claims.text("email") != "" {
		email, err := t.claims.verifiedEmail()
		if err != nil {
			return err
		}
		p.Kind, p.Email = KindUser, email
		t.Certificate.Email, t.Challenge = email, email
		return nil
	}
	if IsURI(t.Subject) {
		u, err := url.Parse(t.Subject)
		p.Kind, t.Certificate.URI = KindWorkload, u
		return err
	}
	return nil
}

// IsURI says whether s is a URI with an authority (scheme://host...) in normal
// form, which a certificate can carry as a subject alternative name.
func IsURI(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme != "" && u.Host != "" && u.User == nil && u.String() == s
}

// IsEmail says whether s is one plain ASCII e-mail address, which a
// certificate can carry as a subject alternative name.
func IsEmail(s string) bool { return looksLikeEmail(s) }

// verifiedEmail gives the address, which must be verified by the issuer: an
// unverified one is merely what somebody typed.
func (c claims) verifiedEmail() (string, error) {
	email := c.text("email")
	if email == "" {
		return "", refuse("it has no email claim; ask the issuer for scope email")
	}
	// Some issuers send the text "true" (OpenID Connect Core 5.1 says boolean).
	if v := string(c["email_verified"]); v != "true" && v != `"true"` {
		return "", refuse("its email_verified claim is %.10q, want true", v)
	}
	if !looksLikeEmail(email) {
		return "", refuse("its email claim %.80q is not one plain address", email)
	}
	return email, nil
}

// looksLikeEmail accepts plain ASCII addresses, local@domain, without quoting,
// comments and address literals (RFC 5321's dot-string form). Both parts must
// survive rfc822Name, which is IA5 (RFC 5280, 4.2.1.6).
func looksLikeEmail(s string) bool {
	local, domain, ok := strings.Cut(s, "@")
	if !ok || local == "" || len(local) > 64 || len(s) > 254 || !strings.Contains(domain, ".") && domain != "localhost" {
		return false
	}
	for _, atom := range strings.Split(local, ".") {
		if atom == "" || strings.ContainsFunc(atom, func(r rune) bool { return !isAlnum(r) && !strings.ContainsRune("!#$%&'*+-/=?^_`{|}~", r) }) {
			return false
		}
	}
	for _, label := range strings.Split(domain, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(r rune) bool { return !isAlnum(r) && r != '-' }) {
			return false
		}
	}
	return true
}

func isAlnum(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

func subjectURI(sub, domain string) (*url.URL, error) {
	u, err := url.Parse(sub)
	if err != nil || u.Host == "" || u.User != nil || u.String() != sub {
		return nil, refuse("its subject %.200q is not a URI in normal form", sub)
	}
	d, err := url.Parse(domain)
	if err != nil || u.Scheme != d.Scheme || !strings.EqualFold(u.Host, d.Host) {
		return nil, refuse("its subject %.200q is not below %s", sub, domain)
	}
	return u, nil
}

// spiffeID checks a SPIFFE ID (SPIFFE-ID standard, section 2) of one domain.
func spiffeID(sub, domain string) (*url.URL, error) {
	path, ok := strings.CutPrefix(sub, "spiffe://"+domain)
	if !ok || path != "" && path[0] != '/' {
		return nil, refuse("its subject %.200q is not a SPIFFE ID of trust domain %s", sub, domain)
	}
	if path != "" {
		for _, seg := range strings.Split(path[1:], "/") {
			if seg == "" || seg == "." || seg == ".." ||
				strings.ContainsFunc(seg, func(r rune) bool { return !isAlnum(r) && r != '.' && r != '-' && r != '_' }) {
				return nil, refuse("its subject %.200q is not a valid SPIFFE ID", sub)
			}
		}
	}
	return url.Parse(sub)
}

// serviceAccount gives the URI of a Kubernetes service account. The sub claim
// and the kubernetes.io claim must tell the same.
func (c claims) serviceAccount(sub string) (*url.URL, error) {
	var k struct {
		Namespace      string `json:"namespace"`
		ServiceAccount struct {
			Name string `json:"name"`
		} `json:"serviceaccount"`
	}
	if v := c["kubernetes.io"]; len(v) == 0 || json.Unmarshal(v, &k) != nil {
		return nil, refuse("it has no kubernetes.io claim: want a bound service account token (a projected volume or TokenRequest)")
	}
	if !dnsName(k.Namespace) || !dnsName(k.ServiceAccount.Name) || sub != "system:serviceaccount:"+k.Namespace+":"+k.ServiceAccount.Name {
		return nil, refuse("its subject %.200q and its kubernetes.io claim (%.80q, %.80q) do not agree", sub, k.Namespace, k.ServiceAccount.Name)
	}
	return url.Parse("https://kubernetes.io/namespaces/" + k.Namespace + "/serviceaccounts/" + k.ServiceAccount.Name)
}

// dnsName says whether s is a DNS-1123 subdomain, as Kubernetes wants names.
func dnsName(s string) bool {
	return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.'
	})
}

// list gives a claim that lists texts; one text is a list of one.
func (c claims) list(name string) ([]string, error) {
	v := c[name]
	if len(v) == 0 || v.Kind() == 'n' {
		return nil, nil
	}
	if v.Kind() == '"' {
		return []string{c.text(name)}, nil
	}
	var list []string
	if json.Unmarshal(v, &list) != nil {
		return nil, refuse("its %.40s claim is not a list of texts", name)
	}
	if len(list) > maxGroups {
		return nil, refuse("its %.40s claim has %d groups, at most %d; have the issuer filter them", name, len(list), maxGroups)
	}
	return list, nil
}

// scalars gives the texts, numbers and booleans among the claims.
func (c claims) scalars() map[string]string {
	m := make(map[string]string, min(len(c), maxClaims))
	for name, v := range c {
		if len(m) == maxClaims || len(v) > maxClaimBytes || len(name) > maxClaimBytes {
			continue
		}
		switch v.Kind() {
		case '"':
			m[name] = c.text(name)
		case '0', 't', 'f':
			m[name] = string(v)
		}
	}
	return m
}
