// Package upstream fetches advisory feeds from where a site's configuration, or an
// administrator, says: the public export of OSV or a mirror of it over HTTPS, a
// bucket of S3, a folder, a file; CISA's catalog and EPSS's scores likewise. By
// default there is none, and nothing is asked of anybody.
//
// What is fetched is bounded, is asked for only when it changed, goes on where a
// connection broke, and is handed to package feed, which takes it whole or not at
// all. Times that an upstream claims are never believed; they are compared.
package upstream

import (
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"assay/blob/s3"
	"assay/internal/fault"
)

// The types of a feed.
const (
	OSV  = "osv"  // ECOSYSTEM/all.zip and modified_id.csv, as OSV exports them
	KEV  = "kev"  // CISA's catalog, JSON
	EPSS = "epss" // FIRST's scores, CSV, also under gzip
)

// Types lists them.
var Types = []string{OSV, KEV, EPSS}

const (
	defaultEvery = time.Hour
	defaultMax   = 4 << 30 // some four times the largest archive of the public bucket
	maxList      = 64 << 20
	maxIndex     = 64 << 20 // modified_id.csv: npm's has some 15 MiB
)

// Spec says where a feed comes from, and what proves it.
type Spec struct {
	// Name is what the feed is called here: letters, figures and -_. of at most 60.
	Name string `yaml:"name" json:"name"`
	// Type is osv, kev or epss. Default: osv.
	Type string `yaml:"type" json:"type,omitempty"`
	// URL is https://HOST/PATH, s3://BUCKET/PREFIX, or file:///PATH. Of type osv it
	// is the folder above ECOSYSTEM/all.zip, or one zip; else it is the list. http
	// is for private networks.
	URL string `yaml:"url" json:"url"`
	// Ecosystems are those that are fetched, as OSV names its folders. A file: URL
	// may leave them out, and is read for what is there.
	Ecosystems []string `yaml:"ecosystems" json:"ecosystems,omitempty"`
	// Every is how often it is asked; from 1m to 168h. Default 1h.
	Every time.Duration `yaml:"every" json:"every,omitempty"`
	// MaxBytes bounds one archive. Default 4 GiB.
	MaxBytes int64 `yaml:"max_bytes" json:"max_bytes,omitempty"`
	// CABundle is a PEM file of authorities for the upstream's TLS.
	CABundle string `yaml:"ca_bundle" json:"ca_bundle,omitempty"`
	// Proxy is http://HOST:PORT; empty: the environment's (HTTPS_PROXY, NO_PROXY);
	// "none": none.
	Proxy string `yaml:"proxy" json:"proxy,omitempty"`
	// AllowPrivate permits an upstream on a private network.
	AllowPrivate bool `yaml:"allow_private" json:"allow_private,omitempty"`
	// Credentials is where a bearer token, or username:password, for the URL's host
	// is kept: "file:PATH" or "credential:NAME". Of s3: as blob.s3.credentials.
	Credentials string `yaml:"credentials" json:"credentials,omitempty"`
	// SHA256 pins the archive: hexadecimal. Anything else is refused.
	SHA256 string `yaml:"sha256" json:"sha256,omitempty"`
	// Signature asks for a Sigstore bundle beside the archive (its name and
	// .sigstore.json), verified by this site's trust.
	Signature Signature `yaml:"signature" json:"signature,omitzero"`
	// S3 is how the service is spoken to when URL is s3://.
	S3 S3 `yaml:"s3" json:"s3,omitzero"`
}

// Signature says who must have signed.
type Signature struct {
	Identity string `yaml:"identity" json:"identity,omitempty"` // of the certificate, exactly
	Issuer   string `yaml:"issuer" json:"issuer,omitempty"`     // of the identity, exactly
}

// S3 is the service of an s3:// URL.
type S3 struct {
	Endpoint  string `yaml:"endpoint" json:"endpoint,omitempty"` // https://HOST; http is for loopback only
	Region    string `yaml:"region" json:"region,omitempty"`
	PathStyle bool   `yaml:"path_style" json:"path_style,omitempty"`
}

var (
	plainName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,59}$`)
	plainEco   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9 ._:-]{0,79}$`)
	plainSHA   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	maxPerSpec = 64 // ecosystems
)

// Interval is Every, or its default.
func (s *Spec) Interval() time.Duration {
	if s.Every == 0 {
		return defaultEvery
	}
	return s.Every
}

// limit is the most that one file of the feed may have, in bytes.
func (s *Spec) limit() int64 {
	switch {
	case s.Type != OSV:
		return maxList
	case s.MaxBytes != 0:
		return s.MaxBytes
	}
	return defaultMax
}

// Validate brings in the defaults and says what is wrong; fault.Invalid.
func (s *Spec) Validate() error {
	if s.Type == "" {
		s.Type = OSV
	}
	bad := func(format string, args ...any) error {
		return fault.Newf(fault.Invalid, "feed %.60q: "+format, append([]any{s.Name}, args...)...)
	}
	u, err := url.Parse(s.URL)
	switch {
	case !plainName.MatchString(s.Name):
		return bad("its name: want 1 to 60 letters, figures and -_.")
	case !slices.Contains(Types, s.Type):
		return bad("type %.40q: want %s", s.Type, strings.Join(Types, ", "))
	case s.Type != OSV && s.Name != s.Type:
		return bad("a list of type %s is called %s: there is one of it", s.Type, s.Type)
	case s.Type == OSV && (s.Name == KEV || s.Name == EPSS):
		return bad("that is the name of a list, of type %s", s.Name)
	case err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return bad("url %.200q: want https://HOST/PATH, s3://BUCKET/PREFIX or file:///PATH, without credentials, query and fragment", s.URL)
	case s.Every != 0 && (s.Every < time.Minute || s.Every > 7*24*time.Hour):
		return bad("every %s: want from 1m to 168h", s.Every)
	case s.MaxBytes < 0 || s.MaxBytes > 64<<30:
		return bad("max_bytes %d: want at most 64 GiB", s.MaxBytes)
	case s.SHA256 != "" && !plainSHA.MatchString(s.SHA256):
		return bad("sha256: want 64 hexadecimal digits")
	case s.SHA256 != "" && s.Type == OSV && len(s.Ecosystems) > 1:
		return bad("sha256 pins one archive, and ecosystems names %d", len(s.Ecosystems))
	case (s.Signature.Identity == "") != (s.Signature.Issuer == ""):
		return bad("signature: want identity and issuer")
	case len(s.Ecosystems) > maxPerSpec:
		return bad("%d ecosystems: at most %d", len(s.Ecosystems), maxPerSpec)
	case s.Type != OSV && len(s.Ecosystems) > 0:
		return bad("ecosystems: a list of type %s has none", s.Type)
	}
	for i, e := range s.Ecosystems {
		if !plainEco.MatchString(e) || slices.Contains(s.Ecosystems[:i], e) {
			return bad("ecosystem %.80q: want the name of OSV's folder, each once", e)
		}
	}
	return s.place(u, bad)
}

// place looks at what is proper to the kind of URL.
func (s *Spec) place(u *url.URL, bad func(string, ...any) error) error {
	if p := s.Proxy; p != "" && p != "none" {
		at, err := url.Parse(p)
		if err != nil || at.Host == "" || at.User != nil || !slices.Contains([]string{"http", "https", "socks5"}, at.Scheme) {
			return bad("proxy %.200q: want http://HOST:PORT without credentials, or none", p)
		}
	}
	switch u.Scheme {
	case "https", "http":
		if u.Host == "" {
			return bad("url %.200q: want a host", s.URL)
		}
		if u.Scheme == "http" && !s.AllowPrivate {
			return bad("url %.200q: http is for private networks, with allow_private; want https", s.URL)
		}
		if c := s.Credentials; c != "" && !strings.HasPrefix(c, "file:") && !strings.HasPrefix(c, "credential:") {
			return bad("credentials: want file:PATH or credential:NAME, never the secret itself")
		}
	case "s3":
		if err := s.bucket(u).Validate(); err != nil {
			return bad("%w", err)
		}
	case "file":
		if u.Host != "" || !filepath.IsAbs(filepath.FromSlash(u.Path)) {
			return bad("url %.200q: want file:///PATH", s.URL)
		}
		return nil
	default:
		return bad("url %.200q: want https://HOST/PATH, s3://BUCKET/PREFIX or file:///PATH", s.URL)
	}
	if s.Type == OSV && len(s.Ecosystems) == 0 {
		return bad("ecosystems: want at least one, as OSV names its folders: PyPI, npm, Go, Debian, …")
	}
	return nil
}

// bucket is how an s3:// URL is opened.
func (s *Spec) bucket(u *url.URL) s3.Options {
	return s3.Options{Endpoint: s.S3.Endpoint, Bucket: u.Host, Prefix: s.keyPrefix(u), Region: s.S3.Region, PathStyle: s.S3.PathStyle, Credentials: s.Credentials, CAFile: s.CABundle}
}

func (s *Spec) keyPrefix(u *url.URL) string {
	p := strings.Trim(u.Path, "/")
	if s.Type != OSV || strings.HasSuffix(p, ".zip") {
		p = strings.TrimSuffix(p[:strings.LastIndex("/"+p, "/")], "/")
	}
	return p
}

// single says that the URL is one archive, whatever the ecosystem.
func (s *Spec) single() bool { return s.Type != OSV || strings.HasSuffix(s.URL, ".zip") }

// proved says that each file must come with a proof: then it is fetched whole.
func (s *Spec) proved() bool { return s.SHA256 != "" || s.Signature.Issuer != "" }
