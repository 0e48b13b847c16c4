package ui

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"assay/client"
	"assay/identity"
	"assay/registry/gate"
)

// overview is for those who answer for the whole.
func overview(c *visit) (*Page, error) {
	p := &Page{Title: "Overview", Here: "Overview", Live: true}
	if err := c.siteWide(); err != nil {
		// Who answers for a part of the site begins with what is there.
		return nil, &elsewhere{local("artifacts")}
	}
	if list, err := c.indicators("", 30); err == nil {
		for i := range list {
			p.Stats = append(p.Stats, list[i].stat())
		}
	}
	running, runErr := c.runs()
	p.Stats = append(p.Stats, c.runningStats(running, runErr)...)
	p.Stats = append(p.Stats, c.riskStat(), c.feedStat(), c.owedStat(), c.ticketStat(), c.maturityStat())
	risk := c.riskTable("", 10)
	risk.Title, risk.More = "What is most at risk", Link{"All", local("vulnerabilities")}
	p.Sections = append(p.Sections, c.byCluster(running, runErr), risk, c.objectives(), c.owed())
	return p, nil
}

// runs counts what runs by what is known of it, by cluster.
func (c *visit) runs() ([]client.RunningTally, error) {
	var list client.List[client.RunningTally]
	err := c.get(&list, "inventory/running/summary")
	return list.Items, err
}

func imagesOf(t *client.RunningTally) int { return t.Allowed + t.Denied + t.Drifted + t.Unknown }

func (c *visit) runningStats(list []client.RunningTally, err error) []Stat {
	if err != nil {
		return []Stat{{Name: "Running images that may", Value: unknown(err.Error()), Of: clip(err.Error(), 120)}}
	}
	var t client.RunningTally
	for _, r := range list {
		t.Allowed, t.Denied, t.Drifted, t.Unknown = t.Allowed+r.Allowed, t.Denied+r.Denied, t.Drifted+r.Drifted, t.Unknown+r.Unknown
	}
	all := imagesOf(&t)
	may := Stat{Name: "Running images that may", Value: share(float64(t.Allowed), float64(all)), URL: local("oncall"), Of: fmt.Sprintf("%d of %d running images", t.Allowed, all)}
	switch {
	case all == 0:
		may.Of = "no cluster reports what runs"
	case t.Denied+t.Drifted > 0:
		may.State = mark(Bad, fmt.Sprintf("%d may not", t.Denied+t.Drifted))
	case t.Unknown > 0:
		may.State = mark(Unknown, fmt.Sprintf("%d not known", t.Unknown))
	default:
		may.State = mark(Good, "all may")
	}
	if t.Unknown > 0 {
		may.Of += fmt.Sprintf("; %d not known", t.Unknown)
	}
	return []Stat{may}
}

func (c *visit) riskStat() Stat {
	s := Stat{Name: "Risk of what lies and runs here", URL: local("vulnerabilities")}
	var list client.RiskList
	if err := c.soon(&list, "risk", "limit", "1"); err != nil {
		s.Value, s.Of = unknown(err.Error()), clip(err.Error(), 120)
		return s
	}
	if why := c.blind(); why != "" {
		s.Value, s.Of = unknown(why), why
		return s
	}
	s.Value, s.Of = number(list.Risk, 0), fmt.Sprintf("%d findings in %d artifacts", list.Findings, list.Count)
	if list.Production > 0 {
		s.State = mark(Warn, fmt.Sprintf("%d in production", list.Production))
	}
	return s
}

// blind says why nothing can be said of flaws; "" when something can.
func (c *visit) blind() string {
	var list client.List[client.Feed]
	if err := c.get(&list, "feeds"); err != nil {
		return err.Error()
	}
	for _, f := range list.Items {
		if f.Operation > 0 && f.Blocked == "" {
			return ""
		}
	}
	return "no advisory feed is in force"
}

func (c *visit) feedStat() Stat {
	s := Stat{Name: "Fresh feeds", URL: local("feeds")}
	var list client.List[client.Feed]
	if err := c.get(&list, "feeds"); err != nil {
		s.Value = unknown(err.Error())
		return s
	}
	fresh := 0
	for _, f := range list.Items {
		if !f.Stale && f.Blocked == "" {
			fresh++
		}
	}
	switch {
	case len(list.Items) == 0:
		s.Value, s.Of, s.State = unknown("there is no feed"), "no feed is in force", mark(Unknown, "nothing is known of flaws")
	case fresh < len(list.Items):
		s.Value, s.Of, s.State = count(fresh), fmt.Sprintf("of %d feeds", len(list.Items)), mark(Bad, fmt.Sprintf("%d stale", len(list.Items)-fresh))
	default:
		s.Value, s.Of, s.State = count(fresh), fmt.Sprintf("of %d feeds", len(list.Items)), mark(Good, "all fresh")
	}
	return s
}

func (c *visit) coverage() ([]client.EvidenceCoverage, error) {
	var list client.List[client.EvidenceCoverage]
	err := c.get(&list, "coverage")
	return list.Items, err
}

func (c *visit) owedStat() Stat {
	s := Stat{Name: "Owed evidence that came", Goal: "in the last 30 days", URL: local("#owed")}
	list, err := c.coverage()
	if err != nil {
		s.Value = unknown(err.Error())
		return s
	}
	present, due, pending := 0, 0, 0
	for _, e := range list {
		present += e.Present
		due += e.Expected - e.Pending
		pending += e.Pending
	}
	s.Value, s.Of = share(float64(present), float64(due)), fmt.Sprintf("%d of %d pieces, in time", present, due)
	if due == 0 {
		s.Of = "no contract asked for any"
	} else if present < due {
		s.State = mark(Warn, fmt.Sprintf("%d late or missing", due-present))
	} else {
		s.State = mark(Good, "all came")
	}
	if pending > 0 {
		s.Of += fmt.Sprintf("; %d not due yet", pending)
	}
	return s
}

func (c *visit) ticketStat() Stat {
	s := Stat{Name: "Held back", URL: local("oncall")}
	var list client.List[client.Ticket]
	if err := c.get(&list, "tickets", "limit", "1000"); err != nil {
		s.Value = unknown(err.Error())
		return s
	}
	unowned := 0
	for i := range list.Items {
		if !list.Items[i].Owned {
			unowned++
		}
	}
	s.Value, s.Of = count(len(list.Items)), "artifacts whose owners were told"
	if unowned > 0 {
		s.State = mark(Warn, fmt.Sprintf("%d without owner", unowned))
	}
	return s
}

func (c *visit) byCluster(list []client.RunningTally, err error) Section {
	out := Section{ID: "running", Title: "What runs, by cluster", More: Link{"Workloads", local("workloads")}, Table: &Table{Columns: columns("Cluster", "May#", "May not#", "Drifted#", "Not known#", "Images#"), Empty: "No cluster reports what runs, so that nothing is known of it: docs/clusters.md."}}
	if err != nil {
		out.Problem = err.Error()
		return out
	}
	flag := func(n int, m Mark) Cell {
		cell := count(n)
		if n > 0 {
			cell.Mark = m
		}
		return cell
	}
	for i := range list {
		t := &list[i]
		out.Table.Rows = append(out.Table.Rows, []Cell{link(t.Cluster, local("workloads", "cluster", t.Cluster)), count(t.Allowed), flag(t.Denied, Bad), flag(t.Drifted, Bad), flag(t.Unknown, Unknown), count(imagesOf(t))})
	}
	return out
}

func (c *visit) owed() Section {
	out := Section{ID: "owed", Title: "Owed evidence, last 30 days", Table: &Table{Columns: columns("Repository", "What", "Expected#", "In time#", "Late#", "Missing#", "Not due yet#", "Share#"), Empty: "No contract asked for evidence: docs/contracts.md."}}
	list, err := c.coverage()
	if err != nil {
		out.Problem = err.Error()
		return out
	}
	for _, e := range list[:min(len(list), 100)] {
		missing := count(e.Missing)
		if e.Missing > 0 {
			missing.Mark = Bad
		}
		out.Table.Rows = append(out.Table.Rows, []Cell{link(e.Repository, local("registry/"+e.Repository)), {Text: typeName(e.PredicateType), Value: e.PredicateType}, count(e.Expected), count(e.Present), count(e.Late), missing, count(e.Pending), share(float64(e.Present), float64(e.Expected-e.Pending))})
	}
	return out
}

// onCall is for those who are called: what fails now, and what to do.
func onCall(c *visit) (*Page, error) {
	p := &Page{Title: "On call", Here: "On call", Live: true}
	p.Sections = append(p.Sections, c.activeGroups(), c.failing(), c.held())
	if c.may(identity.ActReadAudit) {
		p.Sections = append(p.Sections, c.unauthorized(), c.recent("denied", "Refused, the last", "artifact.denied", "admission.denied", "login.failed"), c.recent("keys", "Keys and signatures", "signer.unlogged", "signer.first_seen", "key.rotated", "key.expiring", "store.tampered", "upstream.mismatch"))
	} else {
		p.Sections = append(p.Sections, Section{ID: "access", Title: "Access anomalies and key usage", Problem: "These are for auditors."})
	}
	p.Sections = append(p.Sections, c.anomalies())
	return p, nil
}

// failing lists what runs and may not, and then what is not known to.
func (c *visit) failing() Section {
	const most = 100
	out := Section{ID: "failing", Title: "Runs, and may not", Table: &Table{Columns: columns("Cluster", "Namespace", "Image", "State", "Because", "Since", "Artifact"), Empty: "Nothing that runs is known to be denied."}}
	tallies, err := c.runs()
	var all []client.RunningImage
	for _, state := range []string{"denied", "drifted", "unknown"} {
		var list client.List[client.RunningImage]
		if err == nil && len(all) < most {
			err = c.get(&list, "inventory/running", "state", state, "limit", strconv.Itoa(most-len(all)))
			all = append(all, list.Items...)
		}
	}
	if err != nil {
		out.Problem = err.Error()
		return out
	}
	missing, failing := 0, 0
	for i := range tallies {
		missing += tallies[i].Unknown
		failing += imagesOf(&tallies[i]) - tallies[i].Allowed
	}
	for _, r := range all {
		state := mark(Bad, r.State)
		if r.State == "unknown" {
			state.Mark = Unknown
		}
		d := unknown("no digest was told")
		if r.Digest != "" {
			d = Cell{Text: short(r.Digest), Value: r.Digest, Title: r.Digest, Mono: true, URL: local("artifacts/" + r.Digest)}
		}
		since := text(r.Since)
		if t, err := time.Parse(time.RFC3339, r.Since); err == nil {
			since = when(t)
		}
		out.Table.Rows = append(out.Table.Rows, []Cell{text(r.Cluster), orNone(r.Namespace), clipped(r.Image, 80), state, orNone(clip(r.Reason, 160)), since, d})
	}
	if missing > 0 {
		out.Note = fmt.Sprintf("Of %d it is not known whether they may.", missing)
	}
	if n := failing - len(all); n > 0 {
		out.Note = strings.TrimSpace(fmt.Sprintf("%s %d more are not shown: assay cluster running has them.", out.Note, n))
	}
	return out
}

// held lists what the gate holds back, with the commands that mend it.
func (c *visit) held() Section {
	out := Section{ID: "held", Title: "Blocked deploys: what the gate holds back", Table: &Table{Columns: columns("Since", "Artifact", "Repository", "Service", "Team", "Because", "To mend it"), Empty: "Nothing is held back."}}
	var list client.List[client.Ticket]
	if err := c.get(&list, "tickets", "limit", "50"); err != nil {
		out.Problem = err.Error()
		return out
	}
	for i := range list.Items {
		t := &list.Items[i]
		out.Table.Rows = append(out.Table.Rows, []Cell{when(t.Opened), digest(t.Digest, t.Repository), orNone(t.Repository), orUnknown(t.Service, "no service of the catalogue has it"), orUnknown(t.Team, "nobody owns it"), clipped(t.Reason, 160), command(strings.Join(t.Mend, "; "), 160)})
	}
	return out
}

func (c *visit) unauthorized() Section {
	out := Section{ID: "unauthorized", Title: "Unauthorised pulls: served, and not right as it turned out", Table: &Table{Columns: columns("Pulled", "By", "Artifact", "Not right since", "Known", "Because"), Empty: "None is known."}}
	var list client.List[client.UnauthorizedPull]
	if err := c.get(&list, "audit/unauthorized", "limit", "50"); err != nil {
		out.Problem = err.Error()
		return out
	}
	for i := range list.Items {
		u := &list.Items[i]
		out.Table.Rows = append(out.Table.Rows, []Cell{when(u.Pull.Time), who(u.Pull.Actor), digest(u.Pull.Digest, ""), when(u.Since), when(u.Revoked), clipped(u.Reason, 160)})
	}
	return out
}

// recent lists the last events of some kinds.
func (c *visit) recent(id, title string, kinds ...string) Section {
	out := Section{ID: id, Title: title}
	var all []client.AuditRecord
	for _, k := range kinds {
		var list client.List[client.AuditRecord]
		if err := c.get(&list, "audit", "kind", k, "newest", "true", "limit", "10"); err != nil {
			out.Problem = err.Error()
			return out
		}
		all = append(all, list.Items...)
	}
	sortNewest(all)
	out.Table = auditTable(all[:min(len(all), 20)])
	out.Table.Empty = "Nothing like that happened."
	return out
}

func gateStates() []string {
	return []string{"", string(gate.Active), string(gate.Staged), string(gate.Rejected), string(gate.Quarantined), string(gate.Revoked), string(gate.Open)}
}
