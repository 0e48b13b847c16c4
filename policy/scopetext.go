package policy

import (
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
