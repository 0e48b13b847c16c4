package rbac

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Options say what is audited.
type Options struct {
	Namespace string   // Assay's; "": it runs elsewhere
	Never     []string // further namespaces where nothing is refused, besides kube-system
}

// Path is how a subject has a power.
type Path struct {
	Power   Power    `json:"power"`
	Where   []string `json:"namespaces,omitempty"` // where the power holds; none: everywhere
	Binding string   `json:"binding"`              // "ClusterRoleBinding cluster-admin"
	Role    string   `json:"role"`                 // "ClusterRole edit, by its part team-edit"
	Rule    *Rule    `json:"rule,omitempty"`
	Why     string   `json:"why"` // "update namespaces", or whose rights are taken on
}

// Holder is somebody with powers.
type Holder struct {
	Subject Subject `json:"subject"`
	Powers  []Power `json:"powers"`
	Paths   []Path  `json:"paths"`
	// Standard is true for what Kubernetes itself is made of.
	Standard bool `json:"standard"`
	// Unexpected are the powers that nobody expected of it.
	Unexpected []Power `json:"unexpected"`
}

type roleKey struct{ namespace, name string } // namespace "": a ClusterRole

type auditor struct {
	o      Options
	exempt []string
	roles  map[roleKey]*Role
	all    []Role
	rules  map[roleKey][]Rule
	found  map[Subject]*Holder
}

// Audit lists who has which power, by name, with a path each. A subject has one
// path for each power and binding: the first rule that gives it.
func Audit(c *Cluster, o Options) []Holder {
	a := &auditor{o: o, exempt: []string{"kube-system"}, roles: map[roleKey]*Role{}, all: c.Roles, rules: map[roleKey][]Rule{}, found: map[Subject]*Holder{}}
	for _, n := range o.Never {
		if n != "" && n != o.Namespace && !slices.Contains(a.exempt, n) {
			a.exempt = append(a.exempt, n)
		}
	}
	for i := range c.Roles {
		m := &c.Roles[i].Metadata
		a.roles[roleKey{m.Namespace, m.Name}] = &c.Roles[i]
	}
	// Whom certificates put into this group no rule bounds, bindings or none.
	a.add(Subject{Kind: "Group", Name: "system:masters"}, Path{Power: Escalate, Binding: "none needed", Role: "none needed", Why: "the API server asks no authorizer about this group, which client certificates name"})
	for i := range c.Bindings {
		a.binding(&c.Bindings[i])
	}
	a.assume(c.Bindings)
	out := make([]Holder, 0, len(a.found))
	for _, h := range a.found {
		slices.SortFunc(h.Paths, func(x, y Path) int {
			return cmp.Or(cmp.Compare(slices.Index(Powers, x.Power), slices.Index(Powers, y.Power)), strings.Compare(x.Binding, y.Binding), strings.Compare(x.Why, y.Why))
		})
		for _, p := range h.Paths {
			if !slices.Contains(h.Powers, p.Power) {
				h.Powers = append(h.Powers, p.Power)
			}
		}
		h.Standard = standard(h.Subject)
		out = append(out, *h)
	}
	slices.SortFunc(out, func(x, y Holder) int { return strings.Compare(x.Subject.String(), y.Subject.String()) })
	return out
}

func (a *auditor) add(s Subject, p Path) {
	h := a.found[s]
	if h == nil {
		h = &Holder{Subject: s, Unexpected: []Power{}}
		a.found[s] = h
	}
	for i := range h.Paths {
		if q := &h.Paths[i]; q.Power == p.Power && q.Binding == p.Binding {
			for _, w := range p.Where {
				if len(q.Where) > 0 && !slices.Contains(q.Where, w) {
					q.Where = append(q.Where, w)
				}
			}
			return
		}
	}
	h.Paths = append(h.Paths, p)
}

// effective is what a role allows, with what it aggregates. The controller copies
// those rules into it; what it has not copied yet counts as well.
func (a *auditor) effective(key roleKey) []Rule {
	if rules, done := a.rules[key]; done {
		return rules
	}
	r := a.roles[key]
	if r == nil {
		return nil
	}
	var out []Rule
	if r.Aggregation != nil {
		for i := range a.all {
			part := &a.all[i]
			if part == r || part.Metadata.Namespace != "" || !slices.ContainsFunc(r.Aggregation.Selectors, func(s Selector) bool { return s.matches(part.Metadata.Labels) }) {
				continue
			}
			for _, rule := range part.Rules {
				rule.from = part.Metadata.Name
				out = append(out, rule)
			}
		}
	}
	copied := len(out)
	for _, rule := range r.Rules {
		if !slices.ContainsFunc(out[:copied], func(o Rule) bool { o.from = ""; return reflect.DeepEqual(o, rule) }) {
			out = append(out, rule)
		}
	}
	a.rules[key] = out
	return out
}

func subjectsOf(b *Binding) []Subject {
	var out []Subject
	for _, s := range b.Subjects {
		if s.Kind != "ServiceAccount" {
			s.Namespace = ""
		} else if s.Namespace == "" {
			s.Namespace = b.Metadata.Namespace
		}
		out = append(out, Subject{s.Kind, s.Name, s.Namespace})
	}
	return out
}

// path is the beginning of a path by a binding; ok is false where its role is not
// there, so that it gives nothing.
func (a *auditor) path(b *Binding) (p Path, rules []Rule, ok bool) {
	key := roleKey{name: b.Role.Name}
	if b.Role.Kind == "Role" {
		key.namespace = b.Metadata.Namespace
	}
	if a.roles[key] == nil {
		return p, nil, false
	}
	p.Role = b.Role.Kind + " " + b.Role.Name
	p.Binding = "ClusterRoleBinding " + b.Metadata.Name
	if b.Metadata.Namespace != "" {
		p.Binding = "RoleBinding " + b.Metadata.Namespace + "/" + b.Metadata.Name
	}
	return p, a.effective(key), true
}

func (a *auditor) binding(b *Binding) {
	base, rules, ok := a.path(b)
	if !ok {
		return
	}
	in := b.Metadata.Namespace
	give := func(power Power, rule *Rule, needs []need, where ...string) {
		for i := range needs {
			verb, resource := rule.gives(&needs[i])
			if verb == "" || a.harmless(rule, verb, in) {
				continue
			}
			for _, s := range subjectsOf(b) {
				a.add(s, base.with(power, rule, verb+" "+resource, where))
			}
			return
		}
	}
	for i := range rules {
		r := &rules[i]
		if in == "" {
			for _, p := range Powers {
				give(p, r, anywhere[p])
			}
			give(Namespaces, r, []need{labels}, r.ResourceNames...)
		} else {
			l := labels
			l.names = []string{in}
			give(Namespaces, r, []need{l}, in)
			if in == a.o.Namespace || slices.Contains(a.exempt, in) {
				give(Escalate, r, anywhere[Escalate][:3], in)
			}
		}
		for _, ns := range a.exempt {
			if in == "" || in == ns {
				give(Exempt, r, runs, ns)
			}
		}
		if ns := a.o.Namespace; ns != "" && (in == "" || in == ns) {
			give(Assay, r, inAssay, ns)
			give(Secrets, r, readsSecrets, ns)
		}
	}
}

// with is the path of one rule.
func (p Path) with(power Power, r *Rule, why string, where []string) Path {
	p.Power, p.Rule, p.Why, p.Where = power, r, why, slices.Clone(where)
	if r.from != "" {
		p.Role += ", by its part " + r.from
	}
	return p
}

// harmless is a right to bind roles by name that give nothing themselves.
func (a *auditor) harmless(r *Rule, verb, in string) bool {
	if verb != "bind" || len(r.ResourceNames) == 0 {
		return false
	}
	for _, name := range r.ResourceNames {
		for _, key := range []roleKey{{name: name}, {in, name}} {
			for i := range a.effective(key) {
				rule := &a.effective(key)[i]
				for _, needs := range [][]need{anywhere[Webhooks], anywhere[Policies], anywhere[Escalate], {labels}, inAssay, readsSecrets} {
					for j := range needs {
						if verb, _ := rule.gives(&needs[j]); verb != "" {
							return false
						}
					}
				}
			}
		}
	}
	return true
}

// assume finds who can act as a service account that is listed, and then who can
// act as those.
func (a *auditor) assume(bindings []Binding) {
	done := map[string]bool{}
	for {
		listed := map[string][]string{}
		for s := range a.found {
			if s.Kind == "ServiceAccount" && !done[s.Namespace] {
				listed[s.Namespace] = append(listed[s.Namespace], s.Name)
			}
		}
		if len(listed) == 0 {
			return
		}
		for ns, accounts := range listed {
			done[ns] = true
			slices.Sort(accounts)
			for i := range bindings {
				if in := bindings[i].Metadata.Namespace; in == "" || in == ns {
					a.assumeBy(&bindings[i], ns, accounts)
				}
			}
		}
	}
}

func (a *auditor) assumeBy(b *Binding, ns string, accounts []string) {
	base, rules, ok := a.path(b)
	if !ok {
		return
	}
	for i := range rules {
		for j := range assumes {
			verb, resource := rules[i].gives(&assumes[j])
			if verb == "" {
				continue
			}
			who := ns + "/" + accounts[0]
			if len(accounts) > 1 {
				who += fmt.Sprintf(" and %d more of %s", len(accounts)-1, ns)
			}
			for _, s := range subjectsOf(b) {
				if s.Kind == "ServiceAccount" && s.Namespace == ns && len(accounts) == 1 && accounts[0] == s.Name {
					continue // itself
				}
				a.add(s, base.with(Assume, &rules[i], verb+" "+resource+": acts as "+who, []string{ns}))
			}
			return
		}
	}
}
