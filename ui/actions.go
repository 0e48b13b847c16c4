package ui

import (
	"encoding/json"
	"fmt"
	"net/url"

	"assay/action"
	"assay/client"
)

// actionsPage lists what the site would do by itself and waits with.
func actionsPage(c *visit) (*Page, error) {
	all := c.query("all") == "true"
	q := []string{"limit", "200"}
	if all {
		q = append(q, "all", "true")
	}
	if after := c.query("after"); after != "" {
		q = append(q, "after", after)
	}
	var list client.List[action.Entry]
	if err := c.get(&list, "actions", q...); err != nil {
		return nil, err
	}
	t := &Table{Columns: columns("Action", "State", "Kind", "Artifact", "Touches#", "Of#", "Share#", "Because", "Since", "Answered by"), Empty: "Nothing waits for a person."}
	for i := range list.Items {
		e := &list.Items[i]
		t.Rows = append(t.Rows, []Cell{{Text: clip(e.ID, 14), Value: e.ID, Mono: true, URL: local("actions/" + url.PathEscape(e.ID))}, actionState(e), text(string(e.Kind)), digest(e.Digest, ""),
			count(e.Touched), count(e.Running), text(fmt.Sprintf("%d %%", e.Share)), clipped(e.Reason, 100), when(e.At), answeredBy(e)})
	}
	return &Page{Title: "Automatic actions", Here: "Actions", Live: true, Lead: "What the site would do by itself to much of what runs: it waits for a person. Nothing new may run what is to be quarantined.",
		Filter: &Filter{[]Field{{Name: "all", Label: "Also those that were answered or done", Check: true, Checked: all}}}, Sections: []Section{{ID: "actions", Table: c.next(t, list.Next)}}}, nil
}

func actionState(e *action.Entry) Cell {
	switch {
	case e.Overdue:
		return mark(Bad, "held, overdue")
	case e.State == action.Held:
		return mark(Warn, "held")
	case e.State == action.Refused, e.State == action.Superseded:
		return mark(Info, e.State)
	}
	return mark(Info, e.State)
}

func answeredBy(e *action.Entry) Cell {
	if e.DecidedBy == "" {
		return orNone("")
	}
	return who(e.DecidedBy)
}

// actionPage is one of them.
func actionPage(c *visit) (*Page, error) {
	raw, err := c.raw("actions/" + url.PathEscape(c.r.PathValue("id")))
	if err != nil {
		return nil, err
	}
	var e action.Entry
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, err
	}
	what := []Fact{{"Kind", text(string(e.Kind))}, {"Artifact", digest(e.Digest, "")}, {"Because", text(e.Reason)}, {"By", text(e.Actor)}, {"Since", when(e.At)}}
	reach := []Fact{{"Touches", text(fmt.Sprintf("%d of %d workloads", e.Touched, e.Running))}, {"Others shortly before", count(e.Earlier)}, {"Share", text(fmt.Sprintf("%d %%; it waits from %d %% on", e.Share, e.Limit))}}
	answer := []Fact{{"Answered by", answeredBy(&e)}}
	if e.DecidedBy != "" {
		answer = append(answer, Fact{"Answered", when(e.DecidedAt)}, Fact{"Answer", orNone(e.Answer)})
	}
	do := Section{ID: "act", Title: "What can be done", Facts: []Fact{}}
	if e.State == action.Held {
		do.Facts = append(do.Facts, Fact{"Have it done", command("assay action approve "+e.ID, 120)}, Fact{"Let go of it", command("assay action refuse "+e.ID+" --reason TEXT", 120)})
	}
	if e.Kind == action.Quarantine {
		do.Facts = append(do.Facts, Fact{"See where it runs", command("assay inventory workloads --digest "+string(e.Digest), 120)})
	}
	return &Page{Title: "Action " + clip(e.ID, 14), Here: "Actions", Crumbs: []Link{{"Actions", local("actions")}}, State: actionState(&e), Sections: []Section{
		{ID: "what", Title: "What it is", Facts: what}, {ID: "reach", Title: "What it touches", Facts: reach}, {ID: "answer", Title: "The answer", Facts: answer}, do, {ID: "raw", Title: "Raw JSON", Raw: pretty(raw)},
	}}, nil
}
