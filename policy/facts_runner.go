package policy

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"assay/internal/fault"
)

// Runner is what verified runner evidence says of the machine that built the
// artifact, and what the site found when it compared that build with earlier
// ones of the same source.
type Runner struct {
	Attestation  string          `json:"attestation"`            // id of the attestation
	Provenance   string          `json:"provenance,omitempty"`   // attestation of the same signer about the same run; absent: there is none, and the machine is bound to no build
	InvocationID string          `json:"invocation_id"`          // of the build
	Kind         string          `json:"kind"`                   // container, vm, host or unknown
	Fresh        bool            `json:"fresh"`                  // no job used the machine before, as it says and as far as is known here
	Builds       int             `json:"builds"`                 // earlier builds that the machine knows of
	Age          int64           `json:"age"`                    // seconds since it started
	ClockOffset  *int64          `json:"clock_offset,omitempty"` // milliseconds that its clock was ahead of the server's; absent: nobody was asked
	Image        string          `json:"image,omitempty"`        // what it was made from
	State        string          `json:"state,omitempty"`        // of the comparison: compared, accepted, first or none; absent: nobody compared
	Traced       bool            `json:"traced"`                 // a trace of the build was compared too
	Open         int             `json:"open"`                   // anomalies that nobody accepted
	Anomalies    []RunnerAnomaly `json:"anomalies,omitempty"`    // of them, at most 16
}

// RunnerAnomaly is one thing that was not so in earlier builds.
type RunnerAnomaly struct {
	ID     string `json:"id"`               // ano_…
	Kind   string `json:"kind"`             // egress, domain, tool, program, command, trace, reuse, hidden, cache, more
	Name   string `json:"name"`             // of the tool, cache or protocol
	Before string `json:"before,omitempty"` // what was usual
	After  string `json:"after"`            // what is new
}

// RunnerRequirement wants evidence about the machine of every build that a
// wanted signer tells of, at least one, and all that is given to hold.
type RunnerRequirement struct {
	Identities    []IdentityMatch `yaml:"identities,omitempty" json:"identities,omitempty"`       // whose word counts: the builds' signers
	Signers       string          `yaml:"signers,omitempty" json:"signers,omitempty"`             // "delegated", in place of identities
	Ephemeral     bool            `yaml:"ephemeral,omitempty" json:"ephemeral,omitzero"`          // no job used the machine before
	Anomalies     string          `yaml:"anomalies,omitempty" json:"anomalies,omitempty"`         // "none": compared with earlier builds, and nothing is new that nobody accepted
	Kinds         []string        `yaml:"kinds,omitempty" json:"kinds,omitempty"`                 // of machine: container, vm, host, unknown
	MaxMachineAge Duration        `yaml:"maxMachineAge,omitempty" json:"maxMachineAge,omitempty"` // since the machine started; it says so itself
	MaxClockSkew  Duration        `yaml:"maxClockSkew,omitempty" json:"maxClockSkew,omitempty"`   // between its clock and the server's
	Traced        bool            `yaml:"traced,omitempty" json:"traced,omitzero"`                // a trace was compared too
}

type runnerRule struct {
	RunnerRequirement
	ids []*identity
}

func (r *RunnerRequirement) compile() (*runnerRule, error) {
	out := &runnerRule{RunnerRequirement: *r}
	var err error
	if out.ids, _, err = compileSigners(r.Identities, r.Signers, nil); err != nil {
		return nil, fmt.Errorf("a machine's evidence counts by who signed it: %w", err)
	}
	if r.Anomalies != "" && r.Anomalies != "none" {
		return nil, fault.Newf(fault.Invalid, "anomalies %.40q: want none", r.Anomalies)
	}
	for _, k := range r.Kinds {
		switch k {
		case "container", "vm", "host", "unknown":
		default:
			return nil, fault.Newf(fault.Invalid, "kinds: %.40q, want container, vm, host or unknown", k)
		}
	}
	if r.Kinds != nil && len(r.Kinds) == 0 {
		return nil, fault.Newf(fault.Invalid, "kinds is empty: name at least one, or leave it out")
	}
	return out, nil
}

func (r *runnerRule) text() string {
	words := []string{"evidence about the machine"}
	add := func(is bool, word string) {
		if is {
			words = append(words, word)
		}
	}
	add(r.Ephemeral, "no job used it before")
	add(r.Anomalies != "", "nothing new beside earlier builds of the source")
	add(r.Traced, "a trace among what was compared")
	add(r.Kinds != nil, "a "+strings.Join(r.Kinds, " or "))
	add(r.MaxMachineAge > 0, "at most "+time.Duration(r.MaxMachineAge).String()+" old")
	add(r.MaxClockSkew > 0, "its clock within "+time.Duration(r.MaxClockSkew).String())
	return strings.Join(words, ", ") + ", by " + identitiesText(r.ids)
}

// holds says what is wrong with one machine; "" when nothing is.
func (r *runnerRule) holds(f *Runner) string {
	switch {
	case f.Provenance == "":
		return "no provenance of the same signer about build " + clip(f.InvocationID, 80)
	case r.Ephemeral && !f.Fresh:
		return "used before, by " + strconv.Itoa(f.Builds) + " builds as it says"
	case r.Kinds != nil && !oneOfStrings(f.Kind, r.Kinds):
		return "a " + clip(f.Kind, 20)
	case r.MaxMachineAge > 0 && time.Duration(f.Age) > time.Duration(r.MaxMachineAge)/time.Second:
		return (time.Duration(f.Age) * time.Second).String() + " old"
	case r.MaxClockSkew > 0 && f.ClockOffset == nil:
		return "nobody was asked for the time"
	case r.MaxClockSkew > 0 && time.Duration(max(*f.ClockOffset, -*f.ClockOffset)) > time.Duration(r.MaxClockSkew)/time.Millisecond:
		return "its clock is off by " + (time.Duration(*f.ClockOffset) * time.Millisecond).String()
	case r.Anomalies == "" && !r.Traced:
		return ""
	}
	switch f.State {
	case "compared", "accepted":
	case "first":
		return "the first build of its source, compared with none"
	case "none":
		return "no earlier build to compare it with"
	default:
		return "not compared with earlier builds"
	}
	if r.Traced && !f.Traced {
		return "no trace of the build was compared"
	}
	if r.Anomalies == "" || f.Open == 0 {
		return ""
	}
	var all []string
	for i, a := range f.Anomalies {
		if i == 3 {
			break
		}
		all = append(all, clip(a.Kind+" "+a.Name+": "+a.After, 120))
	}
	return clip(fmt.Sprintf("%d new: %s", f.Open, strings.Join(all, "; ")), 400)
}

func oneOfStrings(s string, all []string) bool {
	for _, a := range all {
		if s == a {
			return true
		}
	}
	return false
}

// evaluate judges every build that a wanted signer tells of: one bad machine that
// made the artifact is enough.
func (r *runnerRule) evaluate(ev *evaluation, q *quality) {
	var t tally
	var wrong []string
	c := Check{Name: "runner", Status: Pass, Expected: r.text() + q.text()}
	mend := ""
	for i := range ev.facts.Runners {
		f := &ev.facts.Runners[i]
		a := ev.attestation(f.Attestation)
		switch {
		case a == nil:
			continue
		case !matchAny(r.ids, &a.Evidence):
			t.other(&a.Evidence)
			continue
		}
		if why := q.unusable(&a.Evidence, ev.now); why != "" {
			t.refuse(why)
			continue
		}
		t.count(&a.Evidence)
		if why := r.holds(f); why != "" {
			wrong = append(wrong, clip(f.InvocationID, 60)+": "+why)
			if mend == "" && len(f.Anomalies) > 0 {
				mend = "assay runner show " + clip(f.InvocationID, 80) + "  # and, as an approver: assay runner accept " + f.Anomalies[0].ID + " --reason TEXT"
			} else if mend == "" && f.State == "first" {
				mend = "assay runner show " + clip(f.InvocationID, 80) + "  # and, as an approver: assay runner accept ID --reason TEXT"
			}
		}
		if at, ok := a.At(); ok && q.maxAge > 0 {
			ev.expire(at.Add(q.maxAge))
		}
	}
	for _, e := range t.evidence[:min(len(t.evidence), maxEvidence)] {
		c.Evidence = append(c.Evidence, e.ID)
		if c.LogIndex == nil {
			c.LogIndex = e.LogIndex
		}
	}
	switch {
	case len(t.evidence) == 0:
		c.Status, c.Found = Fail, t.found(1, "runner evidence")+ev.rejectedText(true)
	case len(wrong) > 0:
		c.Status, c.Found = Fail, clip(strings.Join(wrong, "; "), 600)
	default:
		c.Found = "as expected"
	}
	if c.Status == Fail {
		if c.Mend = mend; mend == "" {
			c.Mend = "assay run --products FILE -- COMMAND  # as " + identitiesText(r.ids) + ", on such a machine"
		}
	}
	ev.add(c)
}
