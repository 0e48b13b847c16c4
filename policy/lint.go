package policy

import (
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"
)

// Finding is something in a policy that is allowed, and seldom meant.
type Finding struct {
	Policy string `json:"policy"`
	Field  string `json:"field"`
	Says   string `json:"says"`
	Mend   string `json:"mend"`
}

// Lint looks for what weakens a policy without an error: whom it believes
// without a name, what it takes at any age, rules that cannot refuse.
func Lint(d *Document) []Finding {
	l := &linter{policy: d.Metadata.Name}
	if r := d.Spec.Requirements; r != nil {
		l.requirements(r)
	}
	if d.Spec.Tenant != nil {
		l.tenant(d.Spec.Tenant, d.Spec.Scope)
	}
	for _, m := range d.Spec.Rego {
		if constantAllow(m.Text) {
			l.add("rego "+m.Name, "allow is true whatever the facts say: deny rules alone decide", "write conditions into allow, so that what no rule foresees is denied")
		}
	}
	l.rollouts(d)
	if d.Spec.Mode == Audit || d.Spec.Mode == Warn {
		l.add("spec.mode", "a denial refuses nobody in mode "+string(d.Spec.Mode), "assay policy enforce "+d.Metadata.Name+"  # shows first what would be refused")
	}
	return l.found
}

type linter struct {
	policy string
	found  []Finding
}

func (l *linter) add(field, says, mend string) {
	l.found = append(l.found, Finding{l.policy, field, says, mend})
}

func (l *linter) requirements(r *Requirements) {
	signed := len(r.Signatures) > 0
	for i, s := range r.Signatures {
		l.identities(fmt.Sprintf("requirements.signatures[%d]", i), s.Identities, s.Threshold)
	}
	for i, a := range r.Attestations {
		l.identities(fmt.Sprintf("requirements.attestations[%d]", i), a.Identities, a.Threshold)
		if len(a.Fields) == 0 {
			l.add(fmt.Sprintf("requirements.attestations[%d]", i), "any content of "+a.PredicateType+" will do: a report of failed tests is one too", "name fields that must hold")
		}
	}
	if p := r.Provenance; p != nil {
		signed = true
		for i, b := range p.Builders {
			l.identity(fmt.Sprintf("requirements.provenance.builders[%d].signer", i), b.Signer)
		}
		if len(p.Sources) == 0 {
			l.add("requirements.provenance", "an artifact built from any source will do", "name sources")
		}
		for _, s := range p.Sources {
			if s == "**" || strings.HasSuffix(s, "://**") {
				l.add("requirements.provenance.sources", "the pattern "+s+" is any source", "name the organisation's repositories")
			}
		}
	}
	if !signed && len(r.Attestations) > 0 {
		l.add("requirements", "nothing wants a signature over the artifact itself, nor its provenance", "add signatures or provenance, so that who made it is known")
	}
	if !r.RequireLog && !r.RequireTimestamp {
		l.add("requirements", "evidence by a key counts without any trusted time: a revocation from an instant on cannot tell what came before", "requireLog: true, or requireTimestamp: true")
	}
}

func (l *linter) identities(field string, ids []IdentityMatch, threshold *int) {
	for i, id := range ids {
		l.identity(fmt.Sprintf("%s.identities[%d]", field, i), id)
	}
	if threshold != nil && *threshold > 1 && len(ids) == 1 && ids[0].SubjectRegexp == "" {
		l.add(field, fmt.Sprintf("%d distinct signers are wanted of one identity: nothing can satisfy that", *threshold), "name more identities")
	}
}

func (l *linter) identity(field string, id IdentityMatch) {
	for name, re := range map[string]string{"subjectRegexp": id.SubjectRegexp, "issuerRegexp": id.IssuerRegexp} {
		if re != "" && matchesAll(re) {
			l.add(field+"."+name, "the expression "+re+" matches everything", "name whom you mean")
		} else if re != "" && looseDot(re) {
			l.add(field+"."+name, "a dot in "+re+" stands for any letter", `write \. where a dot is meant`)
		}
	}
}

// matchesAll says of an expression that is anchored by itself whether it refuses
// nothing.
func matchesAll(re string) bool {
	p, err := syntax.Parse(re, syntax.Perl)
	if err != nil {
		return false
	}
	for p = p.Simplify(); p.Op == syntax.OpCapture; {
		p = p.Sub[0]
	}
	return (p.Op == syntax.OpStar || p.Op == syntax.OpPlus) && (p.Sub[0].Op == syntax.OpAnyChar || p.Sub[0].Op == syntax.OpAnyCharNotNL)
}

// looseDot finds a dot between letters that is not escaped: "example.com" also
// matches "exampleXcom", which anybody may register.
func looseDot(re string) bool {
	p, err := syntax.Parse(re, syntax.Perl)
	if err != nil {
		return false
	}
	var walk func(*syntax.Regexp) bool
	walk = func(p *syntax.Regexp) bool {
		for i, s := range p.Sub {
			one := s.Op == syntax.OpAnyChar || s.Op == syntax.OpAnyCharNotNL
			if p.Op == syntax.OpConcat && one && i > 0 && i+1 < len(p.Sub) && p.Sub[i-1].Op == syntax.OpLiteral && p.Sub[i+1].Op == syntax.OpLiteral {
				return true
			}
			if walk(s) {
				return true
			}
		}
		return false
	}
	return walk(p)
}

// constantAllow finds `allow := true` and `default allow := true`.
func constantAllow(text string) bool {
	return slices.ContainsFunc(strings.Split(text, "\n"), func(line string) bool {
		switch strings.Join(strings.Fields(line), " ") {
		case "allow := true", "default allow := true", "allow = true", "default allow = true", "allow if true", "allow if { true }":
			return true
		}
		return false
	})
}

// Change is a difference between two policies.
type Change struct {
	What string `json:"what"` // scope, mode, or a check's name
	Was  string `json:"was"`  // in words; empty: it was not there
	Is   string `json:"is"`   // empty: it is there no more
}

// Diff tells two policies apart by what they do, not by how they are written:
// no change means that both decide alike.
func Diff(a, b *Document) ([]Change, error) {
	pa, err := Compile(a)
	if err != nil {
		return nil, err
	}
	pb, err := Compile(b)
	if err != nil {
		return nil, err
	}
	var out []Change
	note := func(what, was, is string) {
		if was != is {
			out = append(out, Change{what, was, is})
		}
	}
	note("name", pa.name, pb.name)
	note("mode", string(pa.mode), string(pb.mode))
	note("scope", selectorText(a.Spec.Scope), selectorText(b.Spec.Scope))
	note("rollout", rolloutText(a), rolloutText(b))
	was, err := explained(pa)
	if err != nil {
		return nil, err
	}
	is, err := explained(pb)
	if err != nil {
		return nil, err
	}
	for _, k := range sortedKeys(was) {
		note(k, was[k], is[k])
	}
	for _, k := range sortedKeys(is) {
		if _, there := was[k]; !there {
			note(k, "", is[k])
		}
	}
	regoA, regoB := map[string]string{}, map[string]string{}
	for _, m := range a.Spec.Rego {
		regoA[m.Name] = m.Text
	}
	for _, m := range b.Spec.Rego {
		regoB[m.Name] = m.Text
	}
	for _, k := range sortedKeys(regoA) {
		if t, there := regoB[k]; there && t != regoA[k] {
			note("rego/"+k, "module of "+size(regoA[k]), "another module of "+size(t))
		}
	}
	if len(out) == 0 && pa.hash != pb.hash {
		out = append(out, Change{"policy", "hash " + pa.hash[:12], "hash " + pb.hash[:12] + ": details of a check differ"})
	}
	return out, nil
}

func size(text string) string { return fmt.Sprintf("%d lines", strings.Count(text, "\n")+1) }

func explained(p *Policy) (map[string]string, error) {
	checks, err := p.Explain(Subject{}, Scope{})
	out := map[string]string{}
	for _, c := range checks {
		out[c.Name] = c.Expected
	}
	return out, err
}

func selectorText(s *Selector) string {
	if s == nil {
		return "everywhere"
	}
	var parts []string
	for _, l := range [...]struct {
		name string
		in   []string
	}{
		{"repositories", s.Repositories}, {"environments", s.Environments}, {"clusters", s.Clusters}, {"namespaces", s.Namespaces},
		{"teams", s.Teams}, {"services", s.Services}, {"tiers", s.Tiers}, {"kinds", s.Kinds},
	} {
		if len(l.in) > 0 {
			parts = append(parts, l.name+" "+strings.Join(l.in, " "))
		}
	}
	return strings.Join(parts, ", ")
}
