package policy

import "strings"

// licensed says whether an SPDX expression can be met by allowed licences: one
// side of an OR, both of an AND; an exception (WITH) only ever permits more.
func licensed(text string, allowed map[string]bool) bool {
	if allowed[text] {
		return true
	}
	p := &licenseWords{words: strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(text)), allowed: allowed}
	ok := p.or(0)
	return ok && !p.bad && len(p.words) == 0
}

type licenseWords struct {
	words   []string
	allowed map[string]bool
	bad     bool
}

func (p *licenseWords) take(word string) bool {
	if len(p.words) > 0 && p.words[0] == word {
		p.words = p.words[1:]
		return true
	}
	return false
}

func (p *licenseWords) or(depth int) bool {
	ok := p.and(depth)
	for p.take("OR") {
		other := p.and(depth)
		ok = ok || other
	}
	return ok
}

func (p *licenseWords) and(depth int) bool {
	ok := p.one(depth)
	for p.take("AND") {
		other := p.one(depth)
		ok = ok && other
	}
	return ok
}

func (p *licenseWords) one(depth int) bool {
	if p.take("(") {
		if depth > 16 {
			p.bad = true
			return false
		}
		ok := p.or(depth + 1)
		p.bad = p.bad || !p.take(")")
		return ok
	}
	if len(p.words) == 0 {
		p.bad = true
		return false
	}
	id := p.words[0]
	p.words = p.words[1:]
	switch id {
	case "OR", "AND", "WITH", ")":
		p.bad = true
		return false
	}
	if p.take("WITH") {
		if len(p.words) == 0 {
			p.bad = true
			return false
		}
		p.words = p.words[1:]
	}
	return p.allowed[id]
}
