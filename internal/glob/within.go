package glob

// Within says whether every text that g matches is matched by outer too, so
// that what is granted by g narrows what is granted by outer. It errs on the
// safe side alone: true is proved, and false may be a pattern that is within
// outer by a way that nobody writes.
//
// A star of g stands for any text, so only a star of outer that takes at least
// as much covers it.
func (g Glob) Within(outer Glob) bool {
	switch {
	case g.text == "" || outer.text == "":
		return false // the zero pattern: nothing was granted, nothing is handed on
	case outer.Everything():
		return true
	case g.exact:
		return outer.Match(g.text)
	case outer.exact, g.Everything(), len(g.text) > maxPattern, len(outer.text) > maxPattern:
		return false
	}
	// "/**" at the end also stands for nothing: both readings of g must be
	// covered, each by one of outer.
	for _, in := range readings(g.segments) {
		covered := false
		for _, out := range readings(outer.segments) {
			covered = covered || coverSegments(out, in)
		}
		if !covered {
			return false
		}
	}
	return true
}

// readings are the segments as they are, and without a "**" at their end.
func readings(s []segment) [][]segment {
	if last := len(s) - 1; last > 0 && s[last].double {
		return [][]segment{s, s[:last]}
	}
	return [][]segment{s}
}

// coverSegments says whether out matches all that in matches: dynamic
// programming over the two lists, since a "**" may take any number.
func coverSegments(out, in []segment) bool {
	// reach[j]: the segments of out so far cover in[:j].
	reach := make([]bool, len(in)+1)
	reach[0] = true
	for _, o := range out {
		next := make([]bool, len(in)+1)
		for j, s := range in {
			if o.double {
				// One or more segments, none of them empty.
				next[j+1] = (reach[j] || next[j]) && s.text != ""
				continue
			}
			next[j+1] = reach[j] && !s.double && coverSegment(o.text, s.text)
		}
		reach = next
	}
	return reach[len(in)]
}

// coverSegment says the same of two segments without "**", where a star of in is
// a letter that a star of out alone takes.
func coverSegment(out, in string) bool {
	if onlyStar(out) {
		return in != "" // any segment that is not empty; a segment of stars is not
	}
	if onlyStar(in) {
		return false
	}
	reach := make([]bool, len(in)+1)
	reach[0] = true
	for i := range len(out) {
		next := make([]bool, len(in)+1)
		if out[i] == '*' {
			seen := false
			for j := range reach {
				seen = seen || reach[j]
				next[j] = seen
			}
		} else {
			for j := range len(in) {
				next[j+1] = reach[j] && in[j] != '*' && out[i] == in[j]
			}
		}
		reach = next
	}
	return reach[len(in)]
}

func onlyStar(s string) bool { return s == "*" }
