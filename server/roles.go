package server

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"assay/authority"
	"assay/authority/rotation"
	"assay/config"
	"assay/identity"
	"assay/internal/fault"
	"assay/store"
	"assay/tlog"
)

// A site can run as several processes on one PostgreSQL: server.roles says what
// each does. What is public of the site's keys stands in the database as rows of
// package rotation, and all processes build the trusted root of these. A key
// counts when this process's folder knows it, or when another process of the
// site has vouched for its row by a MAC of the peers' secret: who writes the
// database alone does not make a key the site's.

// vouchMigrations is the table of what the processes vouch for.
var vouchMigrations = store.Migrations{Name: "site", Steps: []string{`
CREATE TABLE site_voucher (
	name TEXT   NOT NULL PRIMARY KEY, -- of the key
	mac  BYTES  NOT NULL,             -- HMAC-SHA-256 over name, role, key and certificates
	at   BIGINT NOT NULL              -- microseconds
);`}}

// holders says which role's process holds the keys of a role.
var holders = map[rotation.Role]string{
	rotation.CA: config.RoleSigner, rotation.TSA: config.RoleSigner, rotation.OIDC: config.RoleSigner,
	rotation.Log: config.RoleLog, rotation.CT: config.RoleLog, rotation.Audit: config.RoleLog,
	rotation.Registry: config.RoleRegistry, rotation.Decision: config.RoleAPI, rotation.Delegation: config.RoleAPI, rotation.Source: config.RoleAPI,
	rotation.TUFOnline: config.RoleAPI, rotation.TUFRoot: config.RoleAPI,
}

// holds says whether the keys of a role are this process's.
func (s *Server) holds(r rotation.Role) bool { return s.has(holders[r]) }

// heldRoles are the roles of the keys that this process holds; nil: all.
func (s *Server) heldRoles() (out []rotation.Role) {
	if !s.split() {
		return nil
	}
	out = []rotation.Role{}
	for _, r := range rotation.Roles() {
		if s.holds(r) {
			out = append(out, r)
		}
	}
	return out
}

// rolesState is what a process knows of the site's other parts.
type rolesState struct {
	local       *identity.LocalIssuer // the issuer of this site, here or in another process
	peers       *peerKeys             // nil: the site is one process
	leader      string                // this process's name in the log's lease
	leading     atomic.Bool
	witnessKey  crypto.Signer // by which witnesses know the log; nil: none are asked
	witnessing  atomic.Pointer[tlog.WitnessState]
	witnessTold *tlog.WitnessState
	tokenKeys   atomic.Pointer[[]jose.JSONWebKey] // of an issuer in another process
}

// has says whether this process has a role.
func (s *Server) has(role string) bool { return s.cfg.Server.Has(role) }

// split says whether other processes do a part of the site's work.
func (s *Server) split() bool { return s.cfg.Server.Split() }

// decides says whether this process verifies evidence.
func (s *Server) decides() bool { return s.has(config.RoleRegistry) || s.has(config.RoleAPI) }

// roleNames are this process's roles, for people.
func (s *Server) roleNames() string {
	if len(s.cfg.Server.Roles) == 0 {
		return strings.Join(config.Roles(), ",")
	}
	return strings.Join(s.cfg.Server.Roles, ",")
}

// openPeers derives what the processes know each other by.
func (s *Server) openPeers() error {
	if s.cfg.Server.Peers.Secret == "" {
		return nil
	}
	secret, err := config.Secret(s.cfg.Server.Peers.Secret)
	if err != nil {
		return fmt.Errorf("server.peers.secret: %w", err)
	}
	if len(secret) < 32 {
		return fault.Newf(fault.Invalid, "server.peers.secret has %d bytes, want 32 or more: openssl rand -base64 32", len(secret))
	}
	s.peers, err = newPeerKeys(secret, s.data.site.Host)
	return err
}

// vouch tells the other processes that the rows of this folder's keys are the
// site's.
func (s *Server) vouch(ctx context.Context, rows []rotation.Key) error {
	if s.peers == nil {
		return nil
	}
	known := s.knownKeys()
	return s.db.Update(ctx, func(tx *store.Tx) error {
		for _, k := range rows {
			if !s.holds(k.Role) || known[k.Name] != k.Fingerprint {
				continue
			}
			if _, err := tx.Exec(ctx, `INSERT INTO site_voucher (name, mac, at) VALUES (?, ?, ?)
				ON CONFLICT (name) DO UPDATE SET mac = excluded.mac, at = excluded.at`,
				k.Name, s.peers.mac(k), store.Micros(tx.Now())); err != nil {
				return err
			}
		}
		return nil
	})
}

// vouched says whether another process of this site stands by a row. None yet is
// [fault.Unavailable], another site's or nobody's [fault.Tampered].
func (s *Server) vouched(ctx context.Context, k rotation.Key) error {
	if s.peers == nil {
		return fault.Newf(fault.Tampered, "no other process is configured (server.peers.secret)")
	}
	var mac []byte
	err := s.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, `SELECT mac FROM site_voucher WHERE name = ?`, k.Name).Scan(&mac)
	})
	switch {
	case errors.Is(err, fault.NotFound):
		return fault.Newf(fault.Unavailable, "the process that holds the %s key has not vouched for %s yet", k.Role, k.Name)
	case err != nil:
		return err
	case !hmac.Equal(mac, s.peers.mac(k)):
		return fault.Newf(fault.Tampered, "what vouches for key %s was not written with this site's server.peers.secret: give all processes the same secret, or find out who wrote it", k.Name)
	}
	return nil
}

// knownKeys are the fingerprints of the keys that this folder knows, by name.
func (s *Server) knownKeys() map[string]string {
	known := map[string]string{}
	for _, e := range s.keys.List() {
		known[e.Name] = e.Fingerprint
	}
	return known
}

// The time in which a process waits for keys of another one, and how often it
// looks.
const (
	peerWait  = 2 * time.Minute
	peerEvery = 200 * time.Millisecond
)

// awaitKeys gives the rows once they have an active key of each role that the
// process which holds it has vouched for.
func (s *Server) awaitKeys(ctx context.Context, roles ...rotation.Role) ([]rotation.Key, error) {
	ctx, cancel := context.WithTimeout(ctx, peerWait)
	defer cancel()
	told := false
	for {
		rows, err := s.own.keeper.List(ctx)
		if err != nil {
			return nil, err
		}
		missing := rotation.Role("")
		for _, r := range roles {
			k := rotation.ActiveOf(rows, r)
			if k == nil {
				missing = r
				break
			}
			if err := s.vouched(ctx, *k); errors.Is(err, fault.Unavailable) {
				missing = r
				break
			} else if err != nil {
				return nil, err
			}
		}
		if missing == "" {
			return rows, nil
		}
		if !told {
			s.log.Info("waiting for the first start of another process of this site", "role", holders[missing], "key", missing)
			told = true
		}
		select {
		case <-ctx.Done():
			return nil, fault.Newf(fault.Unavailable, "no process with role %s has started on this database and made the %s key: start it first", holders[missing], missing)
		case <-time.After(peerEvery):
		}
	}
}

// takeSigner takes the certificates and keys of the process that signs.
func (s *Server) takeSigner(ctx context.Context) error {
	rows, err := s.awaitKeys(ctx, rotation.CA, rotation.TSA, rotation.OIDC)
	if err != nil {
		return err
	}
	s.material = &authority.Material{}
	if s.material.CAChain, err = rotation.ActiveOf(rows, rotation.CA).Certificates(); err != nil {
		return err
	}
	if s.material.TSAChain, err = rotation.ActiveOf(rows, rotation.TSA).Certificates(); err != nil {
		return err
	}
	s.local = &identity.LocalIssuer{URL: s.public + "/oidc", Keys: func() []jose.JSONWebKey {
		if keys := s.tokenKeys.Load(); keys != nil {
			return *keys
		}
		return nil
	}}
	return s.takeTokenKeys(rotation.Of(rows, rotation.OIDC))
}

// takeTokenKeys takes the keys of the issuer in another process.
func (s *Server) takeTokenKeys(in []rotation.Key) error {
	pubs, err := publics(in, func(k rotation.Key) bool { return k.State != rotation.Retired })
	if err != nil {
		return err
	}
	keys, err := authority.TokenKeys(pubs...)
	if err != nil {
		return err
	}
	s.tokenKeys.Store(&keys)
	return nil
}

// takeLog waits for the keys of the process that has the logs.
func (s *Server) takeLog(ctx context.Context) error {
	_, err := s.awaitKeys(ctx, rotation.Log, rotation.CT)
	return err
}

// elsewhere answers for what another process of the site does.
func (s *Server) elsewhere(role string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hint := "another process of this site has that role"
		if u := s.cfg.Server.Peers.Of(role); u != "" {
			hint = "ask " + u
		}
		h := w.Header()
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintf(w, "this is of role %s, and this process has %s: %s\n", role, s.roleNames(), hint)
	})
}

// leaderTTL is how long the log's lease holds without being renewed.
const leaderTTL = 15 * time.Second

// leadLog makes this process the log's only one: of a split site a second could
// be started by mistake, on a folder of its own. The checkpoint's compare and
// swap in the database would stop its first commit; the lease stops it before.
func (s *Server) leadLog(ctx context.Context) error {
	if !s.split() {
		return nil
	}
	name := "log-" + rand.Text()
	deadline := time.Now().Add(2 * leaderTTL)
	for {
		held, _, err := s.db.Lease(ctx, leaseLog, name, leaderTTL)
		if err != nil {
			return err
		}
		if held {
			s.leader = name
			s.leading.Store(true)
			s.onClose("log lease", func() error { return s.db.Release(context.WithoutCancel(ctx), leaseLog, name) })
			return nil
		}
		if time.Now().After(deadline) {
			return fault.Newf(fault.Conflict, "another process has this site's log: only one may have role log; stop the other one")
		}
		s.log.Info("another process has the log; waiting for its lease to end")
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

const leaseLog = "log"

// holdLog renews the log's lease. Without it nothing is written any more.
func (s *Server) holdLog(ctx context.Context) error {
	held, _, err := s.db.Lease(ctx, leaseLog, s.leader, leaderTTL)
	if err != nil {
		// The database may be away for a moment; it is also what takes the log's
		// checkpoints, so that nothing is written meanwhile.
		return err
	}
	if was := s.leading.Swap(held); was && !held {
		s.log.Error("this process lost the log's lease to another one and takes no entries any more")
	}
	return nil
}

// leaderOnly answers 503 while another process has the log.
func (s *Server) leaderOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.split() && !s.leading.Load() && r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "another process has the log now", http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// mac binds a row to the site.
func (k *peerKeys) mac(row rotation.Key) []byte {
	m := hmac.New(sha256.New, k.rows)
	add := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		m.Write(n[:])
		m.Write(b)
	}
	add([]byte(row.Name))
	add([]byte(row.Role))
	add(row.Public)
	for _, c := range row.Chain {
		add(c)
	}
	return m.Sum(nil)
}
