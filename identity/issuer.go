package identity

import (
	"net/netip"
	"net/url"
	"strings"

	"assay/internal/fault"
)

// IssuerType says how an issuer's claims become an identity.
type IssuerType string

// The types of issuer. What each puts into the certificate is Fulcio's rule
// (its docs/oidc.md), so that signatures match elsewhere too.
const (
	TypeEmail      IssuerType = "email"      // email claim; email_verified must be true
	TypeURI        IssuerType = "uri"        // sub is a URI of the configured SubjectDomain
	TypeSPIFFE     IssuerType = "spiffe"     // sub is a SPIFFE ID of the configured TrustDomain
	TypeKubernetes IssuerType = "kubernetes" // service account, https://kubernetes.io/namespaces/NS/serviceaccounts/SA
	TypeGitHub     IssuerType = "github"     // GitHub Actions: URI of the job's workflow, with all build extensions
	TypeGitLab     IssuerType = "gitlab"     // GitLab CI: URI of the CI configuration, with all build extensions
	// TypeLocal is the embedded issuer: an e-mail address, else a URI, else a
	// plain name that can use the registry and the API but not sign. It cannot
	// be configured; [VerifierOptions] names it.
	TypeLocal IssuerType = "local"
)

// IssuerConfig is an OIDC issuer whose tokens are believed.
type IssuerConfig struct {
	// URL is the issuer, exactly as in its tokens' iss claim: https, or http
	// on a loopback address with AllowPrivate.
	URL  string     `json:"url" yaml:"url"`
	Type IssuerType `json:"type" yaml:"type"`
	// ClientID is short for an issuer whose tokens serve one purpose, with
	// this value as their aud claim; Purpose says which ("sigstore" unless
	// set). Give either ClientID or Audiences.
	ClientID string   `json:"client_id,omitempty" yaml:"client_id,omitempty"`
	Purpose  Audience `json:"purpose,omitempty" yaml:"purpose,omitempty"`
	// Audiences says what aud claim a token must have for each purpose. Unset
	// means that each purpose's own name is its aud claim. Two purposes never
	// share a value, and none bears another's name.
	Audiences map[Audience]string `json:"audiences,omitempty" yaml:"audiences,omitempty"`
	// JWKSFile is a JSON Web Key Set to use instead of the network, for sites
	// without a way out; read anew when the file changes.
	JWKSFile string `json:"jwks_file,omitempty" yaml:"jwks_file,omitempty"`
	// CABundle is a PEM file of roots for this issuer's HTTPS, instead of the
	// system's.
	CABundle string `json:"ca_bundle,omitempty" yaml:"ca_bundle,omitempty"`
	// AllowPrivate lets discovery reach private and loopback addresses.
	// Link-local and metadata addresses are refused all the same.
	AllowPrivate bool `json:"allow_private,omitempty" yaml:"allow_private,omitempty"`
	// Login offers this issuer to people who log in with assay login: as a public
	// client, with PKCE, whose client_id for each purpose is the aud claim of
	// that purpose.
	Login bool `json:"login,omitempty" yaml:"login,omitempty"`
	// SubjectDomain is, for type uri, the scheme and host that every subject
	// must have, for example "https://ci.example.com".
	SubjectDomain string `json:"subject_domain,omitempty" yaml:"subject_domain,omitempty"`
	// TrustDomain is, for type spiffe, the one trust domain of its subjects.
	TrustDomain string `json:"trust_domain,omitempty" yaml:"trust_domain,omitempty"`
	// GroupsClaim names the claim that lists groups; empty means "groups".
	GroupsClaim string `json:"groups_claim,omitempty" yaml:"groups_claim,omitempty"`
	// WebURL is, for types github and gitlab, where repositories are seen;
	// empty means https://github.com/ and https://gitlab.com/.
	WebURL string `json:"web_url,omitempty" yaml:"web_url,omitempty"`
}

// Validate says what is wrong with an issuer's configuration. Errors are
// [fault.Invalid]. Files are not read.
func (c IssuerConfig) Validate() error {
	bad := func(format string, args ...any) error {
		return fault.Newf(fault.Invalid, "issuer %.200q: "+format, append([]any{c.URL}, args...)...)
	}
	u, err := checkURL(c.URL, c.AllowPrivate)
	if err != nil {
		return bad("%w", err)
	}
	if u.RawQuery != "" || u.Fragment != "" || u.ForceQuery {
		return bad("want a URL without query and fragment (OpenID Connect Discovery 1.0, section 4.1)")
	}
	switch c.Type {
	case TypeEmail, TypeKubernetes:
	case TypeGitHub, TypeGitLab:
		if c.WebURL != "" {
			if _, err := checkURL(c.WebURL, c.AllowPrivate); err != nil {
				return bad("web_url: %w", err)
			}
		}
	case TypeURI:
		d, err := url.Parse(c.SubjectDomain)
		if err != nil || d.Scheme == "" || d.Host == "" || (d.Path != "" && d.Path != "/") {
			return bad(`type uri wants a subject_domain such as "https://ci.example.com", found %.200q`, c.SubjectDomain)
		}
	case TypeSPIFFE:
		if !validTrustDomain(c.TrustDomain) {
			return bad("type spiffe wants a trust_domain of lower case letters, digits, '.', '-', '_', found %.200q", c.TrustDomain)
		}
	default:
		return bad("type %.40q: want one of email, uri, spiffe, kubernetes, github, gitlab", c.Type)
	}
	if _, err := c.audiences(); err != nil {
		return bad("%w", err)
	}
	return nil
}

// audiences gives the aud claim for each purpose.
func (c IssuerConfig) audiences() (map[Audience]string, error) {
	m := c.Audiences
	if c.ClientID != "" || c.Purpose != "" {
		if len(m) > 0 {
			return nil, fault.Newf(fault.Invalid, "want client_id or audiences, found both")
		}
		p := c.Purpose
		if p == "" {
			p = AudienceSigstore
		}
		m = map[Audience]string{p: c.ClientID}
	}
	if len(m) == 0 {
		m = map[Audience]string{}
		for _, a := range Audiences() {
			m[a] = string(a)
		}
	}
	seen := map[string]Audience{}
	for purpose, aud := range m {
		if !purpose.Valid() {
			return nil, fault.Newf(fault.Invalid, "audience %.40q: want one of %v", purpose, Audiences())
		}
		if aud == "" || len(aud) > 512 {
			return nil, fault.Newf(fault.Invalid, "audience %s: want an aud claim of 1 to 512 bytes", purpose)
		}
		if other, dup := seen[aud]; dup {
			return nil, fault.Newf(fault.Invalid, "audiences %s and %s share the aud claim %.80q: one token would serve two purposes", purpose, other, aud)
		}
		if Audience(aud).Valid() && Audience(aud) != purpose {
			return nil, fault.Newf(fault.Invalid, "audience %s has the aud claim %q, which is another purpose's name", purpose, aud)
		}
		seen[aud] = purpose
	}
	return m, nil
}

// checkURL parses an https URL, or http to a loopback address where private
// addresses are allowed; credentials in it are refused.
func checkURL(raw string, private bool) (*url.URL, error) {
	if len(raw) > 2048 {
		return nil, fault.Newf(fault.Invalid, "URL of %d bytes: at most 2048", len(raw))
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Opaque != "" {
		return nil, fault.Newf(fault.Invalid, "%.200q: want an absolute https URL", raw)
	}
	if u.User != nil {
		return nil, fault.Newf(fault.Invalid, "want a URL without user and password")
	}
	switch {
	case u.Scheme == "https":
	case u.Scheme == "http" && private && isLoopbackHost(u.Hostname()):
	default:
		return nil, fault.Newf(fault.Invalid, "%.200q: want https (http only on a loopback address, with allow_private)", raw)
	}
	return u, nil
}

func isLoopbackHost(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

func validTrustDomain(s string) bool {
	return s != "" && len(s) <= 255 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '.' && r != '-' && r != '_'
	})
}
