package config

import (
	"fmt"
	"regexp"
	"time"

	"assay/internal/fault"
	"assay/policy"
)

// PolicySigners says whose signatures make a bundle of policies count.
type PolicySigners struct {
	// Signers may sign bundles. None by default: then no bundle is put in force
	// that is not allowed to be unsigned.
	Signers []policy.IdentityMatch `yaml:"signers"`
	// Threshold is how many distinct ones must have; 0: 1.
	Threshold int `yaml:"threshold"`
	// Unsigned lets bundles be put in force that nobody signed, when that is asked
	// for by name.
	Unsigned bool `yaml:"unsigned"`
}

// Policy says which bundles of policies this site follows.
type Policy struct {
	Bundles []PolicyBundle `yaml:"bundles"`
}

// PolicyBundle is a place that is looked at for new versions of a bundle.
type PolicyBundle struct {
	// Name is the bundle's.
	Name string `yaml:"name"`
	// From is a folder, an archive, oci://HOST/REPOSITORY:TAG or
	// git+URL@REVISION#FOLDER.
	From string `yaml:"from"`
	// Every is how often it is looked at; default 1m.
	Every time.Duration `yaml:"every"`
	// AllowedSigners is an allowed-signers file (ssh-keygen): of a git repository,
	// the commit or tag must be signed by somebody in it.
	AllowedSigners string `yaml:"allowed_signers"`
	// Unsigned puts it in force without a signature, where trust.policies.unsigned
	// allows that.
	Unsigned bool `yaml:"unsigned"`
}

var bundleNameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

func (c *Config) validatePolicy() error {
	s := &c.Trust.Policies
	if s.Threshold < 0 || s.Threshold > 16 {
		return fault.Newf(fault.Invalid, "trust.policies.threshold %d: want 1 to 16", s.Threshold)
	}
	for i, id := range s.Signers {
		if _, err := id.Compile(); err != nil {
			return fmt.Errorf("trust.policies.signers[%d]: %w", i, err)
		}
	}
	seen := map[string]bool{}
	for i := range c.Policy.Bundles {
		b := &c.Policy.Bundles[i]
		switch {
		case !bundleNameRE.MatchString(b.Name):
			return fault.Newf(fault.Invalid, "policy.bundles[%d].name %.80q: want lower-case letters, digits, - and ., at most 63", i, b.Name)
		case seen[b.Name]:
			return fault.Newf(fault.Invalid, "policy.bundles: two are called %s", b.Name)
		case b.From == "":
			return fault.Newf(fault.Invalid, "policy.bundles.%s.from: want a folder, an archive, oci://HOST/REPOSITORY:TAG or git+URL@REVISION", b.Name)
		case b.Every < 0 || b.Every > 0 && b.Every < time.Second:
			return fault.Newf(fault.Invalid, "policy.bundles.%s.every %s: want 1s or more", b.Name, b.Every)
		case b.Unsigned && !s.Unsigned:
			return fault.Newf(fault.Invalid, "policy.bundles.%s.unsigned: trust.policies.unsigned does not allow that", b.Name)
		}
		seen[b.Name] = true
	}
	return nil
}
