package artifact

import (
	"net"
	"regexp"
	"strings"

	"assay/internal/fault"
)

// Reference is where an artifact lies: host/repository[:tag][@digest]. A
// reference is a place, never an identity: what lies there is known by its
// digest alone.
type Reference struct {
	Host       string // "registry.example", "127.0.0.1:5000"; never empty
	Repository string // "team/app"
	Tag        string // "" when none was given
	Digest     Digest // "" when none was given
}

// The grammars of OCI Distribution 1.1, section "Pulling manifests". The tag's
// is also that of a legacy signature tag.
var (
	repositoryRE = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagRE        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	hostRE       = regexp.MustCompile(`^(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?$`)
)

// MaxRepository is the longest repository name, in bytes. The standard's
// limit counts the host as well; 255 is what clients accept.
const MaxRepository = 255

// ValidRepository says whether s is a repository name of OCI Distribution.
func ValidRepository(s string) bool { return len(s) <= MaxRepository && repositoryRE.MatchString(s) }

// ValidTag says whether s is a tag of OCI Distribution.
func ValidTag(s string) bool { return tagRE.MatchString(s) }

// ParseReference reads a full reference. The host must be written out, in
// ASCII (an internationalised name in its xn-- form): a short name would be
// completed differently by different clients, and look-alike letters name
// another host than the reader sees.
func ParseReference(s string) (Reference, error) {
	bad := func(why string) (Reference, error) {
		return Reference{}, fault.Newf(fault.Invalid, "reference %.200q: %s; want HOST/REPOSITORY[:TAG][@sha256:HEX]", s, why)
	}
	if len(s) > 1024 {
		return bad("longer than 1024 bytes")
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return bad("has a character outside printable ASCII")
		}
	}
	var r Reference
	rest, digest, hasDigest := strings.Cut(s, "@")
	if hasDigest {
		d, err := ParseDigest(digest)
		if err != nil {
			return Reference{}, err
		}
		r.Digest = d
	}
	host, path, ok := strings.Cut(rest, "/")
	if !ok || !(strings.ContainsAny(host, ".:") || host == "localhost") {
		return bad("has no registry host")
	}
	if !hostRE.MatchString(host) {
		return bad("its host is not a host name")
	}
	if i := strings.LastIndexByte(path, ':'); i >= 0 {
		path, r.Tag = path[:i], path[i+1:]
		if !ValidTag(r.Tag) {
			return bad("its tag is not of the OCI grammar")
		}
	}
	if !ValidRepository(path) {
		return bad("its repository is not of the OCI grammar (lower case, digits, . _ - /)")
	}
	r.Host, r.Repository = host, path
	return r, nil
}

// String is the reference as ParseReference reads it.
func (r Reference) String() string {
	s := r.Host + "/" + r.Repository
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + string(r.Digest)
	}
	return s
}

// WithDigest is r pinned to d.
func (r Reference) WithDigest(d Digest) Reference { r.Digest = d; return r }

// Loopback says whether the host is this machine, where clients speak plain
// HTTP by convention.
func (r Reference) Loopback() bool {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
