package ui

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"assay/client"
	"assay/identity"
	"assay/internal/fault"
)

// maxSilence is the longest silence that an alert's page offers, in hours: that of
// a ticket. The API refuses longer ones, and those of pages from a day on.
const maxSilence = 720

func alertMark(severity string) Cell {
	if severity == "page" {
		return mark(Bad, severity)
	}
	return mark(Warn, severity)
}

func alertState(a *client.Alert) Cell {
	switch {
	case a.State == "resolved":
		return Cell{Text: a.State, Mark: Good, Sub: clip(who(a.ResolvedBy).Text, 40)}
	case a.Silence != "":
		return Cell{Text: "silenced", Mark: Warn, URL: local("silences/" + url.PathEscape(a.Silence))}
	case a.State == "acknowledged":
		return Cell{Text: a.State, Mark: Warn, Sub: clip(who(a.AcknowledgedBy).Text, 40)}
	}
	return mark(Bad, a.State)
}

func alertWords(a *client.Alert) string {
	if a.Summary != "" && a.Summary != a.Title {
		return a.Title + ": " + a.Summary
	}
	return a.Title
}

func alertWhat(a *client.Alert) Cell {
	what := clipped(alertWords(a), 140)
	what.URL = local("alerts/" + url.PathEscape(a.ID))
	return what
}

// runbookOf leads to the runbook of a rule, whose place in the docs is given.
func runbookOf(place string) Cell { return runbookCell(strings.TrimSuffix(place, ".md")) }

func ownerCells(service, team string, owned bool) (Cell, Cell) {
	t := orUnknown(team, "nobody owns it")
	if !owned && team != "" {
		t.Sub = "nobody owns it"
	}
	return orUnknown(service, "no service of the catalogue"), t
}

func alertTable(list []client.Alert) *Table {
	t := &Table{Columns: columns("Since", "Severity", "Rule", "What", "Times#", "Service", "Team", "State", "Runbook", "To act"), Empty: "No alert is active."}
	for i := range list {
		a := &list[i]
		service, team := ownerCells(a.Service, a.Team, a.Owned)
		t.Rows = append(t.Rows, []Cell{when(a.Since), alertMark(a.Severity), text(a.Rule), alertWhat(a), count(a.Count), service, team, alertState(a), runbookOf(a.Runbook), command(a.Command, 120)})
	}
	return t
}

// activeGroups is what is wrong now, a row for what a person deals with at once.
func (c *visit) activeGroups() Section {
	out := Section{ID: "alerts", Title: "Active alerts", More: Link{"All alerts", local("alerts")},
		Table: &Table{Columns: columns("Since", "Severity", "What", "Alerts#", "Not seen#", "Service", "Release", "Team", "State", "Runbook", "To act"), Empty: "No alert is active."}}
	var list client.List[client.AlertGroup]
	if err := c.get(&list, "alert-groups", "limit", "200"); err != nil {
		out.Problem = err.Error()
		return out
	}
	for i := range list.Items {
		g := &list.Items[i]
		a := &g.Newest
		what, state := alertWhat(a), alertState(a)
		if g.Open > 1 {
			what.URL, what.Sub = local("alerts", "group", g.ID), fmt.Sprintf("and %d more", g.Open-1)
		}
		waiting := count(g.Waiting)
		if g.Waiting > 0 && a.Silence == "" {
			waiting.Mark, state = Bad, mark(Bad, "firing")
		}
		service, team := ownerCells(g.Service, g.Team, g.Owned)
		out.Table.Rows = append(out.Table.Rows, []Cell{when(g.Opened), alertMark(g.Severity), what, count(g.Open), waiting, service, orNone(g.Release), team, state, runbookOf(a.Runbook), command(a.Command, 120)})
	}
	return out
}

func alertsPage(c *visit) (*Page, error) {
	closed, group := c.query("closed") == "true", c.query("group")
	p := &Page{Title: "Alerts", Here: "Alerts", Live: true, Filter: &Filter{[]Field{
		{Name: "severity", Label: "Severity", Value: c.query("severity"), Options: []string{"", "page", "ticket"}}, {Name: "service", Label: "Service", Value: c.query("service")}, {Name: "team", Label: "Team", Value: c.query("team")},
		{Name: "closed", Label: "Also those that ended", Check: true, Checked: closed},
	}}}
	q := []string{"limit", c.alertLimit(), "group", group, "severity", c.query("severity"), "service", c.query("service"), "team", c.query("team")}
	if group != "" {
		p.Lead = "Those of group " + clip(group, 60) + "."
	}
	if closed {
		q = append(q, "all", "true")
	}
	s := Section{ID: "alerts"}
	var list client.List[client.Alert]
	if err := c.get(&list, "alerts", q...); err != nil {
		s.Problem = err.Error()
	} else {
		s.Table = alertTable(list.Items)
		if strconv.Itoa(len(list.Items)) == c.alertLimit() {
			s.Note = "These are the newest; there may be more: On call shows all by group."
		}
	}
	p.Sections = []Section{s, c.silencesInForce()}
	if c.may(identity.ActReadAudit) {
		p.Sections[1].More = Link{"Who is told", local("receivers")}
	}
	return p, nil
}

func (c *visit) alertLimit() string {
	if c.query("format") != "" {
		return "1000"
	}
	return "200"
}

func (c *visit) silencesInForce() Section {
	out := Section{ID: "silences", Title: "Silences in force", Table: &Table{Columns: columns("Ends", "What is silenced", "Because", "Owner", "Since"), Empty: "Nothing is silenced."}}
	var list client.List[client.Silence]
	if err := c.get(&list, "silences"); err != nil {
		out.Problem = err.Error()
		return out
	}
	for i := range list.Items {
		s := &list.Items[i]
		what := clipped(silenceWords(s), 120)
		what.URL = local("silences/" + url.PathEscape(s.ID))
		out.Table.Rows = append(out.Table.Rows, []Cell{when(s.Expires), what, clipped(s.Reason, 120), who(s.Owner), whenPtr(s.Made)})
	}
	return out
}

// silenceWords are what it matches.
func silenceWords(s *client.Silence) string {
	var parts []string
	for _, m := range []struct{ name, value string }{{"rule", s.Rule}, {"severity", s.Severity}, {"service", s.Service}, {"team", s.Team}, {"cluster", s.Cluster}, {"artifact", s.Artifact}} {
		if m.value != "" {
			parts = append(parts, m.name+" "+m.value)
		}
	}
	return strings.Join(parts, ", ")
}

func alertPage(c *visit) (*Page, error) {
	var a client.Alert
	if err := c.get(&a, "alerts/"+url.PathEscape(c.r.PathValue("id"))); err != nil {
		return nil, err
	}
	service, team := ownerCells(a.Service, a.Team, a.Owned)
	facts := []Fact{
		{"Rule", text(a.Rule)}, {"Severity", alertMark(a.Severity)}, {"State", alertState(&a)}, {"Since", when(a.Since)}, {"Last", when(a.Last)}, {"Times", count(a.Count)},
		{"Service", service}, {"Release", orNone(a.Release)}, {"Team", team}, {"Environment", orNone(a.Environment)}, {"Cluster", orNone(a.Cluster)}, {"About", orNone(a.About)},
		{"Group", link("its group", local("alerts", "group", a.Group))}, {"Runbook", runbookOf(a.Runbook)}, {"To act", mono(orNone(a.Command).Text)},
	}
	if a.Acknowledged != nil {
		facts = append(facts, Fact{"Acknowledged", whenPtr(a.Acknowledged)}, Fact{"By", who(a.AcknowledgedBy)}, Fact{"Note", orNone(a.Note)})
	}
	if a.Escalated > 0 {
		facts = append(facts, Fact{"Told again, further up", count(a.Escalated)})
	}
	if a.Resolved != nil {
		facts = append(facts, Fact{"Ended", whenPtr(a.Resolved)}, Fact{"Ended by", who(a.ResolvedBy)})
	}
	if a.Artifact != "" {
		facts = append(facts, Fact{"Artifact", Cell{Text: short(a.Artifact), Value: a.Artifact, Mono: true, URL: local("artifacts/" + url.PathEscape(a.Artifact))}})
	}
	p := &Page{Title: clip(alertWords(&a), 160), Here: "Alerts", Crumbs: []Link{{"Alerts", local("alerts")}}, Live: true, Sections: []Section{{ID: "facts", Facts: facts}, c.alertEvidence(&a)}}
	if c.may(identity.ActReadAudit) {
		p.Sections = append(p.Sections, c.noticesOf(a.Group))
	}
	if forms := c.alertForms(&a); len(forms) > 0 {
		p.Sections = append(p.Sections, Section{ID: "act", Title: "What to do", Forms: forms})
	}
	return p, nil
}

// alertEvidence lists the events that an alert rests on.
func (c *visit) alertEvidence(a *client.Alert) Section {
	out := Section{ID: "evidence", Title: "What it rests on", Table: &Table{Columns: columns("Record"), Empty: "What was measured: see Objectives, and the runbook."}}
	for _, id := range a.Evidence {
		cell := mono(id)
		switch {
		case strings.HasPrefix(id, "alr_"):
			cell.URL = local("alerts/" + url.PathEscape(id))
		case a.Artifact != "" && c.may(identity.ActReadAudit):
			cell.URL = local("audit", "digest", a.Artifact)
		}
		out.Table.Rows = append(out.Table.Rows, []Cell{cell})
	}
	return out
}

// alertForms are what may be done about an alert. That somebody may do so at all is
// asked here; whether to this one, the API says.
func (c *visit) alertForms(a *client.Alert) (forms []Form) {
	if a.Resolved != nil || !c.may(identity.ActOperate) {
		return nil
	}
	to, hours := local("alerts/"+url.PathEscape(a.ID)), "For hours, at most 720"
	if a.Severity == "page" {
		hours = "For hours, at most 24"
	}
	if a.Acknowledged == nil {
		forms = append(forms, Form{Action: to, Button: "I deal with it", Note: "Ends the escalation of its group.", Fields: []Field{{Name: "do", Value: "acknowledge", Hidden: true}, {Name: "note", Label: "Note, for the others"}}})
	}
	if a.Silence == "" {
		forms = append(forms, Form{Action: to, Button: "Silence it", Note: "Keeps notices of this rule about the same thing back. A silence of pages is told of by itself.",
			Fields: []Field{{Name: "do", Value: "silence", Hidden: true}, {Name: "hours", Label: hours, Value: "4", Required: true}, {Name: "reason", Label: "Because", Required: true}}})
	}
	if c.u.o.Access.Allow(c.ctx, c.who, identity.ActOperate, identity.Resource{Kind: identity.ResourceConfig}) == nil {
		forms = append(forms, Form{Action: to, Button: "It is over", Note: "Most alerts end by themselves when what they are about does: the runbook says which do not.", Fields: []Field{{Name: "do", Value: "resolve", Hidden: true}}})
	}
	return forms
}

// alertAct does something about an alert, as the API lets the person.
func alertAct(c *visit) (*Page, error) {
	id := c.r.PathValue("id")
	at := "alerts/" + url.PathEscape(id)
	var err error
	switch c.r.PostFormValue("do") {
	case "acknowledge":
		err = c.post(nil, at+"/ack", client.AlertNote{Note: c.r.PostFormValue("note")})
	case "resolve":
		err = c.post(nil, at+"/resolve", nil)
	case "silence":
		var a client.Alert
		if err = c.get(&a, at); err != nil {
			return nil, err
		}
		hours, herr := strconv.Atoi(strings.TrimSpace(c.r.PostFormValue("hours")))
		if herr != nil || hours < 1 || hours > maxSilence {
			return nil, fault.Newf(fault.Invalid, "silence: want 1 to %d hours", maxSilence)
		}
		err = c.post(nil, "silences", client.Silence{Rule: a.Rule, Severity: a.Severity, Service: a.Service, Cluster: a.Cluster, Artifact: a.Artifact, Reason: c.r.PostFormValue("reason"), Expires: c.u.o.Clock().Add(time.Duration(hours) * time.Hour)})
	default:
		err = fault.Newf(fault.Invalid, "do: want acknowledge, silence or resolve")
	}
	if err != nil {
		return nil, err
	}
	return nil, &elsewhere{local(at)}
}

func silencePage(c *visit) (*Page, error) {
	var list client.List[client.Silence]
	if err := c.get(&list, "silences", "all", "true"); err != nil {
		return nil, err
	}
	for i := range list.Items {
		s := &list.Items[i]
		if s.ID != c.r.PathValue("id") {
			continue
		}
		p := &Page{Title: "Silence: " + clip(silenceWords(s), 120), Here: "Alerts", Crumbs: []Link{{"Alerts", local("alerts")}}, Sections: []Section{{ID: "facts", Facts: []Fact{
			{"Matches", clipped(silenceWords(s), 200)}, {"Because", clipped(s.Reason, 500)}, {"Owner", who(s.Owner)}, {"Since", whenPtr(s.Made)}, {"Ends", when(s.Expires)}, {"Ended", whenPtr(s.Ended)},
		}}}}
		if s.Ended == nil && s.Expires.After(c.u.o.Clock()) && c.may(identity.ActOperate) {
			p.Sections = append(p.Sections, Section{ID: "act", Title: "What to do", Forms: []Form{{Action: local("silences/" + url.PathEscape(s.ID)), Button: "End it", Note: "What it keeps back is told of at once."}}})
		}
		return p, nil
	}
	return nil, fault.Newf(fault.NotFound, "no silence of yours is %.60q", c.r.PathValue("id"))
}

func silenceEnd(c *visit) (*Page, error) {
	if _, err := c.do(http.MethodDelete, "silences/"+url.PathEscape(c.r.PathValue("id")), nil, "", nil); err != nil {
		return nil, err
	}
	return nil, &elsewhere{local("alerts")}
}

// receiversPage shows who is told, of what, and how that went.
func receiversPage(c *visit) (*Page, error) {
	var list client.List[client.Receiver]
	if err := c.get(&list, "receivers"); err != nil {
		return nil, err
	}
	t := &Table{Columns: columns("Receiver", "Type", "Takes", "Teams", "Default", "Escalation"), Empty: "Nobody is told of alerts: apply a document of kind Receiver, docs/alerts.md."}
	form := Form{Action: local("receivers"), Button: "Send a test", Fields: []Field{{Name: "receiver", Label: "To"}}}
	for i := range list.Items {
		r := &list.Items[i]
		t.Rows = append(t.Rows, []Cell{text(r.Name), text(r.Type), text(strings.Join(r.Severities, ", ")), orNone(strings.Join(r.Teams, ", ")), text(yesNo(r.Default)), text(yesNo(r.Escalation))})
		form.Fields[0].Options = append(form.Fields[0].Options, r.Name)
	}
	s := Section{ID: "receivers", Table: t}
	if len(list.Items) > 0 && c.may(identity.ActOperate) {
		s.Forms = []Form{form}
	}
	return &Page{Title: "Who is told", Here: "Alerts", Crumbs: []Link{{"Alerts", local("alerts")}}, Sections: []Section{s, c.noticesOf("")}}, nil
}

// noticesOf lists what receivers were told of a group, or ("") of all.
func (c *visit) noticesOf(group string) Section {
	out := Section{ID: "notices", Title: "What they were told", Table: &Table{Columns: columns("When", "To", "Occasion", "State", "Attempts#", "Problem", "Called there"), Empty: "Nobody was told anything."}}
	var list client.List[client.Notice]
	if err := c.get(&list, "notices", "group", group); err != nil {
		out.Problem = err.Error()
		return out
	}
	for i := range list.Items[:min(len(list.Items), 200)] {
		n := &list.Items[i]
		out.Table.Rows = append(out.Table.Rows, []Cell{when(n.Created), text(n.Receiver), text(n.Occasion), noticeState(n), count(n.Attempts), orNone(clip(n.Problem, 160)), orNone(clip(n.Ref, 80))})
	}
	return out
}

func noticeState(n *client.Notice) Cell {
	switch {
	case n.Taken != nil:
		return mark(Good, "taken")
	case n.GivenUp:
		return mark(Bad, "given up")
	}
	return mark(Warn, "on its way")
}

func receiverTest(c *visit) (*Page, error) {
	var n client.Notice
	name := c.r.PostFormValue("receiver")
	if err := c.post(&n, "receivers/test", client.ReceiverTest{Receiver: name}); err != nil {
		return nil, err
	}
	c.had = nil // what was told is otherwise now
	p, err := receiversPage(c)
	if err != nil {
		return nil, err
	}
	p.Notice = fmt.Sprintf("%s did not take the test: %s", clip(name, 80), clip(n.Problem, 300))
	if n.Taken != nil {
		p.Notice = clip(name, 80) + " took the test."
	}
	return p, nil
}

// post asks the API for a change.
func (a *asker) post(out any, path string, in any) error {
	var body []byte
	media := ""
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
		media = "application/json"
	}
	b, err := a.do(http.MethodPost, path, nil, media, body)
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(b, out)
}
