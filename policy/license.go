package policy

import (
	"strings"

	"assay/internal/fault"
)

// licenseList is which licences are taken. With an empty allow, all are but those
// denied.
type licenseList struct {
	allow map[string]bool // as they are written, an exception behind WITH
	deny  map[string]bool // in lower case
}

const maxLicenses = 1000

// licenseLists reads the two lists of a requirement; deny goes before.
func licenseLists(allow, deny []string) (licenseList, error) {
	out := licenseList{map[string]bool{}, map[string]bool{}}
	for name, in := range map[string][]string{"allow": allow, "deny": deny} {
		if len(in) > maxLicenses {
			return out, fault.Newf(fault.Invalid, "%s: %d licences, want at most %d", name, len(in), maxLicenses)
		}
		for _, id := range in {
			words := strings.Fields(id)
			single := len(words) == 1 || len(words) == 3 && words[1] == "WITH"
			if !single || strings.ContainsAny(id, "()") || strings.Join(words, " ") != id {
				return out, fault.Newf(fault.Invalid, "%s: %.60q is no single identifier; expressions are judged by their parts", name, id)
			}
			if name == "deny" {
				out.deny[deniedAs(id)] = true
			} else {
				out.allow[id] = true
			}
		}
	}
	for id := range out.allow {
		if out.deny[deniedAs(id)] {
			return out, fault.Newf(fault.Invalid, "%.60q is allowed and denied", id)
		}
	}
	return out, nil
}

// ok says whether an SPDX expression can be met by licences that are taken: one
// side of an OR, both of an AND; an exception (WITH) only ever permits more. What
// is no expression is not.
func (l licenseList) ok(text string) bool {
	if l.allow[text] {
		return true
	}
	p := &licenseWords{words: strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(text)), list: l}
	ok := p.or(0)
	return ok && !p.bad && len(p.words) == 0
}

// takes judges one identifier. "X+" is X or a later version: taken when X is.
func (l licenseList) takes(id, exception string) bool {
	plain := strings.TrimSuffix(id, "+")
	if exception != "" && l.allow[id+" WITH "+exception] {
		return true
	}
	switch {
	case l.deny[deniedAs(id)], l.deny[strings.TrimSuffix(deniedAs(id), "+")], exception != "" && l.deny[deniedAs(id+" WITH "+exception)]:
		return false
	case len(l.allow) == 0:
		return true
	}
	return l.allow[id] || l.allow[plain]
}

// deniedAs is an identifier as lists of denied ones compare it: GPL-3.0 and
// GPL-3.0-only are one licence by two names of the SPDX list, and so are GPL-3.0+ and
// GPL-3.0-or-later.
func deniedAs(id string) string {
	id, exception, with := strings.Cut(strings.ToLower(id), " with ")
	if base, is := strings.CutSuffix(id, "-only"); is {
		id = base
	}
	if base, is := strings.CutSuffix(id, "-or-later"); is {
		id = base + "+"
	}
	if with {
		id += " with " + exception
	}
	return id
}

type licenseWords struct {
	words []string
	list  licenseList
	bad   bool
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
	id := p.name()
	exception := ""
	if p.take("WITH") {
		exception = p.name()
	}
	return !p.bad && p.list.takes(id, exception)
}

// name takes one identifier.
func (p *licenseWords) name() string {
	if len(p.words) == 0 {
		p.bad = true
		return ""
	}
	id := p.words[0]
	p.words = p.words[1:]
	switch id {
	case "OR", "AND", "WITH", "(", ")":
		p.bad = true
	}
	return id
}
