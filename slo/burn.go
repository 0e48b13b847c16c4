package slo

import (
	"context"
	"time"

	"assay/store"
)

// State is how an objective stands.
type State string

// The states.
const (
	OK        State = "ok"
	Slow      State = "slow"      // it burns its budget slowly: a ticket
	Fast      State = "fast"      // it burns its budget fast: a page
	Exhausted State = "exhausted" // the budget is spent, or the objective is missed
	NoData    State = "no data"   // nothing was counted
)

// Burn is a pair of windows and the rate at which it alerts: the share of bad in
// both, in units of what the objective allows.
type Burn struct {
	Name        string
	Long, Short time.Duration
	Threshold   float64
	Page        bool // else a ticket
}

// Burns are the pairs of multi-window, multi-burn-rate alerting (Google, The Site
// Reliability Workbook, chapter 5).
func Burns() []Burn {
	return []Burn{
		{"1h", time.Hour, 5 * time.Minute, 14.4, true},
		{"6h", 6 * time.Hour, 30 * time.Minute, 6, true},
		{"1d", 24 * time.Hour, 2 * time.Hour, 3, false},
		{"3d", 72 * time.Hour, 6 * time.Hour, 1, false},
	}
}

// BurnRate is how fast a budget burns in a pair of windows.
type BurnRate struct {
	Burn
	LongRate, ShortRate float64
	Events, Bad         float64 // in the long window
	Quiet               bool    // too little was counted to alert
	Alerting            bool
}

// Status is how an objective stands.
type Status struct {
	Objective
	Definition Definition
	Indicator  Indicator // in the objective's window
	// Budget is the part of the error budget that is left: 1 all, 0 none, below 0
	// overspent. Objectives without a budget have 1 or 0.
	Budget    float64
	BurnRates []BurnRate // of ratios
	// Lasts is when the budget is spent if it goes on burning as in the last day. Zero:
	// it is spent, nothing burns, or there is no budget.
	Lasts  time.Duration
	State  State
	Reason string // in words
	// PageWhenSpent is the budget policy's word: a spent budget is a page, else a ticket.
	PageWhenSpent bool
	At            time.Time
}

// Missed says whether the objective is not reached.
func (s *Status) Missed() bool { return s.State == Exhausted }

// Status gives how each objective in force stands at a time (zero: now).
func (s *Store) Status(ctx context.Context, at time.Time) (out []Status, err error) {
	return s.StatusOf(ctx, at, "", "")
}

// StatusOf is Status of a part of the site: of one value of a dimension.
func (s *Store) StatusOf(ctx context.Context, at time.Time, dimension, value string) (out []Status, err error) {
	if at.IsZero() {
		at = s.now()
	}
	goals := s.Objectives()
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		out = nil
		for _, o := range goals.All {
			one, err := s.status(ctx, tx, o, goals, at, dimension, value)
			if err != nil {
				return err
			}
			out = append(out, one)
		}
		return nil
	})
	return out, err
}

// Objectives are those in force.
func (s *Store) Objectives() *Objectives {
	if s.o.Objectives != nil {
		if o := s.o.Objectives(); o != nil {
			return o
		}
	}
	return Defaults()
}

func (s *Store) status(ctx context.Context, tx *store.Tx, o Objective, goals *Objectives, at time.Time, dimension, part string) (Status, error) {
	d, _ := DefinitionOf(o.Indicator)
	out := Status{Objective: o, Definition: d, State: OK, Budget: 1, At: at, PageWhenSpent: goals.Budget.spent() == "page"}
	key := seriesKey{o.Indicator, dimension, part}
	read := func(at time.Time, w time.Duration) (counts, error) {
		c, err := s.window(ctx, tx, key, at, w)
		if err != nil || o.Indicator != FailedVerifications || dimension != "" {
			return c, err // causes are counted of the whole site alone
		}
		if goals.Budget.Outages == "exclude" {
			infra, err := s.window(ctx, tx, seriesKey{o.Indicator, "cause", CauseInfrastructure}, at, w)
			if err != nil {
				return c, err
			}
			c.bad = max(0, c.bad-infra.bad)
		}
		if goals.Budget.FalsePositives == "exclude" {
			back, err := s.window(ctx, tx, seriesKey{o.Indicator, "cause", causeTakenBack}, at, w)
			if err != nil {
				return c, err
			}
			c.bad = max(0, c.bad-back.bad)
		}
		return c, nil
	}
	c, err := read(at, o.Window)
	if err != nil {
		return out, err
	}
	i := Indicator{Definition: d, From: at.Add(-o.Window), To: at, Window: o.Window}
	i.Value, i.Numerator, i.Denominator, i.Bad, i.Unknown, i.Known = c.shown(d)
	out.Indicator = i
	if !i.Known {
		out.State, out.Reason = NoData, "nothing was counted in the window"
		return out, nil
	}
	if d.Unit == Ratio {
		return out, out.burn(o, c, at, read)
	}
	if o.Falling {
		before, err := read(at.Add(-o.Window+24*time.Hour), 24*time.Hour)
		if err != nil {
			return out, err
		}
		now, err := read(at, 24*time.Hour)
		if err != nil {
			return out, err
		}
		out.falling(before, now)
		return out, nil
	}
	out.simple(o)
	return out, nil
}

func (s *Status) miss(reason string) { s.State, s.Budget, s.Reason = Exhausted, 0, reason }
