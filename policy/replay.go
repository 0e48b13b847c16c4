package policy

import "slices"

// Lacks names the members of predicates, as "path of type", and the layouts, as
// "layout name", that this policy
// reads and that recorded facts may not hold, though the evidence does: facts
// hold of a predicate its plain members at the top, and what the policy read
// for which they were gathered. What is lacking here is unknown, not absent:
// the evidence has to be read again.
func (p *Policy) Lacks(f *Facts) []string {
	var out []string
	if p.WantsVulnerabilities() && f.Vulnerabilities == nil {
		out = append(out, "vulnerabilities")
	} else if of := p.VEXOf(); of != "" && f.Vulnerabilities.VEXOf != of {
		out = append(out, "vulnerabilities.vex")
	}
	for _, c := range p.Components() {
		if !slices.ContainsFunc(f.Components, func(o ComponentsFact) bool { return o.ID == c.ID }) && !slices.Contains(out, "components") {
			out = append(out, "components")
		}
	}
	if f.Service == nil && slices.ContainsFunc(p.units, func(u *unit) bool { return u.reqs != nil && u.reqs.service != nil }) {
		out = append(out, "service")
	}
	if f.Workload == nil && p.WantsWorkload() {
		out = append(out, "workload")
	}
	for i := range f.Attestations {
		a := &f.Attestations[i]
		for _, path := range p.paths[a.PredicateType] {
			if _, there := a.Fields[path.text]; there || slices.Contains(a.Large, path.text) {
				continue
			}
			if name := path.text + " of " + a.PredicateType; !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	for _, l := range p.layouts {
		if !slices.ContainsFunc(f.Layouts, func(o LayoutFact) bool { return o.ID == l.ID }) {
			out = append(out, "layout "+l.Name)
		}
	}
	slices.Sort(out)
	return out
}

// InMode is the policy as it would be in another mode, to see what doors would
// do: its verdicts are the same. It keeps its hash, so no decision is made by it.
func (p *Policy) InMode(m Mode) *Policy {
	out := *p
	out.mode, out.units = m, make([]*unit, len(p.units))
	for i, u := range p.units {
		other := *u
		other.mode = m
		out.units[i] = &other
	}
	return &out
}

// With is the set with policies added, or put in the place of those of the same
// name.
func (s *Set) With(policies ...*Policy) (*Set, error) {
	all := slices.DeleteFunc(s.Policies(), func(o *Policy) bool {
		return slices.ContainsFunc(policies, func(p *Policy) bool { return p.name == o.name })
	})
	return NewSet(append(all, policies...)...)
}

// Without is the set without the policies of these names.
func (s *Set) Without(names ...string) *Set {
	return &Set{policies: slices.DeleteFunc(s.Policies(), func(p *Policy) bool { return slices.Contains(names, p.name) })}
}

// Concerns says whether the policy's scope matches a target at all; whether it
// decides is for [Set.For] to say.
func (p *Policy) Concerns(sub Subject, sc Scope) bool {
	_, ok := p.scope.match(sub, sc)
	return ok
}
