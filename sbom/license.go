package sbom

import (
	_ "embed"
	"strings"
	"sync"
)

// licenseList is the SPDX licence list 3.17 with its exceptions, an identifier a
// line. An identifier that is newer is kept as it is, and is not known.
//
//go:embed licenses.txt
var licenseList string

var knownLicenses = sync.OnceValue(func() map[string]string {
	out := map[string]string{}
	for _, id := range strings.Fields(licenseList) {
		out[strings.ToLower(id)] = id
	}
	return out
})

// KnownLicense says whether id is on the SPDX licence list, letter for letter.
func KnownLicense(id string) bool { return knownLicenses()[strings.ToLower(id)] == id }

// LicenseIDs are the identifiers that an SPDX expression names, exceptions
// included, in order; nil when text is no well-formed expression (SPDX 2.3
// annex D) of known identifiers, LicenseRef- and AdditionRef- names.
func LicenseIDs(text string) []string {
	if len(text) > maxText {
		return nil
	}
	p := &expression{tokens: strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(text))}
	if !p.or(0) || len(p.tokens) > 0 {
		return nil
	}
	return p.ids
}

// expression is a parse of a licence expression.
type expression struct {
	tokens []string
	ids    []string
}

func (p *expression) take(word string) bool {
	if len(p.tokens) > 0 && strings.EqualFold(p.tokens[0], word) {
		p.tokens = p.tokens[1:]
		return true
	}
	return false
}

func (p *expression) or(depth int) bool {
	for ok := p.and(depth); ; ok = p.and(depth) {
		if !ok || !p.take("OR") {
			return ok
		}
	}
}

func (p *expression) and(depth int) bool {
	for ok := p.with(depth); ; ok = p.with(depth) {
		if !ok || !p.take("AND") {
			return ok
		}
	}
}

func (p *expression) with(depth int) bool {
	if p.take("(") {
		return depth < 64 && p.or(depth+1) && p.take(")")
	}
	return p.id() && (!p.take("WITH") || p.id())
}

func (p *expression) id() bool {
	if len(p.tokens) == 0 {
		return false
	}
	id := p.tokens[0]
	p.tokens = p.tokens[1:]
	known := knownLicenses()[strings.ToLower(strings.TrimSuffix(id, "+"))]
	switch {
	case known != "":
		p.ids = append(p.ids, known)
	case strings.HasPrefix(id, "LicenseRef-"), strings.HasPrefix(id, "DocumentRef-"), strings.HasPrefix(id, "AdditionRef-"):
		p.ids = append(p.ids, id)
	default:
		return false
	}
	return true
}

// licenses parts expressions at their outermost ANDs, so that "A AND B" and a
// list of A and B are the same, and spells known identifiers as the list does.
func licenses(in []string) []string {
	var out []string
	for _, text := range in {
		if len(text) > maxText {
			continue // nobody's licence, and not kept
		}
		for _, part := range splitAnd(text) {
			if id := knownLicenses()[strings.ToLower(part)]; id != "" {
				part = id
			}
			if !none(part) {
				out = append(out, part)
			}
		}
	}
	return out
}

// splitAnd parts a text at the ANDs that stand outside every parenthesis.
func splitAnd(text string) []string { return splitAndIn(trimmed(text), maxParens) }

// maxParens is how deep parentheses are followed; what lies deeper stays as it is, and
// is no expression that [LicenseIDs] knows.
const maxParens = 64

func splitAndIn(text string, deep int) []string {
	for ; deep > 0 && len(text) > 1 && text[0] == '(' && closes(text) == len(text)-1; deep-- {
		text = trimmed(text[1 : len(text)-1])
	}
	if deep == 0 {
		return []string{text}
	}
	depth, start := 0, 0
	var out []string
	or := false
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '(':
			depth++
		case ')':
			depth--
		case ' ':
			if depth != 0 {
				continue
			}
			if strings.HasPrefix(text[i:], " AND ") {
				out = append(out, text[start:i])
				start = i + len(" AND ")
			}
			or = or || strings.HasPrefix(text[i:], " OR ")
		}
	}
	// AND binds tighter than OR: with both outside parentheses it stays whole.
	if len(out) == 0 || or {
		return []string{text}
	}
	out = append(out, text[start:])
	var parts []string
	for _, part := range out {
		parts = append(parts, splitAndIn(trimmed(part), deep-1)...)
	}
	return parts
}

// closes is the index of the parenthesis that closes the first; -1 without one.
func closes(text string) int {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}
