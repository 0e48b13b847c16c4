package secret

import (
	"regexp"
	"strings"
)

// Redacted stands in place of a secret.
const Redacted = "[REDACTED]"

// whole are secrets by their form, to their end.
var whole = regexp.MustCompile(`\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{15,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bxox[abprs]-[\w-]{10,}|\bnpm_\w{30,}|\bpypi-[\w-]{30,}|\bassay_robot_\w{10,}|\bAGE-SECRET-KEY-1[0-9A-Z]{20,}`)

// What stands before the value says what these are. Repetitions have no bounds,
// since those would make the automaton large and long lines slow.
var (
	bearer   = regexp.MustCompile(`(?i)\b(bearer|basic)\s+([A-Za-z0-9+/=._~-]+)`)
	password = regexp.MustCompile(`(://[^\s/@:]*:)([^\s/@]+)@`)
)

// starts are what secrets of a known form begin with: most lines have none of
// them, and are not looked at further.
var starts = []string{"eyJ", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "AKIA", "ASIA", "xox", "npm_", "pypi-", "assay_robot_", "AGE-SECRET-KEY-1"}

func containsAny(s string, list []string) bool {
	for _, x := range list {
		if strings.Contains(s, x) {
			return true
		}
	}
	return false
}

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
	if containsAny(s, starts) {
		s = r.replace(whole, s, func(string, []int) string { return Redacted })
	}
	if strings.Contains(s, "://") && strings.Contains(s, "@") {
		s = r.replace(password, s, func(s string, at []int) string { return s[at[2]:at[3]] + Redacted + "@" })
	}
	if containsAny(s, []string{"earer", "EARER", "asic", "ASIC"}) {
		s = r.replace(bearer, s, func(s string, at []int) string {
			if at[5]-at[4] < 8 {
				return ""
			}
			return s[at[2]:at[3]] + " " + Redacted
		})
	}
	return r.named(s)
}

// named takes out values that a name before them makes secrets: NAME=VALUE,
// "name": "value", api-key: VALUE.
func (r *Redactor) named(s string) string {
	var b strings.Builder
	from := 0
	for i := 0; i < len(s); i++ {
		if s[i] != '=' && s[i] != ':' || i < from {
			continue
		}
		name := nameBefore(s[from:i])
		if name == "" || Name(name) == "" {
			continue // before the value is looked for: each is gone through once
		}
		start := valueAfter(s, i+1)
		if strings.HasPrefix(s[start:], "//") || strings.HasPrefix(s[start:], Redacted) {
			continue
		}
		end := start + valueLength(s[start:])
		if end-start < 6 {
			continue
		}
		r.Count++
		b.WriteString(s[from:start])
		b.WriteString(Redacted)
		from = end
	}
	if from == 0 {
		return s
	}
	b.WriteString(s[from:])
	return b.String()
}

// nameBefore is the name that s ends in, as of a variable; "" when there is none.
func nameBefore(s string) string {
	s = strings.TrimSuffix(s, " ")
	s = strings.TrimRight(s[max(len(s)-80, 0):], `"'`)
	i := len(s)
	for i > 0 && nameByte(s[i-1]) {
		i--
	}
	if n := len(s) - i; n < 2 || n > 64 {
		return ""
	}
	return strings.NewReplacer("-", "_", ".", "_").Replace(s[i:])
}

func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.'
}

// valueAfter is where the value begins that comes at i, after a space and a quote.
func valueAfter(s string, i int) int {
	if i < len(s) && s[i] == ' ' {
		i++
	}
	if i < len(s) && (s[i] == '"' || s[i] == '\'') {
		i++
	}
	return i
}

// valueLength is how long the value is that s begins with.
func valueLength(s string) int {
	if i := strings.IndexAny(s, " \t\"',;&"); i >= 0 {
		return i
	}
	return len(s)
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
