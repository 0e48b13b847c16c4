package builder

import (
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"assay/internal/fault"
)

// Provenance is published and signed: what slips into it stays there for good.
// So names and values that look like secrets are refused, also when they were
// asked for. A list is better than a leak, and a refusal better than silence.

// secretParts mark an environment variable's name wherever they stand in it.
var secretParts = []string{"SECRET", "TOKEN", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "PRIVATE", "APIKEY", "AUTH", "COOKIE", "SESSION"}

// secretWords mark it as a whole word between underscores.
var secretWords = []string{"KEY", "KEYS", "PASS", "PAT", "PIN", "PWD", "CREDS", "DSN"}

// secretValue finds what is a secret by its form, whatever its name: PEM private
// keys, JWTs, and the prefixes of GitHub, GitLab, AWS, Slack, npm and PyPI.
var secretValue = regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY|\beyJ[\w-]{10,}\.[\w-]{10,}\.|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{15,}|\b(AKIA|ASIA)[A-Z0-9]{16}\b|\bxox[abprs]-[\w-]{10,}|\bnpm_\w{30,}|\bpypi-[\w-]{30,}`)

// publicArguments refuses a command line that carries a secret.
func publicArguments(argv []string) error {
	for i, a := range argv {
		if secretLooking(a) {
			return fault.Newf(fault.Invalid, "argument %d of the command looks like a secret and would be published in the provenance; hand it to the build by a file or an environment variable", i)
		}
	}
	return nil
}

// allowedEnv reads the variables that may be recorded.
func allowedEnv(names []string) (map[string]string, error) {
	env := map[string]string{}
	for _, n := range names {
		if w := secretName(n); w != "" {
			return nil, fault.Newf(fault.Invalid, "environment variable %s looks like a secret (%s) and would be published; it is not recorded", n, w)
		}
		v, ok := os.LookupEnv(n)
		if !ok {
			continue
		}
		if secretLooking(v) {
			return nil, fault.Newf(fault.Invalid, "the value of environment variable %s looks like a secret and would be published; it is not recorded", n)
		}
		env[n] = v
	}
	return env, nil
}

// secretName gives the part of a name that makes it look like a secret's.
func secretName(name string) string {
	upper := strings.ToUpper(name)
	for _, p := range secretParts {
		if strings.Contains(upper, p) {
			return p
		}
	}
	if upper == "PWD" || upper == "OLDPWD" { // the shell's working folder
		return ""
	}
	for _, w := range strings.Split(upper, "_") {
		if slices.Contains(secretWords, w) {
			return w
		}
	}
	return ""
}

// secretLooking says whether a text has the form of a secret, or is a URL with
// a password.
func secretLooking(text string) bool {
	if secretValue.MatchString(text) {
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
