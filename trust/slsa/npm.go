package slsa

import (
	"net/url"
	"strings"

	"assay/internal/strictjson"
	"assay/trust"
)

// PredicateNPMPublish begins the predicate types of npm's publish attestation.
const PredicateNPMPublish = "https://github.com/npm/attestation/tree/main/specs/publish/"

// Package is an npm package that is expected; an empty field asks nothing.
type Package struct{ Name, Version string }

// CheckNPM compares the two attestations that the npm registry serves for a
// package, both verified and about the same tarball: the builder's provenance,
// and the registry's own statement that this is the published package.
func (bs Builders) CheckNPM(provenance, publish *trust.Verified, e Expect, p Package) (*Result, error) {
	if e.Builder == "" {
		return nil, trust.Refuse(CodeBuilder, "npm provenance: name the expected builder")
	}
	r, err := bs.Check(provenance, e)
	if err != nil {
		return nil, err
	}
	if publish == nil || publish.Statement == nil || !strings.HasPrefix(publish.Statement.PredicateType, PredicateNPMPublish) {
		return nil, trust.Refuse(CodeProvenance, "npm: want the registry's publish attestation beside the provenance")
	}
	var pub struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	if err := strictjson.Unmarshal(publish.Statement.Predicate, &pub); err != nil {
		return nil, trust.Refuse(CodeProvenance, "npm: publish attestation: %w", err)
	}
	if len(provenance.Subjects) != 1 {
		return nil, trust.Refuse(CodePackage, "npm: provenance has %d subjects, want the package alone", len(provenance.Subjects))
	}
	name, version, err := splitPackage(provenance.Subjects[0].Name)
	if err != nil {
		return nil, err
	}
	for _, c := range []struct{ what, want, prov, pub string }{{"name", p.Name, name, pub.Name}, {"version", p.Version, version, pub.Version}} {
		if c.prov != c.pub {
			return nil, trust.Refuse(CodePackage, "npm: provenance is of package %s %.120q, the registry published %.120q", c.what, c.prov, c.pub)
		}
		if c.want != "" && c.want != c.prov {
			return nil, trust.Refuse(CodePackage, "npm: package %s is %.120q, want %q", c.what, c.prov, c.want)
		}
	}
	return r, nil
}

// splitPackage reads pkg:npm/%40scope/name@version.
func splitPackage(purl string) (name, version string, err error) {
	rest, ok := strings.CutPrefix(purl, "pkg:npm/")
	if rest, err = url.PathUnescape(rest); !ok || err != nil {
		return "", "", trust.Refuse(CodePackage, "npm: subject is %.160q, want pkg:npm/name@version", purl)
	}
	if i := strings.LastIndexByte(rest, '@'); i > 0 {
		return rest[:i], rest[i+1:], nil
	}
	return rest, "", nil
}
