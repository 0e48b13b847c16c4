package layout

import (
	"path"
	"regexp"
	"strings"
	"unicode/utf8"

	"assay/artifact"
	"assay/internal/excerpt"
	"assay/internal/fault"
)

// rule is one artifact rule (specification 4.3.3).
type rule struct {
	verb    string // upper case
	pattern pattern
	literal string // of REQUIRE
	// Of MATCH.
	from, source, dest string
	products           bool
	text               string
}

// parseRule reads a rule; drafts may still hold parameters.
func parseRule(words []string, draft bool) (*rule, error) {
	r := &rule{text: clip(strings.Join(words, " "), 300)}
	bad := func(why string) (*rule, error) {
		return nil, fault.Newf(fault.Invalid, "rule [%s]: %s", r.text, why)
	}
	if len(words) < 2 {
		return bad("want a verb and a pattern")
	}
	for _, w := range words {
		if m := parameter.FindString(w); m != "" && !draft {
			return bad("parameter " + m + " is not given: a rule that matches its name alone would match nothing")
		}
	}
	r.verb = strings.ToUpper(words[0])
	var err error
	if r.pattern, err = parsePattern(words[1]); err != nil {
		return bad(err.Error())
	}
	switch r.verb {
	case "CREATE", "DELETE", "MODIFY", "ALLOW", "DISALLOW":
		if len(words) != 2 {
			return bad("want " + r.verb + " PATTERN")
		}
	case "REQUIRE":
		if len(words) != 2 || strings.ContainsAny(words[1], "*?") {
			return bad("want REQUIRE NAME, without * and ?")
		}
		r.literal = path.Clean(words[1])
	case "MATCH":
		if !r.match(words[2:]) {
			return bad("want MATCH PATTERN [IN PREFIX] WITH MATERIALS|PRODUCTS [IN PREFIX] FROM STEP")
		}
	default:
		return bad("want MATCH, CREATE, DELETE, MODIFY, ALLOW, DISALLOW or REQUIRE")
	}
	return r, nil
}

func (r *rule) match(words []string) bool {
	take := func(word string) bool {
		if len(words) > 0 && strings.EqualFold(words[0], word) {
			words = words[1:]
			return true
		}
		return false
	}
	prefix := func() string {
		p := ""
		if len(words) > 0 {
			p = path.Clean(words[0]) + "/"
			words = words[1:]
		}
		return strings.TrimPrefix(p, "./")
	}
	if take("IN") {
		r.source = prefix()
	}
	if !take("WITH") {
		return false
	}
	switch {
	case take("PRODUCTS"):
		r.products = true
	case take("MATERIALS"):
	default:
		return false
	}
	if take("IN") {
		r.dest = prefix()
	}
	if !take("FROM") || len(words) != 1 || words[0] == "" {
		return false
	}
	r.from = words[0]
	return true
}

// pattern is of the grammar that doc.go describes.
type pattern string

func parsePattern(s string) (pattern, error) {
	if s == "" || len(s) > 1024 || !utf8.ValidString(s) {
		return "", fault.Newf(fault.Invalid, "a pattern of %d bytes: want 1 to 1024 of UTF-8", len(s))
	}
	if i := strings.IndexAny(s, `[]\`); i >= 0 {
		return "", fault.Newf(fault.Invalid, "pattern %.80q: %q is read differently by in-toto's implementations, and is refused here", s, s[i])
	}
	return pattern(path.Clean(s)), nil
}

// match goes back, on a mismatch, to the last star alone.
func (p pattern) match(s string) bool {
	i, at, star, mark := 0, 0, -1, 0
	for at < len(s) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, at
			i++
		case i < len(p) && p[i] == '?':
			_, n := utf8.DecodeRuneInString(s[at:])
			i, at = i+1, at+n
		case i < len(p) && p[i] == s[at]:
			i, at = i+1, at+1
		case star >= 0:
			mark++
			i, at = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

// apply walks the rules of one side of a step (specification 4.3.3.1): each
// takes what it is for out of the queue; what is left when DISALLOW comes is
// what nobody accounts for.
func apply(rules []*rule, side string, own, materials, products Artifacts, links map[string]*Link) error {
	queue := map[string]bool{}
	for n := range own {
		queue[n] = true
	}
	for _, r := range rules {
		if r.verb == "REQUIRE" {
			if !queue[r.literal] {
				return fault.Newf(fault.Unverified, "%s: %q is required by rule [%s] and is not there, or was accounted for before", side, clip(r.literal, 200), r.text)
			}
			continue
		}
		for _, n := range own.names() {
			if !queue[n] {
				continue
			}
			if r.verb == "MATCH" {
				if r.matches(n, own[n], links) {
					delete(queue, n)
				}
				continue
			}
			if !r.pattern.match(n) {
				continue
			}
			m, p := materials[n], products[n]
			switch r.verb {
			case "DISALLOW":
				return fault.Newf(fault.Unverified, "%s: %q is disallowed by rule [%s]", side, clip(n, 200), r.text)
			case "ALLOW":
				delete(queue, n)
			case "CREATE":
				if m == nil {
					delete(queue, n)
				}
			case "DELETE":
				if p == nil {
					delete(queue, n)
				}
			case "MODIFY":
				if m != nil && p != nil && differ(m, p) {
					delete(queue, n)
				}
			}
		}
	}
	return nil
}

// matches says whether an artifact is the same as its counterpart of another
// step.
func (r *rule) matches(name string, d artifact.DigestSet, links map[string]*Link) bool {
	link := links[r.from]
	rest, in := strings.CutPrefix(name, r.source)
	if link == nil || !in || !r.pattern.match(rest) {
		return false
	}
	other := link.Materials
	if r.products {
		other = link.Products
	}
	there := other[path.Clean(r.dest+rest)]
	return there != nil && d.Match(there)
}

// differ says whether digests of one algorithm are known to be different.
func differ(a, b artifact.DigestSet) bool {
	for _, d := range a.Strong() {
		if other := b[d.Algorithm()]; other != "" && other != d.Hex() {
			return true
		}
	}
	return false
}

// parameter is a place for a value in a layout.
var parameter = regexp.MustCompile(`\{[A-Za-z0-9_-]+\}`)

func clip(s string, n int) string { return excerpt.Line(s, n, '?') }
