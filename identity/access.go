package identity

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"assay/internal/fault"
	"assay/internal/glob"
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
	// Subject is compared with the principal's Name and Subject: exact, or with
	// a star a pattern (see internal/glob).
	Subject string `json:"subject,omitempty" yaml:"subject,omitempty"`
	// Group is compared exactly with the groups that the issuer states.
	Group string `json:"group,omitempty" yaml:"group,omitempty"`
	// Anonymous matches everybody, also those without credentials. Only the
	// role viewer may be given so.
	Anonymous bool `json:"anonymous,omitempty" yaml:"anonymous,omitempty"`
	Role      Role `json:"role" yaml:"role"`
	// Scope is a pattern over repository names (see internal/glob); "**" is the
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
	subject glob.Glob
	scope   glob.Glob
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
	if g.Anonymous {
		// The log and the evidence hold people's names; decisions are stored.
		// Everybody may read content, and no more.
		all = []Action{ActPull}
	}
	c.actions = all
	if len(g.Actions) > 0 {
		c.actions = slices.Clone(g.Actions)
	}
	var err error
	if g.Subject != "" {
		// A name without a star is itself, whatever its characters: those of
		// robots hold brackets.
		parse := glob.Parse
		if !strings.Contains(g.Subject, "*") {
			parse = glob.Exact
		}
		if c.subject, err = parse(g.Subject); err != nil {
			return c, fmt.Errorf("grant's subject: %w", err)
		}
	}
	if c.scope, err = glob.Parse(g.Scope); err != nil {
		return c, fmt.Errorf("grant's scope: %w", err)
	}
	return c, nil
}

// covers says whether the grant's scope reaches a resource.
func (c *compiledGrant) covers(r Resource) bool {
	return c.scope.Everything() || r.Name != "" && c.scope.Match(r.Name)
}

// Access answers who may do what, from an immutable snapshot of grants that
// Set exchanges at once. It is safe for many goroutines.
type Access struct {
	snap atomic.Pointer[snapshot]
}

type snapshot struct {
	grants []Grant
	// Grants by whom they match, so that a question costs what its asker
	// holds and not what everybody holds. Anonymous ones are under the zero key.
	exact  map[holder][]compiledGrant
	groups map[holder][]compiledGrant
	globs  map[string][]compiledGrant // by issuer
}

// holder is an issuer and a name or group that it proves.
type holder struct{ issuer, name string }

func newSnapshot(grants []Grant) (*snapshot, error) {
	s := &snapshot{
		grants: slices.Clone(grants), exact: map[holder][]compiledGrant{},
		groups: map[holder][]compiledGrant{}, globs: map[string][]compiledGrant{},
	}
	for i, g := range grants {
		c, err := compileGrant(g)
		if err != nil {
			return nil, fmt.Errorf("grant %d: %w", i+1, err)
		}
		switch {
		case g.Group != "":
			k := holder{g.Issuer, g.Group}
			s.groups[k] = append(s.groups[k], c)
		case g.Anonymous, c.subject.IsExact():
			k := holder{g.Issuer, g.Subject}
			s.exact[k] = append(s.exact[k], c)
		default:
			s.globs[g.Issuer] = append(s.globs[g.Issuer], c)
		}
	}
	return s, nil
}

// allows asks each grant that p holds.
func (s *snapshot) allows(p *Principal, act Action, r Resource) bool {
	anyOf := func(list []compiledGrant) bool {
		for i := range list {
			if g := &list[i]; slices.Contains(g.actions, act) && g.covers(r) {
				return true
			}
		}
		return false
	}
	if anyOf(s.exact[holder{}]) {
		return true // to everybody
	}
	if p.IsAnonymous() || p.Issuer == "" {
		return false
	}
	name, subject := p.names()
	if name != "" && anyOf(s.exact[holder{p.Issuer, name}]) || subject != "" && anyOf(s.exact[holder{p.Issuer, subject}]) {
		return true
	}
	for _, g := range p.Groups {
		if g != "" && anyOf(s.groups[holder{p.Issuer, g}]) {
			return true
		}
	}
	globs := s.globs[p.Issuer]
	for i := range globs {
		g := &globs[i]
		if slices.Contains(g.actions, act) && g.covers(r) &&
			(name != "" && g.subject.Match(name) || subject != "" && g.subject.Match(subject)) {
			return true
		}
	}
	return false
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
	s, err := newSnapshot(grants)
	if err != nil {
		return err
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
	if s := a.snap.Load(); s != nil && s.allows(&p, act, r) {
		return nil
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
