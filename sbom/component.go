package sbom

import (
	"net/url"
	"slices"
	"strings"

	"assay/artifact"
)

// settle brings a component into one shape, whatever wrote it.
func settle(c *Component) {
	c.Name, c.Version, c.Group = trimmed(c.Name), trimmed(c.Version), trimmed(c.Group)
	if c.Version == "" {
		c.Version = c.PURL.Version
	}
	if c.SourceName == "" {
		sourceOf(c)
	}
	c.CPEs, c.Licenses, c.Concluded, c.Locations = distinct(c.CPEs), distinct(licenses(c.Licenses)), distinct(licenses(c.Concluded)), distinct(c.Locations)
	if len(c.Digests) == 0 {
		c.Digests = nil
	}
}

// sourceOf reads the source package of a distribution's binary package from the
// qualifiers that scanners write.
func sourceOf(c *Component) {
	switch c.PURL.Type {
	case "deb", "rpm", "apk", "alpm":
	default:
		return
	}
	up := c.PURL.Qualifier("upstream")
	if up == "" {
		up = c.PURL.Qualifier("source")
	}
	if up == "" {
		return
	}
	name, version, _ := strings.Cut(up, "@")
	if c.PURL.Type == "rpm" { // upstream=glibc-2.28-225.el8.src.rpm
		if base, is := strings.CutSuffix(name, ".src.rpm"); is {
			name, version = splitRPM(base)
		}
	}
	c.SourceName, c.SourceVersion = name, version
}

// splitRPM parts NAME-VERSION-RELEASE.
func splitRPM(s string) (name, version string) {
	release := strings.LastIndexByte(s, '-')
	if release <= 0 {
		return s, ""
	}
	at := strings.LastIndexByte(s[:release], '-')
	if at <= 0 {
		return s, ""
	}
	return s[:at], s[at+1:]
}

func distinct(in []string) []string {
	var out []string
	for _, s := range in {
		if len(out) == maxList {
			break
		}
		if s = strings.TrimSpace(s); s == "" || len(s) > maxText || slices.Contains(out, s) {
			continue
		}
		out = append(out, s)
	}
	return out
}

// purl reads a document's package URL; one that does not parse is a problem.
func (s *stream) purl(text string) artifact.PURL {
	text = strings.TrimSpace(text)
	if text == "" {
		return artifact.PURL{}
	}
	p, err := artifact.ParsePURL(text)
	if err != nil {
		s.problem("%s", err)
		return artifact.PURL{}
	}
	return respell(p)
}

// respell mends package URLs of types that were never registered, as older
// scanners write them.
func respell(p artifact.PURL) artifact.PURL {
	if p.Type == "alpine" {
		p.Type, p.Namespace = "apk", "alpine"
	}
	return p
}

// hashNames are the algorithms in the spelling of in-toto's digest sets, by
// their letters and figures alone: CycloneDX writes SHA-256, SPDX 2 SHA256.
var hashNames = map[string]string{
	"md5": "md5", "sha1": "sha1", "sha224": "sha224", "sha256": "sha256", "sha384": "sha384", "sha512": "sha512",
	"sha3256": "sha3_256", "sha3384": "sha3_384", "sha3512": "sha3_512",
	"blake2b256": "blake2b_256", "blake2b384": "blake2b_384", "blake2b512": "blake2b_512", "blake3": "blake3",
	"streebog256": "streebog_256", "streebog512": "streebog_512", "adler32": "adler32", "md2": "md2", "md4": "md4", "md6": "md6",
}

func (s *stream) digest(set *artifact.DigestSet, alg, value string) {
	key := strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return -1
	}, alg)
	name, value := hashNames[key], strings.ToLower(strings.TrimSpace(value))
	if name == "" || value == "" || len(value) > 256 || strings.Trim(value, "0123456789abcdef") != "" {
		s.problem("hash %q with the value %q is not understood", alg, value)
		return
	}
	if *set == nil {
		*set = artifact.DigestSet{}
	}
	if len(*set) < maxList {
		(*set)[name] = value
	}
}

// none says whether a text stands for the absence of one.
func none(s string) bool {
	switch strings.TrimSpace(s) {
	case "", "NOASSERTION", "NONE", "UNKNOWN":
		return true
	}
	return false
}

// party is the name in "Organization: NAME (mail)".
func party(s string) string {
	for _, kind := range []string{"Organization:", "Person:", "Tool:"} {
		if rest, is := strings.CutPrefix(s, kind); is {
			s = rest
		}
	}
	if s = strings.TrimSpace(s); none(s) {
		return ""
	}
	return s
}

func unescape(s string) string {
	if out, err := url.PathUnescape(s); err == nil {
		return out
	}
	return s
}

// Settle brings a component that was not read from a document into the shape
// that reading gives it.
func (c *Component) Settle() { settle(c) }
