// Package readiness says whether a site is fit for production, and how mature it
// is: by what was probed and what its interface answers, and not by what its
// configuration says. What cannot be known is unknown, and never ready.
package readiness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"assay/client"
	"assay/internal/fault"
)

// Status is what a check came to.
type Status string

// The statuses.
const (
	Pass          Status = "pass"
	Fail          Status = "fail"
	Unknown       Status = "unknown"        // it could not be found out
	NotApplicable Status = "not_applicable" // there is nothing of the kind here
)

// Stage is before what a check must pass.
type Stage string

// The stages. Production asks for all that pre-production asks for.
const (
	PreProduction Stage = "pre-production"
	Production    Stage = "production"
)

// Result is a check with its outcome.
type Result struct {
	ID     string `json:"id"`
	Title  string `json:"title"`
	Stage  Stage  `json:"stage"`
	Level  int    `json:"level"` // of maturity, for which it counts
	Status Status `json:"status"`
	Found  string `json:"found"`
	Mend   string `json:"mend,omitempty"` // what to do, where it does not pass
}

// Ask puts a question to the site's interface: a path below /api/v1/, with pairs
// of a parameter's name and value.
type Ask func(ctx context.Context, path string, out any, query ...string) error

// check is one line of the lists.
type check struct {
	id, title string
	stage     Stage
	level     int
	mend      string
	run       func(*look) (Status, string)
}

// look is one run over the checks. Answers that several want are asked for once.
type look struct {
	ctx    context.Context
	ask    Ask
	now    time.Time
	probes map[string]Probe
	known  map[string]any
}

// once asks a question once.
func once[T any](l *look, path string, query ...string) (T, error) {
	key := path + "?" + strings.Join(query, "&")
	if v, ok := l.known[key]; ok {
		if err, failed := v.(error); failed {
			var none T
			return none, err
		}
		return v.(T), nil //nolint:forcetypeassert // of this question alone
	}
	var out T
	err := l.ask(l.ctx, path, &out, query...)
	if l.known[key] = out; err != nil {
		l.known[key] = err
	}
	return out, err
}

// unsure is the outcome where a question was not answered.
func unsure(err error) (Status, string) {
	if errors.Is(err, fault.Denied) || errors.Is(err, fault.Unauthenticated) {
		return Unknown, "may not be asked by you: " + err.Error()
	}
	return Unknown, err.Error()
}

// Check runs all checks of a stage.
func Check(ctx context.Context, ask Ask, now time.Time, stage Stage) []Result {
	l := &look{ctx: ctx, ask: ask, now: now, probes: map[string]Probe{}, known: map[string]any{}}
	probed, err := once[client.List[Probe]](l, "readiness/probes")
	for _, p := range probed.Items {
		l.probes[p.Name] = p
	}
	if err != nil {
		l.probes = nil
	}
	var out []Result
	for _, c := range checks {
		if stage == PreProduction && c.stage == Production {
			continue
		}
		r := Result{ID: c.id, Title: c.title, Stage: c.stage, Level: c.level}
		if r.Status, r.Found = c.run(l); r.Status == Fail || r.Status == Unknown {
			r.Mend = c.mend
		}
		out = append(out, r)
	}
	return out
}

// Level is how mature a site is: the highest of which, and of all below which, each
// check passes. Missing is what keeps it from the next.
type Level struct {
	Level   int      `json:"level"` // 0 to 5
	Name    string   `json:"name"`
	Next    string   `json:"next,omitempty"`
	Missing []Result `json:"missing,omitempty"`
}

// levels are the names, from 0 on.
var levels = []string{"not begun", "seen", "signed", "enforced", "practised", "measured"}

// MostLevel is the highest.
const MostLevel = 5

// Maturity judges the results of all checks. What is unknown is missing.
func Maturity(all []Result) Level {
	out := Level{Level: MostLevel, Name: levels[MostLevel]}
	for n := 1; n <= MostLevel; n++ {
		for _, r := range all {
			if r.Level == n && r.Status != Pass && r.Status != NotApplicable {
				out.Missing = append(out.Missing, r)
			}
		}
		if len(out.Missing) > 0 {
			out.Level, out.Name, out.Next = n-1, levels[n-1], levels[n]
			return out
		}
	}
	return out
}

// Worst says whether anything fails, else whether anything is unknown.
func Worst(all []Result) Status {
	for _, s := range []Status{Fail, Unknown} {
		if slices.ContainsFunc(all, func(r Result) bool { return r.Status == s }) {
			return s
		}
	}
	return Pass
}

// some names the first few of a list.
func some(all []string) string {
	slices.Sort(all)
	if n := len(all); n > 5 {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:5], ", "), n-5)
	}
	return strings.Join(all, ", ")
}

func days(d time.Duration) string { return fmt.Sprintf("%d days", int(d.Hours()/24)) }
