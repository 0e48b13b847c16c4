package policy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"assay/internal/fault"
	"assay/internal/strictjson"
)

// fieldRule is a compiled FieldMatch.
type fieldRule struct {
	path            Path
	in              []string // canonical JSON of allowed values
	re              *regexp.Regexp
	atLeast, atMost *float64
	text            string // "path = value", for people
}

func (f FieldMatch) compile() (*fieldRule, error) {
	p, err := ParsePath(f.Path)
	if err != nil {
		return nil, err
	}
	out := &fieldRule{path: p, atLeast: f.AtLeast, atMost: f.AtMost}
	given := 0
	if f.Equals != nil {
		given++
		if err := out.allow([]Value{*f.Equals}); err != nil {
			return nil, err
		}
		out.text = p.text + " = " + clip(out.in[0], 200)
	}
	if f.In != nil {
		given++
		if err := out.allow(f.In); err != nil {
			return nil, err
		}
		out.text = p.text + " in " + clip(strings.Join(out.in, ", "), 200)
	}
	if f.Matches != "" {
		given++
		if out.re, err = compileRegexp(f.Matches); err != nil {
			return nil, err
		}
		out.text = p.text + " matches /" + clip(f.Matches, 200) + "/"
	}
	if f.AtLeast != nil {
		given++
		out.text = fmt.Sprintf("%s at least %v", p.text, *f.AtLeast)
	}
	if f.AtMost != nil {
		given++
		out.text = fmt.Sprintf("%s at most %v", p.text, *f.AtMost)
	}
	if f.Present != nil {
		given++
		if !*f.Present {
			return nil, fault.Newf(fault.Invalid, "path %s: present: false is not read; a policy says what must be there", p.text)
		}
		out.text = p.text + " present"
	}
	if given != 1 {
		return nil, fault.Newf(fault.Invalid, "path %s: exactly one of equals, in, matches, atLeast, atMost, present is wanted, found %d", p.text, given)
	}
	return out, nil
}

func (f *fieldRule) allow(values []Value) error {
	if len(values) == 0 {
		return fault.Newf(fault.Invalid, "path %s: no value is allowed", f.path.text)
	}
	for _, v := range values {
		if IsEmpty(v.JSON) {
			return fault.Newf(fault.Invalid, "path %s: an empty value counts as absent and can never be found", f.path.text)
		}
		c, err := canonicalJSON(v.JSON)
		if err != nil {
			return err
		}
		f.in = append(f.in, string(c))
	}
	return nil
}

// holds looks the member up in the facts of an attestation, and gives the
// found value in words.
func (f *fieldRule) holds(a *Attestation) (ok bool, found string) {
	v, there := a.Fields[f.path.text]
	if !there || IsEmpty(v) {
		if slices.Contains(a.Large, f.path.text) {
			present := f.in == nil && f.re == nil && f.atLeast == nil && f.atMost == nil
			return present, "a value over 4 KiB"
		}
		return false, "absent"
	}
	return f.value(v)
}

func (f *fieldRule) value(v any) (ok bool, found string) {
	if f.re != nil {
		s, is := v.(string)
		if !is {
			return false, describe(v)
		}
		return f.re.MatchString(s), clip(s, 200)
	}
	if f.atLeast != nil || f.atMost != nil {
		n, is := number(v)
		ok = is && (f.atLeast == nil || n >= *f.atLeast) && (f.atMost == nil || n <= *f.atMost)
		return ok, describe(v)
	}
	found = describe(v)
	if f.in == nil {
		return true, found
	}
	c, err := canonicalJSON(v)
	return err == nil && slices.Contains(f.in, string(c)), found
}

func number(v any) (float64, bool) {
	switch n := v.(type) {
	case float64:
		return n, true
	case int64:
		return float64(n), true
	case int:
		return float64(n), true
	}
	return 0, false
}

func describe(v any) string {
	if s, ok := v.(string); ok {
		return clip(s, 200)
	}
	b, err := canonicalJSON(v)
	if err != nil {
		return "a value that cannot be written"
	}
	return clip(string(b), 200)
}

// canonicalJSON is RFC 8785, without a detour for plain strings.
func canonicalJSON(v any) ([]byte, error) {
	if s, ok := v.(string); ok && len(s) < 4096 && plain(s) {
		return append(append(append(make([]byte, 0, len(s)+2), '"'), s...), '"'), nil
	}
	return strictjson.Canonical(v)
}

func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
