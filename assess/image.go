package assess

import (
	"strings"
	"unicode"

	"assay/artifact"
)

// reference reads an image as container runtimes complete it: no host is docker.io,
// there no namespace is library, and neither tag nor digest is the tag latest.
func reference(s string) (artifact.Reference, error) {
	full := s
	host, rest, ok := strings.Cut(s, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, rest, full = "docker.io", s, "docker.io/"+s
	}
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host, full = "docker.io", "docker.io/"+rest
	}
	if name, _, _ := strings.Cut(rest, "@"); host == "docker.io" && !strings.Contains(name, "/") {
		full = "docker.io/library/" + rest
	}
	r, err := artifact.ParseReference(full)
	if err == nil && r.Tag == "" && r.Digest == "" {
		r.Tag = "latest"
	}
	return r, err
}

// dialed is a reference by the host that answers for it.
func dialed(r artifact.Reference) artifact.Reference {
	if r.Host == "docker.io" {
		r.Host = "index.docker.io"
	}
	return r
}

// text makes what others wrote safe to be looked at: of one line, without control
// characters and those that turn the direction of writing, and of a bounded length.
func text(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsControl(r), r == '\u2028', r == '\u2029', r == '\u061c', r >= '\u200b' && r <= '\u200f', r >= '\u202a' && r <= '\u202e', r >= '\u2066' && r <= '\u2069', r == '\ufeff':
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
