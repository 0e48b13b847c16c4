package config

import (
	"fmt"
	"net/netip"
	"time"

	"assay/identity"
	"assay/internal/fault"
)

// KindTeam is a document that names the people and machines of a team.
const KindTeam = "Team"

// TeamSpec names a team's members, for grants to the team.
type TeamSpec struct {
	Members []Member `yaml:"members"`
}

// Member is whoever an issuer proves by a subject (a pattern, see internal/glob)
// or by a group.
type Member struct {
	Issuer  string `yaml:"issuer"`
	Subject string `yaml:"subject,omitempty"`
	Group   string `yaml:"group,omitempty"`
}

func (t TeamSpec) validate(name string) error {
	if len(t.Members) == 0 {
		return fault.Newf(fault.Invalid, "team %s has no members: want members, each with an issuer and a subject or group", name)
	}
	for i, m := range t.Members {
		g := m.grant(identity.Grant{Role: identity.RolePull, Scope: "**"})
		if err := g.Validate(); err != nil {
			return fmt.Errorf("team %s: member %d: %w", name, i+1, err)
		}
	}
	return nil
}

func (m Member) grant(g identity.Grant) identity.Grant {
	g.Team, g.Issuer, g.Subject, g.Group = "", m.Issuer, m.Subject, m.Group
	return g
}

// expandTeams puts a team's members in the place of the team.
func expandTeams(docs []Document, grants []identity.Grant) ([]identity.Grant, error) {
	teams := map[string]*TeamSpec{}
	for _, d := range docs {
		if d.Team != nil {
			teams[d.Name] = d.Team
		}
	}
	var out []identity.Grant
	for _, g := range grants {
		if g.Team == "" {
			out = append(out, g)
			continue
		}
		t := teams[g.Team]
		if t == nil {
			return nil, fault.Newf(fault.Conflict, "a grant of role %s on %s is to team %q, which no document of kind %s names", g.Role, g.Scope, g.Team, KindTeam)
		}
		for _, m := range t.Members {
			out = append(out, m.grant(g))
		}
	}
	return out, nil
}

// maxRobotLife is the longest life that a site may allow for robots' tokens.
const maxRobotLife = 366 * 24 * time.Hour

// validateAccess checks what sections server, identity and registry say about
// access.
func (c *Config) validateAccess() error {
	if l := c.Identity.RobotMaxLife; l < time.Minute || l > maxRobotLife {
		return fault.Newf(fault.Invalid, "identity.robot_max_life %s: want from 1m to %s", l, maxRobotLife)
	}
	if l := c.Registry.ExchangeLife; l < time.Minute || l > time.Hour {
		return fault.Newf(fault.Invalid, "registry.exchange_life %s: want from 1m to 1h", l)
	}
	if d := c.Registry.Redirect; d < 0 || d > time.Hour {
		return fault.Newf(fault.Invalid, "registry.redirect %s: want at most 1h", d)
	}
	if c.Registry.Redirect > 0 && c.Registry.RelaxedAudit {
		return fault.Newf(fault.Invalid, "registry.redirect is for sites that keep each pull's record before its answer ends: unset registry.relaxed_audit")
	}
	_, err := c.Server.Proxies()
	return err
}

// Proxies are the networks of TrustedProxies.
func (s Server) Proxies() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range s.TrustedProxies {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, aerr := netip.ParseAddr(text)
			if aerr != nil {
				return nil, fault.Newf(fault.Invalid, "server.trusted_proxies %.80q: want an address or a network, for example 10.0.0.0/8", text)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if p.Bits() == 0 {
			return nil, fault.Newf(fault.Invalid, "server.trusted_proxies %s: every address would be believed to be a proxy, and anybody could write any address into the audit trail", text)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
