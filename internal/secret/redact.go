package secret

import (
	"regexp"
	"strings"
)

// Redacted stands in place of a secret.
const Redacted = "[REDACTED]"

// whole are secrets by their form, to their end.
var whole = regexp.MustCompile(`\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{15,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bxox[abprs]-[\w-]{10,}|\bnpm_\w{30,}|\bpypi-[\w-]{30,}|\bassay_robot_\w{10,}|\bAGE-SECRET-KEY-1[0-9A-Z]{20,}`)

// named are values that a name before them makes secrets: NAME=VALUE,
// "name": "value", Authorization: Bearer VALUE.
var (
	named    = regexp.MustCompile(`([A-Za-z][A-Za-z0-9_.-]{1,63})(["']?\s?[=:]\s?["']?)([^\s"',;&]{6,})`)
	bearer   = regexp.MustCompile(`(?i)\b(bearer|basic)\s+([A-Za-z0-9+/=._~-]{8,})`)
	password = regexp.MustCompile(`(://[^\s/@:]{0,128}:)([^\s/@]{1,256})@`)
)

// Redactor takes secrets out of lines, in their order: a private key may go
// over many. It is for one text at a time.
type Redactor struct {
	known []string
	inKey bool
	// Count is how many were taken out.
	Count int
}

// NewRedactor makes one that also takes out known values; those of less than
// 6 bytes would take out too much, and are left.
func NewRedactor(known []string) *Redactor {
	r := &Redactor{}
	for _, k := range known {
		if len(k) >= 6 {
			r.known = append(r.known, k)
		}
	}
	return r
}

// Line gives a line without its secrets. What has the form of one by chance is
// taken out too.
func (r *Redactor) Line(s string) string {
	if r.inKey {
		if strings.Contains(s, "-----END ") {
			r.inKey = false
		}
		return Redacted
	}
	if i := strings.Index(s, "-----BEGIN "); i >= 0 && strings.Contains(s[i:], "PRIVATE KEY") {
		r.Count++
		r.inKey = !strings.Contains(s[i:], "-----END ")
		return s[:i] + Redacted
	}
	for _, k := range r.known {
		if n := strings.Count(s, k); n > 0 {
			r.Count += n
			s = strings.ReplaceAll(s, k, Redacted)
		}
	}
	if !strings.ContainsAny(s, "_=:-. ") {
		return s // none of the forms
	}
	s = r.replace(whole, s, func(string, []int) string { return Redacted })
	s = r.replace(password, s, func(s string, at []int) string { return s[at[2]:at[3]] + Redacted + "@" })
	s = r.replace(bearer, s, func(s string, at []int) string { return s[at[2]:at[3]] + " " + Redacted })
	return r.replace(named, s, func(s string, at []int) string {
		name, value := s[at[2]:at[3]], s[at[6]:at[7]]
		if Name(strings.NewReplacer("-", "_", ".", "_").Replace(name)) == "" || strings.HasPrefix(value, Redacted) || strings.HasPrefix(value, "//") {
			return ""
		}
		return name + s[at[4]:at[5]] + Redacted
	})
}

// replace puts what with gives in place of each match; "" leaves it.
func (r *Redactor) replace(re *regexp.Regexp, s string, with func(s string, at []int) string) string {
	all := re.FindAllStringSubmatchIndex(s, -1)
	if len(all) == 0 {
		return s
	}
	var b strings.Builder
	from := 0
	for _, at := range all {
		text := with(s, at)
		if text == "" {
			continue
		}
		r.Count++
		b.WriteString(s[from:at[0]])
		b.WriteString(text)
		from = at[1]
	}
	b.WriteString(s[from:])
	return b.String()
}
