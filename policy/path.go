package policy

import (
	"strconv"
	"strings"

	"assay/internal/fault"
)

// Path names a member of a predicate: names parted by dots, array elements by
// a number in brackets, and a name that is not plain in quotes and brackets.
//
//	buildDefinition.externalParameters.workflow.ref
//	runDetails.byproducts[0].name
//	annotations["example.com/stage"]
//
// There is no wildcard: a match over all elements of an empty list would hold
// of nothing.
type Path struct {
	text  string
	steps []step
}

type step struct {
	name  string
	index int // -1: a member, by name
}

const maxPath = 512

// ParsePath reads a path; errors are fault.Invalid.
func ParsePath(s string) (Path, error) {
	p := Path{text: s}
	bad := func(at int, why string) (Path, error) {
		return Path{}, fault.Newf(fault.Invalid, "path %.80q, column %d: %s; want name.name[0][\"odd.name\"]", s, at+1, why)
	}
	if s == "" || len(s) > maxPath {
		return bad(0, "empty or longer than 512 bytes")
	}
	for i := 0; i < len(s); {
		switch {
		case s[i] == '[':
			end := strings.IndexByte(s[i:], ']')
			if i+1 < len(s) && s[i+1] == '"' {
				q, err := strconv.QuotedPrefix(s[i+1:])
				if err != nil {
					return bad(i, "a quote is not closed")
				}
				name, _ := strconv.Unquote(q)
				if i+1+len(q) >= len(s) || s[i+1+len(q)] != ']' {
					return bad(i, "a bracket is not closed")
				}
				p.steps = append(p.steps, step{name, -1})
				i += len(q) + 2
				continue
			}
			if end < 0 {
				return bad(i, "a bracket is not closed")
			}
			n, err := strconv.ParseUint(s[i+1:i+end], 10, 16)
			if err != nil || s[i+1] == '+' {
				return bad(i, "an index is a number")
			}
			p.steps = append(p.steps, step{index: int(n)})
			i += end + 1
		case s[i] == '.' && i > 0 || i == 0:
			if i > 0 {
				i++
			}
			end := strings.IndexAny(s[i:], ".[")
			if end < 0 {
				end = len(s) - i
			}
			if end == 0 || strings.ContainsAny(s[i:i+end], "]\"* \t\n") {
				return bad(i, "a plain name has no quote, bracket, star or space")
			}
			p.steps = append(p.steps, step{s[i : i+end], -1})
			i += end
		default:
			return bad(i, "a dot or a bracket is wanted here")
		}
	}
	return p, nil
}

// String is the path as it was written; facts are keyed by it.
func (p Path) String() string { return p.text }

// Lookup finds the member in a decoded JSON value. Null and the empty string,
// list and object count as absent (unset = null = empty).
func (p Path) Lookup(v any) (any, bool) {
	for _, s := range p.steps {
		switch c := v.(type) {
		case map[string]any:
			m, ok := c[s.name]
			if s.index >= 0 || !ok {
				return nil, false
			}
			v = m
		case []any:
			if s.index < 0 || s.name != "" || s.index >= len(c) {
				return nil, false
			}
			v = c[s.index]
		default:
			return nil, false
		}
	}
	return v, !IsEmpty(v)
}

// IsEmpty says whether a decoded JSON value says nothing: null, "", [] or {}.
func IsEmpty(v any) bool {
	switch c := v.(type) {
	case nil:
		return true
	case string:
		return c == ""
	case []any:
		return len(c) == 0
	case map[string]any:
		return len(c) == 0
	}
	return false
}
