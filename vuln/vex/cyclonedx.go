package vex

import (
	"strings"

	"assay/internal/fault"
	"assay/internal/strictjson"
)

// cycloneDX is what is read of vulnerabilities in CycloneDX 1.4 and later.
type cycloneDX struct {
	Serial   string `json:"serialNumber"`
	Metadata struct {
		Component *cdxComponent `json:"component"`
		Supplier  struct {
			Name string `json:"name"`
		} `json:"supplier"`
	} `json:"metadata"`
	Components      []cdxComponent `json:"components"`
	Vulnerabilities []struct {
		ID         string `json:"id"`
		References []struct {
			ID string `json:"id"`
		} `json:"references"`
		Analysis struct {
			State         string `json:"state"`
			Justification string `json:"justification"`
			Detail        string `json:"detail"`
		} `json:"analysis"`
		Affects []struct {
			Ref      string `json:"ref"`
			Versions []any  `json:"versions"`
		} `json:"affects"`
	} `json:"vulnerabilities"`
}

type cdxComponent struct {
	Ref        string         `json:"bom-ref"`
	PURL       string         `json:"purl"`
	Components []cdxComponent `json:"components"`
	Hashes     []struct {
		Alg     string `json:"alg"`
		Content string `json:"content"`
	} `json:"hashes"`
}

func (c *cdxComponent) names() (out []string) {
	for _, h := range c.Hashes {
		if h.Alg == "SHA-256" {
			out = append(out, "sha256:"+strings.ToLower(h.Content))
		}
	}
	if c.PURL != "" {
		out = append(out, c.PURL)
	}
	return exact(out)
}

var cdxStates = map[string]Status{
	"resolved": Fixed, "resolved_with_pedigree": Fixed, "exploitable": Affected, "in_triage": Investigating,
	"false_positive": NotAffected, "not_affected": NotAffected,
}

// cdxJustifications maps CycloneDX's words to those of OpenVEX.
var cdxJustifications = map[string]string{
	"code_not_present": "vulnerable_code_not_present", "code_not_reachable": "vulnerable_code_not_in_execute_path",
	"requires_configuration": "vulnerable_code_cannot_be_controlled_by_adversary", "requires_dependency": "component_not_present",
	"requires_environment":            "vulnerable_code_cannot_be_controlled_by_adversary",
	"protected_by_compiler":           "inline_mitigations_already_exist",
	"protected_at_runtime":            "inline_mitigations_already_exist",
	"protected_at_perimeter":          "inline_mitigations_already_exist",
	"protected_by_mitigating_control": "inline_mitigations_already_exist",
}

func readCycloneDX(b []byte) (*Document, error) {
	var in cycloneDX
	if err := strictjson.Unmarshal(b, &in, strictjson.WithMaxBytes(MaxBytes)); err != nil {
		return nil, fault.Newf(fault.Invalid, "CycloneDX: %w", err)
	}
	d := &Document{ID: in.Serial, Author: in.Metadata.Supplier.Name, Format: "cyclonedx"}
	places := map[string][]string{}
	var walk func([]cdxComponent, int)
	walk = func(all []cdxComponent, depth int) {
		for i := range all {
			if c := &all[i]; c.Ref != "" {
				places[c.Ref] = c.names()
			}
			if depth < 64 {
				walk(all[i].Components, depth+1)
			}
		}
	}
	walk(in.Components, 0)
	var main []string
	if c := in.Metadata.Component; c != nil {
		main = c.names()
		places[c.Ref] = main
	}
	for i := range in.Vulnerabilities {
		v := &in.Vulnerabilities[i]
		if v.Analysis.State == "" {
			continue // a finding, not a statement
		}
		status, known := cdxStates[v.Analysis.State]
		if !known {
			return nil, fault.Newf(fault.Invalid, "CycloneDX: state %.60q of %.60q is not known", v.Analysis.State, v.ID)
		}
		names := []string{v.ID}
		for _, r := range v.References {
			if r.ID != "" && r.ID != v.ID {
				names = append(names, r.ID)
			}
		}
		for _, a := range v.Affects {
			// Another document's component, by a BOM-Link, stands after the "#".
			ref := a.Ref
			if _, after, is := strings.Cut(ref, "#"); is && strings.HasPrefix(ref, "urn:cdx:") {
				ref = after
			}
			st := Statement{Vulnerabilities: names, Status: status, Justification: cdxJustifications[v.Analysis.Justification], Impact: v.Analysis.Detail}
			if status == NotAffected && st.Justification == "" && st.Impact == "" {
				st.Impact = v.Analysis.State // the state itself is the reason that is given
			}
			if len(a.Versions) > 0 && (status == NotAffected || status == Fixed) {
				return nil, fault.Newf(fault.Invalid, "CycloneDX: %.60q affects versions of %.120q: want one component for each version, with it in its package URL", v.ID, a.Ref)
			}
			at, there := places[ref]
			switch {
			case !there && strings.HasPrefix(ref, "pkg:"):
				st.Products = []string{ref}
			case !there || len(at) == 0:
				return nil, fault.Newf(fault.Invalid, "CycloneDX: %.60q affects %.120q, which no component with a package URL or hash is", v.ID, a.Ref)
			case len(main) > 0 && ref != in.Metadata.Component.Ref:
				if st.Products, st.Components = main, within(at); len(st.Components) == 0 {
					return nil, fault.Newf(fault.Invalid, "CycloneDX: %.60q affects %.120q, which has no package URL: it would be about all of the product", v.ID, a.Ref)
				}
			default:
				st.Products = at
			}
			d.Statements = append(d.Statements, st)
			if len(d.Statements) > maxStatements {
				return nil, fault.Newf(fault.TooLarge, "CycloneDX: over %d statements", maxStatements)
			}
		}
	}
	return d, nil
}
