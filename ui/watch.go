package ui

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"

	"assay/identity"
	"assay/internal/fault"
)

// Watch is what the dashboards read of the objectives. Absent parts are shown as
// unknown.
type Watch interface {
	// Indicators gives what is measured, in the order in which it is to be shown,
	// for a service ("": all) over the days before now, a point a day.
	Indicators(ctx context.Context, service string, days int) ([]Indicator, error)
	// Objectives gives what was promised, and what is left of each budget.
	Objectives(ctx context.Context) ([]Objective, error)
}

// Indicator is one measured share or number.
type Indicator struct {
	ID, Title  string
	Definition string
	Of         string    // the denominator, in words
	Value      float64   // NaN: unknown; shares are 0 to 1
	Share      bool      // shown in percent
	Unit       string    // of what is no share
	Good       float64   // counted, of a share
	Total      float64   // its denominator
	Unknown    float64   // of it, what is not known
	Goal       float64   // NaN: none
	GoalText   string    // in words
	Met        *bool     // nil: not known
	Days       []string  // of Points
	Points     []float64 // NaN: unknown
	URL        string    // the artifacts behind it
}

// Objective is a promise about an indicator, and its error budget.
type Objective struct {
	Name, Indicator, Service string
	Target                   string
	Value                    float64 // NaN: unknown
	Share                    bool    // Value is 0 to 1, shown in percent
	Unit                     string  // of what is no share
	Budget                   float64 // what is left, 0 to 1; below 0: overspent; NaN: unknown
	Burn                     []Burn
	Lasts                    time.Duration // until it is spent, at the rate of the last day; 0: it is spent, or nothing burns
	State                    string        // ok, ticket, page, missed, unknown
	Window                   string
	Runbook                  string
}

// Burn is how fast a budget goes in a window: 1 spends it exactly by its end.
type Burn struct {
	Window string
	Rate   float64 // NaN: unknown
	Limit  float64
}

func (i *Indicator) cell() Cell {
	switch {
	case math.IsNaN(i.Value):
		return unknown("nothing was measured")
	case i.Share:
		return Cell{Text: strconv.FormatFloat(100*i.Value, 'f', 1, 64) + " %", Value: i.Value}
	}
	return Cell{Text: strings.TrimSpace(strconv.FormatFloat(i.Value, 'f', -1, 64) + " " + i.Unit), Value: i.Value}
}

func (i *Indicator) state() Cell {
	switch {
	case i.Met == nil && i.GoalText == "" && !math.IsNaN(i.Value):
		return text("no goal")
	case i.Met == nil:
		return mark(Unknown, "not known")
	case *i.Met:
		return mark(Good, "met")
	}
	return mark(Bad, "missed")
}

func (i *Indicator) chart() *Chart {
	if len(i.Points) < 2 {
		return nil
	}
	c := &Chart{ID: i.ID, Label: i.Title + " by day", Caption: i.Title + " by day; what is grey was not measured.", Names: i.Days, Values: i.Points, Unit: i.Unit, Goal: i.Goal, Digits: 1}
	if i.Share {
		c.Unit, c.Most = "%", 100
		c.Values = make([]float64, len(i.Points))
		for n, v := range i.Points {
			c.Values[n] = 100 * v
		}
		c.Goal = 100 * i.Goal
	}
	if math.IsNaN(c.Goal) {
		c.Goal = 0
	}
	return c.draw(false)
}

// many is how many there were; of what is looked at again and again that is a mean.
func many(n float64) string {
	whole, tenths, mean := strings.Cut(strconv.FormatFloat(math.Round(10*n)/10, 'f', -1, 64), ".")
	if mean {
		return thousands(whole) + "." + tenths
	}
	return thousands(whole)
}

func howMany(n float64) Cell { return Cell{Text: many(n), Value: n} }

func (i *Indicator) stat() Stat {
	s := Stat{Name: i.Title, Value: i.cell(), State: i.state(), Goal: i.GoalText, URL: local("slo/" + url.PathEscape(i.ID)), Chart: i.chart()}
	if i.Share && i.Total > 0 {
		s.Of = many(i.Good) + " of " + many(i.Total) + " " + i.Of
	} else {
		s.Of = i.Of
	}
	if i.Unknown > 0 {
		s.Of += "; " + many(i.Unknown) + " not known"
	}
	return s
}

var errNoWatch = fault.Newf(fault.Undecided, "no objective is measured at this site yet")

func (c *visit) indicators(service string, days int) ([]Indicator, error) {
	if c.u.o.Watch == nil {
		return nil, errNoWatch
	}
	if err := c.siteWide(); err != nil {
		return nil, err
	}
	return c.u.o.Watch.Indicators(c.ctx, service, days)
}

// siteWide says whether the person may read about all of the site, which numbers
// over all of it need.
func (c *visit) siteWide() error {
	return c.u.o.Access.Allow(c.ctx, c.who, identity.ActReadEvidence, identity.Resource{Kind: identity.ResourceEvidence})
}

func sloPage(c *visit) (*Page, error) {
	service := c.query("service")
	p := &Page{Title: "Objectives", Here: "Objectives", Live: true, Lead: "What is measured, over the last 30 days, each with its denominator, and what was promised of it.",
		Filter: &Filter{[]Field{{Name: "service", Label: "Service", Value: service}}}}
	list, err := c.indicators(service, 30)
	if err != nil {
		p.Sections = []Section{{ID: "indicators", Title: "Indicators", Problem: err.Error()}}
		return p, nil //nolint:nilerr // shown as unknown
	}
	t := &Table{Columns: columns("Indicator", "Value#", "Counted#", "Of#", "Not known#", "Goal", "State"), Empty: "Nothing is measured yet."}
	for i := range list {
		in := &list[i]
		p.Stats = append(p.Stats, in.stat())
		goodCell, of, missing := Cell{Text: "–", Value: ""}, Cell{Text: "–", Value: ""}, howMany(in.Unknown)
		if in.Share {
			goodCell, of = howMany(in.Good), howMany(in.Total)
		}
		t.Rows = append(t.Rows, []Cell{link(in.Title, local("slo/"+url.PathEscape(in.ID))), in.cell(), goodCell, of, missing, orNone(in.GoalText), in.state()})
	}
	p.Sections = []Section{{ID: "indicators", Title: "Indicators", Table: t}, c.objectives()}
	return p, nil
}

func (c *visit) objectives() Section {
	out := Section{ID: "objectives", Title: "Objectives and their error budgets", Table: &Table{Columns: columns("Objective", "Indicator", "Service", "Target", "Window", "Value#", "Budget left#", "Burn", "Spent in", "State", "Runbook"), Empty: "Nothing is promised: docs/slo.md tells how to."}}
	if c.u.o.Watch == nil {
		out.Problem = errNoWatch.Error()
		return out
	}
	if err := c.siteWide(); err != nil {
		out.Problem = err.Error()
		return out
	}
	list, err := c.u.o.Watch.Objectives(c.ctx)
	if err != nil {
		out.Problem = err.Error()
		return out
	}
	for i := range list {
		o := &list[i]
		value, budget := unknown("nothing was measured"), unknown("nothing was measured")
		if !math.IsNaN(o.Value) {
			value = Cell{Text: strings.TrimSpace(strconv.FormatFloat(o.Value, 'g', 4, 64) + " " + o.Unit), Value: o.Value}
			if o.Share {
				value.Text = strconv.FormatFloat(100*o.Value, 'f', 2, 64) + " %"
			}
		}
		if !math.IsNaN(o.Budget) {
			budget = Cell{Text: strconv.FormatFloat(100*o.Budget, 'f', 1, 64) + " %", Value: o.Budget}
		}
		burns := []string{}
		for _, b := range o.Burn {
			rate := "unknown"
			if !math.IsNaN(b.Rate) {
				rate = fmt.Sprintf("%.1f×", b.Rate)
			}
			burns = append(burns, b.Window+" "+rate)
		}
		state := mark(Good, o.State)
		switch o.State {
		case "page", "missed":
			state.Mark = Bad
		case "ticket":
			state.Mark = Warn
		case "unknown", "":
			state = unknown("nothing was measured")
		}
		out.Table.Rows = append(out.Table.Rows, []Cell{text(o.Name), text(o.Indicator), orNone(o.Service), text(o.Target), text(o.Window), value, budget, orNone(strings.Join(burns, ", ")), o.lasts(), state, runbookCell(o.Runbook)})
	}
	return out
}

// lasts is when its budget is spent.
func (o *Objective) lasts() Cell {
	switch {
	case len(o.Burn) > 0 && o.Budget <= 0:
		return mark(Bad, "spent")
	case o.Lasts <= 0:
		return orNone("")
	}
	return age(o.Lasts)
}

func runbookCell(name string) Cell {
	if name == "" {
		return Cell{Text: "–", Value: ""}
	}
	name = strings.TrimPrefix(name, "runbooks/")
	return link(name, local("runbooks/"+url.PathEscape(name)))
}

func indicatorPage(c *visit) (*Page, error) {
	list, err := c.indicators(c.query("service"), 30)
	if err != nil {
		return nil, err
	}
	for i := range list {
		in := &list[i]
		if in.ID != c.r.PathValue("id") {
			continue
		}
		facts := []Fact{{"Value", in.cell()}, {"Goal", orNone(in.GoalText)}, {"Counted of", orNone(in.Of)}}
		if in.Share {
			facts = append(facts, Fact{"Counted", howMany(in.Good)}, Fact{"Of", howMany(in.Total)})
		}
		facts = append(facts, Fact{"Not known", howMany(in.Unknown)})
		if in.URL != "" {
			facts = append(facts, Fact{"What is behind it", link("the list", in.URL)})
		}
		return &Page{Title: in.Title, Here: "Objectives", Crumbs: []Link{{"Objectives", local("slo")}}, Lead: in.Definition, State: in.state(), Live: true,
			Sections: []Section{{ID: "facts", Facts: facts}, {ID: "trend", Title: "By day", Chart: in.chart()}}}, nil
	}
	return nil, fault.Newf(fault.NotFound, "no indicator is called %.60q", c.r.PathValue("id"))
}
