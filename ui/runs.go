package ui

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"

	"assay/client"
)

// inline is a JSON object in one line, its members by name.
func inline(m map[string]any) string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	sort.Strings(names)
	parts := make([]string, 0, len(names))
	for _, n := range names {
		switch v := m[n].(type) {
		case nil:
		case string:
			if v != "" {
				parts = append(parts, n+" "+v)
			}
		default:
			b, err := json.Marshal(v)
			if err == nil {
				parts = append(parts, n+" "+string(b))
			}
		}
	}
	return strings.Join(parts, " · ")
}

func workloadTable(list []client.Workload, artifacts bool) *Table {
	names := []string{"Workload", "Container", "Service", "Team", "Cluster", "Namespace", "State", "Since"}
	if artifacts {
		names = append(names, "Artifact")
	}
	t := &Table{Columns: columns(names...)}
	for i := range list {
		w := &list[i]
		state := mark(Good, "runs")
		switch {
		case w.Ended != nil:
			state = Cell{Text: "ended", Mark: Info, Sub: w.Ended.UTC().Format("2006-01-02 15:04")}
		case w.Silent:
			state = unknown("its cluster was not heard of for long")
			state.Sub = "silent since " + w.LastSeen.UTC().Format("2006-01-02 15:04")
		}
		service := orUnknown(w.Service, "no service of the catalogue claims it")
		if w.Service != "" {
			service.URL = local("services/" + url.PathEscape(w.Service))
		}
		row := []Cell{
			{Text: w.Kind + " " + w.Name, Sub: w.Instance}, orNone(w.Container), service, orUnknown(w.Team, "nobody owns it"),
			{Text: w.Cluster, Sub: w.Environment}, orNone(w.Namespace), state, when(w.FirstSeen),
		}
		if artifacts {
			row = append(row, digest(w.Digest, ""))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func workloadsPage(c *visit) (*Page, error) {
	q := []string{"after", c.query("after"), "limit", c.pageLimit()}
	fields := []Field{}
	for _, f := range []Field{{Name: "cluster", Label: "Cluster"}, {Name: "namespace", Label: "Namespace"}, {Name: "service", Label: "Service"}, {Name: "team", Label: "Team"}, {Name: "digest", Label: "Digest", Hint: "sha256:…"}, {Name: "at", Label: "At", Hint: "2026-01-31T12:00:00Z"}} {
		f.Value = c.query(f.Name)
		q = append(q, f.Name, f.Value)
		fields = append(fields, f)
	}
	unowned := c.query("unowned") == "true"
	if unowned {
		q = append(q, "unowned", "true")
	}
	fields = append(fields, Field{Name: "unowned", Label: "Only unowned", Check: true, Checked: unowned})
	var list client.List[client.Workload]
	if err := c.get(&list, "inventory/workloads", q...); err != nil {
		return nil, err
	}
	t := workloadTable(list.Items, true)
	t.Empty = "Nothing like that runs, as far as was reported."
	p := &Page{Title: "Workloads", Here: "Workloads", Live: c.query("at") == "", Filter: &Filter{fields}, Sections: []Section{{ID: "workloads", Table: c.next(t, list.Next)}}}
	if c.query("after") == "" {
		p.Sections = append([]Section{c.clusters()}, p.Sections...)
		p.Sections[1].Title = "What runs"
	}
	return p, nil
}

func (c *visit) clusters() Section {
	out := Section{ID: "clusters", Title: "Clusters", Table: &Table{Columns: columns("Cluster", "Environment", "State", "Heard of", "Complete report", "Reporter"), Empty: "No cluster reports: assay admission serve, or assay inventory report."}}
	var list client.List[client.ReportingCluster]
	if err := c.get(&list, "inventory/clusters"); err != nil {
		out.Problem = err.Error()
		return out
	}
	for _, cl := range list.Items {
		state := mark(Good, "reports")
		if cl.Silent {
			state = mark(Bad, "silent")
		}
		complete := whenPtr(cl.Complete)
		if cl.Complete == nil {
			complete = unknown("all that runs was never told")
		}
		out.Table.Rows = append(out.Table.Rows, []Cell{link(cl.Name, local("workloads", "cluster", cl.Name)), orNone(cl.Environment), state, when(cl.Seen), complete, who(cl.Reporter)})
	}
	return out
}

func tierCell(tier int, classified bool) Cell {
	if !classified {
		return Cell{Text: "unknown", Mark: Unknown, Sub: "counts as 1", Title: "nobody said how critical it is"}
	}
	return Cell{Text: strconv.Itoa(tier), Value: tier}
}

func servicesPage(c *visit) (*Page, error) {
	var list client.List[client.Service]
	if err := c.get(&list, "inventory/services"); err != nil {
		return nil, err
	}
	risk := map[string]client.ServiceRisk{}
	var risks client.List[client.ServiceRisk]
	rerr := c.get(&risks, "risk/services")
	for _, r := range risks.Items {
		risk[r.Service] = r
	}
	t := &Table{Columns: columns("Service", "Team", "Tier", "Environment", "Exposure", "Running#", "Risk#", "Findings#"), Empty: "No service is in the catalogue: docs/services.md tells how to write it."}
	for _, s := range list.Items {
		rc, fc := unknown("its risk could not be asked for"), unknown("its risk could not be asked for")
		if rerr == nil {
			r := risk[s.Name]
			rc, fc = number(r.Risk, 1), count(r.Findings)
			rc.URL = local("vulnerabilities", "service", s.Name)
		}
		t.Rows = append(t.Rows, []Cell{link(s.Name, local("services/"+url.PathEscape(s.Name))), orUnknown(s.Team, "nobody owns it"), tierCell(s.Tier, s.Classified), orNone(s.Environment), text(s.Exposure), count(s.Running), rc, fc})
	}
	return &Page{Title: "Services", Here: "Services", Sections: []Section{{ID: "services", Table: t}}}, nil
}

func servicePage(c *visit) (*Page, error) {
	name := c.r.PathValue("name")
	var s client.Service
	if err := c.get(&s, "inventory/services/"+url.PathEscape(name)); err != nil {
		return nil, err
	}
	facts := []Fact{{"Team", orUnknown(s.Team, "nobody owns it")}, {"Tier", tierCell(s.Tier, s.Classified)}, {"Environment", orNone(s.Environment)}, {"Exposure", text(s.Exposure)}, {"Contacts", orUnknown(strings.Join(s.Contacts, ", "), "nobody to call")}, {"Running", count(s.Running)}}
	routes := make([]string, 0, len(s.Routes))
	for k := range s.Routes {
		routes = append(routes, k)
	}
	slices.Sort(routes)
	for _, k := range routes {
		facts = append(facts, Fact{"Route " + k, text(s.Routes[k])})
	}
	for _, r := range s.Repositories {
		facts = append(facts, Fact{"Repository", link(r, local("artifacts", "repository", r))})
	}
	var running client.List[client.Workload]
	where := Section{ID: "workloads", Title: "What runs", More: Link{"All", local("workloads", "service", name)}}
	if err := c.get(&running, "inventory/workloads", "service", name, "limit", "50"); err != nil {
		where.Problem = err.Error()
	}
	where.Table = workloadTable(running.Items, true)
	where.Table.Empty = "Nothing of it runs, as far as was reported."
	return &Page{Title: s.Name, Here: "Services", Crumbs: []Link{{"Services", local("services")}}, Lead: s.Description, Live: true,
		Sections: []Section{{ID: "facts", Title: "What it is", Facts: facts}, c.riskTable(name, 20), where}}, nil
}

func buildTable(list []client.RunnerBuild) *Table {
	t := &Table{Columns: columns("Build", "Identity", "Ref", "Trust", "Machine", "Compared", "Open#", "When"), Empty: "No build told of its machine."}
	for i := range list {
		b := &list[i]
		trust := text(b.Trust)
		if b.Trust == "foreign" {
			trust = mark(Warn, b.Trust)
		}
		machine := Cell{Text: b.Kind, Sub: clip(b.Machine, 30)}
		if b.Used && !b.Fresh {
			machine = Cell{Text: b.Kind + ", used", Mark: Warn, Sub: clip(b.Machine, 30)}
		}
		state := text(b.State)
		switch b.State {
		case "compared", "accepted":
			state.Mark = Good
		case "first":
			state.Mark = Info
		default:
			state = unknown("it was compared with nothing")
		}
		open := count(b.Open)
		if b.Open > 0 {
			open.Mark = Warn
		}
		ref := orNone(b.Ref)
		if b.Ref != "" && !b.RefVerified {
			ref.Sub = "claimed"
		}
		t.Rows = append(t.Rows, []Cell{{Text: clip(b.ID, 16), Value: b.ID, Title: b.ID, Mono: true, URL: local("builds/" + b.ID)}, clipped(b.Identity, 60), ref, trust, machine, state, open, when(b.Time)})
	}
	return t
}

func buildsPage(c *visit) (*Page, error) {
	q := []string{"digest", c.query("digest"), "source", c.query("source"), "after", c.query("after"), "limit", c.pageLimit()}
	open := c.query("open") == "true"
	if open {
		q = append(q, "open", "true")
	}
	var list client.List[client.RunnerBuild]
	if err := c.get(&list, "runners/builds", q...); err != nil {
		return nil, err
	}
	sections := []Section{{ID: "builds", Title: "Builds", More: Link{"Build logs", local("build-logs")}, Table: c.next(buildTable(list.Items), list.Next)}}
	if c.query("after") == "" && c.query("digest") == "" {
		sections = append(sections, c.anomalies(), c.runners())
	}
	return &Page{Title: "Builds", Here: "Builds", Live: true, Filter: &Filter{[]Field{{Name: "digest", Label: "Artifact", Value: c.query("digest"), Hint: "sha256:…"}, {Name: "source", Label: "Source", Value: c.query("source")}, {Name: "open", Label: "Only with open anomalies", Check: true, Checked: open}}}, Sections: sections}, nil
}

func anomalyTable(list []client.RunnerAnomaly) *Table {
	t := &Table{Columns: columns("When", "Kind", "What", "Before", "After", "State", "Build"), Empty: "Nothing was new in any build."}
	for i := range list {
		a := &list[i]
		state := mark(Warn, "open")
		if a.AcceptedBy != "" {
			state = Cell{Text: "accepted", Mark: Good, Sub: clip(a.Reason, 80)}
		}
		t.Rows = append(t.Rows, []Cell{when(a.Time), text(a.Kind), clipped(a.Name, 80), clipped(orNone(a.Before).Text, 80), clipped(a.After, 80), state, {Text: clip(a.Build, 16), Value: a.Build, Mono: true, URL: local("builds/" + a.Build)}})
	}
	return t
}

func (c *visit) anomalies() Section {
	out := Section{ID: "anomalies", Title: "Open anomalies"}
	var list client.List[client.RunnerAnomaly]
	if err := c.get(&list, "runners/anomalies", "open", "true", "limit", "20"); err != nil {
		out.Problem = err.Error()
		return out
	}
	out.Table = anomalyTable(list.Items)
	out.Table.Empty = "None is open."
	return out
}

func (c *visit) runners() Section {
	out := Section{ID: "runners", Title: "Machines that build", Table: &Table{Columns: columns("Machine", "State", "Identity", "Load#", "Memory free#", "Disk free#", "Builds#", "Heard of"), Empty: "No machine tells of its health: assay run --beat."}}
	var list client.List[client.RunnerHost]
	if err := c.get(&list, "runners", "limit", "50"); err != nil {
		out.Problem = err.Error()
		return out
	}
	for i := range list.Items {
		h := &list.Items[i]
		state := mark(Good, "alive")
		switch {
		case h.Beat.Ended:
			state = mark(Info, "ended")
		case h.Stale:
			state = mark(Bad, "silent")
		}
		out.Table.Rows = append(out.Table.Rows, []Cell{text(h.Beat.Name), state, clipped(h.Identity, 60), number(h.Beat.Load1, 2), bytesOf(h.Beat.MemFree), bytesOf(h.Beat.DiskFree), count(h.Beat.Builds), when(h.SeenAt)})
	}
	return out
}

func buildPage(c *visit) (*Page, error) {
	var d client.RunnerBuildDetail
	raw, err := c.raw("runners/builds/" + url.PathEscape(c.r.PathValue("id")))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, err
	}
	b := &d.Build
	facts := []Fact{
		{"Repository", orUnknown(d.Repository, "the identity names none")}, {"Workflow", orNone(d.Workflow)}, {"Identity", text(b.Identity)}, {"Ref", orNone(b.Ref)}, {"Trigger", orNone(b.Trigger)}, {"Trust", text(b.Trust)},
		{"Machine", orUnknown(b.Machine, "the evidence does not name it")}, {"Kind", text(b.Kind)}, {"Fresh", text(yesNo(b.Fresh))}, {"Used before", text(fmt.Sprintf("%s (%d)", yesNo(b.Used), b.Uses))},
		{"Image", orNone(b.Image)}, {"Invocation", orUnknown(b.InvocationID, "none was stated")}, {"Builds of this source", count(d.Builds)}, {"When", when(b.Time)},
		{"Evidence", evidenceCell(b.Evidence)}, {"Provenance", evidenceCell(b.Provenance)}, {"Trace", evidenceCell(b.Trace)},
	}
	if b.InvocationID != "" {
		facts = append(facts, Fact{"Log", link("of this invocation", local("build-logs", "build", b.InvocationID))})
	}
	for _, a := range b.Artifacts {
		facts = append(facts, Fact{"Made", digest(a, "")})
	}
	state := mark(Good, b.State)
	if b.Open > 0 {
		state = mark(Warn, fmt.Sprintf("%d open anomalies", b.Open))
	} else if b.State == "none" {
		state = unknown("it was compared with nothing")
	}
	return &Page{Title: "Build " + clip(b.ID, 20), Here: "Builds", Crumbs: []Link{{"Builds", local("builds")}}, State: state, Sections: []Section{
		{ID: "facts", Title: "What is known of it", Facts: facts}, {ID: "anomalies", Title: "What was new in it", Table: anomalyTable(d.Anomalies)}, {ID: "raw", Title: "Raw JSON", Raw: pretty(raw)},
	}}, nil
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// pretty is JSON with indentation, cut short where it is long.
func pretty(raw []byte) string {
	b, err := json.MarshalIndent(json.RawMessage(raw), "", "  ")
	if err != nil {
		return clip(string(raw), 256<<10)
	}
	return clip(string(b), 256<<10)
}
