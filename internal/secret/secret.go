// Package secret tells secrets by their form and their names, so that what is
// published and signed, and so stays there for good, does not hold any. A list
// is better than a leak, and a refusal better than silence.
package secret

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// parts mark an environment variable's name wherever they stand in it.
var parts = []string{"SECRET", "TOKEN", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "PRIVATE", "APIKEY", "AUTH", "COOKIE", "SESSION"}

// words mark it as a whole word between underscores.
var words = []string{"KEY", "KEYS", "PASS", "PAT", "PIN", "PWD", "CREDS", "DSN"}

// value finds what is a secret by its form, whatever its name: PEM private
// keys, JWTs, and the prefixes of GitHub, GitLab, AWS, Slack, npm and PyPI.
var value = regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY|\beyJ[\w-]{10,}\.[\w-]{10,}\.|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{15,}|\b(AKIA|ASIA)[A-Z0-9]{16}\b|\bxox[abprs]-[\w-]{10,}|\bnpm_\w{30,}|\bpypi-[\w-]{30,}`)

// Name gives the part of an environment variable's name that makes it look like
// a secret's; "" when none does.
func Name(name string) string {
	upper := strings.ToUpper(name)
	for _, p := range parts {
		if strings.Contains(upper, p) {
			return p
		}
	}
	if upper == "PWD" || upper == "OLDPWD" { // the shell's working folder
		return ""
	}
	for _, w := range strings.Split(upper, "_") {
		if slices.Contains(words, w) {
			return w
		}
	}
	return ""
}

// Looking says whether a text has the form of a secret, or is a URL with
// a password.
func Looking(text string) bool {
	if value.MatchString(text) {
		return true
	}
	if _, after, ok := strings.Cut(text, "://"); ok && strings.Contains(after, "@") {
		// Also in the middle of an argument: --proxy=https://user:pass@host.
		i := strings.Index(text, "://")
		start := strings.LastIndexFunc(text[:i], func(r rune) bool { return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') }) + 1
		u, err := url.Parse(strings.Fields(text[start:])[0])
		if err != nil {
			return true // a URL that does not parse may hide anything before its @
		}
		_, has := u.User.Password()
		return has
	}
	return false
}
