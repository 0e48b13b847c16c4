// Package excerpt bounds text that others wrote before it is stored, shown or
// put into an error. Every cut lies between letters: PostgreSQL refuses half
// ones, and a row that is refused would be tried again without end.
package excerpt

import "strings"

const cut = "…"

// Text gives at most most bytes of s as valid UTF-8 without NUL, which no
// database takes. A text that was shortened ends in an ellipsis. Its lines stay.
func Text(s string, most int) string {
	if strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(s, "\x00", "")
	}
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= most {
		return s
	}
	if most <= len(cut) {
		return strings.ToValidUTF8(s[:most], "")
	}
	return strings.ToValidUTF8(s[:most-len(cut)], "") + cut
}

// Line gives at most most bytes of s for one line of a terminal or a document:
// each rune that moves the cursor, ends the line, hides itself or turns the
// direction of writing becomes mark.
func Line(s string, most int, mark rune) string {
	return Text(strings.Map(func(r rune) rune {
		if deceives(r) {
			return mark
		}
		return r
	}, strings.ToValidUTF8(s, string(mark))), most)
}

func deceives(r rune) bool {
	switch {
	case r < 0x20, r >= 0x7f && r < 0xa0, r == 0xfffd: // control characters, and what stood for none
		return true
	case r >= 0x200b && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x2060 && r <= 0x206f, r == 0xfeff: // invisible, or of direction
		return true
	}
	return false
}
