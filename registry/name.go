package registry

import (
	"strconv"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
)

// maxName is the longest repository name, in bytes. Clients limit host and name
// together to 255 (OCI Distribution, Pulling manifests).
const maxName = 255

const maxTag = 128

// ValidName says whether s is a repository name by the grammar of OCI
// Distribution 1.1, section "Pulling manifests":
//
//	[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*
func ValidName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for component := range strings.SplitSeq(s, "/") {
		if !validComponent(component) {
			return false
		}
	}
	return true
}

func validComponent(s string) bool {
	if s == "" || !alnum(s[0]) || !alnum(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); {
		if alnum(s[i]) {
			i++
			continue
		}
		start := i
		for i < len(s) && !alnum(s[i]) {
			i++
		}
		switch sep := s[start:i]; {
		case sep == ".", sep == "_", sep == "__", strings.Trim(sep, "-") == "":
		default:
			return false
		}
	}
	return true
}

func alnum(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// ValidTag says whether s is a tag: [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}.
func ValidTag(s string) bool {
	if s == "" || len(s) > maxTag {
		return false
	}
	for i := range len(s) {
		c := s[i]
		word := alnum(c) || 'A' <= c && c <= 'Z' || c == '_'
		if !word && (i == 0 || c != '.' && c != '-') {
			return false
		}
	}
	return true
}

// parseReference reads what follows /manifests/: a digest when it has a colon,
// which no tag may have, else a tag.
func parseReference(ref string) (tag string, d artifact.Digest, err error) {
	if strings.Contains(ref, ":") {
		d, err = parseDigest(ref)
		return "", d, err
	}
	if !ValidTag(ref) {
		return "", "", failf(codeManifestInvalid, fault.Invalid, "tag %.200q: want at most %d of letters, digits, '_', '.', '-', the first no '.' or '-'", ref, maxTag)
	}
	return ref, "", nil
}

func parseDigest(s string) (artifact.Digest, error) {
	d, err := artifact.ParseDigest(s)
	if err != nil {
		return "", &failure{code: codeDigestInvalid, err: err}
	}
	return d, nil
}

// byteRange is a chunk's place in a blob, both ends included.
type byteRange struct{ first, last int64 }

func (b byteRange) length() int64 { return b.last - b.first + 1 }

// parseContentRange reads the Content-Range of a chunk: "first-last" as OCI
// Distribution has it, also "bytes first-last/total" as RFC 9110 section 14.4
// has it, the total being a number or '*'.
func parseContentRange(s string) (byteRange, error) {
	bad := failf(codeUploadInvalid, fault.Invalid, "Content-Range %.80q: want <first>-<last>, decimal, both included", s)
	spec := s
	if rest, ok := strings.CutPrefix(s, "bytes "); ok {
		var total string
		if spec, total, ok = strings.Cut(rest, "/"); ok && total != "*" {
			if _, ok := parseDecimal(total); !ok {
				return byteRange{}, bad
			}
		}
	}
	a, b, ok := strings.Cut(spec, "-")
	if !ok {
		return byteRange{}, bad
	}
	first, ok1 := parseDecimal(a)
	last, ok2 := parseDecimal(b)
	if !ok1 || !ok2 || last < first || last == 1<<63-1 {
		return byteRange{}, bad
	}
	return byteRange{first, last}, nil
}

// parseDecimal takes digits only: strconv alone would take signs too.
func parseDecimal(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// validMediaType says whether s is type "/" subtype by RFC 6838 section 4.2,
// without parameters, as the OCI image specification wants of descriptors.
func validMediaType(s string) bool {
	typ, sub, ok := strings.Cut(s, "/")
	return ok && validRestrictedName(typ) && validRestrictedName(sub)
}

func validRestrictedName(s string) bool {
	if s == "" || len(s) > 127 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("!#$&-^_.+", rune(c))) {
			return false
		}
	}
	return true
}
