package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"assay/internal/fault"
)

// Rollout gives some of a policy's rules a mode of their own, which may change
// by stages: recorded first, then told of, then refused for a share of the
// repositories, then for all. Of several that cover a rule and a target, the
// first counts.
type Rollout struct {
	Rules  []string  `yaml:"rules" json:"rules"`                     // names of checks, all below one ("signatures/*"), or "*"
	Scope  *Selector `yaml:"scope,omitempty" json:"scope,omitempty"` // absent: wherever the policy holds
	Stages []Stage   `yaml:"stages" json:"stages"`                   // by time; the first has no from
}

// Stage is a mode from an instant on.
type Stage struct {
	Mode Mode   `yaml:"mode" json:"mode"`
	From string `yaml:"from,omitempty" json:"from,omitempty"` // RFC 3339, or a date: its midnight in UTC
	// Share is the percentage of repositories that the stage has reached, by a hash
	// of their names and the policy's; for the others the stage before it goes on.
	Share *float64 `yaml:"share,omitempty" json:"share,omitempty"` // above 0, at most 100; default 100
}

// Bounds of a roll-out.
const (
	maxRollouts = 64
	maxStages   = 16
	everyRule   = "*"
)

// rollout is a compiled Rollout.
type rollout struct {
	rules  []string
	scope  *selector
	stages []stage
}

type stage struct {
	mode  Mode
	from  time.Time // zero: from the beginning
	share uint64    // in steps of a millionth of the repositories
}

const wholeShare = 1_000_000

func compileRollouts(in []Rollout) ([]rollout, error) {
	if len(in) > maxRollouts {
		return nil, fault.Newf(fault.Invalid, "spec.rollout: %d entries; want at most %d", len(in), maxRollouts)
	}
	var out []rollout
	for i := range in {
		r, err := in[i].compile()
		if err != nil {
			return nil, fmt.Errorf("spec.rollout[%d]: %w", i, err)
		}
		out = append(out, r)
	}
	return out, nil
}

func (r *Rollout) compile() (out rollout, err error) {
	if len(r.Rules) == 0 || len(r.Rules) > 64 {
		return out, fault.Newf(fault.Invalid, "rules: %d names; want 1 to 64 names of checks, as `assay policy explain` lists them, or %q", len(r.Rules), everyRule)
	}
	for _, name := range r.Rules {
		below := strings.TrimSuffix(name, "/*")
		if name != everyRule && (below == "" || len(name) > 200 || strings.ContainsAny(below, "*\n\r\t")) {
			return out, fault.Newf(fault.Invalid, "rules: %.80q; want the name of a check, a name and /* for all below it, or %q", name, everyRule)
		}
	}
	if out.scope, err = r.Scope.compile(); err != nil {
		return out, fmt.Errorf("scope: %w", err)
	}
	if len(r.Stages) == 0 || len(r.Stages) > maxStages {
		return out, fault.Newf(fault.Invalid, "stages: %d; want 1 to %d", len(r.Stages), maxStages)
	}
	out.rules = slices.Clone(r.Rules)
	for i, s := range r.Stages {
		c, err := s.compile()
		if err != nil {
			return out, fmt.Errorf("stages[%d]: %w", i, err)
		}
		if err := c.after(out.stages); err != nil {
			return out, fmt.Errorf("stages[%d]: %w", i, err)
		}
		out.stages = append(out.stages, c)
	}
	return out, nil
}

func (s *Stage) compile() (out stage, err error) {
	if s.Mode.strictness() == 0 {
		return out, fault.Newf(fault.Invalid, "mode %.40q; want audit, warn or enforce", s.Mode)
	}
	out.mode, out.share = s.Mode, wholeShare
	if s.From != "" {
		if out.from, err = time.Parse(time.RFC3339, s.From); err != nil {
			if out.from, err = time.Parse(time.DateOnly, s.From); err != nil {
				return out, fault.Newf(fault.Invalid, "from %.40q; want an instant such as 2026-12-01T09:00:00Z, or a date", s.From)
			}
		}
	}
	if s.Share != nil {
		if v := *s.Share; math.IsNaN(v) || v <= 0 || v > 100 {
			return out, fault.Newf(fault.Invalid, "share %v; want a percentage above 0, at most 100", v)
		}
		out.share = max(1, uint64(math.Round(*s.Share*wholeShare/100)))
	}
	return out, nil
}

// after checks a stage against those before it: a roll-out goes forward. To take
// one back, write it anew.
func (s *stage) after(before []stage) error {
	if len(before) == 0 {
		if !s.from.IsZero() || s.share != wholeShare {
			return fault.Newf(fault.Invalid, "the first stage is what holds before any other: it has no from and no share")
		}
		return nil
	}
	last := before[len(before)-1]
	switch {
	case !s.from.After(last.from):
		return fault.Newf(fault.Invalid, "from: want an instant after that of the stage before it")
	case s.mode.strictness() < last.mode.strictness():
		return fault.Newf(fault.Invalid, "mode %s after %s: stages grow stricter", s.mode, last.mode)
	case s.mode == last.mode && s.share <= last.share:
		return fault.Newf(fault.Invalid, "mode %s again: want a greater share than the stage before it", s.mode)
	}
	return nil
}

// covers says whether the roll-out has a word about a rule, by its name within
// its policy.
func (r *rollout) covers(name string) bool {
	return slices.Contains(r.rules, everyRule) || CoversCheck(r.rules, name)
}

// at gives the stage that has reached a target, and the first instant at which
// that may change; zero: never.
func (r *rollout) at(place uint64, now time.Time) (s stage, next time.Time) {
	for _, o := range r.stages {
		if place >= o.share {
			continue
		}
		if now.Before(o.from) {
			return s, o.from
		}
		s = o
	}
	return s, time.Time{}
}

// placeOf puts a target's repository on the scale from 0 to wholeShare. It has
// another place for each policy, so that it is not always the same ones that are
// first. A file, which has no repository, is placed by its digest.
func placeOf(policy string, sub Subject) uint64 {
	name := sub.Registry + "/" + sub.Repository
	if sub.Repository == "" {
		name = string(sub.Digest)
	}
	sum := sha256.Sum256([]byte("assay rollout\n" + policy + "\n" + name))
	return binary.BigEndian.Uint64(sum[:]) % wholeShare
}

// span is the checks that a unit added.
type span struct {
	unit     *unit
	from, to int
}

// modes finds with which mode each failed check counts, and gives the strictest:
// a policy's own, or that of the stage that the rule is in. What stands before the
// policies' own checks (evidence not read whole, stale trust, a revocation) counts
// with the strictest mode of all, and so does a flaw that nothing excuses with no
// milder one than its policy's. Checks that count with a milder mode than the
// result's say so.
func (ev *evaluation) modes(p *Policy, head int) Mode {
	strictest := p.mode
	each := make([]Mode, len(ev.checks))
	for _, s := range ev.spans {
		for _, m := range s.unit.live(ev.facts, ev.stagesAt) {
			strictest = stricter(strictest, m)
		}
		for i := s.from; i < s.to; i++ {
			if c := &ev.checks[i]; c.Status == Fail {
				each[i] = ev.modeOf(s.unit, c)
			}
		}
	}
	result := Mode("")
	for i := range ev.checks {
		if ev.checks[i].Status != Fail {
			continue
		}
		if i < head || each[i] == "" {
			each[i] = strictest
		}
		result = stricter(result, each[i])
	}
	if result == "" { // nothing failed: what would count if something did
		return strictest
	}
	for i := range ev.checks {
		if ev.checks[i].Mode = ""; each[i] != result {
			ev.checks[i].Mode = each[i]
		}
	}
	return result
}

func stricter(a, b Mode) Mode {
	if b.strictness() > a.strictness() {
		return b
	}
	return a
}

// modeOf is the mode with which a failed check counts.
func (ev *evaluation) modeOf(u *unit, c *Check) Mode {
	mode := ev.stageOf(u, c)
	if c.atMost != "" && c.atMost.strictness() < mode.strictness() {
		return c.atMost
	}
	return mode
}

// stageOf is the mode of a unit's rule.
func (ev *evaluation) stageOf(u *unit, c *Check) Mode {
	name := c.Name
	if ev.combined {
		name = strings.TrimPrefix(name, u.name+"/")
	}
	for i := range u.rollouts {
		r := &u.rollouts[i]
		if _, ok := r.scope.match(ev.facts.Subject, ev.facts.Scope); !ok || !r.covers(name) {
			continue
		}
		s, next := r.at(placeOf(u.name, ev.facts.Subject), ev.stagesAt)
		if c.grave == unexcusable && s.mode.strictness() < u.mode.strictness() {
			return u.mode
		}
		ev.expire(next)
		c.Stage = stageText(s, next)
		return s.mode
	}
	return u.mode
}

func stageText(s stage, next time.Time) string {
	text := string(s.mode)
	if s.share < wholeShare {
		text += fmt.Sprintf(" for %g %% of repositories, of which this is one", float64(s.share)*100/wholeShare)
	}
	if !next.IsZero() {
		text += ", until " + next.UTC().Format(time.RFC3339)
	}
	return text
}

// live lists the modes that some rule of the unit has for a target now.
func (u *unit) live(f *Facts, now time.Time) []Mode {
	out := []Mode{u.mode}
	for i := range u.rollouts {
		if _, ok := u.rollouts[i].scope.match(f.Subject, f.Scope); ok {
			s, _ := u.rollouts[i].at(placeOf(u.name, f.Subject), now)
			out = append(out, s.mode)
		}
	}
	return out
}

// Enforces says whether a denial by the policy may refuse, now or at a later
// stage of a roll-out.
func (p *Policy) Enforces() bool {
	return p.mode == Enforce || slices.ContainsFunc(p.units, func(u *unit) bool {
		return slices.ContainsFunc(u.rollouts, func(r rollout) bool {
			return slices.ContainsFunc(r.stages, func(s stage) bool { return s.mode == Enforce })
		})
	})
}

// RuleMode is the mode that a rule of a policy has for a target, and until when.
type RuleMode struct {
	Mode  Mode      `json:"mode"`
	Share float64   `json:"share,omitzero"` // percent of repositories, where less than all
	Until time.Time `json:"until,omitzero"` // the next stage begins
	Next  Mode      `json:"next,omitempty"`
}

// ModeOf gives the mode of a rule of a policy that is not combined, for a target.
func (p *Policy) ModeOf(rule string, sub Subject, sc Scope, now time.Time) RuleMode {
	out := RuleMode{Mode: p.mode}
	for _, u := range p.units {
		for i := range u.rollouts {
			r := &u.rollouts[i]
			if _, ok := r.scope.match(sub, sc); !ok || !r.covers(rule) {
				continue
			}
			s, next := r.at(placeOf(u.name, sub), now)
			out.Mode, out.Until = s.mode, next
			if s.share < wholeShare {
				out.Share = float64(s.share) * 100 / wholeShare
			}
			if !next.IsZero() {
				then, _ := r.at(placeOf(u.name, sub), next)
				out.Next = then.mode
			}
			return out
		}
	}
	return out
}

// At is the policy as it will be at an instant: roll-outs are in the stage that
// they will be in then, whenever it is asked. It keeps its hash, so no decision is
// made by it.
func (p *Policy) At(t time.Time) *Policy {
	out := *p
	out.stagesAt = t
	return &out
}

// RolloutTexts says in words what a policy's roll-outs are.
func RolloutTexts(d *Document) []string {
	var out []string
	for _, r := range d.Spec.Rollout {
		text := strings.Join(r.Rules, ", ")
		if r.Scope != nil {
			text += " in " + selectorText(r.Scope)
		}
		for i, s := range r.Stages {
			text += [...]string{": ", "; "}[min(i, 1)] + string(s.Mode)
			if s.From != "" {
				text += " from " + s.From
			}
			if s.Share != nil {
				text += fmt.Sprintf(" for %g %% of repositories", *s.Share)
			}
		}
		out = append(out, text)
	}
	return out
}

func rolloutText(d *Document) string { return strings.Join(RolloutTexts(d), " | ") }

// rollouts looks for entries that concern nothing, or that no target comes to.
func (l *linter) rollouts(d *Document) {
	if len(d.Spec.Rollout) == 0 {
		return
	}
	p, err := Compile(d)
	if err != nil {
		return // which is an error of its own
	}
	checks, err := p.Explain(Subject{}, Scope{})
	if err != nil {
		return
	}
	for i, r := range p.units[0].rollouts {
		field := fmt.Sprintf("spec.rollout[%d]", i)
		for _, rule := range r.rules {
			one := rollout{rules: []string{rule}}
			if !slices.ContainsFunc(checks, func(c Check) bool { return one.covers(c.Name) }) {
				l.add(field+".rules", "of an artifact without evidence no check is named "+rule, "assay policy explain "+l.policy+".yaml  # lists the names")
			}
		}
		if last := r.stages[len(r.stages)-1].mode; last != Enforce && p.mode == Enforce {
			l.add(field+".stages", "the last stage is "+string(last)+": these rules never refuse", "add a stage of mode enforce")
		}
		for k, before := range p.units[0].rollouts[:i] {
			if d.Spec.Rollout[k].Scope == nil && !slices.ContainsFunc(r.rules, func(rule string) bool { return !before.covers(rule) }) {
				l.add(field, fmt.Sprintf("spec.rollout[%d] covers all that this names, and the first counts", k), "put the narrower one first")
				break
			}
		}
	}
}

// SetRollout is a policy's text with a mode for some of its rules, in a scope, in
// front of the roll-outs that it has: entries with the same rules and scope
// are replaced.
func SetRollout(text []byte, rules []string, scope *Selector, m Mode) ([]byte, error) {
	return editSpec(text, func(d *Document) (string, any, error) {
		now := Rollout{Rules: rules, Scope: scope, Stages: []Stage{{Mode: m}}}
		key := selectorText(scope)
		kept := slices.DeleteFunc(slices.Clone(d.Spec.Rollout), func(r Rollout) bool {
			return slices.Equal(r.Rules, rules) && selectorText(r.Scope) == key
		})
		return "rollout", append([]Rollout{now}, kept...), nil
	})
}

// Failed lists the checks that failed, those before that count with the strictest
// mode.
func Failed(checks []Check) (out []Check) {
	for _, c := range checks {
		if c.Status == Fail {
			out = append(out, c)
		}
	}
	slices.SortStableFunc(out, func(a, b Check) int { return precedence(b.Mode) - precedence(a.Mode) })
	return out
}

// precedence orders modes of checks, where none is the result's, the strictest.
func precedence(m Mode) int {
	if m == "" {
		return Enforce.strictness() + 1
	}
	return m.strictness()
}
