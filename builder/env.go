package builder

import (
	"slices"
	"strings"

	"assay/internal/secret"
)

// credentials are variables that let a process sign as this build. The build
// itself has no use for them, and what a build holds, every dependency's install
// script holds: they are taken out of its environment.
var credentials = []string{
	"ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL", "SIGSTORE_ID_TOKEN",
	"ASSAY_API_TOKEN", "ASSAY_REGISTRY_TOKEN", "ASSAY_TOKEN_DIR", "ASSAY_DATA", "ASSAY_SUBJECT", "COSIGN_PASSWORD",
}

// harmless are names that look like a secret's and are none: sessions of the
// desktop, authors of commits.
var harmless = []string{"XDG_SESSION_", "DBUS_SESSION_", "DESKTOP_SESSION", "GDMSESSION", "SESSION_MANAGER", "XAUTHORITY", "GIT_AUTHOR_", "SSH_AUTH_SOCK"}

// buildEnv is what the build gets of our own environment, and the names of what
// looks like a secret in it.
func buildEnv(environ []string) (env, secrets []string) {
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if slices.Contains(credentials, name) {
			continue
		}
		env = append(env, kv)
		if value == "" {
			continue
		}
		named := secret.Name(name) != "" && !slices.ContainsFunc(harmless, func(h string) bool { return strings.HasPrefix(name, h) })
		if (named || secret.Looking(value)) && printableName(name) {
			secrets = append(secrets, name)
		}
	}
	slices.Sort(secrets)
	return env, slices.Compact(secrets)
}

// printableName bounds what is published of a name.
func printableName(name string) bool {
	return len(name) <= 128 && !strings.ContainsFunc(name, func(r rune) bool { return r <= 0x20 || r >= 0x7f })
}
