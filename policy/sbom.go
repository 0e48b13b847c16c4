package policy

import (
	"fmt"
	"slices"

	"assay/attestation"
	"assay/internal/fault"
)

// SBOMRequirement wants a bill of materials that describes the artifact itself,
// attested by who signed its provenance: what was built and what it is said to be
// made of are one's word. Another's may be of another build.
type SBOMRequirement struct {
	Signer string `yaml:"signer" json:"signer"` // "provenance": who signed a provenance that satisfies requirement provenance
}

// sbomTypes are the predicate types of bills of materials.
var sbomTypes = []string{attestation.PredicateSPDX, attestation.PredicateCycloneDX}

func (r *SBOMRequirement) compile(p *ProvenanceRequirement) error {
	if r.Signer != "provenance" {
		return fault.Newf(fault.Invalid, "signer %.40q: want provenance", r.Signer)
	}
	if p == nil {
		return fault.Newf(fault.Invalid, "signer: provenance wants requirement provenance, which says whose counts")
	}
	return nil
}

// holding gives the attestations of provenance for which all holds that the rule
// wants.
func (r *provenanceRule) holding(ev *evaluation, q *quality) (out []*Evidence) {
	for i := range ev.facts.Provenance {
		p := &ev.facts.Provenance[i]
		e := ev.attestation(p.Attestation)
		if e == nil {
			continue
		}
		checks, _ := r.checks(ev, q, p, &e.Evidence)
		if !slices.ContainsFunc(checks, func(c Check) bool { return c.Status == Fail }) {
			out = append(out, &e.Evidence)
		}
	}
	return out
}

// evaluateSBOM adds the check sbom/signer. Evidence in the facts is about the
// artifact: a statement whose subject it is not was not taken in.
func (r *requirements) evaluateSBOM(ev *evaluation) {
	c := Check{Name: "sbom/signer", Status: Fail, Expected: "a bill of materials of the artifact, attested by who signed its provenance" + r.quality.text()}
	built := r.provenance.holding(ev, &r.quality)
	n, other := 0, ""
	for i := range ev.facts.Attestations {
		a := &ev.facts.Attestations[i]
		if !slices.Contains(sbomTypes, a.PredicateType) {
			continue
		}
		n++
		if why := r.quality.unusable(&a.Evidence, ev.now); why != "" {
			other = why
			continue
		}
		if !slices.ContainsFunc(built, func(e *Evidence) bool { return e.Signer() == a.Signer() }) {
			other = "one by " + a.SignerText()
			continue
		}
		c.Status, c.Evidence = Pass, appendNew(c.Evidence, a.ID)
		if at, ok := a.At(); ok && r.quality.maxAge > 0 {
			ev.expire(at.Add(r.quality.maxAge))
		}
	}
	switch {
	case c.Status == Pass:
		c.Found = fmt.Sprintf("%d of %d", len(c.Evidence), n)
	case n == 0:
		c.Found = "no bill of materials is attested" + ev.rejectedText(true)
	case len(built) == 0:
		c.Found = fmt.Sprintf("%d bills of materials, and no provenance that counts", n)
	default:
		c.Found = fmt.Sprintf("%d, none of that signer: %s", n, clip(other, 200))
	}
	if c.Status == Fail {
		c.Mend = "assay run --image " + ev.target + " -- …  # signs provenance and bill of materials of one build"
	}
	ev.add(c)
}
