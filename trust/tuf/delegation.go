package tuf

import (
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"assay/artifact"
)

// delegates gives the roles that may speak of a target, most trusted first, and
// whether the last of them ends the search elsewhere.
func delegates(d *metadata.Delegations, target string) (roles []string, terminating bool, err error) {
	if d == nil {
		return nil, false, nil
	}
	if d.Roles == nil && d.SuccinctRoles != nil {
		for _, r := range d.SuccinctRoles.GetRolesForTarget(target) {
			roles, terminating = append(roles, r.Name), r.Terminating
		}
	}
	seen := map[string]bool{}
	for _, r := range d.Roles {
		if seen[r.Name] { // its keys would be taken from one, its paths from the other
			return nil, false, fmt.Errorf("it delegates to role %q twice", r.Name)
		}
		seen[r.Name] = true
		if terminating || !speaksOf(r, target) {
			continue
		}
		roles, terminating = append(roles, r.Name), r.Terminating
	}
	for _, name := range roles {
		if err := roleName(name); err != nil {
			return nil, false, err
		}
	}
	return roles, terminating, nil
}

// speaksOf says whether a delegation covers a target (section 4.5, PATHS and
// PATH_HASH_PREFIXES).
func speaksOf(r metadata.DelegatedRole, target string) bool {
	parts := strings.Split(target, "/")
	for _, pattern := range r.Paths {
		if matches(strings.Split(pattern, "/"), parts) {
			return true
		}
	}
	hash := artifact.SHA256Of([]byte(target)).Hex()
	for _, prefix := range r.PathHashPrefixes {
		if prefix != "" && strings.HasPrefix(hash, prefix) {
			return true
		}
	}
	return false
}

// matches compares segment by segment: a wildcard does not match a slash.
func matches(pattern, parts []string) bool {
	if len(pattern) != len(parts) {
		return false
	}
	for i, p := range pattern {
		if ok, err := path.Match(p, parts[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// roleName refuses a delegated role whose cache file would be that of a
// top-level role, on any file system, or that no file system takes.
func roleName(name string) error {
	for _, top := range []string{metadata.ROOT, metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS} {
		if strings.EqualFold(name, top) {
			return fmt.Errorf("it delegates to a role named %q, which is a top-level role's name", name)
		}
	}
	if n := len(url.QueryEscape(name)); n == 0 || n > 200 {
		return fmt.Errorf("it delegates to a role whose name has %d bytes, want 1 to 200", n)
	}
	return nil
}
