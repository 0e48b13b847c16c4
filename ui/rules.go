package ui

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/client"
	"assay/identity"
	"assay/policy"
	"assay/verify/replay"
	"assay/vuln/vex"
)

// Policy is a policy in force.
type Policy struct {
	Name, Hash string
	Mode       policy.Mode
	Scope      string // in words
}

func modeCell(m policy.Mode) Cell {
	switch m {
	case policy.Enforce:
		return mark(Good, string(m))
	case policy.Warn, policy.Audit:
		return Cell{Text: string(m), Mark: Warn, Title: "a denial by it stops nothing"}
	}
	return text(string(m))
}

func policiesPage(c *visit) (*Page, error) {
	t := &Table{Columns: columns("Policy", "Mode", "Scope", "Hash"), Empty: "No policy is in force: nothing may run until one is, except in repositories without a gate."}
	for _, p := range c.u.o.Policies() {
		t.Rows = append(t.Rows, []Cell{link(p.Name, local("policies/"+url.PathEscape(p.Name))), modeCell(p.Mode), orNone(p.Scope), mono(clip(p.Hash, 24))})
	}
	page := &Page{Title: "Policies", Here: "Policies", Sections: []Section{{ID: "policies", Table: t}}}
	if c.may(identity.ActReadAudit) {
		page.Sections = append(page.Sections, Section{ID: "replay", Title: "Try a policy", Note: "What was decided in the last days is judged again, as it would be with this policy added, or in the place of the one of its name. Nothing is changed.", Forms: []Form{replayForm("")}})
	}
	return page, nil
}

func replayForm(text string) Form {
	return Form{Action: local("policies"), Button: "Replay", Fields: []Field{
		{Name: "document", Label: "Policy, YAML", Area: true, Required: true, Value: text}, {Name: "days", Label: "Days", Value: "30"}, {Name: "alone", Label: "By this policy alone", Check: true}}}
}

func policyPage(c *visit) (*Page, error) {
	name := c.r.PathValue("name")
	at := slices.IndexFunc(c.u.o.Policies(), func(p Policy) bool { return p.Name == name })
	if at < 0 {
		return nil, &problem{http.StatusNotFound, "no policy of that name is in force"}
	}
	p := c.u.o.Policies()[at]
	page := &Page{Title: p.Name, Here: "Policies", Crumbs: []Link{{"Policies", local("policies")}}, State: modeCell(p.Mode), Sections: []Section{
		{ID: "facts", Title: "What is in force", Facts: []Fact{{"Mode", modeCell(p.Mode)}, {"Scope", orNone(p.Scope)}, {"Hash", mono(p.Hash)}}},
	}}
	doc := Section{ID: "document", Title: "The document"}
	var docs client.List[client.StoredDocument]
	if err := c.get(&docs, "documents", "kind", "Policy"); err != nil {
		doc.Problem = err.Error()
	}
	body := ""
	for _, d := range docs.Items {
		if d.Name == name {
			body = d.Text
			doc.Raw, doc.RawOpen = d.Text, true
		}
	}
	if doc.Problem == "" && doc.Raw == "" {
		doc.Note = "It is of the configuration, not an applied document."
	}
	page.Sections = append(page.Sections, doc)
	if c.may(identity.ActReadAudit) && body != "" {
		page.Sections = append(page.Sections, Section{ID: "replay", Title: "Try a change", Note: "Nothing is changed: what was decided is judged again.", Forms: []Form{replayForm(body)}})
	}
	return page, nil
}

// replayPolicy judges recorded decisions by another policy.
func replayPolicy(c *visit) (*Page, error) {
	text := c.r.PostFormValue("document")
	q := url.Values{"days": {c.r.PostFormValue("days")}}
	if c.r.PostFormValue("alone") == "true" {
		q.Set("alone", "true")
	}
	page := &Page{Title: "Replay", Here: "Policies", Crumbs: []Link{{"Policies", local("policies")}}}
	again := Section{ID: "again", Title: "Again", Forms: []Form{replayForm(text)}}
	b, err := c.do(http.MethodPost, "policies/replay", q, "application/yaml", []byte(text))
	if err != nil {
		page.Notice, page.Sections = err.Error(), []Section{again}
		return page, nil //nolint:nilerr // shown where it can be mended
	}
	var out replay.Comparison
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, err
	}
	count2 := func(n int, m Mark) Cell {
		c := count(n)
		if n > 0 {
			c.Mark = m
		}
		return c
	}
	page.Stats = []Stat{
		{Name: "Decisions looked at", Value: count(out.Decisions), Of: "since " + out.Since.UTC().Format("2006-01-02")}, {Name: "Same", Value: count(out.Same), Of: "of " + strconv.Itoa(out.Facts) + " distinct facts"},
		{Name: "Stricter", Value: count2(out.Stricter, Bad)}, {Name: "Milder", Value: count2(out.Milder, Warn)}, {Name: "Not to be judged", Value: count2(out.Unknowns, Unknown)},
	}
	groups := &Table{Columns: columns("Cause", "From", "To", "Flips#", "Standing#", "Owners", "Example", "To mend it"), Empty: "Nothing would be otherwise."}
	for _, g := range out.Groups {
		groups.Rows = append(groups.Rows, []Cell{clipped(g.Cause, 120), clipped(string(g.From), 30), clipped(string(g.To), 30), count(g.Flips), count(g.Standing), clipped(strings.Join(g.Owners, ", "), 80), digest(g.Example, ""), orNone(clip(g.Mend, 120))})
	}
	flips := &Table{Columns: columns("Artifact", "Repository", "Scope", "From", "To", "By", "Decision", "Stands"), Empty: "None."}
	for _, f := range out.Flips[:min(len(out.Flips), 200)] {
		flips.Rows = append(flips.Rows, []Cell{digest(f.Digest, f.Repository), orNone(f.Repository), clipped(f.Scope, 60), clipped(string(f.From), 30), clipped(string(f.To), 30), clipped(f.Policy, 60), decisionCell(f.Decision), {Text: yesNo(f.Stands)}})
	}
	page.Sections = []Section{{ID: "groups", Title: "By cause", Table: groups}, {ID: "flips", Title: "Which", Table: flips}, again}
	return page, nil
}

// vexPage lists what the site states about flaws.
func vexPage(c *visit) (*Page, error) {
	q := []string{"after", c.query("after"), "limit", c.pageLimit()}
	ended := c.query("ended") == "true"
	if ended {
		q = append(q, "ended", "true")
	}
	var list client.List[vex.Entry]
	if err := c.get(&list, "vex/statements", q...); err != nil {
		return nil, err
	}
	t := &Table{Columns: columns("Statement", "Says", "Status", "Of", "By", "Because", "Made", "Until", "State"), Empty: "The site states nothing about flaws."}
	for i := range list.Items {
		e := &list.Items[i]
		says, status, of := "", "", ""
		if len(e.Statements) > 0 {
			says, status, of = strings.Join(e.Statements[0].Vulnerabilities, ", "), string(e.Statements[0].Status), strings.Join(e.Statements[0].Products, ", ")
		}
		more := ""
		if n := len(e.Statements); n > 1 {
			more = fmt.Sprintf("+%d", n-1)
		}
		t.Rows = append(t.Rows, []Cell{{Text: clip(e.ID, 16), Value: e.ID, Mono: true, URL: local("vex/" + url.PathEscape(e.ID))}, {Text: clip(says, 60), Value: says, Sub: more}, text(strings.ReplaceAll(status, "_", " ")), clipped(of, 60), who(e.Actor), clipped(e.Reason, 100), when(e.Created), when(e.Until), endCell(e.Withdrawn, e.Until, c.u.o.Clock())})
	}
	return &Page{Title: "Statements about flaws", Here: "Statements", Lead: "What this site states about vulnerabilities of its artifacts (VEX), with whose word it is.",
		Filter: &Filter{[]Field{{Name: "ended", Label: "Also those that ended", Check: true, Checked: ended}}}, Sections: []Section{{ID: "statements", Table: c.next(t, list.Next)}}}, nil
}

func endCell(withdrawn, until, now time.Time) Cell {
	switch {
	case !withdrawn.IsZero():
		return mark(Info, "withdrawn")
	case !until.IsZero() && until.Before(now):
		return mark(Warn, "ended")
	}
	return mark(Good, "holds")
}

func vexEntryPage(c *visit) (*Page, error) {
	raw, err := c.raw("vex/statements/" + url.PathEscape(c.r.PathValue("id")))
	if err != nil {
		return nil, err
	}
	var e vex.Entry
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, err
	}
	t := &Table{Columns: columns("Vulnerabilities", "Status", "Products", "Components", "Versions", "Justification", "Why")}
	for _, s := range e.Statements {
		t.Rows = append(t.Rows, []Cell{clipped(strings.Join(s.Vulnerabilities, ", "), 100), text(strings.ReplaceAll(string(s.Status), "_", " ")), clipped(strings.Join(s.Products, ", "), 120), orNone(clip(strings.Join(s.Components, ", "), 120)), orNone(s.Versions), orNone(s.Justification), orNone(clip(s.Impact, 200))})
	}
	facts := []Fact{{"Source", text(e.Source)}, {"Author", orNone(e.Author)}, {"Stated by", who(e.Actor)}, {"Because", text(e.Reason)}, {"Made", when(e.Created)}, {"Until", when(e.Until)}}
	if !e.Withdrawn.IsZero() {
		facts = append(facts, Fact{"Withdrawn", when(e.Withdrawn)}, Fact{"Withdrawn by", who(e.WithdrawnBy)}, Fact{"Because", text(e.WithdrawnReason)})
	}
	return &Page{Title: "Statement " + clip(e.ID, 16), Here: "Statements", Crumbs: []Link{{"Statements", local("vex")}}, State: endCell(e.Withdrawn, e.Until, c.u.o.Clock()), Sections: []Section{
		{ID: "facts", Title: "Whose word it is", Facts: facts}, {ID: "statements", Title: "What it says", Table: t}, {ID: "raw", Title: "Raw JSON", Raw: pretty(raw)},
	}}, nil
}
