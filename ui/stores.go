package ui

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"assay/alert"
	"assay/slo"
)

// Stores is [Watch] over the site's own indicators.
type Stores struct{ indicators *slo.Store }

// NewWatch reads the site's indicators.
func NewWatch(indicators *slo.Store) *Stores { return &Stores{indicators} }

// Indicators implements [Watch].
func (s *Stores) Indicators(ctx context.Context, service string, days int) (out []Indicator, err error) {
	q := slo.Query{Window: time.Duration(days) * 24 * time.Hour}
	if service != "" {
		q.Dimension, q.Value = slo.ByService, service
	}
	list, err := s.indicators.Indicators(ctx, q)
	if err != nil {
		return nil, err
	}
	stands, err := s.indicators.Status(ctx, time.Time{})
	if err != nil {
		return nil, err
	}
	goals := map[slo.ID]*slo.Status{}
	for i := range stands {
		goals[stands[i].Objective.Indicator] = &stands[i]
	}
	for i := range list {
		one := indicatorOf(&list[i], goals[list[i].ID], service == "")
		points, err := s.indicators.Series(ctx, list[i].ID, slo.SeriesQuery{Dimension: q.Dimension, Value: q.Value, From: list[i].From, To: list[i].To, Step: 24 * time.Hour})
		if err != nil {
			return nil, err
		}
		for _, p := range points {
			v := math.NaN()
			if p.Known {
				v = p.Value
			}
			one.Days, one.Points = append(one.Days, p.Start.Format("2006-01-02")), append(one.Points, v)
		}
		out = append(out, one)
	}
	return out, nil
}

// indicatorOf is an indicator as pages show it. Objectives are about the whole
// site.
func indicatorOf(in *slo.Indicator, goal *slo.Status, whole bool) Indicator {
	out := Indicator{
		ID: string(in.ID), Title: in.Name, Value: math.NaN(), Goal: math.NaN(), Share: in.Unit == slo.Ratio, Unit: unitOf(in.Unit),
		Good: in.Numerator, Total: in.Denominator, Unknown: in.Unknown,
	}
	d := in.Definition
	out.Of = d.Denominator
	out.Definition = upperFirst(d.Numerator) + ", of " + d.Denominator + "."
	if d.Unknown != "" {
		out.Definition += " Not known: " + d.Unknown + "."
	}
	if in.Known {
		out.Value = in.Value
	}
	if goal == nil || !whole {
		return out
	}
	out.GoalText = goalText(&goal.Objective, d.Unit)
	if d.Unit == slo.Ratio {
		out.Goal = goal.Target
	}
	if goal.State != slo.NoData {
		met := !goal.Missed()
		out.Met = &met
	}
	return out
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func unitOf(u slo.Unit) string {
	switch u {
	case slo.Seconds:
		return "s"
	case slo.Score:
		return "of 100"
	}
	return ""
}

func goalText(o *slo.Objective, u slo.Unit) string {
	switch u {
	case slo.Ratio:
		return fmt.Sprintf("goal: at least %.4g %%", 100*o.Target)
	case slo.Seconds:
		return "goal: within " + o.Within.String()
	case slo.Count:
		return fmt.Sprintf("goal: at most %d", o.AtMost)
	case slo.Level:
		if o.Falling {
			return "goal: falling"
		}
	case slo.Score:
		return fmt.Sprintf("goal: at least %.4g", o.AtLeast)
	}
	return ""
}

// Objectives implements [Watch].
func (s *Stores) Objectives(ctx context.Context) (out []Objective, err error) {
	list, err := s.indicators.Status(ctx, time.Time{})
	if err != nil {
		return nil, err
	}
	for i := range list {
		st := &list[i]
		o := Objective{
			Name: st.Definition.Name, Indicator: string(st.Objective.Indicator), Target: strings.TrimPrefix(goalText(&st.Objective, st.Definition.Unit), "goal: "),
			Window: days(st.Objective.Window), Value: math.NaN(), Budget: math.NaN(), State: string(st.State),
		}
		if st.State != slo.NoData {
			o.Budget, o.Lasts = st.Budget, st.Lasts
			if st.Indicator.Known {
				o.Value, o.Share, o.Unit = st.Indicator.Value, st.Definition.Unit == slo.Ratio, unitOf(st.Definition.Unit)
			}
		}
		switch st.State {
		case slo.Fast:
			o.State, o.Runbook = "page", alert.RuleFastBurn
		case slo.Exhausted:
			o.State, o.Runbook = "missed", alert.RuleMissed
		case slo.Slow:
			o.State, o.Runbook = "ticket", alert.RuleSlowBurn
		case slo.NoData:
			o.State = "unknown"
		}
		for _, b := range st.BurnRates {
			o.Burn = append(o.Burn, Burn{Window: b.Name, Rate: b.LongRate, Limit: b.Threshold})
		}
		out = append(out, o)
	}
	return out, nil
}

func days(d time.Duration) string {
	if d%(24*time.Hour) == 0 && d > 0 {
		return fmt.Sprintf("%d d", d/(24*time.Hour))
	}
	return d.String()
}
