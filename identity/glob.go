package identity

import (
	"strings"

	"assay/internal/fault"
)

// Pattern is a compiled glob. The grammar, everywhere in Assay where a scope
// or a subject is a pattern:
//
//   - a pattern is anchored: it matches the whole text or nothing;
//   - "*" matches any run of characters within a segment, also none; a
//     segment ends at "/";
//   - "**" matches any run of characters, "/" included;
//   - "/**" at the end also matches nothing at all, so that "team/**" covers
//     "team" and everything below it, and not "teams";
//   - every other character stands for itself, case counts; there is no
//     escape, no "?", no class, no regular expression.
//
// A pattern is at most 512 bytes with at most 16 stars. The zero Pattern
// matches nothing.
type Pattern struct {
	source string
	parts  []globPart
	exact  bool
}

type globPart struct {
	kind globKind
	text string // for literal
}

type globKind uint8

const (
	globLiteral globKind = iota
	globStar             // * : no slash
	globDouble           // **
	globTail             // /** at the end
)

const (
	maxPattern = 512
	maxStars   = 16
)

// ParsePattern compiles a glob. Errors are [fault.Invalid].
func ParsePattern(s string) (Pattern, error) {
	if s == "" {
		return Pattern{}, fault.Newf(fault.Invalid, `an empty pattern matches nothing: write "**" for everything`)
	}
	if len(s) > maxPattern {
		return Pattern{}, fault.Newf(fault.Invalid, "pattern of %d bytes: at most %d", len(s), maxPattern)
	}
	p := Pattern{source: s, exact: true}
	stars := 0
	for i := 0; i < len(s); {
		if strings.HasPrefix(s[i:], "***") {
			return Pattern{}, fault.Newf(fault.Invalid, `pattern %.80q: "***" means nothing: write "*" within a segment or "**" across segments`, s)
		}
		switch {
		case s[i:] == "/**":
			p.parts, p.exact = append(p.parts, globPart{kind: globTail}), false
			stars++
			i += 3
		case strings.HasPrefix(s[i:], "**"):
			p.parts, p.exact = append(p.parts, globPart{kind: globDouble}), false
			stars++
			i += 2
		case s[i] == '*':
			p.parts, p.exact = append(p.parts, globPart{kind: globStar}), false
			stars++
			i++
		default:
			end := len(s)
			if n := strings.IndexByte(s[i:], '*'); n >= 0 {
				end = i + n
			}
			if strings.HasSuffix(s, "/**") && end == len(s)-2 {
				end = len(s) - 3 // leave "/**" whole
			}
			if strings.ContainsFunc(s[i:end], func(r rune) bool { return r < 0x20 || r == 0x7f || r == 0xfffd }) {
				return Pattern{}, fault.Newf(fault.Invalid, "pattern %.80q holds a control character", s)
			}
			p.parts = append(p.parts, globPart{kind: globLiteral, text: s[i:end]})
			i = end
		}
	}
	if stars > maxStars {
		return Pattern{}, fault.Newf(fault.Invalid, "pattern %.80q has %d stars: at most %d", s, stars, maxStars)
	}
	return p, nil
}

// String is the pattern as written.
func (p Pattern) String() string { return p.source }

// Everything says whether the pattern is "**", which matches all names, and
// also resources that have none.
func (p Pattern) Everything() bool { return p.source == "**" }

// Match says whether the whole of s matches. It costs at most
// len(s) x len(pattern) steps and allocates nothing for texts below 1 KiB.
func (p Pattern) Match(s string) bool {
	if p.source == "" {
		return false
	}
	if p.exact {
		return s == p.source
	}
	// The set of positions of s that the parts so far can reach: linear in
	// both lengths, whatever the stars.
	var stack [1024]bool
	reach := stack[:]
	if len(s)+1 > len(reach) {
		reach = make([]bool, len(s)+1)
	}
	reach = reach[:len(s)+1]
	reach[0] = true
	for _, part := range p.parts {
		part.step(s, reach)
	}
	return reach[len(s)]
}

// step replaces the positions reachable before the part by those after it.
func (g globPart) step(s string, reach []bool) {
	switch g.kind {
	case globLiteral:
		for i := len(s); i >= 0; i-- {
			from := i - len(g.text)
			reach[i] = from >= 0 && reach[from] && s[from:i] == g.text
		}
	case globStar:
		for i := range len(s) {
			if reach[i] && s[i] != '/' {
				reach[i+1] = true
			}
		}
	case globDouble:
		for i := range len(s) {
			reach[i+1] = reach[i+1] || reach[i]
		}
	case globTail:
		// Nothing, or a slash and whatever follows; only the end counts.
		whole := reach[len(s)]
		for i := range len(s) {
			whole = whole || reach[i] && s[i] == '/'
		}
		clear(reach)
		reach[len(s)] = whole
	}
}
