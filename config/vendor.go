package config

import (
	"fmt"
	"slices"

	"assay/internal/fault"
	"assay/internal/glob"
	"assay/internal/strictyaml"
	"assay/policy"
)

// KindVendor is a vendor of images and binaries that others made: VendorSpec.
const KindVendor = "Vendor"

// VendorSpec says what a vendor's artifacts must bring with them. It comes to a
// policy of the name vendor-NAME for the vendor's repositories.
type VendorSpec struct {
	// Contact is for people.
	Contact string `yaml:"contact,omitempty"`
	// Repositories hold what the vendor made, patterns.
	Repositories []string `yaml:"repositories"`
	// Root is the imported root of trust under which the vendor signs (assay trust
	// import); "": any that counts.
	Root string `yaml:"root,omitempty"`
	// Identities are who signs for the vendor.
	Identities []policy.IdentityMatch `yaml:"identities"`
	Require    VendorRequire          `yaml:"require,omitempty"`
	// Mode is what a lack does: audit, warn or enforce (default).
	Mode policy.Mode `yaml:"mode,omitempty"`
}

// VendorRequire is what each of a vendor's artifacts has to have.
type VendorRequire struct {
	// Unsigned does without a signature over the artifact itself.
	Unsigned bool `yaml:"unsigned,omitempty"`
	// SBOM is cyclonedx or spdx: a bill of materials that the vendor signed.
	SBOM string `yaml:"sbom,omitempty"`
	// Attestations are further predicate types that the vendor signed.
	Attestations []string `yaml:"attestations,omitempty"`
	// Log has evidence count only when a log holds it.
	Log bool `yaml:"log,omitempty"`
}

// Vendor is a vendor with the policy that its artifacts are held to.
type Vendor struct {
	Name   string
	Spec   VendorSpec
	Policy *policy.Policy
	globs  []glob.Glob
}

// Made says whether a repository holds what the vendor made.
func (v *Vendor) Made(repository string) bool {
	return slices.ContainsFunc(v.globs, func(g glob.Glob) bool { return g.Match(repository) })
}

// VendorPolicy is the name of a vendor's policy.
func VendorPolicy(name string) string { return "vendor-" + name }

var sbomTypes = map[string]string{"cyclonedx": "https://cyclonedx.org/bom", "spdx": "https://spdx.dev/Document"}

func compileVendor(name string, s VendorSpec) (*Vendor, error) {
	v := &Vendor{Name: name, Spec: s}
	if len(name) > 50 {
		return nil, fault.Newf(fault.Invalid, "vendor %.60q: want a name of at most 50 letters", name)
	}
	if len(s.Repositories) == 0 {
		return nil, fault.Newf(fault.Invalid, "vendor %s: repositories is empty: where do its artifacts lie?", name)
	}
	for _, r := range s.Repositories {
		g, err := glob.Parse(r)
		if err != nil {
			return nil, fmt.Errorf("vendor %s: repositories: %w", name, err)
		}
		v.globs = append(v.globs, g)
	}
	ids := slices.Clone(s.Identities)
	for i := range ids {
		if s.Root != "" && ids[i].Root == "" {
			ids[i].Root = s.Root
		}
	}
	req := &policy.Requirements{RequireLog: s.Require.Log}
	if !s.Require.Unsigned {
		req.Signatures = []policy.SignatureRequirement{{Name: "signature", Identities: ids}}
	}
	types := slices.Clone(s.Require.Attestations)
	if s.Require.SBOM != "" {
		t, ok := sbomTypes[s.Require.SBOM]
		if !ok {
			return nil, fault.Newf(fault.Invalid, "vendor %s: require.sbom %.40q: want cyclonedx or spdx", name, s.Require.SBOM)
		}
		req.Attestations = append(req.Attestations, policy.AttestationRequirement{Name: "sbom", PredicateType: t, Identities: ids})
		types = slices.DeleteFunc(types, func(o string) bool { return o == t })
	}
	for _, t := range types {
		req.Attestations = append(req.Attestations, policy.AttestationRequirement{PredicateType: t, Identities: ids})
	}
	if len(req.Signatures)+len(req.Attestations) == 0 {
		return nil, fault.Newf(fault.Invalid, "vendor %s: nothing is required: want a signature, sbom or attestations", name)
	}
	var err error
	v.Policy, err = policy.Compile(&policy.Document{
		APIVersion: policy.APIVersion, Kind: policy.KindPolicy, Metadata: policy.Metadata{Name: VendorPolicy(name)},
		Spec: policy.Spec{Mode: s.Mode, Scope: &policy.Selector{Repositories: s.Repositories}, Requirements: req},
	})
	if err != nil {
		return nil, fmt.Errorf("vendor %s: %w", name, err)
	}
	return v, nil
}

func parseVendor(p strictyaml.Document) (string, *Vendor, error) {
	e, err := decode[VendorSpec](p, KindVendor)
	if err != nil {
		return "", nil, err
	}
	v, err := compileVendor(e.Metadata.Name, e.Spec)
	return e.Metadata.Name, v, err
}
