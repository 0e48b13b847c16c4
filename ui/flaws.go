package ui

import (
	"fmt"
	"net/url"
	"strings"

	"assay/artifact"
	"assay/client"
)

func componentTable(list []client.Component, where bool) *Table {
	names := []string{"Component", "Version", "Licence", "Dependency"}
	if where {
		names = append(names, "Artifact")
	}
	names = append(names, "Told by")
	t := &Table{Columns: columns(names...), Empty: "No bill of materials in force names such a component."}
	for i := range list {
		o := &list[i]
		dep := text(o.Dependency)
		if o.Dependency == "unknown" || o.Dependency == "" {
			dep = unknown("the document does not say")
		}
		row := []Cell{{Text: clip(o.Component, 90), Value: o.Component, Title: o.Component, Mono: true, URL: local("components", "purl", unversioned(o.Component))}, orUnknown(o.Version, "the document does not say"), orUnknown(o.License, "the document does not say"), dep}
		if where {
			row = append(row, digest(o.Subject, ""))
		}
		t.Rows = append(t.Rows, append(row, evidenceCell(o.Attestation)))
	}
	return t
}

// unversioned is a package URL without its version and qualifiers; "" for other
// names.
func unversioned(component string) string {
	if !strings.HasPrefix(component, "pkg:") {
		return ""
	}
	p, err := artifact.ParsePURL(component)
	if err != nil {
		return ""
	}
	p.Version, p.Qualifiers, p.Subpath = "", nil, ""
	return p.String()
}

// severityCell shows a severity by word and shape.
func severityCell(s string, score float64) Cell {
	c := Cell{Text: s, Value: s}
	switch s {
	case "critical", "high":
		c.Mark = Bad
	case "medium":
		c.Mark = Warn
	case "low", "none":
		c.Mark = Info
	default:
		return unknown("nobody scored it")
	}
	if score > 0 {
		c.Sub = fmt.Sprintf("%.1f", score)
	}
	return c
}

func findingState(f *client.Finding) Cell {
	c := Cell{Text: strings.ReplaceAll(f.Status, "_", " "), Value: f.Status, Title: f.Reason}
	switch f.Status {
	case "affected":
		c.Mark = Bad
	case "not_affected", "fixed":
		c.Mark = Good
	case "under_investigation":
		c.Mark = Warn
	default:
		c.Mark = Unknown
	}
	if f.Malicious {
		c = mark(Bad, "malicious")
	}
	return c
}

func findingRows(list []client.Finding) *Table {
	t := &Table{Columns: columns("Vulnerability", "Severity", "State", "Component", "Version", "Fixed in", "Dependency", "Exploited", "Statement", "First seen")}
	for i := range list {
		f := &list[i]
		exploited := Cell{Text: "–", Value: ""}
		switch {
		case f.KEV != "":
			exploited = Cell{Text: "known", Mark: Bad, Sub: "since " + f.KEV}
		case f.EPSS > 0:
			exploited = Cell{Text: fmt.Sprintf("%.1f %%", 100*f.EPSS), Value: f.EPSS, Title: "EPSS: probability within 30 days"}
		}
		said := Cell{Text: "–", Value: ""}
		if st := f.Statement; st != nil {
			said = Cell{Text: strings.ReplaceAll(st.Status, "_", " "), URL: local("vex/" + url.PathEscape(st.ID)), Sub: clip(st.Justification+" "+st.Author, 60)}
		}
		if f.Reachability != "" {
			said.Sub = strings.TrimSpace(said.Sub + " " + f.Reachability)
		}
		t.Rows = append(t.Rows, []Cell{
			{Text: f.Name, URL: local("vulnerabilities/" + url.PathEscape(f.Name)), Title: clip(f.Summary, 300)}, severityCell(f.Severity, f.Score), findingState(f),
			{Text: clip(f.Component, 80), Value: f.Component, Title: f.Component, Mono: true, Sub: viaOf(f.Via)}, orUnknown(f.Version, "the document does not say"), orNone(f.Fixed), text(f.Direct), exploited, said, when(f.FirstSeen),
		})
	}
	return t
}

func viaOf(via string) string {
	if via == "" {
		return ""
	}
	return "via " + clip(via, 60)
}

// coverageFacts say what is not known: none of it counts as clean.
func coverageFacts(c *client.FindingCoverage) []Fact {
	answer := mark(Good, "all is known")
	if !c.Complete() {
		answer = mark(Unknown, "not all is known")
	}
	facts := []Fact{{"Looked at", answer}}
	if !c.SBOM {
		facts = append(facts, Fact{"Bill of materials", unknown("none is in force")})
	} else {
		facts = append(facts, Fact{"Components", count(c.Components)})
	}
	if c.SBOM && !c.Scanned {
		facts = append(facts, Fact{"Scan", mark(Warn, "under way")})
	}
	if c.Unmatched > 0 {
		facts = append(facts, Fact{"No feed knows", Cell{Text: fmt.Sprintf("%d components", c.Unmatched), Value: c.Unmatched, Mark: Unknown}})
	}
	if c.ReleaseMissing > 0 {
		facts = append(facts, Fact{"Release not known", Cell{Text: fmt.Sprintf("%d components", c.ReleaseMissing), Value: c.ReleaseMissing, Mark: Unknown}})
	}
	for name, list := range map[string][]string{"Incomplete": c.Incomplete, "Feeds missing": c.FeedsMissing, "Feeds stale": c.FeedsStale} {
		if len(list) > 0 {
			facts = append(facts, Fact{name, Cell{Text: clip(strings.Join(list, ", "), 160), Value: list, Mark: Unknown}})
		}
	}
	if !c.KEV {
		facts = append(facts, Fact{"Exploited flaws", unknown("CISA's catalog is not in force, or stale")})
	}
	if !c.EPSS {
		facts = append(facts, Fact{"EPSS", unknown("the scores are not in force, or stale")})
	}
	return facts
}

// riskTable ranks artifacts by what hangs on their findings.
func (c *visit) riskTable(service string, limit int) Section {
	out := Section{ID: "risk", Title: "Artifacts by risk", Note: "Risk is severity, exploitation, exposure, tier and whether it runs, multiplied: docs/risk.md.",
		Table: &Table{Columns: columns("Artifact", "Risk#", "Worst#", "Findings#", "Services", "Team", "Tier", "Exposure", "Runs"), Empty: "No artifact has a finding that counts."}}
	var list client.RiskList
	if err := c.get(&list, "risk", "service", service, "limit", fmt.Sprint(limit)); err != nil {
		out.Problem = err.Error()
		return out
	}
	if n := list.Count - len(list.Items); n > 0 {
		out.Note += fmt.Sprintf(" %d more have less; ?format=json has up to 1,000.", n)
	}
	for i := range list.Items {
		a := &list.Items[i]
		runs := Cell{Text: "no"}
		if a.Production {
			runs = Cell{Text: "production", Mark: Warn}
		} else if a.Running {
			runs = Cell{Text: "yes", Mark: Info}
		}
		r := number(a.Risk, 1)
		r.URL = local("artifacts/" + string(a.Digest) + "/risk")
		out.Table.Rows = append(out.Table.Rows, []Cell{digest(a.Digest, ""), r, number(a.Worst, 1), count(a.Findings), orUnknown(clip(strings.Join(a.Services, ", "), 60), "no service of the catalogue has it"), orUnknown(a.Team, "nobody owns it"), tierCell(a.Tier, a.Classified), text(a.Exposure), runs})
	}
	return out
}
