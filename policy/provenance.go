package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"assay/internal/fault"
	"assay/internal/glob"
)

// provenanceRule is a compiled ProvenanceRequirement.
type provenanceRule struct {
	builders   []builderRule
	minLevel   int
	buildTypes []string
	sources    []glob.Glob
	refs       []glob.Glob
	params     *paramRule
}

type builderRule struct {
	id     string
	signer *identity
	level  int
}

func (b Builder) compile() (builderRule, error) {
	if b.ID == "" {
		return builderRule{}, fault.Newf(fault.Invalid, "id is wanted")
	}
	if b.Level < 1 || b.Level > maxLevel {
		return builderRule{}, fault.Newf(fault.Invalid, "level %d: want 1 to %d", b.Level, maxLevel)
	}
	id, err := b.Signer.compile()
	if err != nil {
		return builderRule{}, fmt.Errorf("signer: %w", err)
	}
	return builderRule{b.ID, id, b.Level}, nil
}

// maxLevel is the highest SLSA build level: 1.0 defines three, 0.1 had four.
const maxLevel = 4

func (r *ProvenanceRequirement) compile() (*provenanceRule, error) {
	out := &provenanceRule{minLevel: r.MinLevel, buildTypes: r.BuildTypes}
	if r.MinLevel < 0 || r.MinLevel > maxLevel {
		return nil, fault.Newf(fault.Invalid, "minLevel %d: want 1 to %d", r.MinLevel, maxLevel)
	}
	if len(r.Builders) == 0 && r.MinLevel < 2 {
		return nil, fault.Newf(fault.Invalid, "name builders with their signers, or a minLevel of 2 or more: level 1 is what any signer's provenance has")
	}
	for i, b := range r.Builders {
		c, err := b.compile()
		if err != nil {
			return nil, fmt.Errorf("builders[%d]: %w", i, err)
		}
		out.builders = append(out.builders, c)
	}
	if len(r.Builders) > 0 && !slices.ContainsFunc(r.Builders, func(b Builder) bool { return b.Level >= r.MinLevel }) {
		return nil, fault.Newf(fault.Invalid, "minLevel %d can never be met: no named builder has it", r.MinLevel)
	}
	for _, t := range r.BuildTypes {
		if t == "" {
			return nil, fault.Newf(fault.Invalid, "buildTypes has an empty entry")
		}
	}
	var err error
	sources := slices.Clone(r.Sources)
	for i, s := range sources {
		sources[i] = strings.TrimPrefix(s, "git+") // facts name sources without it
	}
	if out.sources, err = compileGlobs("sources", sources); err != nil {
		return nil, err
	}
	if out.refs, err = compileGlobs("refs", r.Refs); err != nil {
		return nil, err
	}
	if r.ExternalParameters != nil {
		if out.params, err = r.ExternalParameters.compile(); err != nil {
			return nil, fmt.Errorf("externalParameters: %w", err)
		}
	}
	return out, nil
}

func compileGlobs(what string, in []string) ([]glob.Glob, error) {
	if in != nil && len(in) == 0 {
		return nil, fault.Newf(fault.Invalid, "%s is empty: name at least one, or leave it out", what)
	}
	var out []glob.Glob
	for i, s := range in {
		g, err := glob.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", what, i, err)
		}
		out = append(out, g)
	}
	return out, nil
}

func matchGlobs(gs []glob.Glob, s string) bool {
	return slices.ContainsFunc(gs, func(g glob.Glob) bool { return g.Match(s) })
}

func globsText(gs []glob.Glob) string {
	var parts []string
	for _, g := range gs {
		parts = append(parts, g.String())
	}
	return clip(strings.Join(parts, " or "), 300)
}

// evaluate looks for one provenance for which all holds, and reports the one
// that comes closest.
func (r *provenanceRule) evaluate(ev *evaluation, q *quality) {
	var best []Check
	var bestE *Evidence
	bestFailed, bestLevel := -1, 0
	for i := range ev.facts.Provenance {
		p := &ev.facts.Provenance[i]
		e := ev.attestation(p.Attestation)
		if e == nil {
			continue // a view without verified evidence proves nothing
		}
		checks, level := r.checks(ev, q, p, &e.Evidence)
		failed := 0
		for _, c := range checks {
			if c.Status == Fail {
				failed++
			}
		}
		if bestFailed < 0 || failed < bestFailed {
			best, bestFailed, bestE, bestLevel = checks, failed, &e.Evidence, level
		}
	}
	if best == nil {
		ev.add(Check{
			Name: "provenance", Status: Fail, Expected: "provenance by " + r.buildersText() + q.text(),
			Found: "no provenance" + ev.rejectedText(true), Mend: r.mend(ev),
		})
		return
	}
	for _, c := range best {
		c.Evidence, c.LogIndex = []string{bestE.ID}, bestE.LogIndex
		if c.Status == Fail {
			c.Mend = r.mend(ev)
		}
		ev.add(c)
	}
	if bestFailed == 0 {
		ev.level = max(ev.level, bestLevel)
	}
	if at, ok := bestE.At(); ok && q.maxAge > 0 && bestFailed == 0 {
		ev.expire(at.Add(q.maxAge))
	}
}

func (r *provenanceRule) checks(ev *evaluation, q *quality, p *Provenance, e *Evidence) (out []Check, level int) {
	add := func(name string, ok bool, expected, found string) {
		s := Fail
		if ok {
			s = Pass
		}
		out = append(out, Check{Name: "provenance/" + name, Status: s, Expected: expected, Found: found})
	}
	level = p.Level
	if len(r.builders) > 0 {
		level = 0
		for _, b := range r.builders {
			if b.id == p.BuilderID && b.signer.matches(e) {
				level = max(level, b.level)
			}
		}
		add("builder", level > 0, r.buildersText(), clip(p.BuilderID, 200)+", signed by "+e.SignerText())
	}
	if r.minLevel > 0 {
		add("level", level >= r.minLevel, fmt.Sprintf("build level %d or more, as configured for the builder", r.minLevel), fmt.Sprintf("level %d", level))
	}
	if len(r.buildTypes) > 0 {
		add("buildType", slices.Contains(r.buildTypes, p.BuildType), clip(strings.Join(r.buildTypes, " or "), 300), orNone(p.BuildType))
	}
	if r.sources != nil {
		add("source", p.Source.URI != "" && matchGlobs(r.sources, p.Source.URI), globsText(r.sources), orNone(p.Source.URI))
	}
	if r.refs != nil {
		add("ref", p.Source.Ref != "" && matchGlobs(r.refs, p.Source.Ref), globsText(r.refs), orNone(p.Source.Ref))
	}
	if r.params != nil {
		bad := r.params.refuse(p.ExternalParameters)
		found := "no other"
		if bad != "" {
			found = bad
		}
		add("externalParameters", bad == "", "only "+r.params.text(), found)
	}
	if why := q.unusable(e, ev.now); q.text() != "" {
		add("evidence", why == "", strings.TrimPrefix(q.text(), ", "), orElse(why, "as expected"))
	}
	return out, level
}

func (r *provenanceRule) buildersText() string {
	if len(r.builders) == 0 {
		return fmt.Sprintf("a builder configured with level %d or more", r.minLevel)
	}
	var parts []string
	for i, b := range r.builders {
		if i == 3 && len(r.builders) > 4 {
			parts = append(parts, fmt.Sprintf("%d more", len(r.builders)-i))
			break
		}
		parts = append(parts, clip(b.id, 200)+" signed by "+b.signer.text)
	}
	return strings.Join(parts, " or ")
}

func (r *provenanceRule) mend(ev *evaluation) string {
	s := "assay attest --type https://slsa.dev/provenance/v1 --predicate FILE " + ev.target + "  # in a build by " + r.buildersText()
	if r.sources != nil {
		s += ", from " + globsText(r.sources)
	}
	if r.refs != nil {
		s += " at " + globsText(r.refs)
	}
	return s
}

func orNone(s string) string { return orElse(clip(s, 200), "none") }

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// paramRule is a compiled ExternalParameters.
type paramRule struct {
	allow map[string][]string // name to canonical values
	any   map[string]bool
	names []string
}

func (x *ExternalParameters) compile() (*paramRule, error) {
	out := &paramRule{allow: map[string][]string{}, any: map[string]bool{}}
	for _, name := range slices.Sorted(maps.Keys(x.Allow)) {
		if name == "" || len(x.Allow[name]) == 0 {
			return nil, fault.Newf(fault.Invalid, "allow %.60q: want a name and at least one value; use allowAny where the value does not matter", name)
		}
		for _, v := range x.Allow[name] {
			c, err := canonicalJSON(v.JSON)
			if err != nil {
				return nil, err
			}
			out.allow[name] = append(out.allow[name], string(c))
		}
		out.names = append(out.names, name)
	}
	for _, name := range x.AllowAny {
		if name == "" || out.any[name] || out.allow[name] != nil {
			return nil, fault.Newf(fault.Invalid, "allowAny %.60q: empty, or named twice", name)
		}
		out.any[name] = true
		out.names = append(out.names, name)
	}
	slices.Sort(out.names)
	return out, nil
}

func (r *paramRule) text() string {
	if len(r.names) == 0 {
		return "no external parameter at all"
	}
	return clip(strings.Join(r.names, ", "), 300) + " with their allowed values"
}

// refuse names the first parameter, in name order, that is unknown, has another
// value, or is missing; "" when none. Unset, null and empty are the same, and
// are allowed where null is among the allowed values.
func (r *paramRule) refuse(params map[string]any) string {
	seen := map[string]bool{}
	if bad := r.walk("", params, seen); bad != "" {
		return bad
	}
	for _, name := range r.names {
		if !seen[name] && !r.any[name] && !slices.Contains(r.allow[name], "null") {
			return clip(name, 100) + " is absent"
		}
	}
	return ""
}

func (r *paramRule) walk(prefix string, params map[string]any, seen map[string]bool) string {
	for _, k := range sortedKeys(params) {
		v, name := params[k], prefix+k
		if IsEmpty(v) || r.any[name] {
			continue
		}
		if allowed, named := r.allow[name]; named {
			c, err := canonicalJSON(v)
			if err != nil || !slices.Contains(allowed, string(c)) {
				return clip(name, 100) + " = " + describe(v)
			}
			seen[name] = true
			continue
		}
		inner, object := v.(map[string]any)
		if !object || !slices.ContainsFunc(r.names, func(n string) bool { return strings.HasPrefix(n, name+".") }) {
			return clip(name, 100) + " is not named by the policy"
		}
		if bad := r.walk(name+".", inner, seen); bad != "" {
			return bad
		}
	}
	return ""
}
