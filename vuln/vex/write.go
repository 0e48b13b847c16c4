package vex

import (
	"strings"
	"time"
)

// OpenVEXDocument is a document in the form of OpenVEX 0.2.0.
type OpenVEXDocument = openVEX

// openVEXContext is the version of the form that is written.
const openVEXContext = PredicateOpenVEX

// OpenVEX writes statements in the form of OpenVEX 0.2.0. What stands in the
// repository that a pattern names has no package URL of its own; it is written as
// a URN.
func OpenVEX(id, author string, at time.Time, statements []Statement) *OpenVEXDocument {
	out := &openVEX{Context: openVEXContext, ID: id, Author: author, Timestamp: at.UTC().Format(time.RFC3339), Version: 1, Statements: []openVEXStatement{}}
	for _, s := range statements {
		st := openVEXStatement{
			Vulnerability: openVEXVulnerability{s.Vulnerabilities[0], s.Vulnerabilities[1:]}, Status: s.Status, Justification: s.Justification, Impact: s.Impact, Action: s.Action, Versions: s.Versions,
		}
		if !s.Until.IsZero() {
			st.Until = s.Until.UTC().Format(time.RFC3339)
		}
		if s.Status == Affected && s.Action == "" {
			st.Action = "none is named" // the form wants one
		}
		for _, p := range s.Products {
			one := openVEXProduct{ID: p}
			switch {
			case strings.HasPrefix(p, "sha256:"):
				one = openVEXProduct{ID: "urn:" + p, Hashes: map[string]string{"sha-256": strings.TrimPrefix(p, "sha256:")}}
			case strings.HasPrefix(p, "pkg:"):
				one.Identifiers = map[string]string{"purl": p}
			case !strings.HasPrefix(p, repositoryURN) && !strings.HasPrefix(p, "sha512:"):
				one.ID = repositoryURN + p
			}
			for _, c := range s.Components {
				one.Subcomponents = append(one.Subcomponents, openVEXProduct{ID: c, Identifiers: map[string]string{"purl": c}})
			}
			st.Products = append(st.Products, one)
		}
		out.Statements = append(out.Statements, st)
	}
	return out
}
