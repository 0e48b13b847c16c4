package source

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"assay/internal/fault"

	"golang.org/x/crypto/ssh"
)

// Signer is one line of an allowed-signers file (ssh-keygen(1), ALLOWED
// SIGNERS).
type Signer struct {
	Principals  []string // patterns: * and ? stand for characters, a leading ! takes out
	Key         ssh.PublicKey
	Authority   bool      // cert-authority: Key signs certificates and nothing else
	Namespaces  []string  // patterns; none: any
	ValidAfter  time.Time // zero: no bound
	ValidBefore time.Time
}

// Bounds on an allowed-signers file.
const (
	maxSignersFile = 1 << 20
	maxSigners     = 10_000
)

// ParseAllowedSigners reads an allowed-signers file strictly: a line that
// ssh-keygen would skip with a warning is an error, with its number. A time
// without Z is read as UTC, since what a policy means must not depend on the
// machine that reads it.
func ParseAllowedSigners(b []byte) ([]Signer, error) {
	if len(b) > maxSignersFile {
		return nil, fault.Newf(fault.TooLarge, "allowed signers of %d bytes, at most %d are read", len(b), maxSignersFile)
	}
	var out []Signer
	for i, l := range strings.Split(string(b), "\n") {
		l = strings.TrimSpace(strings.TrimSuffix(l, "\r"))
		if l == "" || l[0] == '#' {
			continue
		}
		if len(out) == maxSigners {
			return nil, fault.Newf(fault.TooLarge, "more than %d allowed signers", maxSigners)
		}
		s, err := parseSigner(l)
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "allowed signers, line %d: %w", i+1, err)
		}
		out = append(out, s)
	}
	return out, nil
}

func parseSigner(l string) (s Signer, err error) {
	principals, rest, err := word(l)
	if err != nil {
		return s, err
	}
	if s.Principals, err = patterns(principals); err != nil {
		return s, err
	}
	first, after, err := word(rest)
	if err != nil {
		return s, err
	}
	if !keyType(first) {
		if err := s.options(first); err != nil {
			return s, err
		}
		rest = after
	}
	s.Key, err = parseKey(rest)
	return s, err
}

// parseKey reads "type base64 [comment]".
func parseKey(l string) (ssh.PublicKey, error) {
	f := strings.Fields(l)
	if len(f) < 2 || !keyType(f[0]) {
		return nil, fmt.Errorf("%.60q: want a key's type and its base64, for example ssh-ed25519 AAAA…", l)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(f[1])
	if err != nil {
		return nil, fmt.Errorf("key of type %s: %w", f[0], err)
	}
	k, err := ssh.ParsePublicKey(raw)
	if err != nil {
		return nil, fmt.Errorf("key of type %s: %w", f[0], err)
	}
	if k.Type() != f[0] || !bytes.Equal(k.Marshal(), raw) {
		return nil, fmt.Errorf("the key says that it is %s and not %s", k.Type(), f[0])
	}
	if _, is := k.(*ssh.Certificate); is {
		return nil, fmt.Errorf("a certificate instead of a key: name its authority with cert-authority")
	}
	return k, nil
}

func keyType(s string) bool {
	return strings.HasPrefix(s, "ssh-") || strings.HasPrefix(s, "ecdsa-sha2-") || strings.HasPrefix(s, "sk-ssh-") || strings.HasPrefix(s, "sk-ecdsa-")
}

// word takes the first word, in which double quotes hold spaces.
func word(s string) (first, rest string, err error) {
	s = strings.TrimLeft(s, " \t")
	quoted := false
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
		case (c == ' ' || c == '\t') && !quoted:
			return s[:i], s[i:], nil
		}
	}
	if quoted {
		return "", "", fmt.Errorf("a quote is not closed")
	}
	if s == "" {
		return "", "", fmt.Errorf("the line ends early: want principals, options and a key")
	}
	return s, "", nil
}

func patterns(s string) ([]string, error) {
	s = strings.Trim(s, `"`)
	var out []string
	for p := range strings.SplitSeq(s, ",") {
		if p = strings.TrimSpace(p); p == "" || p == "!" || len(p) > 1024 || strings.ContainsAny(p, "\"\x00") {
			return nil, fmt.Errorf("%.60q: want patterns parted by commas", s)
		}
		out = append(out, p)
	}
	return out, nil
}

// options reads cert-authority, namespaces="…", valid-after="…" and
// valid-before="…". Any other is an error: it may be one that narrows.
func (s *Signer) options(list string) error {
	seen := map[string]bool{}
	for list != "" {
		end, quoted := len(list), false
		for i := range len(list) {
			if list[i] == '"' {
				quoted = !quoted
			} else if list[i] == ',' && !quoted {
				end = i
				break
			}
		}
		name, value, hasValue := strings.Cut(list[:end], "=")
		name = strings.ToLower(name)
		if list = strings.TrimPrefix(list[end:], ","); seen[name] {
			return fmt.Errorf("option %.40q twice", name)
		}
		seen[name] = true
		if name == "cert-authority" && !hasValue {
			s.Authority = true
			continue
		}
		inner, ok := strings.CutPrefix(value, `"`)
		inner, ok2 := strings.CutSuffix(inner, `"`)
		if !ok || !ok2 || strings.Contains(inner, `"`) {
			return fmt.Errorf("option %.40q: want cert-authority, namespaces=\"…\", valid-after=\"…\" or valid-before=\"…\"", name)
		}
		var err error
		switch name {
		case "namespaces":
			s.Namespaces, err = patterns(inner)
		case "valid-after":
			s.ValidAfter, err = signerTime(inner)
		case "valid-before":
			s.ValidBefore, err = signerTime(inner)
		default:
			err = fmt.Errorf("option %.40q is not known", name)
		}
		if err != nil {
			return err
		}
	}
	if !s.ValidAfter.IsZero() && !s.ValidBefore.IsZero() && !s.ValidAfter.Before(s.ValidBefore) {
		return fmt.Errorf("valid-after is not before valid-before")
	}
	return nil
}

func signerTime(s string) (time.Time, error) {
	plain := strings.TrimSuffix(s, "Z")
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(plain) == len(layout) {
			if t, err := time.Parse(layout, plain); err == nil {
				return t, nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("time %.30q: want YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, UTC", s)
}

// during says whether the signer counts at t.
func (s *Signer) during(t time.Time) bool {
	return (s.ValidAfter.IsZero() || !t.Before(s.ValidAfter)) && (s.ValidBefore.IsZero() || t.Before(s.ValidBefore))
}

// anyPattern applies ssh's lists: one must match, and none with ! in front.
func anyPattern(list []string, text string) bool {
	matched := false
	for _, p := range list {
		if not, ok := strings.CutPrefix(p, "!"); ok {
			if wild(not, text) {
				return false
			}
		} else if wild(p, text) {
			matched = true
		}
	}
	return matched
}

// wild matches ssh's patterns in time linear in their product.
func wild(p, s string) bool {
	star, mark, i, j := -1, 0, 0, 0
	for j < len(s) {
		switch {
		case i < len(p) && (p[i] == '?' || p[i] == s[j]) && p[i] != '*':
			i, j = i+1, j+1
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}
