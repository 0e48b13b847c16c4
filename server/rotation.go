package server

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"assay/authority"
	"assay/authority/rotation"
	"assay/internal/fault"
	"assay/internal/keyring"
	"assay/tlog"
	"assay/trust"
	"assay/trust/tuf"

	"github.com/google/uuid"
)

// ownKeys are the site's own keys in this process: what the rows say, and the
// private halves at hand.
type ownKeys struct {
	keeper *rotation.Keeper
	audit  atomic.Pointer[auditKey]

	mu      sync.Mutex
	signers map[string]crypto.Signer // by name
	using   map[rotation.Role]string // what each part of the server uses, in words
	waiting map[rotation.Role]string // why a rotation waits
}

type auditKey struct{ crypto.Signer }

// firstNames are the names of the keys that a site begins with.
var firstNames = map[rotation.Role]string{
	rotation.CA: authority.KeyCAIntermediate, rotation.TSA: authority.KeyTSA, rotation.OIDC: authority.KeyOIDC,
	rotation.Log: keyLog, rotation.CT: keyCT, rotation.Audit: keyAudit, rotation.Decision: keyDecision,
	rotation.Delegation: "delegation", rotation.Source: "source", rotation.Registry: keyRegistry, rotation.TUFOnline: keyTUFOnline, rotation.TUFRoot: keyTUFRoot,
}

// openRotation makes the keeper of the keys and tells the key folder where keys
// lie that rotation made elsewhere.
func (s *Server) openRotation(ctx context.Context, keys *keyring.Folder) error {
	s.own.signers, s.own.using = map[string]crypto.Signer{}, map[rotation.Role]string{}
	var err error
	if s.own.keeper, err = rotation.New(rotation.Options{
		DB: s.db, Keys: rotationStore{keys}, Chain: s.newChain, Apply: s.applyKeys, Schedule: s.cfg.Keys.Rotation.Schedule,
		Place: s.keyPlace, Expires: s.keyExpires, Alerts: s.cfg.Keys.Rotation.Alerts, Archive: s.cfg.Keys.Rotation.Retired == "archive",
		Clock: s.clock, Logger: s.log, Registerer: s.reg, Holder: uuid.NewString(), Roles: s.heldRoles(),
	}); err != nil {
		return err
	}
	rows, err := s.own.keeper.List(ctx)
	if err != nil {
		return err
	}
	for _, k := range rows {
		if k.Place != "" {
			keys.Place(k.Name, k.Place)
		}
	}
	return nil
}

// ownKey is the key of a role that signs. The first one is made, or found, and
// becomes the role's first row.
func (s *Server) ownKey(ctx context.Context, keys *keyring.Folder, role rotation.Role) (crypto.Signer, error) {
	rows, err := s.own.keeper.List(ctx)
	if err != nil {
		return nil, err
	}
	if k := rotation.ActiveOf(rows, role); k != nil {
		return s.signerOf(ctx, *k)
	}
	key, err := keys.LoadOrCreate(ctx, firstNames[role])
	if err != nil {
		return nil, err
	}
	return key, s.adopt(ctx, first{role, key, nil})
}

// first is a key that a site begins with.
type first struct {
	role  rotation.Role
	key   crypto.Signer
	chain []*x509.Certificate
}

// adopt writes the first rows of roles, together. All keys of a site are made at
// its first start, with the CA's root, and their windows begin with that.
func (s *Server) adopt(ctx context.Context, keys ...first) error {
	start := s.material.CAChain[len(s.material.CAChain)-1].NotBefore.UTC()
	var rows []rotation.Key
	for _, f := range keys {
		k, err := rotation.Describe(f.role, firstNames[f.role], f.key, f.chain, start)
		if err != nil {
			return err
		}
		s.keep(k.Name, f.key)
		rows = append(rows, k)
	}
	if err := s.own.keeper.Adopt(ctx, rows); err != nil {
		return err
	}
	return s.vouchAll(ctx)
}

// vouchAll vouches for the rows of all keys that this process holds.
func (s *Server) vouchAll(ctx context.Context) error {
	rows, err := s.own.keeper.List(ctx)
	if err != nil {
		return err
	}
	return s.vouch(ctx, rows)
}

// activeSigner is the key of a role that signs now.
func (s *Server) activeSigner(ctx context.Context, role rotation.Role) (crypto.Signer, error) {
	k := rotation.ActiveOf(s.trust().keys, role)
	if k == nil {
		return nil, fault.Newf(fault.Unavailable, "this process has no %s key", role)
	}
	return s.signerOf(ctx, *k)
}

func (s *Server) keep(name string, key crypto.Signer) {
	s.own.mu.Lock()
	defer s.own.mu.Unlock()
	s.own.signers[name] = key
}

// signerOf gives a key's private half.
func (s *Server) signerOf(ctx context.Context, k rotation.Key) (crypto.Signer, error) {
	s.own.mu.Lock()
	key := s.own.signers[k.Name]
	s.own.mu.Unlock()
	if key != nil {
		return key, nil
	}
	if k.Place != "" {
		s.keys.Place(k.Name, k.Place)
	}
	key, err := s.keys.Load(ctx, k.Name)
	if err != nil {
		return nil, fmt.Errorf("%s key: %w", k.Role, err)
	}
	if fp, err := trust.KeyFingerprint(key.Public()); err != nil || fp != k.Fingerprint {
		return nil, fault.Newf(fault.Tampered, "key %s is not the one that the database knows under this name: restore both from one backup", k.Name)
	}
	s.keep(k.Name, key)
	return key, nil
}

// openMaterial gives the authorities' certificates and keys: those of the rows,
// or those of the first start.
func (s *Server) openMaterial(ctx context.Context, keys *keyring.Folder) error {
	rows, err := s.own.keeper.List(ctx)
	if err != nil {
		return err
	}
	begun := 0
	for _, k := range rows {
		if (k.Role == rotation.CA || k.Role == rotation.TSA || k.Role == rotation.OIDC) && k.Number == 1 && !k.Gone {
			begun++
		}
	}
	s.material = &authority.Material{}
	if begun == 3 || len(rows) == 0 {
		// Also when the rows are there: keys and files that do not belong together
		// are noticed.
		if s.material, err = authority.Init(ctx, keys, authority.InitOptions{Dir: s.data.join("ca"), Name: s.data.site.Host, Clock: s.clock, Logger: s.log}); err != nil {
			return err
		}
	}
	if len(rows) == 0 {
		return s.adopt(ctx,
			first{rotation.CA, s.material.CASigner, s.material.CAChain},
			first{rotation.TSA, s.material.TSASigner, s.material.TSAChain},
			first{rotation.OIDC, s.material.OIDC, nil},
		)
	}
	for _, r := range []struct {
		role   rotation.Role
		chain  *[]*x509.Certificate
		signer *crypto.Signer
	}{
		{rotation.CA, &s.material.CAChain, &s.material.CASigner}, {rotation.TSA, &s.material.TSAChain, &s.material.TSASigner},
		{rotation.OIDC, nil, &s.material.OIDC},
	} {
		k := rotation.ActiveOf(rows, r.role)
		if k == nil {
			return fault.Newf(fault.Tampered, "the database has keys of this site and none of role %s: restore it from a backup", r.role)
		}
		if *r.signer, err = s.signerOf(ctx, *k); err != nil {
			return err
		}
		if r.chain != nil {
			if *r.chain, err = k.Certificates(); err != nil {
				return err
			}
		}
	}
	return nil
}

// logKeys are the keys of a log as its rows have them.
func (s *Server) logKeys(ctx context.Context, rows []rotation.Key, role rotation.Role) (tlog.Keys, error) {
	var out tlog.Keys
	for _, k := range rotation.Of(rows, role) {
		if k.State == rotation.Retired {
			pub, err := k.PublicKey()
			if err != nil {
				return out, err
			}
			out.Past = append(out.Past, pub)
			continue
		}
		key, err := s.signerOf(ctx, k)
		switch {
		case err != nil:
			return out, err
		case k.State == rotation.Active:
			out.Signer = key
		default:
			out.Cosigners = append(out.Cosigners, key)
		}
	}
	if role == rotation.Log {
		out.Cosigners = s.cosigner(out.Cosigners)
	}
	return out, nil
}

// openLogKeys gives the keys that a log opens with.
func (s *Server) openLogKeys(ctx context.Context, keys *keyring.Folder, role rotation.Role) (tlog.Keys, error) {
	if _, err := s.ownKey(ctx, keys, role); err != nil {
		return tlog.Keys{}, err
	}
	rows, err := s.own.keeper.List(ctx)
	if err != nil {
		return tlog.Keys{}, err
	}
	return s.logKeys(ctx, rows, role)
}

// tufRows says which keys sign the TUF repository by the rows, and which root
// keys of earlier times are at hand.
func (s *Server) tufRows(ctx context.Context, rows []rotation.Key) (roles tuf.Roles, before []crypto.Signer, err error) {
	for _, k := range rotation.Of(rows, rotation.TUFRoot) {
		if k.Gone || k.State == rotation.Pending {
			continue
		}
		key, err := s.signerOf(ctx, k)
		if err != nil {
			return roles, nil, err
		}
		if k.State == rotation.Active {
			roles.Root = []crypto.Signer{key}
		}
		before = append(before, key)
	}
	for _, k := range rotation.Of(rows, rotation.TUFOnline) {
		if k.State == rotation.Retired {
			continue
		}
		key, err := s.signerOf(ctx, k)
		if err != nil {
			return roles, nil, err
		}
		if k.State == rotation.Active {
			roles.Targets, roles.Snapshot, roles.Timestamp = key, key, key
			continue
		}
		if k.Reason == rotation.ReasonCompromised && k.State == rotation.Retiring {
			continue
		}
		// One that follows and one that goes are named beside the one that signs,
		// and sign too: for who is in the middle of an update, and for documents
		// below the root that bear the old one's signature alone.
		roles.Cosigners, roles.Listed = append(roles.Cosigners, key), true
	}
	return roles, before, nil
}

// loadAuthorities puts the site's own authorities into a draft, each with its
// window; those that are retired too, so that history verifies.
func (s *Server) loadAuthorities(ctx context.Context, docs []trust.Document, d *trustDraft) error {
	rows, err := rotation.Parse(docs)
	if err != nil {
		return err
	}
	if err := s.ours(ctx, rows); err != nil {
		return err
	}
	d.keys = rows
	for _, k := range rows {
		pub, err := k.PublicKey()
		if err != nil {
			return err
		}
		chain, err := k.Certificates()
		if err != nil {
			return err
		}
		log := func(path string) trust.Log {
			return trust.Log{URL: s.public + path, Operator: s.operators, Key: pub, Window: k.Window()}
		}
		of := func(path string) trust.Authority {
			return trust.Authority{URL: s.public + path, Operator: s.operators, Chain: chain, Window: k.Window()}
		}
		switch k.Role {
		case rotation.CA:
			d.own.CAs = append(d.own.CAs, of("/fulcio"))
		case rotation.TSA:
			d.own.TSAs = append(d.own.TSAs, of("/tsa"))
		case rotation.Log:
			d.own.Logs = append(d.own.Logs, log("/rekor"))
		case rotation.CT:
			d.own.CTLogs = append(d.own.CTLogs, log("/ct"))
		case rotation.Source:
			d.verify.Keys = append(d.verify.Keys, trust.Key{Public: pub, Window: k.Window()})
			if d.verify.SourceKeys == nil {
				d.verify.SourceKeys = map[string]bool{}
			}
			d.verify.SourceKeys[k.Fingerprint] = true
		}
	}
	return nil
}

// ours refuses rows of keys that this site's key folder has never known: who
// writes the database alone does not make a key the site's.
func (s *Server) ours(ctx context.Context, rows []rotation.Key) error {
	known := s.knownKeys()
	for _, k := range rows {
		if !s.holds(k.Role) {
			if err := s.vouched(ctx, k); err != nil {
				return err
			}
			continue
		}
		pub, err := k.PublicKey()
		if err != nil {
			return err
		}
		fp, err := keyring.Fingerprint(pub)
		if err != nil {
			return err
		}
		if known[k.Name] != fp {
			return fault.Newf(fault.Tampered, "the database has a key %s (%s) of role %s that this site's key folder does not know: restore both from one backup; if this was nobody's restore, who can write the database tried to become this site", k.Name, fp, k.Role)
		}
		if chain, err := k.Certificates(); err != nil || len(chain) > 0 && string(chain[0].RawSubjectPublicKeyInfo) != string(k.Public) {
			return errors.Join(fault.Newf(fault.Tampered, "the certificates of key %s in the database are another key's", k.Name), err)
		}
	}
	return nil
}

// applyKeys brings this process and what it publishes to the rows.
func (s *Server) applyKeys(ctx context.Context) (map[rotation.Role]string, error) {
	if err := s.vouchAll(ctx); err != nil {
		return nil, err
	}
	if err := s.reloadTrust(ctx); err != nil {
		return nil, err
	}
	if s.trust().revocations != nil {
		// The list bears the online key's signature: a new key signs it before the
		// root lets go of the old one.
		if err := s.renewRevocations(ctx); err != nil {
			return nil, err
		}
	}
	s.own.mu.Lock()
	defer s.own.mu.Unlock()
	return s.own.waiting, nil
}

// newChain makes the certificates of a new ca or tsa key.
func (s *Server) newChain(r rotation.Role, signer crypto.Signer) ([]*x509.Certificate, error) {
	name := strings.ToValidUTF8(s.data.site.Host[:min(len(s.data.site.Host), 64)], "")
	if r == rotation.CA {
		return authority.NewCAChain(name, s.clock, signer)
	}
	return authority.NewTSAChain(name, s.clock, signer)
}

// keyPlace is where the next key of a role is made: where the configuration
// says. A key that lies in a KMS is not followed by one in a file in silence.
func (s *Server) keyPlace(r rotation.Role, number int) (string, error) {
	if p := s.cfg.Keys.Rotation.Place(string(r)); p != "" {
		return strings.ReplaceAll(p, "{n}", strconv.Itoa(number)), nil
	}
	rows := []rotation.Key(nil)
	if t := s.trust(); t != nil {
		rows = t.keys
	}
	now := s.cfg.Keys.Places[string(r)]
	if k := rotation.ActiveOf(rows, r); k != nil && k.Place != "" {
		now = k.Place
	}
	if now != "" {
		return "", fault.Newf(fault.Invalid, "the %s key lies at %s: say where the next one is to be, with --place URI or in keys.rotation.roles.%s.place ({n} is the key's number)", r, keyring.Redact(now), r)
	}
	return "", nil
}

// keyExpires tells of the end of the TUF root.
func (s *Server) keyExpires(r rotation.Role) time.Time {
	if r != rotation.TUFRoot || s.tuf == nil {
		return time.Time{}
	}
	_, expires, _ := s.tuf.RootInfo()
	return expires
}

// rotationStore is the key folder as rotation asks for it.
type rotationStore struct{ *keyring.Folder }

// New implements rotation.KeyStore.
func (r rotationStore) New(ctx context.Context, name, place string, rsa bool) (crypto.Signer, error) {
	if place != "" {
		if err := r.MakeAt(ctx, name, place, rsa); err != nil {
			return nil, err
		}
	}
	key, err := r.Load(ctx, name)
	if !errors.Is(err, fault.NotFound) {
		return key, err
	}
	if rsa {
		return r.CreateRSA(ctx, name)
	}
	return r.Create(ctx, name)
}

// Retire implements rotation.KeyStore.
func (r rotationStore) Retire(ctx context.Context, name string) error {
	if err := r.Folder.Retire(ctx, name); !errors.Is(err, fault.NotFound) {
		return err
	}
	return nil
}
