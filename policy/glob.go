package policy

import (
	"strings"

	"assay/internal/fault"
)

// Glob is the one pattern grammar of scopes, sources and refs:
//
//   - the text is parted at "/" into segments, and both ends are anchored;
//   - "*" inside a segment stands for any characters of that segment, none
//     included, and never for "/";
//   - a segment that is exactly "**" stands for one or more whole segments;
//   - every other character stands for itself. The characters ? [ ] { } \ and
//     a "**" inside a segment are refused, since other tools read them
//     differently (CVE-2021-41087).
//
// An empty segment in the text is matched by no "*" and no "**".
type Glob struct {
	text string
	segs []string
}

// ParseGlob reads a pattern; errors are fault.Invalid.
func ParseGlob(s string) (Glob, error) {
	if s == "" || len(s) > 1024 {
		return Glob{}, fault.Newf(fault.Invalid, "pattern %.60q: empty or longer than 1024 bytes", s)
	}
	if i := strings.IndexAny(s, "?[]{}\\"); i >= 0 {
		return Glob{}, fault.Newf(fault.Invalid, "pattern %.80q: %q has no meaning here; want * within a segment or ** for segments", s, s[i])
	}
	g := Glob{text: s, segs: strings.Split(s, "/")}
	for _, seg := range g.segs {
		if seg == "**" {
			continue
		}
		if strings.Contains(seg, "**") {
			return Glob{}, fault.Newf(fault.Invalid, "pattern %.80q: ** stands alone between slashes", s)
		}
	}
	return g, nil
}

// String is the pattern as written.
func (g Glob) String() string { return g.text }

// Match says whether the whole of s is of the pattern.
func (g Glob) Match(s string) bool {
	if len(s) > 4096 {
		return false
	}
	return matchSegments(g.segs, strings.Split(s, "/"))
}

// matchSegments is linear in pattern times text: on a mismatch it goes back to
// the last "**" alone, which may take one segment more.
func matchSegments(pat, text []string) bool {
	star, mark, i, j := -1, 0, 0, 0
	for j < len(text) {
		switch {
		case i < len(pat) && pat[i] == "**" && text[j] != "":
			star, mark = i, j+1 // takes at least one
			i, j = i+1, j+1
		case i < len(pat) && pat[i] != "**" && matchSegment(pat[i], text[j]):
			i++
			j++
		case star >= 0 && text[mark] != "":
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	return i == len(pat)
}

// matchSegment is linear: on a mismatch it goes back to the last star alone.
func matchSegment(pat, s string) bool {
	if s == "" {
		return pat == ""
	}
	star, mark, i, j := -1, 0, 0, 0
	for j < len(s) {
		switch {
		case i < len(pat) && pat[i] == '*':
			star, mark = i, j
			i++
		case i < len(pat) && pat[i] == s[j]:
			i++
			j++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pat[i:], "*") == ""
}

// specificity orders patterns: a literal is more specific than a star, and
// more literal text more specific than less.
func (g Glob) specificity() (rank [3]int) {
	rank[0] = 1
	for _, seg := range g.segs {
		switch {
		case seg == "**":
			rank[0] = 0
		case !strings.Contains(seg, "*"):
			rank[1]++
		}
		rank[2] += len(strings.ReplaceAll(seg, "*", ""))
	}
	return rank
}
