package ui

import (
	"encoding/json"
	"fmt"
	"strconv"

	"assay/identity"
	"assay/registry/gate"
)

// line is the way from commit to workload, with what is missing on it.
func (s *subject) line() Section {
	stop := func(name string, state Cell, lines ...Cell) Stop { return Stop{name, state, lines} }
	out := Section{ID: "line", Title: "From commit to workload"}
	commit, build := stop("Commit", unknown("no verified provenance names one")), stop("Build", unknown("no verified provenance tells of it"))
	if p := s.provenance; p != nil {
		if p.SourceURI != "" {
			commit = stop("Commit", mark(Good, "stated"), clipped(p.SourceURI, 48))
			for _, d := range p.SourceDigest {
				commit.Lines = append(commit.Lines, Cell{Text: clip(d, 12), Value: d, Title: d, Mono: true})
			}
		}
		build = stop("Build", mark(Good, "provenance"), clipped(p.BuilderID, 48))
	}
	if len(s.builds) > 0 {
		b := s.builds[0]
		build.Lines = append(build.Lines, Cell{Text: "runner evidence", URL: local("builds/" + b.ID)})
		if b.Open > 0 {
			build.State = mark(Warn, fmt.Sprintf("%d anomalies", b.Open))
		}
	}
	describe := stop("Describe", unknown("there is no bill of materials in force"))
	for _, b := range s.sboms {
		if b.Problem == "" {
			describe = stop("Describe", mark(Good, "SBOM"), text(fmt.Sprintf("%d packages", b.Packages)))
			break
		}
	}
	sign := stop("Sign", mark(Bad, "not signed"))
	if s.evidenceEr != nil {
		sign.State = unknown(s.evidenceEr.Error())
	} else if list := s.having("signature"); len(list) > 0 {
		sign = stop("Sign", mark(Good, "signed"), signer(&list[0]))
	} else if len(s.evidence) > 0 {
		sign.State = mark(Warn, "attested only")
	}
	out.Line = append(out.Line, commit, build, describe, sign, s.logStop(), s.decideStop(), s.runStop())
	return out
}

func (s *subject) logStop() Stop {
	logged := 0
	for _, e := range s.evidence {
		if e.LogIndex != nil {
			logged++
		}
	}
	switch {
	case s.evidenceEr != nil || len(s.evidence) == 0:
		return Stop{"Log", unknown("there is no evidence"), nil}
	case logged == len(s.evidence):
		return Stop{"Log", mark(Good, "all logged"), []Cell{text(fmt.Sprintf("%d entries", logged))}}
	}
	return Stop{"Log", mark(Warn, fmt.Sprintf("%d of %d logged", logged, len(s.evidence))), nil}
}

func (s *subject) decideStop() Stop {
	switch {
	case s.status != nil && s.status.Verdict != "":
		return Stop{"Decide", verdictCell(s.status.Verdict), []Cell{text("policy " + clip(s.status.Policy, 40)), stateCell(s.status.State, s.status.Reason)}}
	case len(s.decisions) > 0:
		return Stop{"Decide", verdictCell(s.decisions[0].Verdict), []Cell{text("policy " + clip(s.decisions[0].Policy, 40))}}
	case s.status != nil && s.status.State == gate.Open:
		return Stop{"Decide", mark(Info, "no gate"), nil}
	}
	return Stop{"Decide", unknown("nobody has decided about it"), nil}
}

func (s *subject) runStop() Stop {
	if s.runErr != nil {
		return Stop{"Run", unknown(s.runErr.Error()), nil}
	}
	if len(s.running) == 0 {
		return Stop{"Run", mark(Info, "runs nowhere known"), nil}
	}
	w := s.running[0]
	n := strconv.Itoa(len(s.running))
	if len(s.running) == 100 {
		n += "+"
	}
	return Stop{"Run", mark(Good, "runs"), []Cell{text(n + " containers"), text(clip(w.Cluster+" "+w.Namespace, 40))}}
}

func (s *subject) provenanceFacts() Section {
	out := Section{ID: "provenance", Title: "Provenance"}
	p := s.provenance
	if p == nil {
		out.Problem = "No verified provenance is here."
		return out
	}
	out.More = Link{"The attestation", local("evidence/" + s.provID)}
	out.Facts = []Fact{
		{"Builder", clipped(p.BuilderID, 200)}, {"Build type", orUnknown(p.BuildType, "the document does not say")},
		{"Invocation", orUnknown(p.InvocationID, "the document does not say")}, {"Source", orUnknown(p.SourceURI, "the document does not say, or says two things")},
		{"Ref", orUnknown(p.SourceRef, "the document does not say")}, {"Entry point", orNone(p.EntryPoint)},
		{"Began (claimed)", when(p.StartedOn)}, {"Ended (claimed)", when(p.FinishedOn)},
	}
	for alg, d := range p.SourceDigest {
		out.Facts = append(out.Facts, Fact{"Commit", Cell{Text: alg + ":" + d, Mono: true, Value: d}})
	}
	if p.InvocationID != "" && s.may(identity.ActReadEvidence) {
		out.Facts = append(out.Facts, Fact{"Build and its logs", link("by this invocation", local("build-logs", "build", p.InvocationID, "repository", s.repository))})
	}
	if len(p.ExternalParameters) > 0 {
		if b, err := json.MarshalIndent(p.ExternalParameters, "", "  "); err == nil {
			out.Raw = string(b)
		}
	}
	out.Table = &Table{Columns: columns("Material", "Digest"), Empty: "It names no materials."}
	for _, m := range p.ResolvedDependencies[:min(len(p.ResolvedDependencies), 50)] {
		name := m.URI
		if name == "" {
			name = m.Name
		}
		d := unknown("the document gives none")
		for alg, hex := range m.Digest {
			d = Cell{Text: short(alg + ":" + hex), Value: alg + ":" + hex, Title: alg + ":" + hex, Mono: true}
		}
		out.Table.Rows = append(out.Table.Rows, []Cell{clipped(name, 120), d})
	}
	if n := len(p.ResolvedDependencies); n > 50 {
		out.Note = fmt.Sprintf("50 of %d materials are shown.", n)
	}
	return out
}
