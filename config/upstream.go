package config

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"assay/internal/fault"
)

// DefaultRevalidate is how long what an upstream said of a tag is believed.
const DefaultRevalidate = 5 * time.Minute

// UpstreamSpec makes the repositories of a pattern a gateway: what is pulled
// from them is fetched from another registry, kept, and let through by the same
// gate as what is pushed. The part of a name before the pattern's first star is
// this site's; the rest, behind the URL's path, is the name at the upstream:
// with pattern "ghcr/**" and url https://ghcr.io/org, ghcr/app is
// ghcr.io/org/app.
type UpstreamSpec struct {
	// URL is https://HOST or https://HOST/PREFIX; http is for private networks.
	// Empty: no gateway.
	URL string `yaml:"url"`
	// Credentials is where a name and password for the upstream's host are kept,
	// as "username:password" or as a docker config.json: "file:PATH" or
	// "credential:NAME". Default: none are sent.
	Credentials string `yaml:"credentials"`
	// CABundle is a PEM file of authorities for the upstream's TLS.
	CABundle string `yaml:"caBundle"`
	// AllowPrivate permits an upstream on a private network.
	AllowPrivate bool `yaml:"allowPrivate"`
	// Revalidate is how long a tag is served before the upstream is asked again
	// where it points, and what is signed; from 10s. Default 5m.
	Revalidate time.Duration `yaml:"revalidate"`
	// Notices are those that the upstream sends of pushes, see docs/gateway.md.
	Notices NoticeSpec `yaml:"notices"`
}

// NoticeSpec says who sends notices and how they prove it.
type NoticeSpec struct {
	// Provider is harbor, ecr, ghcr or distribution. Empty: no notices are taken.
	Provider string `yaml:"provider"`
	// Secret is what the sender knows, of at least 16 bytes: "file:PATH" or
	// "credential:NAME".
	Secret string `yaml:"secret"`
}

// NoticeProviders are those whose notices are understood.
var NoticeProviders = []string{"harbor", "ecr", "ghcr", "distribution"}

// Set says whether there is an upstream.
func (u *UpstreamSpec) Set() bool { return u.URL != "" }

// Host is the upstream's host, with its port if it has one.
func (u *UpstreamSpec) Host() string {
	parsed, err := url.Parse(u.URL)
	if err != nil {
		return ""
	}
	return strings.ToLower(parsed.Host)
}

// Every is Revalidate, or its default.
func (u *UpstreamSpec) Every() time.Duration {
	if u.Revalidate == 0 {
		return DefaultRevalidate
	}
	return u.Revalidate
}

func (u *UpstreamSpec) validate(pattern string) error {
	if !u.Set() {
		if *u != (UpstreamSpec{}) {
			return fault.Newf(fault.Invalid, "upstream: want url")
		}
		return nil
	}
	parsed, err := url.Parse(u.URL)
	if err != nil || parsed.Host == "" || parsed.Scheme != "https" && parsed.Scheme != "http" || parsed.RawQuery != "" {
		return fault.Newf(fault.Invalid, "upstream: url %.200q: want https://HOST or https://HOST/PREFIX", u.URL)
	}
	if parsed.User != nil || parsed.Fragment != "" {
		return fault.Newf(fault.Invalid, "upstream: url carries neither credentials nor a fragment: name a file in credentials")
	}
	if parsed.Scheme == "http" && !u.AllowPrivate {
		return fault.Newf(fault.Invalid, "upstream: url %.200q: http is for private networks, with allowPrivate; want https", u.URL)
	}
	if c := u.Credentials; c != "" && !strings.HasPrefix(c, "file:") && !strings.HasPrefix(c, "credential:") {
		return fault.Newf(fault.Invalid, "upstream: credentials: want file:PATH or credential:NAME, never the password itself")
	}
	if n := u.Notices; n != (NoticeSpec{}) {
		if !slices.Contains(NoticeProviders, n.Provider) {
			return fault.Newf(fault.Invalid, "upstream: notices: provider %.40q: want harbor, ecr, ghcr or distribution", n.Provider)
		}
		if !strings.HasPrefix(n.Secret, "file:") && !strings.HasPrefix(n.Secret, "credential:") {
			return fault.Newf(fault.Invalid, "upstream: notices: secret: want file:PATH or credential:NAME")
		}
	}
	if u.Revalidate != 0 && (u.Revalidate < 10*time.Second || u.Revalidate > 30*24*time.Hour) {
		return fault.Newf(fault.Invalid, "upstream: revalidate %s: want from 10s to 720h", u.Revalidate)
	}
	if !strings.Contains(pattern, "*") && strings.Trim(parsed.Path, "/") == "" {
		return fault.Newf(fault.Invalid, "upstream: pattern %.100q is one repository: want the upstream's in url, as https://HOST/REPOSITORY", pattern)
	}
	return nil
}

// UpstreamName gives the name that a repository of this spec has at its upstream;
// ok is false where it has none.
func (s *RepositorySpec) UpstreamName(repository string) (name string, ok bool) {
	parsed, err := url.Parse(s.Upstream.URL)
	if err != nil || !s.Upstream.Set() {
		return "", false
	}
	rest := ""
	if own := ownPart(s.Pattern); own != s.Pattern {
		if rest, ok = strings.CutPrefix(repository, own); !ok {
			return "", false
		}
	}
	name = strings.Trim(strings.Trim(parsed.Path, "/")+"/"+rest, "/")
	return name, name != ""
}

// LocalName is the way back: what a repository of the upstream is called here,
// if it is of this spec's pattern.
func (s *RepositorySpec) LocalName(upstream string) (repository string, ok bool) {
	parsed, err := url.Parse(s.Upstream.URL)
	if err != nil || !s.Upstream.Set() {
		return "", false
	}
	prefix, own := strings.Trim(parsed.Path, "/"), ownPart(s.Pattern)
	if own == s.Pattern {
		return own, upstream == prefix
	}
	rest := upstream
	if prefix != "" {
		if rest, ok = strings.CutPrefix(upstream, prefix+"/"); !ok {
			return "", false
		}
	}
	return own + rest, rest != ""
}

// ownPart is a pattern up to the segment with its first star.
func ownPart(pattern string) string {
	i := strings.IndexByte(pattern, '*')
	if i < 0 {
		return pattern
	}
	return pattern[:strings.LastIndexByte(pattern[:i], '/')+1]
}

// Upstreams are those that repositories have, each once.
func (r *Repositories) Upstreams() (out []UpstreamSpec) {
	if r == nil {
		return nil
	}
	for _, rule := range r.rules {
		if rule.Upstream.Set() && !slices.Contains(out, rule.Upstream) {
			out = append(out, rule.Upstream)
		}
	}
	return out
}

// Locals gives the repositories here that stand for one of an upstream's.
func (r *Repositories) Locals(of UpstreamSpec, upstream string) (out []string) {
	if r == nil {
		return nil
	}
	for _, rule := range r.rules {
		if rule.Upstream != of {
			continue
		}
		name, ok := rule.LocalName(upstream)
		if !ok || !rule.glob.Match(name) {
			continue
		}
		if s := r.For(name); s.Upstream == rule.Upstream {
			out = append(out, name)
		}
	}
	return out
}

// Plain says whether the upstream is asked over http.
func (u *UpstreamSpec) Plain() bool { return strings.HasPrefix(u.URL, "http://") }
