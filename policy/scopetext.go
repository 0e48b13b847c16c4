package policy

import (
	"assay/internal/fault"
	"assay/internal/glob"
)

// ScopeText is where the policy applies, in words.
func (p *Policy) ScopeText() string {
	join := func(list []glob.Glob) []string {
		out := make([]string, 0, len(list))
		for _, g := range list {
			out = append(out, g.String())
		}
		return out
	}
	s := &Selector{Repositories: join(p.scope.repositories)}
	for i, to := range [...]*[]string{&s.Environments, &s.Clusters, &s.Namespaces, &s.Teams, &s.Services, &s.Tiers, &s.Kinds} {
		*to = join(p.scope.others[i])
	}
	if text := selectorText(s); text != "" {
		return text
	}
	return selectorText(nil)
}

// SelectorOf is a selector by the names of its lists, as a scope is written.
func SelectorOf(lists map[string][]string) (*Selector, error) {
	s := &Selector{}
	for name, list := range lists {
		to, ok := map[string]*[]string{
			"repositories": &s.Repositories, "environments": &s.Environments, "clusters": &s.Clusters, "namespaces": &s.Namespaces,
			"teams": &s.Teams, "services": &s.Services, "tiers": &s.Tiers, "kinds": &s.Kinds,
		}[name]
		if !ok {
			return nil, fault.Newf(fault.Invalid, "scope: %.40q; want repositories, environments, clusters, namespaces, teams, services, tiers or kinds", name)
		}
		*to = list
	}
	_, err := s.compile()
	return s, err
}
