package ui

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"assay/client"
	"assay/identity"
	"assay/inventory/supply"
)

// inventoryPage is what this site's software comes from and through: repositories,
// pipelines, registries, clusters, keys and credentials, with their age.
func inventoryPage(c *visit) (*Page, error) {
	p := &Page{Title: "Inventory", Here: "Inventory", Lead: "What software comes from and goes through, with the age of what opens doors.", Live: true}
	p.Sections = append(p.Sections, c.scans(), c.branches(), c.contracts(), c.upstreamRegistries(), c.clusters())
	if c.may(identity.ActReadAudit) {
		p.Sections = append(p.Sections, c.keys())
	}
	if c.may(identity.ActAdmin) {
		p.Sections = append(p.Sections, c.robots())
	}
	return p, nil
}

func driftCell(s *client.SupplyScan) Cell {
	switch s.Drift.State {
	case "same":
		return mark(Good, "as it should be")
	case "drifted":
		return mark(Bad, fmt.Sprintf("%d changes", s.Drift.Count))
	case "first":
		return mark(Info, "first scan")
	}
	return unknown("it could not be compared")
}

func (c *visit) scans() Section {
	out := Section{ID: "estates", Title: "Forges, as last scanned", Table: &Table{Columns: columns("Estate", "Against its baseline", "Items#", "Findings#", "Not told#", "Scanned", "By"), Empty: "No forge was scanned: assay inventory scan."}}
	var list client.List[client.SupplyScan]
	if err := c.get(&list, "supply/scans", "latest", "true", "limit", "50"); err != nil {
		out.Problem = err.Error()
		return out
	}
	for i := range list.Items {
		s := &list.Items[i]
		findings := count(s.Findings)
		if s.Findings > 0 {
			findings.Mark = Warn
		}
		missing := count(s.Unknown)
		if s.Unknown > 0 {
			missing.Mark = Unknown
		}
		out.Table.Rows = append(out.Table.Rows, []Cell{{Text: clip(s.Provider+" "+strings.Join(s.Targets, ", "), 80), URL: local("inventory/" + url.PathEscape(s.ID)), Sub: s.URL}, driftCell(s), count(s.Items), findings, missing, when(s.TakenAt), who(s.Actor)})
	}
	return out
}

func (c *visit) branches() Section {
	out := Section{ID: "branches", Title: "Protected branches", Table: &Table{Columns: columns("Repository", "Branch", "Protection", "Reviewed#", "Pushes#", "Forced#", "Time to merge#"), Empty: "No forge tells of its branches: docs/source.md."}}
	var list client.List[client.SourceBranch]
	if err := c.get(&list, "source/branches"); err != nil {
		out.Problem = err.Error()
		return out
	}
	for i := range list.Items {
		b := &list.Items[i]
		protection := unknown("it was not looked at")
		if p := b.Protection; p != nil {
			var lacks []string
			for name, has := range map[string]bool{"force push": p.NoForcePush, "deletion": p.NoDeletion, "reviews": p.Reviews > 0} {
				if !has {
					lacks = append(lacks, name)
				}
			}
			protection = mark(Good, "protected")
			if len(lacks) > 0 {
				protection = Cell{Text: "open to " + strings.Join(lacks, ", "), Mark: Bad}
			}
		}
		merge := unknown("nothing was merged")
		if b.Merges > 0 {
			merge = age(time.Duration(b.MedianSeconds) * time.Second)
		}
		out.Table.Rows = append(out.Table.Rows, []Cell{clipped(b.Repository, 80), text(b.Ref), protection, share(float64(b.Reviewed), float64(b.Pushes)), count(b.Pushes), count(b.Forced), merge})
	}
	return out
}

func (c *visit) contracts() Section {
	out := Section{ID: "pipelines", Title: "Pipelines and what evidence they owe", Table: &Table{Columns: columns("Contract", "Repositories", "Workflows", "Owes", "Within#"), Empty: "No contract is in force: docs/contracts.md."}}
	var list client.List[client.Contract]
	if err := c.get(&list, "contracts"); err != nil {
		out.Problem = err.Error()
		return out
	}
	for i := range list.Items {
		k := &list.Items[i]
		owes := make([]string, 0, len(k.Evidence))
		for _, e := range k.Evidence {
			owes = append(owes, e.Name)
		}
		out.Table.Rows = append(out.Table.Rows, []Cell{{Text: k.Name, Sub: fmt.Sprintf("version %d", k.Version)}, clipped(strings.Join(k.Repositories, ", "), 80), orNone(clip(strings.Join(k.Workflows, ", "), 80)), clipped(strings.Join(owes, ", "), 100), age(time.Duration(k.WithinSeconds) * time.Second)})
	}
	var coverage client.List[client.EvidenceCoverage]
	if err := c.get(&coverage, "coverage"); err == nil && len(coverage.Items) > 0 {
		late := 0
		for _, e := range coverage.Items {
			late += e.Missing
		}
		out.Note = fmt.Sprintf("In the last 30 days %d owed pieces of evidence are missing.", late)
	}
	return out
}

func (c *visit) upstreamRegistries() Section {
	out := Section{ID: "registries", Title: "Registries", More: Link{"Repositories", local("registry")}}
	out.Facts = []Fact{{"Own", mono(c.u.o.Host)}}
	return out
}

func (c *visit) robots() Section {
	out := Section{ID: "robots", Title: "Robots and their tokens", Table: &Table{Columns: columns("Robot", "Rights", "Token", "State", "Age#", "Last used", "Expires"), Empty: "There is no robot that you manage."}}
	var list client.List[client.Robot]
	if err := c.get(&list, "robots", "limit", "200"); err != nil {
		out.Problem = err.Error()
		return out
	}
	now := c.u.o.Clock()
	for i := range list.Items {
		r := &list.Items[i]
		rights := make([]string, 0, len(r.Rights))
		for _, x := range r.Rights {
			rights = append(rights, x.Role+" "+x.Scope)
		}
		if len(r.Tokens) == 0 {
			out.Table.Rows = append(out.Table.Rows, []Cell{text(r.Name), clipped(strings.Join(rights, ", "), 80), orNone(""), mark(Info, "no token"), orNone(""), orNone(""), orNone("")})
		}
		for _, t := range r.Tokens {
			state := mark(Good, "live")
			if !t.Revoked.IsZero() {
				state = mark(Info, "revoked")
			} else if !t.Live {
				state = mark(Warn, "ended")
			}
			used := when(t.LastUsed)
			if t.LastUsed.IsZero() {
				used = text("never")
			}
			out.Table.Rows = append(out.Table.Rows, []Cell{text(r.Name), clipped(strings.Join(rights, ", "), 80), mono(clip(t.ID, 16)), state, age(now.Sub(t.CreatedAt)), used, when(t.Expires)})
		}
	}
	return out
}

// estatePage is what a scan of a forge found, and what is otherwise than it should
// be.
func estatePage(c *visit) (*Page, error) {
	id := url.PathEscape(c.r.PathValue("id"))
	var s client.SupplyScan
	if err := c.get(&s, "supply/scans/"+id); err != nil {
		return nil, err
	}
	drift := &Table{Columns: columns("What", "Where", "Kind", "Name", "Before", "After"), Empty: "Nothing differs from the baseline."}
	for _, d := range s.Drift.Changes[:min(len(s.Drift.Changes), 200)] {
		drift.Rows = append(drift.Rows, []Cell{text(d.What), clipped(d.Scope, 60), text(d.Kind), clipped(d.Name, 80), orNone(clip(d.Before, 80)), orNone(clip(d.After, 80))})
	}
	p := &Page{Title: clip(s.Provider+" "+strings.Join(s.Targets, ", "), 100), Here: "Inventory", Crumbs: []Link{{"Inventory", local("inventory")}}, State: driftCell(&s),
		Lead: "Handed in by " + s.Actor + ", whose word it is.", Sections: []Section{{ID: "drift", Title: "Against the baseline", Table: drift}}}
	raw, err := c.raw("supply/scans/" + id + "/inventory")
	if err != nil {
		p.Sections = append(p.Sections, Section{ID: "items", Title: "What was found", Problem: err.Error()})
		return p, nil //nolint:nilerr // shown
	}
	var inv supply.Inventory
	if err := json.Unmarshal(raw, &inv); err != nil {
		return nil, err
	}
	findings := &Table{Columns: columns("Rule", "Where", "Name", "What"), Empty: "No rule found anything."}
	for _, f := range inv.Findings[:min(len(inv.Findings), 200)] {
		findings.Rows = append(findings.Rows, []Cell{{Text: f.Rule, Mark: Warn}, clipped(f.Scope, 60), clipped(f.Name, 80), clipped(f.Text, 200)})
	}
	missing := &Table{Columns: columns("Where", "Part", "Why"), Empty: "The forge told everything."}
	for _, u := range inv.Unknown[:min(len(inv.Unknown), 200)] {
		missing.Rows = append(missing.Rows, []Cell{clipped(u.Scope, 60), {Text: u.Part, Mark: Unknown}, clipped(u.Why, 200)})
	}
	items := &Table{Columns: columns("Where", "Kind", "Name", "Value", "Since", "Age#"), Empty: "Nothing was found."}
	most := 300
	if c.query("format") != "" {
		most = len(inv.Items)
	}
	for _, i := range inv.Items[:min(len(inv.Items), most)] {
		old := unknown("the forge does not say since when")
		if i.Since != nil {
			old = age(c.u.o.Clock().Sub(*i.Since))
		}
		items.Rows = append(items.Rows, []Cell{clipped(i.Scope, 60), text(i.Kind), clipped(i.Name, 80), orNone(clip(i.Value, 80)), whenPtr(i.Since), old})
	}
	note := ""
	if n := len(inv.Items); n > most {
		note = fmt.Sprintf("%d of %d are shown; CSV and JSON have all.", most, n)
	}
	p.Sections = append(p.Sections, Section{ID: "findings", Title: "By the rules", Table: findings}, Section{ID: "unknown", Title: "What the forge did not tell", Table: missing}, Section{ID: "items", Title: "What was found", Note: note, Table: items})
	return p, nil
}

// feedsPage is how fresh what is known of vulnerabilities is.
func feedsPage(c *visit) (*Page, error) {
	var list client.List[client.Feed]
	if err := c.get(&list, "feeds"); err != nil {
		return nil, err
	}
	now := c.u.o.Clock()
	t := &Table{Columns: columns("Feed", "Ecosystem", "State", "Records#", "Looked at", "Age#", "In force since"), Empty: "There is no feed: nothing is known of vulnerabilities. docs/feeds.md tells how to add one."}
	for i := range list.Items {
		f := &list.Items[i]
		state := mark(Good, "fresh")
		switch {
		case f.Blocked != "":
			state = Cell{Text: "not believed", Mark: Bad, Sub: clip(f.Blocked, 160)}
		case f.Stale:
			state = Cell{Text: "stale", Mark: Bad, Sub: clip(f.Problem, 160)}
		case f.Problem != "":
			state = Cell{Text: "failing", Mark: Warn, Sub: clip(f.Problem, 160)}
		}
		old := unknown("it was never looked at with success")
		if f.Checked != nil {
			old = age(now.Sub(*f.Checked))
		}
		t.Rows = append(t.Rows, []Cell{link(f.Name, local("feeds/"+url.PathEscape(f.Name)+"/"+url.PathEscape(f.Ecosystem))), text(f.Ecosystem), state, count(f.Records), whenPtr(f.Checked), old, whenPtr(f.Changed)})
	}
	p := &Page{Title: "Feeds", Here: "Feeds", Live: true, Lead: "What is stale or missing never counts as clean.", Sections: []Section{{ID: "feeds", Title: "Advisories", Table: t}}}
	ex := Section{ID: "exploits", Title: "Exploitation", Table: &Table{Columns: columns("List", "State", "Dated", "Records#", "Looked at"), Empty: "Neither CISA's catalog nor EPSS is in force: whether a flaw is exploited is not known."}}
	var lists client.List[client.ExploitList]
	if err := c.get(&lists, "exploits"); err != nil {
		ex.Problem = err.Error()
	}
	for _, e := range lists.Items {
		state := mark(Good, "fresh")
		if e.Stale {
			state = mark(Bad, "stale")
		}
		ex.Table.Rows = append(ex.Table.Rows, []Cell{text(e.Name), state, text(e.Dated), count(e.Records), when(e.Checked)})
	}
	p.Sections = append(p.Sections, ex, c.upstreams(), c.canaries())
	return p, nil
}

func (c *visit) upstreams() Section {
	out := Section{ID: "upstreams", Title: "Where they come from", Table: &Table{Columns: columns("Feed", "Address", "Ecosystem", "State", "Tried", "Succeeded", "Due"), Empty: "Nothing is fetched by itself: feeds are imported by hand."}}
	var list client.List[client.FeedUpstream]
	if err := c.get(&list, "feeds/upstreams"); err != nil {
		out.Problem = err.Error()
		return out
	}
	for i := range list.Items {
		u := &list.Items[i]
		for _, s := range u.Status {
			state := mark(Good, "works")
			if s.Failures > 0 {
				state = Cell{Text: fmt.Sprintf("failed %d times", s.Failures), Mark: Bad, Sub: clip(s.Problem, 160)}
			} else if s.Succeeded == nil {
				state = unknown("it has not succeeded yet")
			}
			out.Table.Rows = append(out.Table.Rows, []Cell{text(u.Name), clipped(u.URL, 80), text(s.Ecosystem), state, whenPtr(s.Tried), whenPtr(s.Succeeded), whenPtr(s.Due)})
		}
	}
	return out
}

func (c *visit) canaries() Section {
	out := Section{ID: "canaries", Title: "Canaries: what must be found", Table: &Table{Columns: columns("Canary", "State", "Expects#", "Feed"), Empty: "There is none."}}
	var list client.List[client.Canary]
	if err := c.get(&list, "canaries"); err != nil {
		out.Problem = err.Error()
		return out
	}
	for i := range list.Items {
		k := &list.Items[i]
		state := mark(Good, "found")
		if k.Failed {
			state = mark(Bad, "not found")
		} else if k.Uncovered {
			state = Cell{Text: "no feed finds it", Mark: Unknown}
		}
		out.Table.Rows = append(out.Table.Rows, []Cell{text(k.Name), state, count(len(k.Expect)), orNone(k.Feed)})
	}
	return out
}

func feedPage(c *visit) (*Page, error) {
	name, ecosystem := c.r.PathValue("name"), c.r.PathValue("ecosystem")
	var list client.List[client.FeedOperation]
	if err := c.get(&list, "feeds/operations", "name", name, "ecosystem", ecosystem); err != nil {
		return nil, err
	}
	t := &Table{Columns: columns("Operation#", "State", "Began", "Ended", "Added#", "Changed#", "Withdrawn#", "Removed#", "Why"), Empty: "Nothing was imported."}
	for i := range list.Items {
		o := &list.Items[i]
		state := mark(Info, strings.ReplaceAll(o.State, "_", " "))
		switch o.State {
		case "in_force":
			state.Mark = Good
		case "refused", "blocked":
			state.Mark = Bad
		}
		why := o.Problem
		if why == "" {
			why = o.Reason
		}
		t.Rows = append(t.Rows, []Cell{count(o.ID), state, whenPtr(o.Started), whenPtr(o.Finished), count(o.Added), count(o.Changed), count(o.Withdrawn), count(o.Removed), orNone(clip(why, 200))})
	}
	return &Page{Title: name + " " + ecosystem, Here: "Feeds", Crumbs: []Link{{"Feeds", local("feeds")}}, Sections: []Section{{ID: "operations", Title: "Imports, the newest first", Table: t}}}, nil
}
