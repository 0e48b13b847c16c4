package contract

import (
	"fmt"
	"slices"
	"strings"

	"assay/policy"
)

// SBOM is what is known of a bill of materials, for a contract that demands
// something of it.
type SBOM struct {
	Format      string
	SpecVersion string
	Score       int
	Incomplete  bool
	Problem     string // why it could not be read; it then counts as absent
}

// Outcome says what there is of what a contract expects of one artifact.
type Outcome struct {
	Items []ItemOutcome
}

// ItemOutcome is one expected piece of evidence.
type ItemOutcome struct {
	Name          string
	PredicateType string
	Present       bool
	Attestations  []string // ids that count, sorted
	Reason        string   // why it is missing; "" when it is there
}

// Missing lists the names of what is not there.
func (o Outcome) Missing() []string {
	out := []string{}
	for _, i := range o.Items {
		if !i.Present {
			out = append(out, i.Name)
		}
	}
	return out
}

// Complete says whether all is there.
func (o Outcome) Complete() bool {
	return len(o.Items) > 0 && !slices.ContainsFunc(o.Items, func(i ItemOutcome) bool { return !i.Present })
}

// Owed lists what the contract expects of a product; the names of its parts are
// of the contract, and may be shown.
func (c *Contract) Owed(repository, product string) []ItemOutcome {
	var out []ItemOutcome
	for _, it := range c.items {
		if it.owes(repository, product) {
			out = append(out, ItemOutcome{Name: it.name, PredicateType: it.predicateType})
		}
	}
	return out
}

// All lists all that the contract names, whatever the product.
func (c *Contract) All() []ItemOutcome {
	var out []ItemOutcome
	for _, it := range c.items {
		out = append(out, ItemOutcome{Name: it.name, PredicateType: it.predicateType})
	}
	return out
}

func (it *item) owes(repository, product string) bool {
	if len(it.products) == 0 {
		return true
	}
	for _, g := range it.products {
		if g.Match(repository) || product != "" && g.Match(product) {
			return true
		}
	}
	return false
}

// Judge holds verified facts against the contract. sbom gives what is known of
// the bill of materials in an attestation; it is asked only where the contract
// demands something of one. An artifact of which nothing is owed is complete
// only when the contract has an item for it: an empty outcome is not complete.
func (c *Contract) Judge(repository, product string, f *policy.Facts, sbom func(attestation string) (SBOM, bool)) Outcome {
	var o Outcome
	for _, it := range c.items {
		if it.owes(repository, product) {
			o.Items = append(o.Items, it.judge(f, sbom))
		}
	}
	return o
}

func (it *item) judge(f *policy.Facts, sbom func(string) (SBOM, bool)) ItemOutcome {
	out := ItemOutcome{Name: it.name, PredicateType: it.predicateType}
	signers := map[string]bool{}
	var others []string
	why := ""
	see := func(e *policy.Evidence) {
		if !it.signedBy(e) {
			if s := e.SignerText(); !slices.Contains(others, s) {
				others = append(others, s)
			}
			return
		}
		if it.sbom != nil {
			doc, known := SBOM{}, false
			if sbom != nil {
				doc, known = sbom(e.ID)
			}
			if lack := it.sbom.lacks(doc, known); lack != "" {
				why = lack
				return
			}
		}
		signers[e.Party()] = true
		out.Attestations = append(out.Attestations, e.ID)
	}
	if it.predicateType == TypeSignature {
		for i := range f.Signatures {
			see(&f.Signatures[i].Evidence)
		}
	} else {
		for i := range f.Attestations {
			if f.Attestations[i].PredicateType == it.predicateType {
				see(&f.Attestations[i].Evidence)
			}
		}
	}
	slices.Sort(out.Attestations)
	if out.Present = len(signers) >= it.threshold; out.Present {
		return out
	}
	switch {
	case why != "":
		out.Reason = why
	case len(signers) > 0:
		out.Reason = fmt.Sprintf("%d of %d distinct signers", len(signers), it.threshold)
	case len(others) > 0:
		out.Reason = "signed by others: " + strings.Join(others[:min(len(others), 3)], ", ")
	default:
		out.Reason = "there is none"
	}
	return out
}

func (it *item) signedBy(e *policy.Evidence) bool {
	if it.delegated {
		return e.Delegation != nil
	}
	return slices.ContainsFunc(it.signers, func(m policy.Matcher) bool { return m.Match(e) })
}

// lacks says what a bill of materials lacks to count, or "".
func (d *SBOMDemand) lacks(s SBOM, known bool) string {
	switch {
	case !known:
		return "the bill of materials is not read yet"
	case s.Problem != "":
		return "the bill of materials could not be read"
	case len(d.Formats) > 0 && !slices.Contains(d.Formats, s.Format):
		return fmt.Sprintf("its format is %s, want %s", s.Format, strings.Join(d.Formats, " or "))
	case len(d.SpecVersions) > 0 && !slices.Contains(d.SpecVersions, s.SpecVersion):
		return fmt.Sprintf("it is of version %s, want %s", s.SpecVersion, strings.Join(d.SpecVersions, " or "))
	case s.Score < d.LeastQuality:
		return fmt.Sprintf("its quality is %d, want at least %d", s.Score, d.LeastQuality)
	case d.Complete && s.Incomplete:
		return "it does not hold everything"
	}
	return ""
}
