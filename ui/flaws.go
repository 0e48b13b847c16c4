package ui

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

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
	return p.Package().String()
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
	if err := c.soon(&list, "risk", "service", service, "limit", fmt.Sprint(limit)); err != nil {
		out.Problem = err.Error()
		return out
	}
	if n := list.Count - len(list.Items); n > 0 {
		out.Note += fmt.Sprintf(" %d more have less; ?format=json has up to 1,000.", n)
	}
	if old := c.u.o.Clock().Sub(list.AsOf); old > time.Second {
		out.Note += fmt.Sprintf(" As of %s ago.", old.Round(time.Second))
	}
	if why := c.blind(); why != "" {
		out.Problem, out.Table = why, nil
		return out
	}
	for i := range list.Items {
		a := &list.Items[i]
		if a.Findings == 0 {
			continue
		}
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

// vulnerabilitiesPage ranks what is wrong by what hangs on it.
func vulnerabilitiesPage(c *visit) (*Page, error) {
	service := c.query("service")
	limit := 50
	if c.query("format") != "" {
		limit = 1000
	}
	p := &Page{Title: "Vulnerabilities", Here: "Vulnerabilities", Live: true, Lead: "What runs where it matters comes first. A vulnerability by its name: in the search box.",
		Filter: &Filter{[]Field{{Name: "service", Label: "Service", Value: service}}}}
	up := Section{ID: "upgrades", Title: "Mend first", Note: "Upgrades, by how much risk each takes away.", Table: &Table{Columns: columns("Component", "From", "To", "Risk taken#", "Artifacts#", "Needed directly#", "Mends", "Leaves"), Empty: "No upgrade is known that takes risk away."}}
	var ups client.List[client.Upgrade]
	if err := c.soon(&ups, "risk/upgrades", "service", service, "limit", "15"); err != nil {
		up.Problem = err.Error()
	}
	for _, u := range ups.Items {
		up.Table.Rows = append(up.Table.Rows, []Cell{{Text: clip(u.Component, 80), Value: u.Component, Title: u.Component, Mono: true}, text(u.From), text(u.To), number(u.Risk, 1), count(u.Artifacts), count(u.Direct), clipped(strings.Join(u.Flaws, ", "), 60), orNone(clip(strings.Join(u.Left, ", "), 60))})
	}
	p.Sections = []Section{c.riskTable(service, limit), up}
	if service == "" {
		s := Section{ID: "services", Title: "By service", Table: &Table{Columns: columns("Service", "Risk#", "Artifacts#", "Findings#"), Empty: "Nothing has a finding that counts."}}
		var list client.List[client.ServiceRisk]
		if err := c.soon(&list, "risk/services"); err != nil {
			s.Problem = err.Error()
		}
		for _, r := range list.Items {
			name := link(r.Service, local("vulnerabilities", "service", r.Service))
			if r.Service == "" {
				name = unknown("no service of the catalogue has these")
			}
			s.Table.Rows = append(s.Table.Rows, []Cell{name, number(r.Risk, 1), count(r.Artifacts), count(r.Findings)})
		}
		p.Sections = append(p.Sections, s)
	}
	return p, nil
}

// vulnerabilityPage is what one flaw affects.
func vulnerabilityPage(c *visit) (*Page, error) {
	id := c.r.PathValue("id")
	const most = 200
	limit := most + 1 // one more tells that there are more
	if c.query("format") != "" {
		limit = 1000
	}
	var list client.List[client.AffectedSubject]
	if err := c.get(&list, "vulnerabilities/"+url.PathEscape(id)+"/artifacts", "limit", strconv.Itoa(limit)); err != nil {
		return nil, err
	}
	t := &Table{Columns: columns("Artifact", "Name", "State", "Component", "Fixed in", "Dependency", "Record"), Empty: "No stored bill of materials holds what it affects. What has no bill of materials is not among those that were looked at."}
	shown := list.Items
	note := ""
	if c.query("format") == "" && len(shown) > most {
		shown, note = shown[:most], fmt.Sprintf("%d are shown, and there are more; CSV and JSON have up to 1,000.", most)
	}
	for _, a := range shown {
		state := mark(Bad, a.Status)
		if a.Status != "affected" {
			state = Cell{Text: strings.ReplaceAll(a.Status, "_", " "), Value: a.Status, Mark: Unknown}
		}
		t.Rows = append(t.Rows, []Cell{digest(a.Subject, ""), orNone(clip(a.Name, 60)), state, {Text: clip(a.Component, 90), Value: a.Component, Title: a.Component, Mono: true}, orNone(a.Fixed), text(a.Direct), text(a.Record)})
	}
	return &Page{Title: id, Here: "Vulnerabilities", Crumbs: []Link{{"Vulnerabilities", local("vulnerabilities")}}, Live: true, Sections: []Section{
		{ID: "artifacts", Title: "What it affects", Note: note, Table: t},
		{ID: "state", Title: "To state that it does not concern you", Note: "assay vuln triage " + clip(id, 60) + " --product sha256:… --status not_affected --justification …; see Statements."},
	}}, nil
}

// riskPage explains an artifact's risk, finding by finding.
func riskPage(c *visit) (*Page, error) {
	d, err := artifact.ParseDigest(c.r.PathValue("digest"))
	if err != nil {
		return nil, err
	}
	var out client.RiskDetail
	if err := c.get(&out, "risk/artifact", "digest", string(d), "repository", c.query("repository")); err != nil {
		return nil, err
	}
	names := []string{"Vulnerability", "Risk#", "Severity", "Component", "Fixed in", "Dependency"}
	if len(out.Items) > 0 {
		for _, p := range out.Items[0].Parts {
			names = append(names, p.Name+"#")
		}
	}
	t := &Table{Columns: columns(names...), Empty: "No finding counts."}
	for i := range out.Items {
		f := &out.Items[i]
		row := []Cell{link(f.Name, local("vulnerabilities/"+url.PathEscape(f.Name))), number(f.Risk, 1), severityCell(f.Severity, 0), {Text: clip(f.Component, 80), Value: f.Component, Title: f.Component, Mono: true}, orNone(f.Fixed), text(f.Direct)}
		for j := 6; j < len(names); j++ {
			part := Cell{Text: "–", Value: ""}
			if j-6 < len(f.Parts) {
				part = number(f.Parts[j-6].Factor, 2)
				part.Title = f.Parts[j-6].Why
			}
			row = append(row, part)
		}
		t.Rows = append(t.Rows, row)
	}
	facts := []Fact{{"Artifact", digest(d, c.query("repository"))}, {"Risk", number(out.Artifact.Risk, 1)}, {"Worst finding", number(out.Artifact.Worst, 1)}, {"Findings", count(out.Artifact.Findings)}}
	for _, p := range out.Artifact.Parts {
		facts = append(facts, Fact{p.Name, Cell{Text: fmt.Sprintf("%.2f", p.Factor), Value: p.Factor, Sub: p.Why}})
	}
	return &Page{Title: "Risk", Here: "Vulnerabilities", Crumbs: []Link{{"Artifacts", local("artifacts")}, {short(string(d)), artifactURL(d, c.query("repository"))}}, Sections: []Section{
		{ID: "facts", Title: "What all findings share", Facts: facts}, {ID: "findings", Title: "Findings by risk", Note: "Risk is 100 times the product of the factors; why each is what it is: on hover, and in the JSON of the API.", Table: t},
	}}, nil
}
