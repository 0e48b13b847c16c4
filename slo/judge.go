package slo

import (
	"fmt"
	"time"
)

// lastDay is the window whose rate says how long a budget lasts.
const lastDay = 24 * time.Hour

// burn judges a ratio by its budget and by how fast that burns.
func (s *Status) burn(o Objective, c counts, at time.Time, read func(time.Time, time.Duration) (counts, error)) error {
	allowed := 1 - o.Target
	spent := 1 - s.Indicator.Value
	switch {
	case allowed <= 0 && spent > 0:
		s.miss(fmt.Sprintf("%d of %d are not as they should be, and none may be", c.bad+c.unknown, c.good+c.bad+c.unknown))
	case allowed > 0:
		s.Budget = 1 - spent/allowed
		if s.Budget <= 0 {
			s.State, s.Reason = Exhausted, fmt.Sprintf("%.2f %% against a target of %.2f %%", 100*s.Indicator.Value, 100*o.Target)
		}
	}
	for _, b := range Burns() {
		long, err := read(at, b.Long)
		if err != nil {
			return err
		}
		short, err := read(at, b.Short)
		if err != nil {
			return err
		}
		r := BurnRate{Burn: b, LongRate: long.rate(allowed), ShortRate: short.rate(allowed), Events: float64(long.good + long.bad + long.unknown), Bad: float64(long.bad + long.unknown)}
		// Of a state each look counts: two things that are looked at thirty times are
		// no sixty events.
		events, bad := r.Events, r.Bad
		if s.Definition.State && long.n > 0 {
			events, bad = events/float64(long.n), float64(o.MinBad)
			if r.Bad == 0 {
				bad = 0
			}
			// And what is looked at since less than the short window has no rate yet: of a
			// site that is new, or was off, the first look would be all of both windows.
			r.Quiet = bad == 0 || events < 1 || float64(long.n) < b.Short.Minutes()
		} else {
			r.Quiet = events < float64(o.MinEvents) || bad < float64(o.MinBad)
		}
		r.Alerting = !r.Quiet && r.LongRate >= b.Threshold && r.ShortRate >= b.Threshold
		s.BurnRates = append(s.BurnRates, r)
		if b.Long == lastDay && s.Budget > 0 && r.LongRate > 0 {
			s.Lasts = time.Duration(s.Budget / r.LongRate * float64(o.Window))
		}
		if !r.Alerting {
			continue
		}
		reason := fmt.Sprintf("burns %.1f times as fast as it may over %s, and %.1f over %s", r.LongRate, b.Long, r.ShortRate, b.Short)
		switch {
		case b.Page && s.State != Fast:
			s.State, s.Reason = Fast, reason
		case !b.Page && s.State == OK:
			s.State, s.Reason = Slow, reason
		}
	}
	return nil
}

// rate is the share of what is not good, in units of what is allowed. Where
// nothing is allowed any bad is faster than every threshold.
func (c counts) rate(allowed float64) float64 {
	all := float64(c.good + c.bad + c.unknown)
	if all == 0 {
		return 0
	}
	share := float64(c.bad+c.unknown) / all
	if allowed <= 0 {
		if share > 0 {
			return 1000
		}
		return 0
	}
	return share / allowed
}

// simple judges what has no budget.
func (s *Status) simple(o Objective) {
	i := &s.Indicator
	switch i.Unit {
	case Count:
		if i.Value > float64(o.AtMost) {
			s.miss(fmt.Sprintf("%.0f in %s, at most %d may be", i.Value, o.Window, o.AtMost))
		}
	case Seconds:
		if i.Value > o.Within.Seconds() {
			s.miss(fmt.Sprintf("%s on average, at most %s may be", time.Duration(i.Value*float64(time.Second)).Round(time.Second), o.Within))
		} else {
			s.Budget = 1 - i.Value/o.Within.Seconds()
		}
	case Score:
		if i.Value < o.AtLeast {
			s.miss(fmt.Sprintf("%.0f on average, want at least %.0f", i.Value, o.AtLeast))
		}
	}
}

// falling judges a level by its first and its last day.
func (s *Status) falling(before, now counts) {
	was, _, _, known := before.value(Level)
	is, _, _, _ := now.value(Level)
	switch {
	case !known:
		s.Reason = fmt.Sprintf("%.1f now; nothing was counted at the window's beginning", is)
	case is > was || is == was && is > 0:
		s.miss(fmt.Sprintf("%.1f now, %.1f at the window's beginning: it does not fall", is, was))
	default:
		s.Reason = fmt.Sprintf("%.1f now, %.1f at the window's beginning", is, was)
	}
}
