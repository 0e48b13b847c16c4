// Package report makes what is looked at every week, month and quarter: of the
// answers of the interface, with the rights of who asks. What could not be asked is
// told as such, and never as none.
package report

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/client"
	"assay/internal/fault"
	"assay/readiness"
)

// Period is how often a report is made, and how far it looks back.
type Period string

// The periods.
const (
	Weekly    Period = "weekly"
	Monthly   Period = "monthly"
	Quarterly Period = "quarterly"
)

// Periods are all of them.
func Periods() []Period { return []Period{Weekly, Monthly, Quarterly} }

func (p Period) days() int {
	return map[Period]int{Weekly: 7, Monthly: 30, Quarterly: 90}[p]
}

// Report is one. Its tables hold texts, for they are read and not computed with;
// the lists behind them have the numbers.
type Report struct {
	Period   Period    `json:"period"`
	Site     string    `json:"site"` // public URL
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Sections []Section `json:"sections"`
}

// Section is one part.
type Section struct {
	ID      string     `json:"id"`
	Title   string     `json:"title"`
	Summary string     `json:"summary"`           // in a sentence
	Problem string     `json:"problem,omitempty"` // why nothing, or not all, is known
	Columns []string   `json:"columns,omitempty"`
	Rows    [][]string `json:"rows,omitempty"`
	More    int        `json:"more,omitempty"` // rows that are left out
	Link    string     `json:"link,omitempty"` // page of the site behind it
}

// most bounds a table.
const most = 50

// making is one report that is made.
type making struct {
	ctx context.Context
	ask readiness.Ask
	r   *Report
	now time.Time
}

// Make makes a report about the time before to, which is now or was before.
func Make(ctx context.Context, ask readiness.Ask, period Period, site string, to, now time.Time) (*Report, error) {
	if period.days() == 0 {
		return nil, fault.Newf(fault.Invalid, "report %.40q: want weekly, monthly or quarterly", period)
	}
	m := &making{ctx, ask, &Report{Period: period, Site: site, From: to.AddDate(0, 0, -period.days()).UTC(), To: to.UTC()}, now}
	m.indicators()
	m.refused()
	m.findings()
	m.alerts()
	m.exceptions()
	if period != Weekly {
		m.keys()
		m.credentials()
	}
	if period == Quarterly {
		m.exercises()
		m.policies()
		m.readiness()
	}
	return m.r, ctx.Err()
}

// add enters a section; err is why it is not, or not wholly, known.
func (m *making) add(s Section, err error) {
	if err != nil {
		s.Problem = err.Error()
		if len(s.Rows) == 0 {
			s.Summary = "Not known."
		}
	}
	if n := len(s.Rows); n > most {
		s.Rows, s.More = s.Rows[:most], s.More+n-most
	}
	m.r.Sections = append(m.r.Sections, s)
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04")
}

func (m *making) during(t time.Time) bool { return !t.Before(m.r.From) && t.Before(m.r.To) }

func (m *making) indicators() {
	s := Section{ID: "indicators", Title: "Indicators and objectives", Columns: []string{"Objective", "Now", "Of", "Not known", "Wanted", "Budget left", "State"}, Link: "slo"}
	var list client.List[client.Objective]
	err := m.ask(m.ctx, "slo/status", &list)
	met := 0
	for i := range list.Items {
		o := &list.Items[i]
		value, budget := "not known", "not known"
		if o.Now.Known {
			value = number(o.Now.Value, o.Now.Unit)
			budget = fmt.Sprintf("%.0f %%", 100*o.Budget)
		}
		if o.State == "ok" {
			met++
		}
		s.Rows = append(s.Rows, []string{o.Name, value, many(o.Now.Denominator), many(o.Now.Unknown), o.Want, budget, o.State})
	}
	s.Summary = fmt.Sprintf("%d of %d objectives are met.", met, len(list.Items))
	if m.past() {
		s.Summary += " This is how they stand now, not at the end of the report's time."
	}
	m.add(s, err)
}

// many is how many there were; of what is looked at again and again that is a mean.
func many(n float64) string { return strconv.FormatFloat(math.Round(10*n)/10, 'f', -1, 64) }

// past says whether the report's time ended before now: what is asked about now then
// says nothing of it.
func (m *making) past() bool { return m.now.Sub(m.r.To) > time.Hour }

func number(v float64, unit string) string {
	switch unit {
	case "ratio":
		return fmt.Sprintf("%.2f %%", 100*v)
	case "seconds":
		d := time.Duration(v * float64(time.Second))
		if d < 10*time.Second {
			return d.Round(time.Millisecond).String()
		}
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%.4g", v)
}

// audited reads the events of kinds within the time, newest first.
func (m *making) audited(kinds ...string) (all []client.AuditRecord, more bool, err error) {
	for _, k := range kinds {
		var list client.List[client.AuditRecord]
		if err := m.ask(m.ctx, "audit", &list, "kind", k, "since", m.r.From.Format(time.RFC3339), "until", m.r.To.Format(time.RFC3339), "newest", "true", "limit", "1000"); err != nil {
			return all, more, err
		}
		all, more = append(all, list.Items...), more || list.Next != ""
	}
	slices.SortStableFunc(all, func(a, b client.AuditRecord) int { return b.Time.Compare(a.Time) })
	return all, more, nil
}

// refused counts what was denied by place and kind. What somebody had no right to
// ask for is told apart: nothing was verified there.
func (m *making) refused() {
	s := Section{ID: "refused", Title: "Failed verifications", Columns: []string{"What", "Cluster", "Environment", "Service", "Times", "Artifacts", "Last"}, Link: "oncall"}
	all, more, err := m.audited("admission.denied", "artifact.denied", "workload.denied", "attestation.rejected")
	type key struct{ kind, cluster, env, service string }
	type tally struct {
		n       int
		digests map[string]bool
		last    time.Time
	}
	by := map[key]*tally{}
	n, rights := 0, 0
	for _, e := range all {
		k := key{e.Kind, e.Cluster, e.Env, e.Service}
		if e.Kind == "artifact.denied" && withoutRight(e.Body) {
			k.kind = "rights"
			rights++
		} else {
			n++
		}
		if by[k] == nil {
			by[k] = &tally{digests: map[string]bool{}, last: e.Time}
		}
		by[k].n++
		by[k].digests[string(e.Digest)] = true
	}
	names := map[string]string{"admission.denied": "refused by admission", "artifact.denied": "refused by the registry", "workload.denied": "runs, and may not", "attestation.rejected": "evidence refused", "rights": "no right to ask (no verification)"}
	for k, t := range by {
		s.Rows = append(s.Rows, []string{names[k.kind], k.cluster, k.env, k.service, fmt.Sprint(t.n), fmt.Sprint(len(t.digests)), stamp(t.last)})
	}
	slices.SortFunc(s.Rows, func(a, b []string) int { return cmp.Or(strings.Compare(b[6], a[6]), slices.Compare(a, b)) })
	s.Summary = fmt.Sprintf("%d refusals; %d requests more were refused for want of a right.", n, rights)
	if more {
		s.Summary = "At least " + s.Summary
	}
	if !m.past() && err == nil {
		var words string
		words, err = m.failedShare()
		s.Summary = words + s.Summary
	}
	m.add(s, err)
}

// failedShare is M6 over the report's time, with what the failures were for: decisions
// that somebody asked for are in it too.
func (m *making) failedShare() (string, error) {
	var list client.List[client.Indicator]
	if err := m.ask(m.ctx, "slo/indicators", &list, "indicator", "failed-verifications", "window", fmt.Sprintf("%dh", 24*m.r.Period.days()), "by", "cause"); err != nil {
		return "", err
	}
	if len(list.Items) == 0 || !list.Items[0].Known {
		return "No verification was counted. ", nil
	}
	i := &list.Items[0]
	var parts []string
	for _, p := range i.By {
		if p.Bad > 0 {
			parts = append(parts, fmt.Sprintf("%s %.0f", p.Of, p.Bad))
		}
	}
	why := ""
	if len(parts) > 0 {
		why = " (" + strings.Join(parts, ", ") + ")"
	}
	return fmt.Sprintf("%.0f of %.0f verifications failed%s. Of what was stopped: ", i.Bad, i.Denominator, why), nil
}

// withoutRight says whether a refusal of the registry was about who asked, and not
// about what was asked for. A record that does not say counts as the latter.
func withoutRight(body json.RawMessage) bool {
	var b struct {
		Cause string `json:"cause"`
	}
	return json.Unmarshal(body, &b) == nil && b.Cause == "rights"
}

func (m *making) findings() {
	s := Section{ID: "findings", Title: "High findings, by what hangs on them", Columns: []string{"Artifact", "Services", "Team", "Tier", "Runs", "Findings", "Risk", "Worst"}, Link: "vulnerabilities"}
	var list client.RiskList
	err := m.ask(m.ctx, "risk", &list, "limit", "100")
	var feeds client.List[client.Feed]
	if err == nil {
		if err = m.ask(m.ctx, "feeds", &feeds); err == nil && len(feeds.Items) == 0 {
			err = fault.Newf(fault.Undecided, "no advisory feed is in force: nothing is known of flaws")
		}
	}
	for i := range list.Items {
		a := &list.Items[i]
		if a.Findings == 0 {
			list.Items = list.Items[:i]
			break
		}
		runs := "no"
		switch {
		case a.Production:
			runs = "in production"
		case a.Running:
			runs = "yes"
		}
		s.Rows = append(s.Rows, []string{string(a.Digest), strings.Join(a.Services, ", "), a.Team, fmt.Sprint(a.Tier), runs, fmt.Sprint(a.Findings), fmt.Sprintf("%.1f", a.Risk), fmt.Sprintf("%.1f", a.Worst)})
	}
	s.Summary = fmt.Sprintf("%d findings in %d artifacts, %d of which run in production.", list.Findings, list.Count, list.Production)
	m.add(s, err)
}

func (m *making) alerts() {
	s := Section{ID: "alerts", Title: "Alerts", Columns: []string{"Alert", "Severity", "Service", "Began", "Acknowledged after", "State"}, Link: "alerts"}
	var list client.List[client.Alert]
	err := m.ask(m.ctx, "alerts", &list, "all", "true", "limit", "1000")
	pages, open := 0, 0
	for i := range list.Items {
		a := &list.Items[i]
		if !m.during(a.Since) && (a.State == "resolved" || a.Since.After(m.r.To)) {
			continue
		}
		after := "nobody did"
		if a.Acknowledged != nil {
			after = a.Acknowledged.Sub(a.Since).Round(time.Second).String()
		}
		if a.Severity == "page" {
			pages++
		}
		if a.State != "resolved" {
			open++
		}
		s.Rows = append(s.Rows, []string{a.Title, a.Severity, a.Service, stamp(a.Since), after, a.State})
	}
	s.Summary = fmt.Sprintf("%d alerts, %d of them pages; %d are open.", len(s.Rows), pages, open)
	if len(list.Items) >= most {
		s.Summary = "At least " + s.Summary
	}
	m.add(s, err)
}

func (m *making) exceptions() {
	s := Section{ID: "exceptions", Title: "Exceptions and break-glass", Columns: []string{"Artifact", "Kind", "Checks", "Because", "Asked by", "Approved by", "Until", "State"}, Link: "exceptions"}
	var list client.List[struct {
		Digest      string    `json:"digest"`
		Kind        string    `json:"kind"`
		Checks      []string  `json:"checks"`
		Reason      string    `json:"reason"`
		RequestedBy string    `json:"requested_by"`
		RequestedAt time.Time `json:"requested_at"`
		DecidedBy   string    `json:"decided_by"`
		Until       time.Time `json:"until"`
		State       string    `json:"state"`
	}]
	err := m.ask(m.ctx, "exceptions", &list, "ended", "true", "limit", "1000")
	in := 0
	for _, e := range list.Items {
		if e.State == "approved" {
			in++
		} else if !m.during(e.RequestedAt) && !m.during(e.Until) {
			continue
		}
		s.Rows = append(s.Rows, []string{e.Digest, e.Kind, cmp.Or(strings.Join(e.Checks, ", "), "all"), e.Reason, e.RequestedBy, e.DecidedBy, stamp(e.Until), e.State})
	}
	s.Summary = fmt.Sprintf("%d exceptions are in force.", in)
	m.add(s, err)
}
