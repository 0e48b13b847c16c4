package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"assay/internal/fault"
	"assay/internal/glob"
)

// Selector says to which targets a policy applies: to those that match every
// list that is given, by any of its entries. Entries are patterns (see internal/glob).
// A target that lacks what a list selects on is not matched: a file has no
// repository, so a policy that names repositories never applies to it.
type Selector struct {
	Repositories []string `yaml:"repositories,omitempty" json:"repositories,omitempty"` // "team-a/**"; with a host for another registry: "ghcr.io/org/**"
	Environments []string `yaml:"environments,omitempty" json:"environments,omitempty"`
	Clusters     []string `yaml:"clusters,omitempty" json:"clusters,omitempty"`
	Namespaces   []string `yaml:"namespaces,omitempty" json:"namespaces,omitempty"`
	Teams        []string `yaml:"teams,omitempty" json:"teams,omitempty"`
	Services     []string `yaml:"services,omitempty" json:"services,omitempty"`
	Tiers        []string `yaml:"tiers,omitempty" json:"tiers,omitempty"`
	Kinds        []string `yaml:"kinds,omitempty" json:"kinds,omitempty"` // image, file
}

// selector is a compiled Selector; nil selects everything.
type selector struct {
	repositories []glob.Glob
	others       [7][]glob.Glob // in the order of the fields above
}

func (s *Selector) compile() (*selector, error) {
	if s == nil {
		return &selector{}, nil
	}
	out := &selector{}
	var err error
	if out.repositories, err = compileGlobs("repositories", s.Repositories); err != nil {
		return nil, err
	}
	lists := [...]struct {
		name string
		in   []string
	}{
		{"environments", s.Environments}, {"clusters", s.Clusters}, {"namespaces", s.Namespaces},
		{"teams", s.Teams}, {"services", s.Services}, {"tiers", s.Tiers}, {"kinds", s.Kinds},
	}
	given := len(out.repositories)
	for i, l := range lists {
		if out.others[i], err = compileGlobs(l.name, l.in); err != nil {
			return nil, err
		}
		given += len(l.in)
	}
	for _, k := range s.Kinds {
		if k != string(Image) && k != string(File) {
			return nil, fault.Newf(fault.Invalid, "kinds %.40q; want image or file", k)
		}
	}
	if given == 0 {
		return nil, fault.Newf(fault.Invalid, "selects on nothing: leave scope out for a policy that holds everywhere")
	}
	return out, nil
}

// rank orders selectors that match one target, the more specific greater:
// first the best repository pattern that matches, then how many of the other
// lists are given.
type rank struct {
	repository [3]int
	named      bool
	others     int
}

func (a rank) compare(b rank) int {
	if c := cmp.Compare(b2i(a.named), b2i(b.named)); c != 0 {
		return c
	}
	if c := slices.Compare(a.repository[:], b.repository[:]); c != 0 {
		return c
	}
	return cmp.Compare(a.others, b.others)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (s *selector) match(sub Subject, sc Scope) (r rank, ok bool) {
	if s.repositories != nil {
		name := sub.Repository
		if name != "" && sub.Registry != "" {
			name = sub.Registry + "/" + name
		}
		for _, g := range s.repositories {
			if name == "" || !g.Match(name) {
				continue
			}
			r.named, ok = true, true
			if spec := g.Rank(); slices.Compare(spec[:], r.repository[:]) > 0 {
				r.repository = spec
			}
		}
		if !ok {
			return r, false
		}
	}
	values := [...]string{sc.Environment, sc.Cluster, sc.Namespace, sc.Team, sc.Service, sc.Tier, string(sub.Kind)}
	for i, globs := range s.others {
		if globs == nil {
			continue
		}
		if values[i] == "" || !matchGlobs(globs, values[i]) {
			return r, false
		}
		r.others++
	}
	return r, true
}

// Set is the policies of an instance. It is immutable and safe for concurrent
// use.
type Set struct {
	policies []*Policy // by name
}

// NewSet makes a set; two policies of one name are fault.Conflict.
func NewSet(policies ...*Policy) (*Set, error) {
	s := &Set{policies: slices.Clone(policies)}
	slices.SortFunc(s.policies, func(a, b *Policy) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(s.policies); i++ {
		if s.policies[i].name == s.policies[i-1].name {
			return nil, fault.Newf(fault.Conflict, "two policies are named %q: rename one", s.policies[i].name)
		}
	}
	return s, nil
}

// Policies lists the policies by name.
func (s *Set) Policies() []*Policy { return slices.Clone(s.policies) }

// For gives the policy that applies to a target: the most specific of those
// whose scope matches. A repository pattern is more specific than none, one
// without "**" more than one with, more literal segments more than fewer, more
// literal characters more than fewer; then more of the other lists given is
// more specific. Equally specific policies all apply, so that a second policy
// never weakens the first: see [Combine].
//
// Where no policy applies, the answer is [NoPolicy], which denies: nobody said
// that the target may run. Allow lists of tenants (see [Tenant]) are not in this
// order: each whose scope matches holds beside the policy that applies.
func (s *Set) For(sub Subject, sc Scope) *Policy {
	var best, lists []*Policy
	var top rank
	for _, p := range s.policies {
		r, ok := p.scope.match(sub, sc)
		if !ok {
			continue
		}
		if p.list() {
			lists = append(lists, p)
			continue
		}
		switch c := r.compare(top); {
		case len(best) == 0 || c > 0:
			best, top = []*Policy{p}, r
		case c == 0:
			best = append(best, p)
		}
	}
	if len(best) == 0 {
		best = []*Policy{NoPolicy()}
	}
	return Combine(append(best, lists...)...)
}

// NoPolicy is the policy of targets to which none applies. It denies.
func NoPolicy() *Policy {
	sum := sha256.Sum256([]byte("assay no policy"))
	return &Policy{name: "none", mode: Enforce, scope: &selector{}, hash: hex.EncodeToString(sum[:])}
}

// ByService says whether a policy selects by team, service or tier, so that scopes
// need them.
func (s *Set) ByService() bool {
	return s != nil && slices.ContainsFunc(s.policies, func(p *Policy) bool {
		return p.scope != nil && (p.scope.others[3] != nil || p.scope.others[4] != nil || p.scope.others[5] != nil)
	})
}

func scopeText(sc Scope) string {
	var parts []string
	for _, kv := range [...][2]string{{"environment", sc.Environment}, {"cluster", sc.Cluster}, {"namespace", sc.Namespace}, {"team", sc.Team}, {"service", sc.Service}, {"tier", sc.Tier}} {
		if kv[1] != "" {
			parts = append(parts, fmt.Sprintf("%s %s", kv[0], clip(kv[1], 80)))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " in " + strings.Join(parts, ", ")
}
