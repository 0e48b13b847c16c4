package slo

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"assay/internal/fault"
)

// Spec is a document of kind Objectives: what the site wants of its indicators.
// What it does not say is as in [Defaults].
type Spec struct {
	// Objectives are by the indicator's name.
	Objectives map[ID]ObjectiveSpec `yaml:"objectives"`
	// Budget says what counts against error budgets.
	Budget *BudgetSpec `yaml:"budget"`
}

// ObjectiveSpec is what is wanted of an indicator. Which member says it depends
// on the indicator's unit.
type ObjectiveSpec struct {
	// Target is the least ratio of a ratio: 0.95. One of 1 has no budget.
	Target *float64 `yaml:"target"`
	// Within is the longest mean of seconds.
	Within Duration `yaml:"within"`
	// AtMost is how many there may be in the window, of a count.
	AtMost *int64 `yaml:"atMost"`
	// Falling wants a level no higher now than at the window's beginning.
	Falling bool `yaml:"falling"`
	// AtLeast is the least mean score.
	AtLeast *float64 `yaml:"atLeast"`
	// Window is that of the budget. Default 30 days.
	Window Duration `yaml:"window"`
	// MinEvents is how many must have been counted in the long window of a burn
	// rate before it alerts. Default 20.
	MinEvents int64 `yaml:"minEvents"`
	// MinBad is how many of them must have been bad. Default 3.
	MinBad int64 `yaml:"minBad"`
	// Off takes the objective away.
	Off bool `yaml:"off"`
}

// BudgetSpec is the budget policy.
type BudgetSpec struct {
	// FalsePositives says whether denials that were taken back (an exception, a VEX
	// statement, a corrected policy) count: "exclude" leaves them out.
	FalsePositives string `yaml:"falsePositives"`
	// Outages says whether failures of Assay itself and of what it rests on count:
	// "count" or "exclude".
	Outages string `yaml:"outages"`
	// Exhausted is what follows when a budget is spent: "ticket" or "page".
	Exhausted string `yaml:"exhausted"`
}

// spent is the severity of a budget that is spent.
func (b BudgetSpec) spent() string {
	if b.Exhausted == "page" {
		return "page"
	}
	return "ticket"
}

// Duration is a time in YAML: 30m, 24h, 30d.
type Duration time.Duration

// UnmarshalText reads a duration, with d for days.
func (d *Duration) UnmarshalText(b []byte) error {
	s := string(b)
	if n := len(s); n > 1 && s[n-1] == 'd' {
		var days int64
		if _, err := fmt.Sscanf(s, "%dd", &days); err != nil || fmt.Sprintf("%dd", days) != s || days < 0 || days > 400 {
			return fault.Newf(fault.Invalid, "duration %.40q: want for example 30m, 24h or 30d", s)
		}
		*d = Duration(time.Duration(days) * 24 * time.Hour)
		return nil
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fault.Newf(fault.Invalid, "duration %.40q: want for example 30m, 24h or 30d", s)
	}
	*d = Duration(v)
	return nil
}

// Objective is what is wanted of an indicator, complete.
type Objective struct {
	Indicator ID
	Target    float64       // of a ratio
	Within    time.Duration // of seconds
	AtMost    int64         // of a count
	Falling   bool          // of a level
	AtLeast   float64       // of a score
	Window    time.Duration
	MinEvents int64
	MinBad    int64
}

// Objectives are those in force.
type Objectives struct {
	All       []Objective
	Budget    BudgetSpec
	documents []string
}

// Defaults are the objectives of a site that says none: 95 %, 98 %, 90 %, 24 h,
// 0, 1 %, falling, 0 for M1 to M8.
func Defaults() *Objectives {
	month := DefaultWindow
	ratio := func(id ID, target float64) Objective {
		return Objective{Indicator: id, Target: target, Window: month, MinEvents: 20, MinBad: 3}
	}
	return &Objectives{
		All: []Objective{
			ratio(AttestationCoverage, 0.95),
			ratio(SignedPushes, 0.98),
			ratio(SignedRunning, 0.98),
			ratio(SBOMAvailability, 0.90),
			{Indicator: DetectionTime, Within: 24 * time.Hour, Window: month},
			{Indicator: UnauthorizedPulls, AtMost: 0, Window: month},
			ratio(FailedVerifications, 0.99),
			{Indicator: VulnerableDependencies, Falling: true, Window: month},
			{Indicator: BuilderIncidents, AtMost: 0, Window: month},
			ratio(ScanCoverage, 0.95),
			ratio(DecisionLatency, 0.99),
			ratio(LogHealth, 0.999),
			ratio(FeedFreshness, 0.99),
		},
		Budget: BudgetSpec{FalsePositives: "exclude", Outages: "count", Exhausted: "ticket"},
	}
}

// Validate says what is wrong with a spec; fault.Invalid.
func (s *Spec) Validate() error {
	for id, o := range s.Objectives {
		d, ok := DefinitionOf(id)
		if !ok {
			return fault.Newf(fault.Invalid, "objectives: no indicator is %.60q: docs/slo.md lists them", string(id))
		}
		if err := o.validate(d); err != nil {
			return fmt.Errorf("objectives.%s: %w", id, err)
		}
	}
	if b := s.Budget; b != nil {
		for _, c := range []struct {
			name, value string
			want        []string
		}{{"falsePositives", b.FalsePositives, []string{"count", "exclude"}}, {"outages", b.Outages, []string{"count", "exclude"}}, {"exhausted", b.Exhausted, []string{"ticket", "page"}}} {
			if c.value != "" && !slices.Contains(c.want, c.value) {
				return fault.Newf(fault.Invalid, "budget.%s %.40q: want %s or %s", c.name, c.value, c.want[0], c.want[1])
			}
		}
	}
	if len(s.Objectives) == 0 && s.Budget == nil {
		return fault.Newf(fault.Invalid, "a document without objectives and budget says nothing; want one of them")
	}
	return nil
}

func (o *ObjectiveSpec) validate(d Definition) error {
	said := map[Unit]bool{Ratio: o.Target != nil, Seconds: o.Within != 0, Count: o.AtMost != nil, Level: o.Falling, Score: o.AtLeast != nil}
	names := map[Unit]string{Ratio: "target", Seconds: "within", Count: "atMost", Level: "falling", Score: "atLeast"}
	for u, has := range said {
		if has && u != d.Unit {
			return fault.Newf(fault.Invalid, "its unit is %s: want %s, found %s", d.Unit, names[d.Unit], names[u])
		}
	}
	if o.Target != nil && !(*o.Target > 0 && *o.Target <= 1) {
		return fault.Newf(fault.Invalid, "target %v: want a ratio above 0 and up to 1, for example 0.95", *o.Target)
	}
	if o.AtMost != nil && *o.AtMost < 0 || o.MinEvents < 0 || o.MinBad < 0 {
		return fault.Newf(fault.Invalid, "atMost, minEvents and minBad want 0 or more")
	}
	if o.AtLeast != nil && !(*o.AtLeast >= 0 && *o.AtLeast <= 100) {
		return fault.Newf(fault.Invalid, "atLeast %v: want 0 to 100", *o.AtLeast)
	}
	if w := time.Duration(o.Window); w != 0 && (w < 24*time.Hour || w > 90*24*time.Hour) {
		return fault.Newf(fault.Invalid, "window %s: want 1d to 90d", w)
	}
	return nil
}

// Compile joins documents with the defaults, by the documents' names. An
// objective that stands in two is fault.Conflict.
func Compile(specs map[string]Spec) (*Objectives, error) {
	out := Defaults()
	from := map[ID]string{}
	budget := ""
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		s := specs[name]
		if err := s.Validate(); err != nil {
			return nil, err
		}
		out.documents = append(out.documents, name)
		for id, o := range s.Objectives {
			if other, twice := from[id]; twice {
				return nil, fault.Newf(fault.Conflict, "objective %s stands in documents %s and %s: want one", id, other, name)
			}
			from[id] = name
			out.set(id, o)
		}
		if s.Budget == nil {
			continue
		}
		if budget != "" {
			return nil, fault.Newf(fault.Conflict, "the budget policy stands in documents %s and %s: want one", budget, name)
		}
		budget = name
		out.Budget = s.Budget.over(out.Budget)
	}
	return out, nil
}

func (b *BudgetSpec) over(d BudgetSpec) BudgetSpec {
	or := func(a, b string) string {
		if a != "" {
			return a
		}
		return b
	}
	return BudgetSpec{or(b.FalsePositives, d.FalsePositives), or(b.Outages, d.Outages), or(b.Exhausted, d.Exhausted)}
}

func (o *Objectives) set(id ID, s ObjectiveSpec) {
	i := slices.IndexFunc(o.All, func(x Objective) bool { return x.Indicator == id })
	if s.Off {
		if i >= 0 {
			o.All = slices.Delete(o.All, i, i+1)
		}
		return
	}
	if i < 0 {
		o.All = append(o.All, Objective{Indicator: id, Window: DefaultWindow, MinEvents: 20, MinBad: 3})
		i = len(o.All) - 1
	}
	x := &o.All[i]
	if s.Target != nil {
		x.Target = *s.Target
	}
	if s.Within != 0 {
		x.Within = time.Duration(s.Within)
	}
	if s.AtMost != nil {
		x.AtMost = *s.AtMost
	}
	x.Falling = x.Falling || s.Falling
	if s.AtLeast != nil {
		x.AtLeast = *s.AtLeast
	}
	if s.Window != 0 {
		x.Window = time.Duration(s.Window)
	}
	if s.MinEvents != 0 {
		x.MinEvents = s.MinEvents
	}
	if s.MinBad != 0 {
		x.MinBad = s.MinBad
	}
}

// Want is what the objective wants, in words.
func (s *Status) Want() string {
	o := &s.Objective
	switch s.Definition.Unit {
	case Ratio:
		return fmt.Sprintf("at least %.4g %%", 100*o.Target)
	case Seconds:
		return "within " + o.Within.String() + " on average"
	case Count:
		return fmt.Sprintf("at most %d", o.AtMost)
	case Score:
		return fmt.Sprintf("at least %.0f", o.AtLeast)
	}
	return "falling"
}
