package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/internal/glob"
)

// buildRule is a compiled BuildRequirement.
type buildRule struct {
	ids                             []*identity
	maxAge                          time.Duration
	noFailures, noConflict, secrets bool
	mayDiffer                       []glob.Glob
	trace                           *traceRule
}

type traceRule struct {
	undeclared, network, programs, toolchain []glob.Glob
}

func (r *BuildRequirement) compile() (*buildRule, error) {
	out := &buildRule{maxAge: time.Duration(r.MaxAge), noFailures: r.NoFailures, noConflict: r.NoConflict, secrets: r.NoSecrets}
	var err error
	if out.ids, _, err = compileSigners(r.Identities, r.Signers, nil); err != nil {
		return nil, fmt.Errorf("a statement about a build counts by who signed it: %w", err)
	}
	if out.maxAge == 0 && !r.NoFailures && !r.NoConflict && !r.NoSecrets && r.Trace == nil {
		return nil, fault.Newf(fault.Invalid, "want some of maxAge, noFailures, noConflict, noSecrets, trace")
	}
	if len(r.MayDiffer) > 0 && !r.NoConflict {
		return nil, fault.Newf(fault.Invalid, "mayDiffer is for noConflict: true")
	}
	if out.mayDiffer, err = compileGlobs("mayDiffer", r.MayDiffer); err != nil {
		return nil, err
	}
	if r.Trace == nil {
		return out, nil
	}
	t := &traceRule{}
	for _, list := range []struct {
		name string
		in   []string
		out  *[]glob.Glob
	}{
		{"undeclared", r.Trace.Undeclared, &t.undeclared},
		{"network", r.Trace.Network, &t.network},
		{"programs", r.Trace.Programs, &t.programs},
	} {
		if *list.out, err = compileGlobs("trace."+list.name, list.in); err != nil {
			return nil, err
		}
	}
	if r.Trace.Programs != nil && t.programs == nil {
		return nil, fault.Newf(fault.Invalid, "trace.programs is empty: name some, or leave it out")
	}
	if t.toolchain, err = compileGlobs("trace.toolchain", slices.Concat(MachineFiles(), r.Trace.Toolchain)); err != nil {
		return nil, err
	}
	out.trace = t
	return out, nil
}

// evaluate looks for one provenance of the signers for whose build all holds,
// and reports the one that comes closest; failures and conflicts are judged over
// all that the signers say.
func (r *buildRule) evaluate(ev *evaluation, q *quality) {
	var best []Check
	bestFailed := -1
	var count []*Provenance
	for i := range ev.facts.Provenance {
		p := &ev.facts.Provenance[i]
		a := ev.attestation(p.Attestation)
		if a == nil || !matchAny(r.ids, &a.Evidence) || q.unusable(&a.Evidence, ev.now) != "" {
			continue
		}
		count = append(count, p)
		checks := r.checks(ev, p, a)
		failed := 0
		for _, c := range checks {
			failed += b2i(c.Status == Fail)
		}
		if bestFailed < 0 || failed < bestFailed {
			best, bestFailed = checks, failed
		}
	}
	c := Check{Name: "build", Status: Pass, Expected: "provenance by " + identitiesText(r.ids) + q.text(), Found: fmt.Sprintf("%d", len(count))}
	if len(count) == 0 {
		c.Status, c.Found, c.Mend = Fail, "none"+ev.rejectedText(true), "assay run --products FILE -- COMMAND  # as "+identitiesText(r.ids)
		ev.add(c)
		return
	}
	ev.add(c)
	for _, c := range best {
		ev.add(c)
	}
	if r.noConflict {
		ev.add(r.conflict(count))
	}
	if r.noFailures {
		ev.add(r.failures(ev))
	}
}

func (r *buildRule) checks(ev *evaluation, p *Provenance, a *Attestation) (out []Check) {
	add := func(name string, ok bool, expected, found, mend string, of *Attestation) {
		out = append(out, buildCheck(name, ok, expected, found, mend, of))
	}
	if r.maxAge > 0 {
		at, ok := a.At()
		found := "built at a time that nobody trusted vouches for"
		if ok {
			found = "built " + a.TrustedTime
			ok = ev.now.Sub(at) < r.maxAge
			ev.expire(at.Add(r.maxAge))
		}
		add("age", ok, "built within "+r.maxAge.String(), found, "build it anew with assay run", a)
	}
	if r.secrets {
		add("secrets", len(p.Secrets) == 0, "no secret in the build's environment", orNone(strings.Join(p.Secrets, ", ")), "take them out of the job's environment", a)
	}
	if r.trace != nil {
		out = append(out, r.trace.checks(ev, p, a, r.ids)...)
	}
	return out
}

// checks judges the trace of the provenance's build, by the same signer.
func (r *traceRule) checks(ev *evaluation, p *Provenance, signed *Attestation, ids []*identity) []Check {
	// Of several traces of one build the worst counts: they cannot all be true.
	worst := func(checks []Check) (n int) {
		for _, c := range checks {
			n += b2i(c.Status == Fail)
		}
		return n
	}
	var found []Check
	for i := range ev.facts.Traces {
		one := &ev.facts.Traces[i]
		a := ev.attestation(one.Attestation)
		if a == nil || one.InvocationID != p.InvocationID || p.InvocationID == "" || a.Signer() != signed.Signer() || !matchAny(ids, &a.Evidence) {
			continue
		}
		if checks := r.judge(one, a); found == nil || worst(checks) > worst(found) {
			found = checks
		}
	}
	if found == nil {
		found = []Check{buildCheck("trace", false, "a complete trace of the build", "none of build "+orNone(p.InvocationID), mendTrace, signed)}
	}
	return found
}

const mendTrace = "assay run --trace --products FILE -- COMMAND"

func buildCheck(name string, ok bool, expected, found, mend string, of *Attestation) Check {
	c := Check{Name: "build/" + name, Status: Fail, Expected: expected, Found: found, Mend: mend, Evidence: []string{of.ID}, LogIndex: of.LogIndex}
	if ok {
		c.Status, c.Mend = Pass, ""
	}
	return c
}

// judge says what one trace shows.
func (r *traceRule) judge(t *Trace, of *Attestation) (out []Check) {
	add := func(name string, ok bool, expected, found, mend string) {
		out = append(out, buildCheck(name, ok, expected, found, mend, of))
	}
	found := "complete"
	if !t.Complete {
		found = "not complete: " + orNone(t.Reason)
	}
	if !t.Traced {
		found = "not traced: " + orNone(t.Reason)
	}
	add("trace", t.Traced && t.Complete, "a complete trace of the build", found, mendTrace)
	add("trace/changed", len(t.Changed) == 0, "no declared file changed during the build", listed(t.Changed), "find what writes to them; a build leaves its inputs alone")
	bad := outside(t.Undeclared, r.undeclared)
	add("trace/undeclared", len(bad) == 0, "no undeclared file read, but "+orNone(globsText(r.undeclared)), listed(bad), "declare them (--materials), or allow them")
	bad = outside(t.Toolchain, r.toolchain)
	if t.More {
		bad = append(bad, "(more than the facts hold)")
	}
	add("trace/toolchain", len(bad) == 0, "no other files taken for the machine's own", listed(bad), "allow them: trace.toolchain")
	bad = outside(t.Network, r.network)
	add("trace/network", len(bad) == 0, "no connection, but to "+orNone(globsText(r.network)), listed(bad), "take the connection out of the build, or allow it")
	if r.programs != nil {
		add("trace/programs", len(r.unknown(t)) == 0, "no program but "+globsText(r.programs)+", and what the build made", listed(r.unknown(t)), "allow them by name or digest")
	}
	return out
}

// unknown lists programs that are not among those that may run.
func (r *traceRule) unknown(t *Trace) (out []string) {
	for _, p := range t.Programs {
		if !p.Made && !matchGlobs(r.programs, p.Program) && (p.Digest == "" || !matchGlobs(r.programs, p.Digest)) {
			out = append(out, p.Program)
		}
	}
	return out
}

// outside lists what no pattern covers. A folder, with "/" at its end, stands
// for files below it that are not named, so that only a pattern for everything
// below covers it.
func outside(list []string, allowed []glob.Glob) (out []string) {
	for _, name := range list {
		folder, is := strings.CutSuffix(name, "/")
		if !slices.ContainsFunc(allowed, func(g glob.Glob) bool {
			return g.Match(folder) && (!is || g.String() == "**" || strings.HasSuffix(g.String(), "/**"))
		}) {
			out = append(out, name)
		}
	}
	return out
}

func listed(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	s := clip(strings.Join(list[:min(len(list), 5)], ", "), 400)
	if n := len(list) - 5; n > 0 {
		s += fmt.Sprintf(", %d more", n)
	}
	return s
}

// conflict says in what the signers' provenance differs.
func (r *buildRule) conflict(all []*Provenance) Check {
	c := Check{Name: "build/conflict", Status: Pass, Expected: "all provenance tells of the same environment", Found: "the same"}
	if len(r.mayDiffer) > 0 {
		c.Expected += ", but for " + globsText(r.mayDiffer)
	}
	var bad []string
	for i, a := range all {
		c.Evidence = append(c.Evidence, a.Attestation)
		for _, b := range all[i+1:] {
			for _, name := range Differences(a.Environment, b.Environment) {
				if !matchGlobs(r.mayDiffer, name) && !slices.Contains(bad, name) {
					bad = append(bad, name)
				}
			}
		}
	}
	c.Evidence = c.Evidence[:min(len(c.Evidence), maxEvidence)]
	if len(bad) > 0 {
		slices.Sort(bad)
		c.Status, c.Found = Fail, "differs in "+listed(bad)
		c.Mend = "assay evidence list --type https://slsa.dev/provenance/v1; one of them is not how this was built, or name what may differ in mayDiffer"
	}
	return c
}

func (r *buildRule) failures(ev *evaluation) Check {
	c := Check{Name: "build/failures", Status: Pass, Expected: "no failed build left this artifact", Found: "none"}
	for _, f := range ev.facts.FailedBuilds {
		a := ev.attestation(f.Attestation)
		if a == nil || !matchAny(r.ids, &a.Evidence) {
			continue
		}
		c.Status, c.Found, c.Evidence, c.LogIndex = Fail, "build "+orNone(f.InvocationID)+" failed: "+clip(f.Reason, 60), []string{a.ID}, a.LogIndex
		c.Mend = "build it anew with assay run, and ship what a build made that succeeded"
		break
	}
	return c
}
