package tuf

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"assay/internal/fault"
)

// maxRootLife bounds the life of a root made by hand: what nobody looks at for
// three years is not looked after.
const maxRootLife = 3 * 365 * 24 * time.Hour

// maxRootKeys bounds the keys of the root role.
const maxRootKeys = 32

// RootPlan is what a root version says. Root keys are held offline, one person
// each; the online key signs targets, snapshot and timestamp on the server.
type RootPlan struct {
	Root      []crypto.PublicKey // ECDSA P-256, distinct
	Threshold int                // signatures of distinct root keys that a root needs
	Online    crypto.PublicKey
	Expires   time.Time
}

// RootStatus is how far the signing of a root has come.
type RootStatus struct {
	Version   int64     `json:"version"`
	Expires   time.Time `json:"expires"`
	Threshold int       `json:"threshold"` // of this root's own keys
	Signed    int       `json:"signed"`    // distinct keys of this root whose signature is valid
	// OldThreshold and OldSigned are the same for the keys of the root before,
	// which must agree to their successor too; zero where none was given.
	OldThreshold int      `json:"old_threshold,omitempty"`
	OldSigned    int      `json:"old_signed,omitempty"`
	Keys         []string `json:"keys"`    // IDs of this root's root keys
	Missing      []string `json:"missing"` // those that may yet sign
	OnlineKey    string   `json:"online_key"`
	Complete     bool     `json:"complete"`
}

// PlanRoot makes an unsigned root: version 1 when before is nil, else the
// version that follows it. What the plan leaves zero is taken from before.
func PlanRoot(before []byte, p RootPlan, now time.Time) ([]byte, error) {
	root := metadata.Root()
	root.Signed.Version = 1
	if before != nil {
		old, err := readRoot(before)
		if err != nil {
			return nil, err
		}
		root.Signed.Version = old.Signed.Version + 1
		if p, err = p.over(old); err != nil {
			return nil, err
		}
	}
	if n := len(p.Root); n == 0 || n > maxRootKeys {
		return nil, fault.Newf(fault.Invalid, "TUF root: %d root keys, want 1 to %d", n, maxRootKeys)
	}
	if p.Online == nil {
		return nil, fault.Newf(fault.Invalid, "TUF root: no online key; on the server, assay trust online-key writes it")
	}
	if p.Threshold < 1 || p.Threshold > len(p.Root) {
		return nil, fault.Newf(fault.Invalid, "TUF root: threshold %d of %d keys, want 1 to %d", p.Threshold, len(p.Root), len(p.Root))
	}
	if !p.Expires.After(now) || p.Expires.After(now.Add(maxRootLife)) {
		return nil, fault.Newf(fault.Invalid, "TUF root: it would expire on %s, want a time within three years", p.Expires.UTC().Format(time.RFC3339))
	}
	root.Signed.Expires = p.Expires.UTC().Truncate(time.Second)
	root.Signed.Keys, root.Signed.Roles = map[string]*metadata.Key{}, map[string]*metadata.Role{}
	online, err := addKey(&root.Signed, p.Online)
	if err != nil {
		return nil, fmt.Errorf("online key: %w", err)
	}
	for _, role := range []string{metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		root.Signed.Roles[role] = &metadata.Role{Threshold: 1, KeyIDs: []string{online}}
	}
	role := &metadata.Role{Threshold: p.Threshold, KeyIDs: []string{}}
	for _, k := range p.Root {
		id, err := addKey(&root.Signed, k)
		switch {
		case err != nil:
			return nil, fmt.Errorf("root key: %w", err)
		case id == online:
			return nil, fault.Newf(fault.Invalid, "TUF root: the online key is given as a root key; the server would then hold a part of the root")
		case slices.Contains(role.KeyIDs, id):
			return nil, fault.Newf(fault.Invalid, "TUF root: one root key is given twice (%.12s…); a threshold counts keys", id)
		}
		role.KeyIDs = append(role.KeyIDs, id)
	}
	root.Signed.Roles[metadata.ROOT] = role
	return root.ToBytes(false)
}

// over fills what p leaves open from the root before it.
func (p RootPlan) over(old *metadata.Metadata[metadata.RootType]) (RootPlan, error) {
	role := old.Signed.Roles[metadata.ROOT]
	if p.Threshold == 0 {
		p.Threshold = role.Threshold
	}
	if p.Root == nil {
		for _, id := range role.KeyIDs {
			k, err := old.Signed.Keys[id].ToPublicKey()
			if err != nil {
				return p, fault.Newf(fault.Invalid, "TUF root %d: root key %.12s…: %w", old.Signed.Version, id, err)
			}
			p.Root = append(p.Root, k)
		}
	}
	if p.Online == nil {
		ids := old.Signed.Roles[metadata.TARGETS].KeyIDs
		if len(ids) != 1 {
			return p, fault.Newf(fault.Invalid, "TUF root %d has %d targets keys: name the online key", old.Signed.Version, len(ids))
		}
		k, err := old.Signed.Keys[ids[0]].ToPublicKey()
		if err != nil {
			return p, fault.Wrap(fault.Invalid, err)
		}
		p.Online = k
	}
	return p, nil
}

func addKey(root *metadata.RootType, pub crypto.PublicKey) (string, error) {
	ec, ok := pub.(*ecdsa.PublicKey)
	if !ok || ec.Curve != elliptic.P256() {
		return "", fault.Newf(fault.Invalid, "want ECDSA P-256, found %T", pub)
	}
	k, err := metadata.KeyFromPublicKey(ec)
	if err != nil {
		return "", err
	}
	id, err := k.ID()
	if err != nil {
		return "", err
	}
	root.Keys[id] = k
	return id, nil
}

// KeyID is the name that TUF metadata has for a public key.
func KeyID(pub crypto.PublicKey) (string, error) {
	return addKey(&metadata.RootType{Keys: map[string]*metadata.Key{}}, pub)
}

// readRoot reads a root without judging its signatures. Roots that lack a role
// or a key that a role names are [fault.Invalid].
func readRoot(b []byte) (*metadata.Metadata[metadata.RootType], error) {
	if len(b) > maxRoot {
		return nil, fault.Newf(fault.TooLarge, "TUF root: %d bytes, want at most %d", len(b), maxRoot)
	}
	root, err := checked(b, func(b []byte) (*metadata.Metadata[metadata.RootType], error) {
		return new(metadata.Metadata[metadata.RootType]).FromBytes(b)
	})
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "this is not a TUF root: %w", err)
	}
	for _, name := range []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		role := root.Signed.Roles[name]
		if role == nil || role.Threshold < 1 || len(role.KeyIDs) == 0 || len(role.KeyIDs) > maxRootKeys {
			return nil, fault.Newf(fault.Invalid, "TUF root %d: role %s has no key, or no threshold", root.Signed.Version, name)
		}
		for _, id := range role.KeyIDs {
			if k := root.Signed.Keys[id]; k == nil {
				return nil, fault.Newf(fault.Invalid, "TUF root %d: role %s names key %.12s…, which is not in it", root.Signed.Version, name, id)
			}
		}
	}
	return root, nil
}

// SignRoot adds the signature of one key to a root. The key must be a root key
// of this root or, where before is given, of the one before it; signing twice
// changes nothing. What others signed stays.
func SignRoot(root, before []byte, key crypto.Signer) ([]byte, error) {
	m, err := readRoot(root)
	if err != nil {
		return nil, err
	}
	_, id, err := tufKey(key)
	if err != nil {
		return nil, err
	}
	may := slices.Contains(m.Signed.Roles[metadata.ROOT].KeyIDs, id)
	if !may && before != nil {
		old, err := readRoot(before)
		if err != nil {
			return nil, err
		}
		may = slices.Contains(old.Signed.Roles[metadata.ROOT].KeyIDs, id)
	}
	if !may {
		return nil, fault.Newf(fault.Denied, "key %.12s… is no root key of TUF root %d, nor of the root before it where one was given (--before)", id, m.Signed.Version)
	}
	m.Signatures = slices.DeleteFunc(m.Signatures, func(s metadata.Signature) bool { return s.KeyID == id })
	if _, err := m.Sign(adapter{key}); err != nil {
		return nil, fmt.Errorf("sign TUF root: %w", err)
	}
	return m.ToBytes(false)
}

// CheckRoot says how far a root is signed, and refuses what could never be
// valid: a version that does not follow before, or a signature under a root
// key's name that is not that key's ([fault.Unverified]).
func CheckRoot(root, before []byte) (RootStatus, error) {
	m, err := readRoot(root)
	if err != nil {
		return RootStatus{}, err
	}
	role := m.Signed.Roles[metadata.ROOT]
	st := RootStatus{
		Version: m.Signed.Version, Expires: m.Signed.Expires, Threshold: role.Threshold,
		Keys: slices.Clone(role.KeyIDs), Missing: []string{}, OnlineKey: m.Signed.Roles[metadata.TIMESTAMP].KeyIDs[0],
	}
	good, err := signedBy(m, m)
	if err != nil {
		return st, err
	}
	st.Signed = len(good)
	for _, id := range st.Keys {
		if !good[id] {
			st.Missing = append(st.Missing, id)
		}
	}
	st.Complete = st.Signed >= st.Threshold
	if before == nil {
		return st, nil
	}
	old, err := readRoot(before)
	if err != nil {
		return st, err
	}
	if m.Signed.Version != old.Signed.Version+1 {
		return st, fault.Newf(fault.Invalid, "TUF root %d does not follow root %d: want version %d, since clients walk them all", m.Signed.Version, old.Signed.Version, old.Signed.Version+1)
	}
	if good, err = signedBy(old, m); err != nil {
		return st, err
	}
	oldRole := old.Signed.Roles[metadata.ROOT]
	st.OldThreshold, st.OldSigned = oldRole.Threshold, len(good)
	for _, id := range oldRole.KeyIDs {
		if !good[id] && st.OldSigned < st.OldThreshold && !slices.Contains(st.Missing, id) {
			st.Missing = append(st.Missing, id)
		}
	}
	st.Complete = st.Complete && st.OldSigned >= st.OldThreshold
	return st, nil
}

// signedBy gives the distinct root keys of by that signed m. Two names of one
// key count once.
func signedBy(by, m *metadata.Metadata[metadata.RootType]) (map[string]bool, error) {
	good, seen := map[string]bool{}, map[string]bool{}
	for _, id := range by.Signed.Roles[metadata.ROOT].KeyIDs {
		for _, s := range m.Signatures {
			if s.KeyID != id {
				continue
			}
			one := *m
			one.Signatures = []metadata.Signature{s}
			probe := *by
			probe.Signed.Roles = map[string]*metadata.Role{metadata.ROOT: {Threshold: 1, KeyIDs: []string{id}}}
			if err := probe.VerifyDelegate(metadata.ROOT, &one); err != nil {
				return nil, fault.Newf(fault.Unverified, "TUF root %d: the signature of root key %.12s… is not valid; the file was changed after it was signed, or in transit", m.Signed.Version, id)
			}
			if value := by.Signed.Keys[id].Value.PublicKey; !seen[value] {
				seen[value], good[id] = true, true
			}
		}
	}
	return good, nil
}

// TargetsKey is the one key that signs targets under a root, which is the
// server's online key.
func TargetsKey(root []byte) (string, error) {
	m, err := readRoot(root)
	if err != nil {
		return "", err
	}
	return m.Signed.Roles[metadata.TARGETS].KeyIDs[0], nil
}

// ParsePlan reads what a root says, for whoever is to sign it.
func ParsePlan(root []byte) (RootPlan, int64, error) {
	m, err := readRoot(root)
	if err != nil {
		return RootPlan{}, 0, err
	}
	p, err := RootPlan{Expires: m.Signed.Expires}.over(m)
	return p, m.Signed.Version, err
}

// Import publishes a root that was signed elsewhere: it must follow the newest
// one, be signed by a threshold of that one's root keys and of its own, and not
// have expired. online are signers at hand, one of which must be the key that
// the new root names for targets, snapshot and timestamp; what is published is
// then signed by it. The same root again changes nothing.
func (r *Repository) Import(root []byte, online ...crypto.Signer) (RootStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if bytes.Equal(root, r.rootBytes) {
		st, err := CheckRoot(root, nil)
		return st, err
	}
	st, err := CheckRoot(root, r.rootBytes)
	if err != nil {
		return st, err
	}
	if !st.Complete {
		return st, fault.Newf(fault.Unverified, "TUF root %d has %d of %d signatures of its own root keys and %d of %d of root %d's: have %d more sign it (assay trust sign-root)",
			st.Version, st.Signed, st.Threshold, st.OldSigned, st.OldThreshold, st.Version-1, max(st.Threshold-st.Signed, st.OldThreshold-st.OldSigned))
	}
	if now := r.o.Clock(); !st.Expires.After(now) {
		return st, fault.Newf(fault.Invalid, "TUF root %d expired on %s: make a new one", st.Version, st.Expires.UTC().Format(time.RFC3339))
	}
	next, err := checked(root, func(b []byte) (*metadata.Metadata[metadata.RootType], error) {
		return follows(r.root, st.Version, b)
	})
	if err != nil {
		return st, fault.Newf(fault.Unverified, "TUF root %d: %w", st.Version, err)
	}
	roles := Roles{}
	for _, s := range append([]crypto.Signer{r.o.Roles.Timestamp}, online...) {
		if _, id, err := tufKey(s); err == nil && onlineKey(next, id) {
			roles.Targets, roles.Snapshot, roles.Timestamp = s, s, s
			break
		}
	}
	if roles.Targets == nil {
		return st, fault.Newf(fault.Conflict, "TUF root %d names online key %.12s…, which this server does not hold; assay trust online-key --new makes one to put into the root", st.Version, st.OnlineKey)
	}
	if err := r.write(strconv.FormatInt(st.Version, 10)+".root.json", root); err != nil {
		return st, err
	}
	if err := r.write("root.json", root); err != nil {
		return st, err
	}
	r.older = append(r.older, r.root)
	r.root, r.rootBytes, r.o.Roles, r.resign = next, bytes.Clone(root), roles, true
	r.o.Logger.Info("TUF root imported", "version", st.Version, "expires", st.Expires, "signatures", st.Signed)
	return st, nil
}

// onlineKey says whether a key signs all three online roles under a root.
func onlineKey(root *metadata.Metadata[metadata.RootType], id string) bool {
	for _, role := range []string{metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		if !slices.Contains(root.Signed.Roles[role].KeyIDs, id) {
			return false
		}
	}
	return true
}

// Newest gives the newest root in a repository's folder, as it stands there.
// none is [fault.NotFound].
func Newest(dir string) ([]byte, error) {
	r := &Repository{o: Options{Dir: dir}}
	versions, err := r.rootVersions()
	if err != nil {
		return nil, err
	}
	if len(versions) == 0 {
		return nil, fault.Newf(fault.NotFound, "%s holds no root", dir)
	}
	return r.read(strconv.FormatInt(versions[len(versions)-1], 10) + ".root.json")
}

// RootInfo says when the newest root expires, how long it was made for at most,
// and whether this repository could renew it itself.
func (r *Repository) RootInfo() (version int64, expires time.Time, renewable bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.root.Signed.Version, r.root.Signed.Expires, len(r.o.Roles.Root) >= r.root.Signed.Roles[metadata.ROOT].Threshold
}
