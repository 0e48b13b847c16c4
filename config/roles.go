package config

import (
	"net"
	"net/url"
	"slices"
	"strings"

	"assay/internal/fault"
)

// The roles of a process. A site of one process has them all.
const (
	RoleSigner   = "signer"   // certificate and timestamp authority, OIDC issuer
	RoleLog      = "log"      // transparency log and certificate log
	RoleRegistry = "registry" // images, evidence that is pushed, the gate
	RoleAPI      = "api"      // evidence, decisions, documents; publishes trust by TUF
	RoleUI       = "ui"       // pages for people
)

// Roles are all of them, in the order in which a split site starts.
func Roles() []string { return []string{RoleSigner, RoleLog, RoleRegistry, RoleAPI, RoleUI} }

// Peers are the other processes of a split site.
type Peers struct {
	// Signer, Log, Registry and API are the addresses, https://HOST:PORT, at
	// which processes with these roles answer each other. Only Log is asked by
	// others; all are named in the hint of a process that is asked for what
	// another one does.
	Signer   string `yaml:"signer"`
	Log      string `yaml:"log"`
	Registry string `yaml:"registry"`
	API      string `yaml:"api"`
	// Secret is the place of what the processes know each other by, "file:PATH"
	// or "credential:NAME", the same in all of them: 32 bytes or more.
	Secret string `yaml:"secret"`
}

// Of is the address of a role's process; "" when none is named.
func (p Peers) Of(role string) string {
	return map[string]string{RoleSigner: p.Signer, RoleLog: p.Log, RoleRegistry: p.Registry, RoleAPI: p.API}[role]
}

// Has says whether this process has a role.
func (s Server) Has(role string) bool { return len(s.Roles) == 0 || slices.Contains(s.Roles, role) }

// Split says whether other processes have roles that this one has not.
func (s Server) Split() bool {
	for _, r := range Roles() {
		if r != RoleUI && !s.Has(r) {
			return true
		}
	}
	return false
}

func (c *Config) validateRoles() error {
	for i, r := range c.Server.Roles {
		if !slices.Contains(Roles(), r) {
			return fault.Newf(fault.Invalid, "server.roles: %.40q is no role; want some of %s", r, strings.Join(Roles(), ", "))
		}
		if slices.Contains(c.Server.Roles[:i], r) {
			return fault.Newf(fault.Invalid, "server.roles: %s stands twice", r)
		}
	}
	p := c.Server.Peers
	for _, role := range Roles() {
		if u := p.Of(role); u != "" {
			if err := checkPeer(role, u); err != nil {
				return err
			}
		}
	}
	if !c.Server.Split() {
		return nil
	}
	if c.Server.PublicURL == "" {
		return fault.Newf(fault.Invalid, "server.roles: a split site has one address for its clients: set server.public_url, the same in all its processes")
	}
	if dsn := c.Store.DSN; dsn == "" || strings.HasPrefix(dsn, "sqlite:") {
		return fault.Newf(fault.Invalid, "server.roles: the processes of a split site share one PostgreSQL; set store.dsn, the same in all of them")
	}
	if p.Secret == "" {
		return fault.Newf(fault.Invalid, "server.roles: set server.peers.secret, by which the processes of a split site know each other; openssl rand -base64 32 makes one")
	}
	if !c.Server.Has(RoleLog) && p.Log == "" {
		return fault.Newf(fault.Invalid, "server.roles: this process has not the log: set server.peers.log to the address of the one that has")
	}
	if c.Server.Has(RoleAPI) && !c.Server.Has(RoleSigner) && p.Signer == "" {
		return fault.Newf(fault.Invalid, "server.roles: the api has its lists timestamped by the signer: set server.peers.signer to the address of the process that has that role")
	}
	if c.Server.Has(RoleRegistry) != c.Server.Has(RoleAPI) {
		return fault.Newf(fault.Invalid, "server.roles: registry and api decide with one key and read the same blobs: give both roles to one process")
	}
	return nil
}

func checkPeer(role, text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" ||
		(u.Scheme != "https" && u.Scheme != "http") {
		return fault.Newf(fault.Invalid, "server.peers.%s: want https://HOST[:PORT]", role)
	}
	if host := u.Hostname(); u.Scheme == "http" && !loopback(host) {
		return fault.Newf(fault.Invalid, "server.peers.%s: http is for loopback only, %s is not: the peers' secret would cross the network in the clear", role, net.JoinHostPort(host, u.Port()))
	}
	return nil
}
