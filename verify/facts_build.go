package verify

import (
	"slices"
	"strings"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/policy"
)

// Bounds of what enters the facts of one build, which hold 64 KiB in all.
const (
	maxEnvironment = 32 // members; further tools stand together as one
	maxBuildNames  = 32 // undeclared and changed files, by folders where there are more
	maxBuildList   = 64 // programs, addresses, names, patterns
)

// ptraceMonitor is the monitor whose traces are known, builder's own;
// TestThreat_Build_TraceReachesPolicy of e2e holds the two together.
const ptraceMonitor = "https://assay.dev/monitors/ptrace/v1"

// buildOf is what a provenance tells of its build.
func buildOf(p *attestation.Provenance) policy.ProvenanceBuild {
	env := map[string]string{}
	set := func(name, value string) {
		if value == "" {
			return
		}
		if len(value) > 120 {
			value = string(artifact.SHA256Of([]byte(value)))
		}
		env[name] = value
	}
	set("builder", p.BuilderID)
	set("type", p.BuildType)
	set("source", p.SourceURI)
	set("commit", sourceDigest(p.SourceDigest))
	for _, name := range []string{"os", "arch"} {
		if s, ok := p.InternalParameters[name].(string); ok {
			set(name, s)
		}
	}
	parameters := map[string]any{}
	for k, v := range p.ExternalParameters {
		switch {
		case k == "source":
		case k == "command":
			if b, err := strictjson.Canonical(portable(v)); err == nil {
				set("command", string(b))
			}
		case !policy.IsEmpty(v):
			parameters[k] = portable(v)
		}
	}
	if b, err := strictjson.Canonical(parameters); err == nil && len(parameters) > 0 {
		set("parameters", string(b))
	}
	var rest []string
	for _, d := range p.ResolvedDependencies {
		strong := d.Digest.Strong()
		if !strings.HasPrefix(d.Name, "tool:") || len(strong) == 0 {
			continue
		}
		if len(env) < maxEnvironment && len(d.Name) <= 64 {
			set(clip(d.Name, 64), string(strong[0]))
		} else {
			rest = append(rest, d.Name+"="+string(strong[0]))
		}
	}
	if slices.Sort(rest); len(rest) > 0 {
		set("tools", string(artifact.SHA256Of([]byte(strings.Join(rest, "\n")))))
	}
	out := policy.ProvenanceBuild{Environment: env}
	secrets, _ := p.InternalParameters["secretNames"].([]any)
	for _, s := range secrets {
		if name, ok := s.(string); ok && len(out.Secrets) < maxBuildNames {
			out.Secrets = append(out.Secrets, clip(name, 128))
		}
	}
	if len(secrets) > 0 && len(out.Secrets) == 0 {
		out.Secrets = []string{"(names that are no texts)"} // said, and not readable: it counts
	}
	return out
}

// compareBuilds enters in what the provenance about the artifact differs, and by
// how much it is older than the newest.
func (g *gathering) compareBuilds() {
	at := map[string]int64{}
	var newest int64
	for i := range g.facts.Attestations {
		if t, ok := g.facts.Attestations[i].At(); ok {
			at[g.facts.Attestations[i].ID] = t.Unix()
		}
	}
	all := g.facts.Provenance
	for i := range all {
		newest = max(newest, at[all[i].Attestation])
	}
	for i := range all {
		if t := at[all[i].Attestation]; t > 0 {
			all[i].Age = newest - t
		}
		for j := range all {
			for _, name := range policy.Differences(all[i].Environment, all[j].Environment) {
				if !slices.Contains(all[i].Conflict, name) {
					all[i].Conflict = append(all[i].Conflict, name)
				}
			}
		}
		slices.Sort(all[i].Conflict)
	}
}

// enterBuild enters what a verified statement about a build says.
func (g *gathering) enterBuild(id, predicateType string, predicate []byte) error {
	switch predicateType {
	case attestation.PredicateBuildFailure:
		var f struct {
			InvocationID string `json:"invocationId"`
			Reason       string `json:"reason"`
			ExitCode     int    `json:"exitCode"`
		}
		if err := strictjson.Unmarshal(predicate, &f); err != nil {
			return err
		}
		if f.Reason == "" || f.ExitCode < -1 || f.ExitCode > 255 {
			return fault.Newf(fault.Invalid, "a failed build wants a reason and an exit code of -1 to 255")
		}
		g.facts.FailedBuilds = append(g.facts.FailedBuilds, policy.FailedBuild{Attestation: id, InvocationID: clip(f.InvocationID, 200), Reason: clip(f.Reason, 60), ExitCode: f.ExitCode})
	case attestation.PredicateRuntimeTrace:
		t, err := traceFact(predicate)
		if err != nil {
			return err
		}
		t.Attestation = id
		g.facts.Traces = append(g.facts.Traces, *t)
	}
	return nil
}

// tracePredicate is the part of in-toto's runtime trace that is read; other
// members are others' extensions.
type tracePredicate struct {
	Monitor struct {
		Type   string `json:"type"`
		Policy struct {
			Toolchain []string `json:"toolchain"`
		} `json:"tracePolicy"`
	} `json:"monitor"`
	Process struct {
		Event string `json:"event"`
	} `json:"monitoredProcess"`
	Log struct {
		Process []struct {
			Program string             `json:"program"`
			Digest  artifact.DigestSet `json:"digest"`
			Made    bool               `json:"made"`
		} `json:"process"`
		Network []struct {
			Protocol string `json:"protocol"`
			Address  string `json:"address"`
			Port     int    `json:"port"`
		} `json:"network"`
	} `json:"monitorLog"`
	Summary struct {
		Traced          bool     `json:"traced"`
		Reason          string   `json:"reason"`
		Complete        bool     `json:"complete"`
		Gaps            []string `json:"gaps"`
		Truncated       bool     `json:"truncated"`
		Names           []string `json:"names"`
		Undeclared      []string `json:"undeclared"`
		UndeclaredCount int      `json:"undeclaredCount"`
		Changed         []string `json:"changed"`
		ChangedCount    int      `json:"changedCount"`
	} `json:"assayTrace"`
}

// traceFact reads a trace. One of another monitor says nothing that is known
// here, and so counts as not traced.
func traceFact(predicate []byte) (*policy.Trace, error) {
	var head struct {
		Monitor struct {
			Type string `json:"type"`
		} `json:"monitor"`
		Process struct {
			Event string `json:"event"`
		} `json:"monitoredProcess"`
	}
	if err := strictjson.Unmarshal(predicate, &head); err != nil {
		return nil, err
	}
	out := &policy.Trace{InvocationID: clip(head.Process.Event, 200)}
	if head.Monitor.Type != ptraceMonitor {
		out.Reason = "a monitor that is not known here: " + clip(head.Monitor.Type, 200)
		return out, nil
	}
	var p tracePredicate
	if err := strictjson.Unmarshal(predicate, &p); err != nil {
		return nil, err
	}
	s := &p.Summary
	out.Traced, out.Complete = s.Traced, s.Traced && s.Complete && !s.Truncated && len(s.Gaps) == 0
	switch {
	case !out.Traced:
		out.Reason = clip(s.Reason, 300)
	case s.Truncated:
		out.Reason = "more was seen than is recorded"
	case len(s.Gaps) > 0:
		out.Reason = clip(strings.Join(s.Gaps, "; "), 300)
	}
	out.Undeclared = folders(s.Undeclared, s.UndeclaredCount)
	out.Changed = folders(s.Changed, s.ChangedCount)
	var network []string
	for _, n := range p.Log.Network {
		network = append(network, policy.AddressText(n.Protocol, n.Address, n.Port))
	}
	out.More = len(p.Log.Process) > maxBuildList
	for _, list := range []struct {
		out *[]string
		in  []string
	}{{&out.Toolchain, p.Monitor.Policy.Toolchain}, {&out.Names, s.Names}, {&out.Network, network}} {
		var more bool
		*list.out, more = bounded(list.in)
		out.More = out.More || more
	}
	for _, one := range p.Log.Process[:min(len(p.Log.Process), maxBuildList)] {
		t := policy.Traced{Program: clip(one.Program, 160), Made: one.Made}
		if strong := one.Digest.Strong(); len(strong) > 0 {
			t.Digest = string(strong[0])
		}
		out.Programs = append(out.Programs, t)
	}
	return out, nil
}

// bounded sorts texts and keeps as many as enter the facts.
func bounded(in []string) (out []string, more bool) {
	for _, s := range in {
		out = append(out, clip(s, 160))
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return out[:min(len(out), maxBuildList)], len(out) > maxBuildList
}

// folders makes names fit: where there are too many, the deepest give way to
// their folder, until they do. Names that are counted and not there leave an
// entry that no pattern covers.
func folders(names []string, count int) []string {
	set := map[string]bool{}
	for _, n := range names {
		set[clip(n, 160)] = true
	}
	for len(set) > maxBuildNames {
		deepest := 0
		for n := range set {
			deepest = max(deepest, strings.Count(strings.TrimSuffix(n, "/"), "/"))
		}
		for n := range set {
			bare := strings.TrimSuffix(n, "/")
			if strings.Count(bare, "/") != deepest {
				continue
			}
			delete(set, n)
			if i := strings.LastIndexByte(bare, '/'); i > 0 {
				set[bare[:i]+"/"] = true
			} else {
				set["(many)"] = true
			}
		}
		if deepest == 0 {
			break
		}
	}
	if count > len(names) {
		set["(more than is listed)"] = true
	}
	return sortedKeys(set)
}

// shortenTraces takes the programs out of facts that are too large, and says
// whether there were any. A policy that looks at programs then denies.
func shortenTraces(f *policy.Facts) bool {
	cut := false
	for i := range f.Traces {
		if t := &f.Traces[i]; len(t.Programs) > 0 {
			t.Programs, t.More, cut = nil, true, true
		}
	}
	return cut
}
