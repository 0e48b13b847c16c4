// Package replay shows what other policies would have said: it judges the
// recorded facts of past decisions again, each distinct set of facts once, at
// the instant of its last decision, and tells what would flip, by cause, whom
// it concerns and what would mend it. Nothing is decided and nothing is kept.
package replay

import (
	"cmp"
	"context"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/policy"
	"assay/verify"
)

// Recorder gives what was decided; verify.Engine is one.
type Recorder interface {
	Recorded(ctx context.Context, since time.Time, after string, limit int) ([]verify.Recorded, error)
	Get(ctx context.Context, id string) (*verify.Decision, error)
	// Preview reads evidence again, for what recorded facts do not hold.
	Preview(ctx context.Context, t verify.Target, scope policy.Scope, p *policy.Policy) (*policy.Facts, policy.Result, error)
}

// Effect is what a door does.
type Effect string

// The effects, from the mildest.
const (
	Allowed Effect = "allowed"
	Noted   Effect = "recorded" // denied in mode audit
	Warned  Effect = "warned"   // denied in mode warn
	Refused Effect = "refused"
)

func effect(v policy.Verdict, m policy.Mode) Effect {
	switch {
	case v == policy.Allow:
		return Allowed
	case m == policy.Audit:
		return Noted
	case m == policy.Warn:
		return Warned
	}
	return Refused
}

func (e Effect) rank() int { return slices.Index([]Effect{Allowed, Noted, Warned, Refused}, e) }

// Flip is an artifact in a scope that doors would treat in another way.
type Flip struct {
	Digest     artifact.Digest `json:"digest"`
	Repository string          `json:"repository,omitempty"`
	Scope      string          `json:"scope"`
	Owner      string          `json:"owner"` // the team or service of its scope, else its repository's first part
	From       Effect          `json:"from"`
	To         Effect          `json:"to"`
	Policy     string          `json:"policy"`    // that would decide
	Causes     []Cause         `json:"causes"`    // checks that fail; of a flip to a milder effect, those that failed before
	Decisions  int             `json:"decisions"` // recorded ones that rest on these facts
	Decision   string          `json:"decision"`  // the last of them
	DecidedAt  time.Time       `json:"decided_at"`
	Stands     bool            `json:"stands"` // it is the decision that holds now
	Fresh      bool            `json:"fresh,omitzero"`
}

// Cause is a check that made a flip.
type Cause struct {
	Check    string `json:"check"` // the policy's name, and the check's
	Expected string `json:"expected"`
	Found    string `json:"found"`
	Mend     string `json:"mend,omitempty"`
}

// FlipGroup is the flips of one direction that have one cause.
type FlipGroup struct {
	Cause    string          `json:"cause"` // the check
	From     Effect          `json:"from"`
	To       Effect          `json:"to"`
	Flips    int             `json:"flips"`
	Standing int             `json:"standing"` // flips whose decision holds now
	Owners   []string        `json:"owners"`   // at most 20
	Mend     string          `json:"mend,omitempty"`
	Example  artifact.Digest `json:"example"`
}

// Undecided is a decision of which nobody can say what it would be.
type Undecided struct {
	Digest     artifact.Digest `json:"digest"`
	Repository string          `json:"repository,omitempty"`
	Scope      string          `json:"scope"`
	Decision   string          `json:"decision"`
	Reason     string          `json:"reason"`
}

// Comparison is the outcome of a replay.
type Comparison struct {
	Since     time.Time   `json:"since"`
	Decisions int         `json:"decisions"` // that were looked at
	Facts     int         `json:"facts"`     // distinct, each judged once
	Same      int         `json:"same"`      // facts upon which the outcome is the recorded one
	Stricter  int         `json:"stricter"`  // flips to a harder effect
	Milder    int         `json:"milder"`    // flips to a milder one
	Groups    []FlipGroup `json:"groups"`    // by cause, the most frequent first
	Flips     []Flip      `json:"flips"`     // at most Options.List, the stricter first
	Unknown   []Undecided `json:"unknown"`   // at most Options.List
	Unknowns  int         `json:"unknowns"`
	Cut       bool        `json:"cut,omitzero"` // there are more flips or unknowns than listed
}

// Options of [Run].
type Options struct {
	Since time.Time
	// Only selects what is judged at all; nil: everything. A policy that is tried
	// alone concerns only what it would decide.
	Only func(policy.Subject, policy.Scope) bool
	// Stages is the instant for which roll-outs are judged; zero: that of each decision.
	Stages  time.Time
	List    int // flips and unknowns that are listed; default 1,000
	Fresh   int // sets of facts whose evidence is read again where they do not suffice; default 200
	Workers int // default: as many as there are processors
}

const page = 256 // sets of facts in memory for each worker: some 16 KiB each

// Run judges all that was recorded since the given time, and all that stands,
// by the policies of a set.
func Run(ctx context.Context, rec Recorder, set *policy.Set, o Options) (*Comparison, error) {
	o.List = cmp.Or(o.List, 1000)
	o.Fresh = cmp.Or(o.Fresh, 200)
	o.Workers = cmp.Or(o.Workers, runtime.GOMAXPROCS(0))
	r := &run{rec: rec, set: set, o: o, report: Comparison{Since: o.Since.UTC(), Groups: []FlipGroup{}, Flips: []Flip{}, Unknown: []Undecided{}}, groups: map[groupKey]*FlipGroup{}, fresh: o.Fresh}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan verify.Recorded)
	var wg sync.WaitGroup
	for range o.Workers {
		wg.Go(func() {
			for one := range work {
				if err := r.judge(ctx, &one); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	err := r.feed(ctx, work)
	close(work)
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	if err != nil {
		return nil, err
	}
	return r.finish(), nil
}

type groupKey struct {
	cause    string
	from, to Effect
}

type run struct {
	rec Recorder
	set *policy.Set
	o   Options

	mu     sync.Mutex
	report Comparison
	groups map[groupKey]*FlipGroup
	fresh  int // evidence may be read again so many times yet
}

func (r *run) feed(ctx context.Context, work chan<- verify.Recorded) error {
	after := ""
	for {
		got, err := r.rec.Recorded(ctx, r.o.Since, after, page)
		if err != nil || len(got) == 0 {
			return err
		}
		after = got[len(got)-1].FactsID
		for _, one := range got {
			if r.o.Only != nil && !r.o.Only(one.Facts.Subject, one.Facts.Scope) {
				continue
			}
			select {
			case work <- one:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
}

func (r *run) judge(ctx context.Context, one *verify.Recorded) error {
	p := r.set.For(one.Facts.Subject, one.Facts.Scope)
	if !r.o.Stages.IsZero() {
		p = p.At(r.o.Stages)
	}
	var res policy.Result
	var err error
	fresh := false
	if lacks := p.Lacks(one.Facts); len(lacks) > 0 {
		if fresh = one.Stands && r.mayRead(); !fresh {
			r.unknown(one, "the recorded facts do not hold "+strings.Join(lacks[:min(3, len(lacks))], ", ")+", which the policy reads")
			return nil
		}
		s := one.Facts.Subject
		_, res, err = r.rec.Preview(ctx, verify.Target{
			Digest: s.Digest, Kind: s.Kind, MediaType: s.MediaType, Registry: s.Registry, Repository: s.Repository, Tags: s.Tags,
		}, one.Facts.Scope, p)
	} else {
		res, err = p.Evaluate(ctx, one.Facts, one.DecidedAt)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		r.unknown(one, err.Error())
		return nil
	}
	from, to := effect(one.Verdict, one.Mode), effect(res.Verdict, res.Mode)
	if from == to {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.report.Facts++
		r.report.Decisions += one.Decisions
		r.report.Same++
		return nil
	}
	checks := res.Checks
	if to.rank() < from.rank() {
		was, err := r.rec.Get(ctx, one.DecisionID)
		if err != nil {
			return err
		}
		checks = was.Checks
	}
	r.flip(one, p, from, to, checks, fresh)
	return nil
}

func (r *run) mayRead() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fresh--
	return r.fresh >= 0
}

func (r *run) unknown(one *verify.Recorded, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Facts++
	r.report.Decisions += one.Decisions
	r.report.Unknowns++
	if len(r.report.Unknown) < r.o.List {
		r.report.Unknown = append(r.report.Unknown, Undecided{one.Digest, one.Facts.Subject.Repository, one.Facts.Scope.ID, one.DecisionID, reason})
	}
}

func (r *run) flip(one *verify.Recorded, p *policy.Policy, from, to Effect, checks []policy.Check, fresh bool) {
	f := Flip{
		Digest: one.Digest, Repository: one.Facts.Subject.Repository, Scope: one.Facts.Scope.ID, Owner: owner(one.Facts),
		From: from, To: to, Policy: p.Name(), Causes: []Cause{}, Decisions: one.Decisions, Decision: one.DecisionID, DecidedAt: one.DecidedAt.UTC(), Stands: one.Stands, Fresh: fresh,
	}
	for _, c := range checks {
		if c.Status == policy.Fail {
			f.Causes = append(f.Causes, Cause{p.Name() + ": " + c.Name, c.Expected, c.Found, c.Mend})
		}
	}
	if len(f.Causes) == 0 {
		f.Causes = append(f.Causes, Cause{Check: p.Name() + ": mode", Expected: string(from), Found: string(to)})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Facts++
	r.report.Decisions += one.Decisions
	if to.rank() > from.rank() {
		r.report.Stricter++
	} else {
		r.report.Milder++
	}
	k := groupKey{f.Causes[0].Check, from, to}
	g := r.groups[k]
	if g == nil {
		g = &FlipGroup{Cause: k.cause, From: from, To: to, Owners: []string{}, Mend: f.Causes[0].Mend, Example: f.Digest}
		r.groups[k] = g
	}
	g.Flips++
	if f.Stands {
		g.Standing++
	}
	if f.Digest < g.Example {
		g.Example, g.Mend = f.Digest, f.Causes[0].Mend
	}
	if !slices.Contains(g.Owners, f.Owner) {
		g.Owners = append(g.Owners, f.Owner)
		slices.Sort(g.Owners)
		g.Owners = g.Owners[:min(len(g.Owners), 20)]
	}
	r.report.Flips = append(r.report.Flips, f)
	if len(r.report.Flips) > 2*r.o.List {
		r.trim()
	}
}

// owner is whom a flip concerns.
func owner(f *policy.Facts) string {
	first, _, _ := strings.Cut(f.Subject.Repository, "/")
	switch s := f.Scope; {
	case s.Team != "":
		return "team " + s.Team
	case s.Service != "":
		return "service " + s.Service
	case first != "":
		return first
	}
	return "nobody named"
}

// trim keeps the flips that are listed: the stricter first, then what stands,
// then by name.
func (r *run) trim() {
	slices.SortFunc(r.report.Flips, func(a, b Flip) int {
		return cmp.Or(
			cmp.Compare(b.To.rank()-b.From.rank(), a.To.rank()-a.From.rank()),
			compareBool(b.Stands, a.Stands),
			cmp.Compare(a.Repository, b.Repository), cmp.Compare(a.Digest, b.Digest), cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Decision, b.Decision),
		)
	})
	if len(r.report.Flips) > r.o.List {
		r.report.Flips = r.report.Flips[:r.o.List]
	}
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func (r *run) finish() *Comparison {
	r.trim()
	for _, g := range r.groups {
		r.report.Groups = append(r.report.Groups, *g)
	}
	slices.SortFunc(r.report.Groups, func(a, b FlipGroup) int {
		return cmp.Or(cmp.Compare(b.To.rank()-b.From.rank(), a.To.rank()-a.From.rank()), cmp.Compare(b.Flips, a.Flips), cmp.Compare(a.Cause, b.Cause))
	})
	slices.SortFunc(r.report.Unknown, func(a, b Undecided) int {
		return cmp.Or(cmp.Compare(a.Repository, b.Repository), cmp.Compare(a.Digest, b.Digest), cmp.Compare(a.Scope, b.Scope))
	})
	r.report.Cut = r.report.Stricter+r.report.Milder > len(r.report.Flips) || r.report.Unknowns > len(r.report.Unknown)
	return &r.report
}

// Stops says why a set of policies is not to be put in force as it is: flips to
// a refusal whose cause nobody accepted, and what is unknown. accepted holds
// causes as [FlipGroup.Cause] names them.
func (r *Comparison) Stops(accepted []string) error {
	var open []string
	for _, g := range r.Groups {
		if g.To == Refused && !slices.Contains(accepted, g.Cause) {
			open = append(open, g.Cause)
		}
	}
	switch {
	case len(open) > 0:
		return fault.Newf(fault.Denied, "%d causes of refusals that are new are not accepted: %s", len(open), strings.Join(open[:min(5, len(open))], "; "))
	case r.Unknowns > 0 && !slices.Contains(accepted, "unknown"):
		return fault.Newf(fault.Denied, `of %d recorded decisions nobody can say what they would be (accept "unknown" to go on)`, r.Unknowns)
	}
	return nil
}
