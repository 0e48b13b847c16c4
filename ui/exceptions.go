package ui

import (
	"encoding/json"
	"net/url"
	"strings"
	"time"

	"assay/client"
	"assay/policy"
	"assay/policy/exception"
)

// exceptionsPage lists what may run although checks fail.
func exceptionsPage(c *visit) (*Page, error) {
	q := []string{"after", c.query("after"), "limit", c.pageLimit()}
	ended := c.query("ended") == "true"
	if ended {
		q = append(q, "ended", "true")
	}
	if d := c.query("digest"); d != "" {
		q = append(q, "digest", d)
	}
	var list client.List[exception.Entry]
	if err := c.get(&list, "exceptions", q...); err != nil {
		return nil, err
	}
	t := &Table{Columns: columns("Exception", "State", "Kind", "Artifact", "Checks", "Because", "Asked by", "Decided by", "Until", "Left#"), Empty: "Nothing is excepted, and nobody asks for it."}
	now := c.u.o.Clock()
	for i := range list.Items {
		e := &list.Items[i]
		left := Cell{}
		if e.State == exception.Approved || e.State == exception.Requested {
			left = age(max(0, e.Until.Sub(now).Round(time.Minute)))
		}
		t.Rows = append(t.Rows, []Cell{{Text: clip(e.ID, 14), Value: e.ID, Mono: true, URL: local("exceptions/" + url.PathEscape(e.ID))}, exceptionState(e.State), exceptionKind(e.Kind), digest(e.Digest, ""),
			clipped(checksText(e), 80), clipped(e.Reason, 100), who(e.RequestedBy), exceptionWho(e), when(e.Until), left})
	}
	return &Page{Title: "Exceptions", Here: "Exceptions", Live: true, Lead: "What may run although checks fail: asked for by one person, approved by another, for a while.",
		Filter: &Filter{[]Field{{Name: "digest", Label: "Artifact", Value: c.query("digest")}, {Name: "ended", Label: "Also those that ended", Check: true, Checked: ended}}}, Sections: []Section{{ID: "exceptions", Table: c.next(t, list.Next)}}}, nil
}

func exceptionState(state string) Cell {
	switch state {
	case exception.Approved:
		return mark(Warn, "in force")
	case exception.Requested:
		return mark(Unknown, "waits")
	}
	return mark(Info, state)
}

func exceptionKind(kind string) Cell {
	if kind == policy.ExceptionBreakGlass {
		return mark(Bad, "break-glass")
	}
	return text(kind)
}

func exceptionWho(e *exception.Entry) Cell {
	if e.DecidedBy == "" {
		return Cell{Text: "another person"}
	}
	return who(e.DecidedBy)
}

func checksText(e *exception.Entry) string {
	if len(e.Checks) == 0 {
		return "all"
	}
	return strings.Join(e.Checks, ", ")
}

// exceptionPage is one of them: what it excuses where, and whose word it is.
func exceptionPage(c *visit) (*Page, error) {
	raw, err := c.raw("exceptions/" + url.PathEscape(c.r.PathValue("id")))
	if err != nil {
		return nil, err
	}
	var e exception.Entry
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, err
	}
	what := []Fact{{"Kind", exceptionKind(e.Kind)}, {"Artifact", digest(e.Digest, "")}, {"Checks", text(checksText(&e))}, {"Because", text(e.Reason)}, {"Ticket", orNone(e.Ticket)}, {"Until", when(e.Until)}}
	where := []Fact{{"Everywhere", text("wherever the digest is met")}}
	if s := e.Scope; s != nil {
		where = nil
		for _, l := range []struct {
			name string
			list []string
		}{{"Repositories", s.Repositories}, {"Environments", s.Environments}, {"Clusters", s.Clusters}, {"Namespaces", s.Namespaces}, {"Teams", s.Teams}, {"Services", s.Services}, {"Tiers", s.Tiers}, {"Kinds", s.Kinds}} {
			if len(l.list) > 0 {
				where = append(where, Fact{l.name, text(strings.Join(l.list, ", "))})
			}
		}
	}
	whose := []Fact{{"Asked by", who(e.RequestedBy)}, {"Asked", when(e.RequestedAt)}, {"Decided by", exceptionWho(&e)}}
	if e.DecidedBy != "" {
		whose = append(whose, Fact{"Decided", when(e.DecidedAt)}, Fact{"Answer", orNone(e.Answer)})
	}
	if e.EndedBy != "" {
		whose = append(whose, Fact{"Ended by", who(e.EndedBy)}, Fact{"Ended", when(e.EndedAt)}, Fact{"Because", orNone(e.EndReason)})
	}
	whose = append(whose, Fact{"Signed as", orUnknown(e.Attestation, "only what was approved is signed")})
	do := Section{ID: "act", Title: "What can be done", Facts: []Fact{}}
	switch e.State {
	case exception.Requested:
		do.Facts = append(do.Facts, Fact{"Approve, as another person", command("assay exception approve "+e.ID, 120)}, Fact{"Say no", command("assay exception reject "+e.ID+" --reason TEXT", 120)})
	case exception.Approved:
		do.Facts = append(do.Facts, Fact{"End it now", command("assay exception withdraw "+e.ID+" --reason TEXT", 120)})
	}
	do.Facts = append(do.Facts, Fact{"See what fails", command("assay verify "+string(e.Digest), 120)})
	return &Page{Title: "Exception " + clip(e.ID, 14), Here: "Exceptions", Crumbs: []Link{{"Exceptions", local("exceptions")}}, State: exceptionState(e.State), Sections: []Section{
		{ID: "what", Title: "What it excuses", Facts: what}, {ID: "where", Title: "Where", Facts: where}, {ID: "whose", Title: "Whose word it is", Facts: whose}, do, {ID: "raw", Title: "Raw JSON", Raw: pretty(raw)},
	}}, nil
}
