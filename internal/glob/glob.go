// Package glob is the one grammar of patterns in Assay: of scopes in grants and
// policies, of subjects, of sources and refs. Two grammars that differ let a
// name be covered by one rule and not by the other (CVE-2021-41087).
//
//   - A pattern is anchored: it matches the whole text or nothing. Case counts.
//   - Pattern and text are parted at "/" into segments.
//   - "*" within a segment stands for any characters of that segment, also none,
//     and never for "/".
//   - A segment that is exactly "**" stands for one or more whole segments; at
//     the end, "/**" stands for none as well, so that "team/**" covers "team" and
//     everything below it, and not "teams".
//   - An empty segment of the text, as in "a//b", is matched by an empty segment
//     of the pattern alone, and by no star.
//   - The pattern "**" matches every text whatever.
//   - Every other character stands for itself. The characters ? [ ] { } \ are
//     refused, since other tools read them as something else, and so are control
//     characters and a "**" that is not a whole segment.
//
// A pattern is at most 1,024 bytes. A text of more than 4,096 bytes is matched
// by "**" alone.
package glob

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"assay/internal/fault"
)

// Glob is a compiled pattern. The zero Glob matches nothing.
type Glob struct {
	text     string
	segments []segment
	exact    bool // no star: the text itself
}

type segment struct {
	text   string
	double bool // "**"
}

const (
	maxPattern = 1 << 10
	maxText    = 4 << 10

	everything = "**"
)

// Parse reads a pattern. Errors are [fault.Invalid].
func Parse(s string) (Glob, error) {
	if s == "" {
		return Glob{}, fault.Newf(fault.Invalid, `an empty pattern matches nothing: write "**" for everything`)
	}
	if i := strings.IndexAny(s, `?[]{}\`); i >= 0 {
		return Glob{}, fault.Newf(fault.Invalid, "pattern %.80q: %q has no meaning here; want * within a segment or ** for segments", s, s[i])
	}
	g, err := Exact(s)
	if err != nil || !strings.Contains(s, "*") {
		return g, err
	}
	g.exact = false
	for part := range strings.SplitSeq(s, "/") {
		if part != everything && strings.Contains(part, "**") {
			return Glob{}, fault.Newf(fault.Invalid, "pattern %.80q: ** stands alone between slashes", s)
		}
		g.segments = append(g.segments, segment{part, part == everything})
	}
	return g, nil
}

// Exact is the pattern of one text, in which no character has a meaning, for
// names that hold what patterns must not, such as "dependabot[bot]". Errors are
// [fault.Invalid].
func Exact(s string) (Glob, error) {
	if s == "" || len(s) > maxPattern {
		return Glob{}, fault.Newf(fault.Invalid, "pattern of %d bytes: want 1 to %d", len(s), maxPattern)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return Glob{}, fault.Newf(fault.Invalid, "pattern %.80q holds a control character or is not UTF-8", s)
	}
	return Glob{text: s, exact: true}, nil
}

// String is the pattern as written.
func (g Glob) String() string { return g.text }

// Everything says whether the pattern is "**", which matches all names, and so
// also what has none.
func (g Glob) Everything() bool { return g.text == everything && !g.exact }

// IsExact says whether the pattern has no star, so that it matches its own text
// alone.
func (g Glob) IsExact() bool { return g.exact }

// Match says whether the whole of s is of the pattern. It costs at most the
// product of both lengths and allocates nothing.
func (g Glob) Match(s string) bool {
	switch {
	case g.exact:
		return s == g.text
	case len(g.segments) == 0:
		return false
	case g.Everything():
		return true
	case len(s) > maxText:
		return false
	}
	last := len(g.segments) - 1
	return matchSegments(g.segments, s) || g.segments[last].double && last > 0 && matchSegments(g.segments[:last], s)
}

// matchSegments goes back, on a mismatch, to the last "**" alone, which may take
// one segment more.
func matchSegments(pat []segment, s string) bool {
	star, mark := -1, 0 // the last "**", and where the text after what it took begins
	i, at := 0, 0       // at is where a segment of s begins; len(s)+1 is behind the last
	for at <= len(s) {
		end := segmentEnd(s, at)
		switch {
		case i < len(pat) && pat[i].double && end > at:
			star, mark = i, end+1
			i, at = i+1, end+1
		case i < len(pat) && !pat[i].double && matchSegment(pat[i].text, s[at:end]):
			i, at = i+1, end+1
		case star >= 0:
			end = segmentEnd(s, mark)
			if end == mark {
				return false // no "**" takes an empty segment
			}
			mark = end + 1
			i, at = star+1, mark
		default:
			return false
		}
	}
	return i == len(pat)
}

func segmentEnd(s string, at int) int {
	if n := strings.IndexByte(s[at:], '/'); n >= 0 {
		return at + n
	}
	return len(s)
}

// matchSegment goes back, on a mismatch, to the last star alone.
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

// Rank orders patterns by how much they say: without "**" before with it, then
// by segments without a star, then by characters that stand for themselves. The
// greater is the more specific one.
func (g Glob) Rank() (rank [3]int) {
	rank[0] = 1
	for part := range strings.SplitSeq(g.text, "/") {
		switch {
		case g.exact:
			rank[1]++
		case part == everything:
			rank[0] = 0
		case !strings.Contains(part, "*"):
			rank[1]++
		}
		if !g.exact {
			part = strings.ReplaceAll(part, "*", "")
		}
		rank[2] += len(part)
	}
	return rank
}
