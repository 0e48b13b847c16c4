package source

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"assay/internal/fault"
)

// Bounds on one object. A commit of a monorepo's octopus merge has some dozen
// parents; git's own fsck has no bound.
const (
	// MaxObject is the most bytes of a commit or tag that is looked at.
	MaxObject  = 1 << 20
	maxParents = 256
	maxHeaders = 1024
)

// Person is an author, a committer or a tagger, as the object claims.
type Person struct {
	Name  string    `json:"name"`
	Email string    `json:"email"`
	When  time.Time `json:"when"` // claimed
}

// Commit is a commit object. It claims all that it says; what is proved is its
// hash, and its signature where there is one.
type Commit struct {
	Tree      string
	Parents   []string
	Author    Person
	Committer Person
	Message   string
	// Payload is what the signature is over: the raw object without the header
	// that holds the signature.
	Payload []byte
	// Signature is the armoured signature, "" for none.
	Signature string
}

// Tag is an annotated tag.
type Tag struct {
	Object    string // hex of what it names
	Type      string // "commit" nearly always
	Name      string
	Tagger    Person
	Message   string
	Payload   []byte
	Signature string
}

func malformed(what, format string, args ...any) error {
	return fault.Newf(fault.Invalid, "malformed %s: %s", what, fmt.Sprintf(format, args...))
}

// header is one header of an object: its value with continuation lines joined
// by newlines, and the place of its bytes.
type header struct {
	key, value string
	start, end int
}

// headers reads up to the empty line. It accepts what git writes: a key, one
// space, the value, continuation lines that begin with one space.
func headers(what string, raw []byte) (list []header, body int, err error) {
	if len(raw) > MaxObject {
		return nil, 0, fault.Newf(fault.TooLarge, "%s of %d bytes, at most %d are looked at", what, len(raw), MaxObject)
	}
	if i := bytes.IndexByte(raw, 0); i >= 0 {
		return nil, 0, malformed(what, "a NUL byte at offset %d; programs differ in what they read after it", i)
	}
	for at := 0; ; {
		n := bytes.IndexByte(raw[at:], '\n')
		if n < 0 {
			return nil, 0, malformed(what, "the headers do not end: want an empty line after them")
		}
		l, end := raw[at:at+n], at+n+1
		switch {
		case len(l) == 0:
			return list, end, nil
		case l[0] == ' ':
			if len(list) == 0 {
				return nil, 0, malformed(what, "begins with a continuation line")
			}
			last := &list[len(list)-1]
			last.value += "\n" + string(l[1:])
			last.end = end
		default:
			key, value, ok := strings.Cut(string(l), " ")
			if !ok || key == "" || strings.ContainsFunc(key, notKey) {
				return nil, 0, malformed(what, "header line %.60q: want a key, a space and a value", l)
			}
			if len(list) == maxHeaders {
				return nil, 0, fault.Newf(fault.TooLarge, "%s of more than %d headers", what, maxHeaders)
			}
			list = append(list, header{key, value, at, end})
		}
		at = end
	}
}

func notKey(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == ':')
}

// take removes the first header when it has the key.
func take(list []header, key string) (string, []header, bool) {
	if len(list) == 0 || list[0].key != key {
		return "", list, false
	}
	return list[0].value, list[1:], true
}

// ParseCommit reads a raw commit object strictly: the headers that git writes,
// each once and in git's order (git-fsck(1) names the same faults). What does
// not hold is fault.Invalid, what is too large fault.TooLarge.
func ParseCommit(raw []byte) (*Commit, error) {
	const what = "commit"
	list, body, err := headers(what, raw)
	if err != nil {
		return nil, err
	}
	c := &Commit{Message: string(raw[body:])}
	var ok bool
	rest := list
	if c.Tree, rest, ok = take(rest, "tree"); !ok || !validID(c.Tree) {
		return nil, malformed(what, "want tree and its id first")
	}
	for {
		var p string
		if p, rest, ok = take(rest, "parent"); !ok {
			break
		}
		if !validID(p) || len(p) != len(c.Tree) {
			return nil, malformed(what, "parent %.80q: want the id of an object", p)
		}
		if c.Parents = append(c.Parents, p); len(c.Parents) > maxParents {
			return nil, fault.Newf(fault.TooLarge, "commit of more than %d parents", maxParents)
		}
	}
	for _, one := range []struct {
		key  string
		into *Person
	}{{"author", &c.Author}, {"committer", &c.Committer}} {
		var v string
		if v, rest, ok = take(rest, one.key); !ok {
			return nil, malformed(what, "want %s after tree and parents", one.key)
		}
		if *one.into, err = parsePerson(v); err != nil {
			return nil, malformed(what, "%s: %v", one.key, err)
		}
	}
	var sig *header
	seen := map[string]bool{}
	for i := range rest {
		h := &rest[i]
		switch h.key {
		case "tree", "parent", "author", "committer":
			return nil, malformed(what, "header %s twice, or out of order: programs differ in which they believe", h.key)
		case "gpgsig", "gpgsig-sha256":
			if sig != nil {
				return nil, malformed(what, "two signatures: which of them counts is not told")
			}
			sig = h
		case "mergetag": // an octopus has several
		default:
			if seen[h.key] {
				return nil, malformed(what, "header %.40s twice", h.key)
			}
			seen[h.key] = true
		}
	}
	if sig == nil {
		c.Payload = raw
		return c, nil
	}
	if want := map[bool]string{true: "gpgsig", false: "gpgsig-sha256"}[len(c.Tree) == 40]; sig.key != want {
		return nil, malformed(what, "signature in header %s, want %s for ids of %d digits", sig.key, want, len(c.Tree))
	}
	if c.Signature, err = oneArmour(sig.value); err != nil {
		return nil, malformed(what, "%v", err)
	}
	c.Payload = append(append(make([]byte, 0, len(raw)), raw[:sig.start]...), raw[sig.end:]...)
	return c, nil
}

// ParseTag reads a raw tag object as strictly. The signature stands at the end
// of the message.
func ParseTag(raw []byte) (*Tag, error) {
	const what = "tag"
	list, body, err := headers(what, raw)
	if err != nil {
		return nil, err
	}
	t := &Tag{}
	for _, one := range []struct {
		key  string
		into *string
	}{{"object", &t.Object}, {"type", &t.Type}, {"tag", &t.Name}} {
		var ok bool
		if *one.into, list, ok = take(list, one.key); !ok || *one.into == "" {
			return nil, malformed(what, "want object, type and tag first, each once")
		}
	}
	if !validID(t.Object) {
		return nil, malformed(what, "object %.80q: want the id of an object", t.Object)
	}
	if v, rest, ok := take(list, "tagger"); ok {
		if t.Tagger, err = parsePerson(v); err != nil {
			return nil, malformed(what, "tagger: %v", err)
		}
		list = rest
	}
	if len(list) > 0 {
		return nil, malformed(what, "header %.40s, want none after tagger", list[0].key)
	}
	message := raw[body:]
	at := -1
	for i := 0; i < len(message); {
		if beginsArmour(message[i:]) {
			if at >= 0 {
				return nil, malformed(what, "two signatures: which of them counts is not told")
			}
			at = i
		}
		n := bytes.IndexByte(message[i:], '\n')
		if n < 0 {
			break
		}
		i += n + 1
	}
	if at < 0 {
		t.Message, t.Payload = string(message), raw
		return t, nil
	}
	t.Message, t.Payload = string(message[:at]), raw[:body+at]
	if t.Signature, err = oneArmour(string(message[at:])); err != nil {
		return nil, malformed(what, "%v", err)
	}
	return t, nil
}

// parsePerson reads "Name <email> seconds zone".
func parsePerson(s string) (p Person, err error) {
	open, end := strings.IndexByte(s, '<'), strings.IndexByte(s, '>')
	if open < 0 || end < open || strings.Count(s, "<") != 1 || strings.Count(s, ">") != 1 || strings.ContainsRune(s, '\n') {
		return p, fmt.Errorf("%.80q: want Name <email> seconds zone", s)
	}
	f := strings.Split(strings.TrimPrefix(s[end+1:], " "), " ")
	if len(f) != 2 || len(f[1]) != 5 || f[1][0] != '+' && f[1][0] != '-' || strings.Trim(f[1][1:], "0123456789") != "" {
		return p, fmt.Errorf("%.80q: want seconds and zone after the address", s)
	}
	sec, err := strconv.ParseUint(f[0], 10, 40)
	if err != nil || f[0] != strconv.FormatUint(sec, 10) {
		return p, fmt.Errorf("%.80q: want seconds since 1970", f[0])
	}
	p.Name, p.Email = strings.TrimSuffix(s[:open], " "), s[open+1:end]
	p.When = time.Unix(int64(sec), 0).UTC() //nolint:gosec // 40 bits
	return p, nil
}

// validID says whether s is the name of an object, of SHA-1 or SHA-256.
func validID(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}
