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
// repository, a cluster by its path; the others are the site's own, have no name, and are reached by
// grants of scope "**" only.
const (
	ResourceRepository = "repository"
	ResourceEvidence   = "evidence"
	ResourceDecision   = "decision"
	ResourceLog        = "log"
	ResourcePolicy     = "policy"
	ResourceAudit      = "audit"
	ResourceConfig     = "config"
	ResourceCluster    = "cluster" // named "clusters/NAME", so that a grant's scope can say which
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
// Subject, Group, Team and Anonymous says whom it matches, or Claims alone.
type Grant struct {
	// Issuer is the exact URL of the issuer whose tokens prove the subject or
	// the group. There is no pattern for issuers.
	Issuer string `json:"issuer,omitempty" yaml:"issuer,omitempty"`
	// Subject is compared with the principal's Name and Subject: exact, or with
	// a star a pattern (see internal/glob).
	Subject string `json:"subject,omitempty" yaml:"subject,omitempty"`
	// Group is compared exactly with the groups that the issuer states.
	Group string `json:"group,omitempty" yaml:"group,omitempty"`
	// Claims narrows the grant to tokens whose claims match, all of them: by
	// name, exact or with a star a pattern (see internal/glob), for example
	// {repository: org/app, ref: refs/heads/main}. Alone, without Subject and
	// Group, it matches whoever of the issuer has them. A claim that the token
	// does not have matches nothing.
	Claims map[string]string `json:"claims,omitempty" yaml:"claims,omitempty"`
	// Team is the name of a team, whose members get the grant; what puts grants
	// in force takes its members in its place (see config.Compile).
	Team string `json:"team,omitempty" yaml:"team,omitempty"`
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
	claims  []compiledClaim
}

type compiledClaim struct {
	name  string
	value glob.Glob
}

// maxGrantClaims bounds what one question of one grant costs.
const maxGrantClaims = 16

// pattern reads a name or a pattern of names. A name without a star is itself,
// whatever its characters: those of robots hold brackets.
func pattern(s string) (glob.Glob, error) {
	if strings.Contains(s, "*") {
		return glob.Parse(s)
	}
	return glob.Exact(s)
}

func (c *compiledGrant) compileClaims() error {
	if len(c.Claims) > maxGrantClaims {
		return fault.Newf(fault.Invalid, "grant of role %q: %d claims, want at most %d", c.Role, len(c.Claims), maxGrantClaims)
	}
	for name, value := range c.Claims {
		g, err := pattern(value)
		if name == "" || value == "" {
			err = fault.Newf(fault.Invalid, "want a name and a value")
		}
		if err != nil {
			return fault.Newf(fault.Invalid, "grant of role %q: claim %.80q: %w", c.Role, name, err)
		}
		c.claims = append(c.claims, compiledClaim{name, g})
	}
	return nil
}

// claimed says whether p has every claim that the grant asks for.
func (c *compiledGrant) claimed(p *Principal) bool {
	for i := range c.claims {
		v, ok := p.Claims[c.claims[i].name]
		if !ok || !c.claims[i].value.Match(v) {
			return false
		}
	}
	return true
}

func compileGrant(g Grant) (compiledGrant, error) {
	c := compiledGrant{Grant: g}
	whom := 0
	for _, set := range []bool{g.Subject != "", g.Group != "", g.Team != "", g.Anonymous} {
		if set {
			whom++
		}
	}
	if whom > 1 || whom == 0 && len(g.Claims) == 0 {
		return c, fault.Newf(fault.Invalid, "grant of role %q: want exactly one of subject, group, team, anonymous, or claims alone, found %d", g.Role, whom)
	}
	if (g.Anonymous || g.Team != "") != (g.Issuer == "") {
		return c, fault.Newf(fault.Invalid, "grant of role %q: a subject, a group or claims need the issuer that proves them; anonymous and team have none", g.Role)
	}
	if g.Anonymous && len(g.Claims) > 0 {
		return c, fault.Newf(fault.Invalid, "grant of role %q: anonymous has no claims", g.Role)
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
	who := g.Subject
	if whom == 0 {
		who = "**" // of the issuer, by claims alone
	}
	if who != "" {
		if c.subject, err = pattern(who); err != nil {
			return c, fmt.Errorf("grant's subject: %w", err)
		}
	}
	if err := c.compileClaims(); err != nil {
		return c, err
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
	claims map[string][]string        // names of claims that grants ask for, by issuer
}

// holder is an issuer and a name or group that it proves.
type holder struct{ issuer, name string }

func newSnapshot(grants []Grant) (*snapshot, error) {
	s := &snapshot{
		grants: slices.Clone(grants), exact: map[holder][]compiledGrant{},
		groups: map[holder][]compiledGrant{}, globs: map[string][]compiledGrant{}, claims: map[string][]string{},
	}
	for i, g := range grants {
		c, err := compileGrant(g)
		if err != nil {
			return nil, fmt.Errorf("grant %d: %w", i+1, err)
		}
		for name := range g.Claims {
			s.claims[g.Issuer] = append(s.claims[g.Issuer], name)
		}
		switch {
		case g.Team != "":
			return nil, fault.Newf(fault.Invalid, "grant %d: there is no team %.80q", i+1, g.Team)
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
			if g := &list[i]; slices.Contains(g.actions, act) && g.covers(r) && g.claimed(p) {
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
		if slices.Contains(g.actions, act) && g.covers(r) && g.claimed(p) &&
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
	return fault.Newf(fault.Denied, "%.300s may not %s on %s: it needs at least role %s with a scope that covers %q; an admin grants it with assay apply",
		p.Actor(), act, r, leastRole(act), scope)
}

// Keep gives those claims of p that some grant asks for, for tokens of our own
// that outlive the one that stated them.
func (a *Access) Keep(p Principal) map[string]string {
	s := a.snap.Load()
	if s == nil {
		return nil
	}
	var kept map[string]string
	for _, name := range s.claims[p.Issuer] {
		if v, ok := p.Claims[name]; ok {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[name] = v
		}
	}
	return kept
}

// AllowPattern answers whether p may do act to every repository of a pattern:
// whoever manages a part of the site hands on no more than that part. It holds
// the grants' scopes against names that stand for all that the pattern can
// match, which no scope without a star of its own in that place covers.
func (a *Access) AllowPattern(ctx context.Context, p Principal, act Action, scope string) error {
	if _, err := glob.Parse(scope); err != nil {
		return err
	}
	if scope == "**" {
		return a.Allow(ctx, p, act, Resource{Kind: ResourceRepository})
	}
	// Two texts that begin and end differently, so that what a grant's scope has
	// besides stars is not met by chance in both.
	for _, star := range [...]string{"0any1other2", "zq9", ""} {
		for _, deep := range [...]bool{false, true} {
			if err := a.Allow(ctx, p, act, Repository(standIn(scope, star, deep))); err != nil {
				return fmt.Errorf("scope %q: %w", scope, err)
			}
		}
	}
	return nil
}

// standIn is a name that a pattern matches: star for its stars, one segment or
// three for its "**". A star that is all of a segment stands for some name.
func standIn(scope, star string, deep bool) string {
	segments := strings.Split(scope, "/")
	for i, seg := range segments {
		name := star
		if name == "" {
			name = "x"
		}
		switch {
		case seg == "**" && deep:
			segments[i] = name + "/" + name + "/" + name
		case seg == "**", seg == "*":
			segments[i] = name
		default:
			segments[i] = strings.ReplaceAll(seg, "*", star)
		}
	}
	return strings.Join(segments, "/")
}

// Somewhere answers whether p may do act to anything at all: who may list what
// then is held against each scope by itself.
func (a *Access) Somewhere(p Principal, act Action) error {
	if p.Kind == KindSystem {
		return nil
	}
	if s := a.snap.Load(); s != nil && s.somewhere(&p, act) {
		return nil
	}
	if p.IsAnonymous() {
		return fault.Newf(fault.Unauthenticated, "%s: no credentials were given; log in with a token of the audience that this door asks for", act)
	}
	return fault.Newf(fault.Denied, "%.300s may not %s anywhere: it needs at least role %s; an admin grants it with assay apply", p.Actor(), act, leastRole(act))
}

func (s *snapshot) somewhere(p *Principal, act Action) bool {
	// The scopes that grants have are the only ones that can be covered.
	for _, g := range s.grants {
		if g.Issuer != p.Issuer || !slices.Contains(g.Role.Actions(), act) {
			continue
		}
		name := strings.ReplaceAll(strings.ReplaceAll(g.Scope, "**", "a"), "*", "a")
		if s.allows(p, act, Repository(name)) {
			return true
		}
	}
	return false
}

// leastRole names the role with the fewest rights that has an action.
func leastRole(act Action) string {
	if roles := rolesFor(act); len(roles) > 0 {
		return string(roles[0])
	}
	return "(none: no role has this action)"
}
