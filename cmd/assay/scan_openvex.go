package main

import (
	"encoding/json"
	"io"
	"time"

	"assay/client"
	"assay/internal/fault"
	"assay/sbom"
	"assay/vuln/reach"
	"assay/vuln/vex"
)

// reachDocument is an OpenVEX document (0.2.0) of what a scan with --reachability
// found: what is not called does not affect, as govulncheck itself states it. It
// says nothing of flaws that were not looked at. Whoever signs it (assay vex
// attest) answers for it, and it counts where a policy names the signer.
type reachDocument struct {
	Context    string           `json:"@context"`
	ID         string           `json:"@id"`
	Author     string           `json:"author"`
	Timestamp  string           `json:"timestamp"`
	Version    int              `json:"version"`
	Tooling    string           `json:"tooling"`
	Statements []reachStatement `json:"statements"`
}

type reachStatement struct {
	Vulnerability struct {
		Name    string   `json:"name"`
		Aliases []string `json:"aliases,omitempty"`
	} `json:"vulnerability"`
	Products      []reachProduct `json:"products"`
	Status        vex.Status     `json:"status"`
	Justification string         `json:"justification,omitempty"`
	Impact        string         `json:"impact_statement,omitempty"`
	Action        string         `json:"action_statement,omitempty"`
}

type reachProduct struct {
	ID            string         `json:"@id"`
	Subcomponents []reachProduct `json:"subcomponents,omitempty"`
}

// writeReach writes what was looked at as OpenVEX about the scanned artifact.
func writeReach(w io.Writer, d *sbom.Document, got *client.Findings, at time.Time) error {
	t := &target{}
	if err := describedDigest(d, t); err != nil {
		return fault.Newf(fault.Invalid, "a statement is about a digest, and a folder has none: scan the program that is built of it, with its symbols: %w", err)
	}
	out := reachDocument{
		Context: vex.PredicateOpenVEX, ID: "urn:assay:reachability:" + string(t.digest), Author: "govulncheck", Timestamp: at.UTC().Format(time.RFC3339),
		Version: 1, Tooling: "assay " + version() + ", govulncheck", Statements: []reachStatement{},
	}
	for _, f := range got.Items {
		var one reachStatement
		switch reach.Level(f.Reachability) {
		case reach.Required:
			one.Status, one.Justification, one.Impact = vex.NotAffected, "vulnerable_code_not_present", "The module is needed, and no affected package of it is part of the program."
		case reach.Imported:
			one.Status, one.Justification, one.Impact = vex.NotAffected, "vulnerable_code_not_in_execute_path", "An affected package is part of the program, and none of its affected symbols is called."
		case reach.Called:
			one.Status, one.Action = vex.Affected, "An affected symbol is called."
			if f.Fixed != "" {
				one.Action += " Upgrade to " + f.Fixed + " or later."
			}
		default:
			continue // nobody looked
		}
		one.Vulnerability.Name = f.Name
		for _, r := range f.Records {
			if r.ID != f.Name {
				one.Vulnerability.Aliases = append(one.Vulnerability.Aliases, r.ID)
			}
		}
		one.Products = []reachProduct{{ID: string(t.digest), Subcomponents: []reachProduct{{ID: f.Component}}}}
		out.Statements = append(out.Statements, one)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}
