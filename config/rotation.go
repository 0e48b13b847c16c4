package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"assay/authority/rotation"
	"assay/internal/fault"
	"assay/internal/keyring"
)

// KeyRotation says when the site's own keys are followed by others.
type KeyRotation struct {
	// Every is how long a key signs before the next one takes over; 0: until
	// somebody asks for it (assay keys rotate).
	Every time.Duration `yaml:"every"`
	// Overlap is how long a new key is published before it signs. 192h, a day
	// more than the life of the TUF timestamp, serves every client.
	Overlap time.Duration `yaml:"overlap"`
	// Roles are other times, and places, for single roles.
	Roles map[string]RoleRotation `yaml:"roles"`
	// Retired is what becomes of private keys whose window has ended: destroy or
	// archive.
	Retired string `yaml:"retired"`
	// Alerts are how long before a key's certificate ends it is told, each once.
	Alerts []time.Duration `yaml:"alerts"`
}

// RoleRotation is what differs for one role.
type RoleRotation struct {
	Every   *time.Duration `yaml:"every"`
	Overlap *time.Duration `yaml:"overlap"`
	// Place is where its next keys are made, the URI of a KMS key or of a key of a
	// PKCS #11 token; {n} stands for the key's number.
	Place string `yaml:"place"`
}

// Schedule is that of a role.
func (r KeyRotation) Schedule(role rotation.Role) rotation.Schedule {
	s := rotation.Schedule{Every: r.Every, Overlap: r.Overlap}
	if o := r.Roles[string(role)]; o.Every != nil {
		s.Every = *o.Every
	}
	if o := r.Roles[string(role)]; o.Overlap != nil {
		s.Overlap = *o.Overlap
	}
	return s
}

// Place is where the next keys of a role are made; "": in the key folder.
func (r KeyRotation) Place(role string) string { return r.Roles[role].Place }

func defaultRotation() KeyRotation {
	return KeyRotation{Overlap: rotation.DefaultOverlap, Retired: "destroy", Alerts: rotation.DefaultAlerts()}
}

func (r KeyRotation) validate() error {
	if r.Retired != "destroy" && r.Retired != "archive" {
		return fault.Newf(fault.Invalid, "keys.rotation.retired %q: want destroy or archive", r.Retired)
	}
	if i := slices.IndexFunc(r.Alerts, func(d time.Duration) bool { return d <= 0 }); i >= 0 {
		return fault.Newf(fault.Invalid, "keys.rotation.alerts: %s is no time before an end", r.Alerts[i])
	}
	for name, o := range r.Roles {
		if !rotation.Role(name).Valid() {
			return fault.Newf(fault.Invalid, "keys.rotation.roles: %.40q is no role; want one of %v", name, rotation.Roles())
		}
		if o.Place == "" {
			continue
		}
		if !slices.Contains(keyRoles, name) {
			return fault.Newf(fault.Invalid, "keys.rotation.roles.%s.place: this key cannot lie elsewhere", name)
		}
		if err := keyring.CheckURI(strings.ReplaceAll(o.Place, "{n}", "1")); err != nil {
			return fmt.Errorf("keys.rotation.roles.%s.place: %w", name, err)
		}
	}
	for _, role := range rotation.Roles() {
		if err := r.Schedule(role).Validate(); err != nil {
			return fmt.Errorf("keys.rotation, role %s: %w", role, err)
		}
	}
	return nil
}
