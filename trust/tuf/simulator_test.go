package tuf_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"assay/trust/trusttest"
)

// simulator is a TUF repository whose owner, or attacker, holds every key and
// may publish what no honest repository would. It counts what is asked of it.
// Roles are edited in place and become visible by publish.
type simulator struct {
	t   testing.TB
	url string
	now time.Time // never the machine's: scenarios move it

	root      *metadata.Metadata[metadata.RootType]
	timestamp *metadata.Metadata[metadata.TimestampType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	targets   map[string]*metadata.Metadata[metadata.TargetsType] // by role, the top one included
	signers   map[string][]*simKey                                // by role; the last may be popped
	hashes    bool                                                // name hashes and lengths of metadata

	mu        sync.Mutex
	signed    map[string][][]byte // published bytes by role; index+1 is the version in the URL
	artifacts map[string]simArtifact
	asked     []string // metadata requests in order: "2.root", "timestamp"
	fetched   []string // target requests in order, with their hash prefix
}

type simArtifact struct {
	data []byte
	info *metadata.TargetFiles
}

// simKey is a key pair under the ID that a root names it by.
type simKey struct {
	signature.Signer
	key *metadata.Key
	id  string
}

// rsaKey is made once: it takes longer than all else together.
var rsaKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// newKey makes a key of a keytype of the TUF specification, section 4.2.
func (s *simulator) newKey(keytype string) *simKey {
	s.t.Helper()
	var signer signature.Signer
	var err error
	switch keytype {
	case "ecdsa":
		signer, err = signature.LoadSigner(trusttest.NewKey(s.t), crypto.SHA256)
	case "ed25519":
		var priv ed25519.PrivateKey
		if _, priv, err = ed25519.GenerateKey(rand.Reader); err == nil {
			signer, err = signature.LoadSigner(priv, crypto.Hash(0))
		}
	case "rsa":
		var priv *rsa.PrivateKey
		if priv, err = rsaKey(); err == nil {
			signer, err = signature.LoadRSAPSSSigner(priv, crypto.SHA256, &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
	}
	s.check(err)
	pub, err := signer.PublicKey()
	s.check(err)
	key, err := metadata.KeyFromPublicKey(pub)
	s.check(err)
	return s.identified(&simKey{Signer: signer, key: key})
}

// identified computes the ID of a key whose fields were just set.
func (s *simulator) identified(k *simKey) *simKey {
	s.t.Helper()
	id, err := k.key.ID()
	s.check(err)
	k.id = id
	return k
}

// withField adds a member to a key, which changes its ID.
func (s *simulator) withField(k *simKey, name string, value any) *simKey {
	s.t.Helper()
	return s.identified(&simKey{Signer: k.Signer, key: &metadata.Key{
		Type: k.key.Type, Scheme: k.key.Scheme, Value: k.key.Value, UnrecognizedFields: map[string]any{name: value},
	}})
}

func (s *simulator) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// newSimulator serves version 1 of the four roles, one key each, with artifact
// trusted_root.json.
func newSimulator(t testing.TB, trustedRoot []byte) *simulator {
	t.Helper()
	s := &simulator{
		t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		signers: map[string][]*simKey{}, signed: map[string][][]byte{}, artifacts: map[string]simArtifact{},
	}
	safe := s.days(30)
	s.root, s.timestamp, s.snapshot = metadata.Root(safe), metadata.Timestamp(safe), metadata.Snapshot(safe)
	s.targets = map[string]*metadata.Metadata[metadata.TargetsType]{metadata.TARGETS: metadata.Targets(safe)}
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		s.addKey(role, s.newKey("ecdsa"))
	}
	s.addArtifact("targets", trustedRoot, "trusted_root.json")
	s.publish("targets", "snapshot", "timestamp", "root")
	srv := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

func (s *simulator) days(n int) time.Time { return s.now.AddDate(0, 0, n) }

// addKey lets the root name a key for a top-level role, which then signs.
// A key that is given twice is named twice.
func (s *simulator) addKey(role string, k *simKey) {
	r := s.root.Signed.Roles[role]
	r.KeyIDs = append(r.KeyIDs, k.id)
	s.root.Signed.Keys[k.id] = k.key
	s.addSigner(role, k)
}

func (s *simulator) addSigner(role string, k *simKey) {
	if !slices.ContainsFunc(s.signers[role], func(o *simKey) bool { return o.id == k.id }) {
		s.signers[role] = append(s.signers[role], k)
	}
}

func (s *simulator) popSigner(role string) {
	s.signers[role] = s.signers[role][:len(s.signers[role])-1]
}

func (s *simulator) clearKeys(role string) {
	s.root.Signed.Roles[role].KeyIDs, s.signers[role] = []string{}, nil
}

// rotate replaces a role's keys by as many new ones as its threshold asks for.
func (s *simulator) rotate(role string) {
	s.clearKeys(role)
	for range s.root.Signed.Roles[role].Threshold {
		s.addKey(role, s.newKey("ecdsa"))
	}
}

// delegate lets one targets role delegate paths to another under a key of its
// own, as the last of its delegations.
func (s *simulator) delegate(from string, d metadata.DelegatedRole) {
	k := s.newKey("ecdsa")
	d.KeyIDs, d.Threshold = append([]string{}, k.id), 1
	t := &s.targets[from].Signed
	if t.Delegations == nil {
		t.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
	}
	t.Delegations.Keys[k.id] = k.key
	t.Delegations.Roles = append(t.Delegations.Roles, d)
	s.addSigner(d.Name, k)
	if s.targets[d.Name] == nil {
		s.targets[d.Name] = metadata.Targets(s.days(30))
	}
}

func (s *simulator) addArtifact(role string, data []byte, path string, algorithms ...string) {
	if len(algorithms) == 0 {
		algorithms = []string{"sha256"}
	}
	info := &metadata.TargetFiles{Length: int64(len(data)), Hashes: metadata.Hashes{}, Path: path}
	sum256, sum512 := sha256.Sum256(data), sha512.Sum512(data)
	for _, a := range algorithms {
		if info.Hashes[a] = sum512[:]; a == "sha256" {
			info.Hashes[a] = sum256[:]
		}
	}
	s.targets[role].Signed.Targets[path] = info
	s.mu.Lock()
	defer s.mu.Unlock()
	s.artifacts[path] = simArtifact{data, info}
}

// substitute serves other bytes for an artifact than its metadata says.
func (s *simulator) substitute(path string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.artifacts[path] = simArtifact{data, s.artifacts[path].info}
}

// publish signs and serves roles in the given order. A role's version rises
// unless nothing of it is published; what names the role is updated, to be
// published after it.
func (s *simulator) publish(roles ...string) {
	s.t.Helper()
	for _, role := range roles {
		bump := int64(0)
		if len(s.signed[role]) > 0 {
			bump = 1
		}
		var b []byte
		switch role {
		case "root":
			s.root.Signed.Version += bump
			b = signed(s, s.root, role)
		case "timestamp":
			s.timestamp.Signed.Version += bump
			b = signed(s, s.timestamp, role)
		case "snapshot":
			s.snapshot.Signed.Version += bump
			b = signed(s, s.snapshot, role)
			s.timestamp.Signed.Meta["snapshot.json"] = s.meta(s.snapshot.Signed.Version, b)
		default:
			t := s.targets[role]
			t.Signed.Version += bump
			b = signed(s, t, role)
			s.snapshot.Signed.Meta[role+".json"] = s.meta(t.Signed.Version, b)
		}
		s.append(role, b)
	}
}

func (s *simulator) meta(version int64, b []byte) *metadata.MetaFiles {
	m := &metadata.MetaFiles{Version: version}
	if s.hashes {
		sum := sha256.Sum256(b)
		m.Length, m.Hashes = int64(len(b)), metadata.Hashes{"sha256": sum[:]}
	}
	return m
}

// signed gives the metadata as JSON, signed by all the role's signers.
func signed[T metadata.Roles](s *simulator, m *metadata.Metadata[T], role string) []byte {
	s.t.Helper()
	m.ClearSignatures()
	for _, k := range s.signers[role] {
		_, err := m.Sign(k)
		s.check(err)
		m.Signatures[len(m.Signatures)-1].KeyID = k.id // go-tuf derives it from the public key alone
	}
	b, err := m.ToBytes(false)
	s.check(err)
	return b
}

func (s *simulator) append(role string, b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signed[role] = append(s.signed[role], b)
}

// last is what was published last of a role.
func (s *simulator) last(role string) []byte { return s.signed[role][len(s.signed[role])-1] }

// pop takes back what was published last of a role.
func (s *simulator) pop(role string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.last(role)
	s.signed[role] = s.signed[role][:len(s.signed[role])-1]
	return b
}

// forget takes back all of a role, so that its next version is published as 1.
func (s *simulator) forget(role string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.signed, role)
}

// resetAsked forgets the requests so far and gives them.
func (s *simulator) resetAsked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.asked
	s.asked = nil
	return was
}

// serve answers /metadata/[<version>.]<role>.json and /targets/<dir>/<hash>.<name>.
func (s *simulator) serve(w http.ResponseWriter, req *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := req.URL.EscapedPath()
	var b []byte
	if name, ok := strings.CutPrefix(path, "/metadata/"); ok {
		name = strings.TrimSuffix(name, ".json")
		s.asked = append(s.asked, name)
		b = s.document(name)
	} else if name, ok := strings.CutPrefix(path, "/targets/"); ok {
		s.fetched = append(s.fetched, name)
		b = s.artifact(name)
	}
	if b == nil {
		http.NotFound(w, req)
		return
	}
	_, _ = w.Write(b)
}

func (s *simulator) document(name string) []byte {
	if name == "timestamp" {
		if len(s.signed[name]) == 0 {
			return nil
		}
		return s.last(name)
	}
	number, role, _ := strings.Cut(name, ".")
	role, err := url.PathUnescape(role)
	n, err2 := strconv.Atoi(number)
	if err != nil || err2 != nil || n < 1 || n > len(s.signed[role]) {
		return nil
	}
	return s.signed[role][n-1]
}

func (s *simulator) artifact(name string) []byte {
	i := strings.LastIndex(name, "/") + 1
	hash, base, _ := strings.Cut(name[i:], ".")
	a, ok := s.artifacts[name[:i]+base]
	if !ok {
		return nil
	}
	for _, h := range a.info.Hashes {
		if hex.EncodeToString(h) == hash {
			return a.data
		}
	}
	return nil
}
