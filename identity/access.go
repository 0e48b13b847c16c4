package identity

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"assay/internal/fault"
)

// The kinds of resource. Repository, evidence and decision are named by their
// repository; the others are the site's own, have no name, and are reached by
// grants of scope "**" only.
const (
	ResourceRepository = "repository"
	ResourceEvidence   = "evidence"
	ResourceDecision   = "decision"
	ResourceLog        = "log"
	ResourcePolicy     = "policy"
	ResourceAudit      = "audit"
	ResourceConfig     = "config"
)

// Resource is what an action is done to.
type Resource struct {
	Kind string // one of the Resource constants
	Name string // repository name, without registry and tag; empty for what belongs to the whole site
}

// Repository is the resource of a repository.
func Repository(name string) Resource { return Resource{ResourceRepository, name} }

func (r Resource) String() string {
	if r.Name == "" {
		return r.Kind
	}
	return r.Kind + " " + r.Name
}

// Grant gives a role to those it matches, within a scope. Exactly one of
// Subject, Group and Anonymous says whom it matches.
type Grant struct {
	// Issuer is the exact URL of the issuer whose tokens prove the subject or
	// the group. There is no pattern for issuers.
	Issuer string `json:"issuer,omitempty" yaml:"issuer,omitempty"`
	// Subject is compared with the principal's Name and Subject: exact, or a
	// glob (see [Pattern]).
	Subject string `json:"subject,omitempty" yaml:"subject,omitempty"`
	// Group is compared exactly with the groups that the issuer states.
	Group string `json:"group,omitempty" yaml:"group,omitempty"`
	// Anonymous matches everybody, also those without credentials. Only the
	// role viewer may be given so.
	Anonymous bool `json:"anonymous,omitempty" yaml:"anonymous,omitempty"`
	Role      Role `json:"role" yaml:"role"`
	// Scope is a glob over repository names (see [Pattern]); "**" is the
	// whole site, and the only scope that reaches the log, policies, audit and
	// configuration.
	Scope string `json:"scope" yaml:"scope"`
	// Actions narrows the role to some of its actions; empty means all. So a
	// publisher who must never overwrite a tag has [pull, create].
	Actions []Action `json:"actions,omitempty" yaml:"actions,omitempty"`
}

// Validate says what is wrong with a grant. Errors are [fault.Invalid].
func (g Grant) Validate() error {
	_, err := compileGrant(g)
	return err
}

type compiledGrant struct {
	Grant
	subject Pattern
	scope   Pattern
	actions []Action
}

func compileGrant(g Grant) (compiledGrant, error) {
	c := compiledGrant{Grant: g}
	whom := 0
	for _, set := range []bool{g.Subject != "", g.Group != "", g.Anonymous} {
		if set {
			whom++
		}
	}
	if whom != 1 {
		return c, fault.Newf(fault.Invalid, "grant of role %q: want exactly one of subject, group, anonymous, found %d", g.Role, whom)
	}
	if g.Anonymous != (g.Issuer == "") {
		return c, fault.Newf(fault.Invalid, "grant of role %q: a subject or group needs the issuer that proves it, and anonymous has none", g.Role)
	}
	if strings.Contains(g.Issuer, "*") {
		return c, fault.Newf(fault.Invalid, "grant of role %q: issuer %.200q must be exact, patterns are for subjects and scopes", g.Role, g.Issuer)
	}
	if g.Anonymous && g.Role != RoleViewer {
		return c, fault.Newf(fault.Invalid, "role %q to anonymous: only %q may be given to everybody", g.Role, RoleViewer)
	}
	all := g.Role.Actions()
	if all == nil {
		return c, fault.Newf(fault.Invalid, "role %q: want one of %v", g.Role, Roles())
	}
	for _, a := range g.Actions {
		if !slices.Contains(all, a) {
			return c, fault.Newf(fault.Invalid, "grant: role %s has no action %q to narrow to; it has %v", g.Role, a, all)
		}
	}
	c.actions = all
	if len(g.Actions) > 0 {
		c.actions = slices.Clone(g.Actions)
	}
	var err error
	if g.Subject != "" {
		if c.subject, err = ParsePattern(g.Subject); err != nil {
			return c, fmt.Errorf("grant's subject: %w", err)
		}
	}
	if c.scope, err = ParsePattern(g.Scope); err != nil {
		return c, fmt.Errorf("grant's scope: %w", err)
	}
	return c, nil
}

// matches says whether the grant is the principal's.
func (c *compiledGrant) matches(p *Principal) bool {
	switch {
	case c.Anonymous:
		return true
	case p.IsAnonymous() || c.Issuer != p.Issuer:
		return false
	case c.Group != "":
		return slices.Contains(p.Groups, c.Group)
	}
	name, subject := p.names()
	return name != "" && c.subject.Match(name) || subject != "" && c.subject.Match(subject)
}

func (c *compiledGrant) covers(r Resource) bool {
	return c.scope.Everything() || r.Name != "" && c.scope.Match(r.Name)
}

// Access answers who may do what, from an immutable snapshot of grants that
// Set exchanges at once. It is safe for many goroutines.
type Access struct {
	snap atomic.Pointer[snapshot]
}

type snapshot struct {
	grants   []Grant
	byIssuer map[string][]compiledGrant // "" holds the anonymous ones
}

// NewAccess makes an Access with these grants; none means that everything is
// denied. Errors are [fault.Invalid] and name the grant.
func NewAccess(grants []Grant) (*Access, error) {
	a := &Access{}
	return a, a.Set(grants)
}

// Set exchanges all grants at once, or none when one of them is invalid.
// Questions under way are answered by the old snapshot or the new, never by a
// mixture.
func (a *Access) Set(grants []Grant) error {
	s := &snapshot{grants: slices.Clone(grants), byIssuer: map[string][]compiledGrant{}}
	for i, g := range grants {
		c, err := compileGrant(g)
		if err != nil {
			return fmt.Errorf("grant %d: %w", i+1, err)
		}
		s.byIssuer[g.Issuer] = append(s.byIssuer[g.Issuer], c)
	}
	a.snap.Store(s)
	return nil
}

// Grants is a copy of the grants in force.
func (a *Access) Grants() []Grant {
	if s := a.snap.Load(); s != nil {
		return slices.Clone(s.grants)
	}
	return nil
}

// Allow answers whether p may do act to r: nil, or [fault.Denied] with the
// role that is missing, or [fault.Unauthenticated] for one who has shown no
// credentials. What no grant allows is denied; the zero Access allows nothing.
// The system principal may do everything.
func (a *Access) Allow(_ context.Context, p Principal, act Action, r Resource) error {
	if p.Kind == KindSystem {
		return nil
	}
	if s := a.snap.Load(); s != nil {
		for _, issuer := range [2]string{p.Issuer, ""} {
			for i := range s.byIssuer[issuer] {
				g := &s.byIssuer[issuer][i]
				if slices.Contains(g.actions, act) && g.covers(r) && g.matches(&p) {
					return nil
				}
			}
			if p.Issuer == "" {
				break
			}
		}
	}
	if p.IsAnonymous() {
		return fault.Newf(fault.Unauthenticated, "%s on %s: no credentials were given; log in with a token of the audience that this door asks for", act, r)
	}
	scope := r.Name
	if scope == "" {
		scope = "**"
	}
	return fault.Newf(fault.Denied, "%.300s may not %s on %s: it needs role %s with a scope that covers %q; an admin grants it with assay apply",
		p.Actor(), act, r, roleNames(act), scope)
}

func roleNames(act Action) string {
	roles := rolesFor(act)
	if len(roles) == 0 {
		return "(none: no role has this action)"
	}
	names := make([]string, len(roles))
	for i, r := range roles {
		names[i] = string(r)
	}
	return strings.Join(names, " or ")
}
