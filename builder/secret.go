package builder

import (
	"os"

	"assay/internal/fault"
	"assay/internal/secret"
)

// Provenance is published and signed: what slips into it stays there for good.
// So names and values that look like secrets are refused, also when they were
// asked for. A list is better than a leak, and a refusal better than silence.

// publicArguments refuses a command line that carries a secret.
func publicArguments(argv []string) error {
	for i, a := range argv {
		if secret.Looking(a) {
			return fault.Newf(fault.Invalid, "argument %d of the command looks like a secret and would be published in the provenance; hand it to the build by a file or an environment variable", i)
		}
	}
	return nil
}

// allowedEnv reads the variables that may be recorded.
func allowedEnv(names []string) (map[string]string, error) {
	env := map[string]string{}
	for _, n := range names {
		if w := secret.Name(n); w != "" {
			return nil, fault.Newf(fault.Invalid, "environment variable %s looks like a secret (%s) and would be published; it is not recorded", n, w)
		}
		v, ok := os.LookupEnv(n)
		if !ok {
			continue
		}
		if secret.Looking(v) {
			return nil, fault.Newf(fault.Invalid, "the value of environment variable %s looks like a secret and would be published; it is not recorded", n)
		}
		env[n] = v
	}
	return env, nil
}
