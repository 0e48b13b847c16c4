package tuf

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"assay/internal/clock"
	"assay/internal/durable"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// What one run downloads at most: bytes of each kind of document, roots that
// follow one another, roles that are searched for a target.
const (
	maxRoot        = 512_000
	maxTimestamp   = 16_384
	maxSnapshot    = 2_000_000
	maxTargets     = 5_000_000
	maxTarget      = 64 << 20
	maxRotations   = 256
	maxDelegations = 32
)

// update is one run of the client workflow (TUF specification 1.0, section 5)
// over a cache folder. What is trusted is decided by go-tuf's trustedmetadata.
// Its updater is not used: that one reads the cache under role names as they
// come (so outside of the folder), stops for good at a damaged cache file, asks
// the network when told not to, trusts lengths without bound, and matches
// path_hash_prefixes against base64 where the specification says hexadecimal.
type update struct {
	o       ClientOptions
	dir     string
	trusted *trustedmetadata.TrustedMetadata
}

// newUpdate begins at the newest root that an earlier run verified from the
// same anchor: beginning at the anchor would let a server hide newer roots that
// this client has seen.
func newUpdate(o ClientOptions, dir string) (*update, error) {
	u := &update{o: o, dir: dir}
	anchor, err := beginAt(o.Root)
	if err != nil {
		return nil, fault.Newf(fault.Unverified, "TUF client: the root to begin with: %w", err)
	}
	u.trusted = anchor
	var cached *trustedmetadata.TrustedMetadata
	if b := u.local(metadata.ROOT); b != nil {
		cached, _ = beginAt(b) // a damaged one is as good as none
	}
	if cached != nil && cached.Root.Signed.Version >= anchor.Root.Signed.Version {
		u.trusted = cached
	} else if err := u.keep(metadata.ROOT, o.Root); err != nil {
		return nil, err
	}
	now := o.Now
	if now == nil {
		now = clock.System
	}
	u.trusted.RefTime = now().UTC()
	return u, nil
}

func beginAt(root []byte) (*trustedmetadata.TrustedMetadata, error) {
	return checked(root, trustedmetadata.New)
}

// checked reads metadata as strictly as all signed documents are read, and then
// lets go-tuf judge it. go-tuf panics at some of what a mirror without any key
// can serve (a target that is null), and at some of what a delegated role can
// sign (an Ed25519 key of another length): such metadata is refused.
func checked[T any](b []byte, judge func([]byte) (T, error)) (out T, err error) {
	if err := strictjson.Check(b); err != nil {
		return out, err
	}
	defer func() {
		if p := recover(); p != nil {
			var none T
			out, err = none, fmt.Errorf("metadata that no repository writes: %v", p)
		}
	}()
	return judge(b)
}

// refresh updates the four top-level roles, each kept as soon as it is trusted.
func (u *update) refresh(ctx context.Context) error {
	if !u.o.Offline {
		if err := u.roots(ctx); err != nil {
			return err
		}
	}
	if u.trusted.Root.Signed.IsExpired(u.trusted.RefTime) {
		return u.distrust(metadata.ROOT, &metadata.ErrExpiredMetadata{Msg: "it expired on " + u.trusted.Root.Signed.Expires.String()})
	}
	if err := u.timestamp(ctx); err != nil {
		return err
	}
	if err := u.snapshot(ctx); err != nil {
		return err
	}
	return u.role(ctx, metadata.TARGETS, metadata.ROOT)
}

// roots walks to the newest root (5.3).
func (u *update) roots(ctx context.Context) error {
	for range maxRotations {
		b, err := u.get(ctx, strconv.FormatInt(u.trusted.Root.Signed.Version+1, 10)+".root.json", maxRoot)
		if errors.Is(err, errAbsent) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := checked(b, u.trusted.UpdateRoot); err != nil {
			return u.distrust(metadata.ROOT, err)
		}
		if err := u.keep(metadata.ROOT, b); err != nil {
			return err
		}
	}
	return fault.Newf(fault.Unverified, "TUF repository %s: more than %d new roots; they are kept, try again to go on from there", u.o.URL, maxRotations)
}

// timestamp updates the timestamp (5.4). The cached one guards against rollback
// even when it has expired; one that the newest root does not vouch for is
// what a key rotation leaves, and is replaced, as is a damaged one.
func (u *update) timestamp(ctx context.Context) error {
	b := u.local(metadata.TIMESTAMP)
	err := errors.New("absent")
	if b != nil {
		_, err = checked(b, u.trusted.UpdateTimestamp)
	}
	if u.o.Offline {
		return u.offline(metadata.TIMESTAMP, b, err)
	}
	if b, err = u.get(ctx, "timestamp.json", maxTimestamp); err != nil {
		return err
	}
	_, err = checked(b, u.trusted.UpdateTimestamp)
	if errors.Is(err, &metadata.ErrEqualVersionNumber{}) {
		return nil // the one that is trusted already stays
	}
	if err != nil {
		return u.distrust(metadata.TIMESTAMP, err)
	}
	return u.keep(metadata.TIMESTAMP, b)
}

// snapshot updates the snapshot (5.5); the cached one guards as in timestamp.
func (u *update) snapshot(ctx context.Context) error {
	trust := func(verified bool) func([]byte) (*metadata.Metadata[metadata.SnapshotType], error) {
		return func(b []byte) (*metadata.Metadata[metadata.SnapshotType], error) {
			return u.trusted.UpdateSnapshot(b, verified)
		}
	}
	b := u.local(metadata.SNAPSHOT)
	err := errors.New("absent")
	if b != nil {
		if _, err = checked(b, trust(!u.o.Offline)); err == nil {
			return nil
		}
	}
	if u.o.Offline {
		return u.offline(metadata.SNAPSHOT, b, err)
	}
	meta := u.trusted.Timestamp.Signed.Meta["snapshot.json"]
	if meta == nil {
		return u.distrust(metadata.TIMESTAMP, errors.New("it names no snapshot"))
	}
	if b, err = u.get(ctx, u.versioned(metadata.SNAPSHOT, meta.Version), atMost(meta.Length, maxSnapshot)); err != nil {
		return err
	}
	if _, err := checked(b, trust(false)); err != nil {
		return u.distrust(metadata.SNAPSHOT, err)
	}
	return u.keep(metadata.SNAPSHOT, b)
}

// role updates a targets role as delegated by parent (5.6). It is verified
// against this parent whatever another one said of it.
func (u *update) role(ctx context.Context, name, parent string) error {
	meta := u.trusted.Snapshot.Signed.Meta[name+".json"]
	if meta == nil {
		return fault.Newf(fault.Unverified, "TUF repository %s: the snapshot does not list role %q", u.o.URL, name)
	}
	trust := func(b []byte) (*metadata.Metadata[metadata.TargetsType], error) {
		return u.trusted.UpdateDelegatedTargets(b, name, parent)
	}
	b := u.local(name)
	err := errors.New("absent")
	if b != nil {
		if _, err = checked(b, trust); err == nil {
			return nil
		}
	}
	if u.o.Offline {
		return u.offline(name, b, err)
	}
	if b, err = u.get(ctx, u.versioned(name, meta.Version), atMost(meta.Length, maxTargets)); err != nil {
		return err
	}
	if _, err := checked(b, trust); err != nil {
		return u.distrust(name, err)
	}
	return u.keep(name, b)
}

// find searches the tree of delegations for a target, depth first in the order
// of the delegations (5.6.7). A target that no role lists is fault.NotFound.
func (u *update) find(ctx context.Context, target string) (*metadata.TargetFiles, error) {
	type step struct{ role, parent string }
	visited := map[string]bool{}
	for todo := []step{{metadata.TARGETS, metadata.ROOT}}; len(todo) > 0; {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if visited[at.role] {
			continue // else a cycle never ends
		}
		if len(visited) > maxDelegations {
			return nil, fault.Newf(fault.Unverified, "TUF repository %s: more than %d roles may speak of target %s", u.o.URL, maxDelegations, target)
		}
		visited[at.role] = true
		if at.parent != metadata.ROOT {
			if err := u.role(ctx, at.role, at.parent); err != nil {
				return nil, err
			}
		}
		signed := u.trusted.Targets[at.role].Signed
		if info := signed.Targets[target]; info != nil {
			return info, nil
		}
		next, terminating, err := delegates(signed.Delegations, target)
		if err != nil {
			return nil, u.distrust(at.role, err)
		}
		if terminating {
			todo = nil
		}
		for i := len(next) - 1; i >= 0; i-- {
			todo = append(todo, step{next[i], at.role})
		}
	}
	return nil, fault.Newf(fault.NotFound, "TUF repository %s has no target %s", u.o.URL, target)
}

// fetch gives a target's bytes, from the cache when it holds them.
func (u *update) fetch(ctx context.Context, name string, info *metadata.TargetFiles) ([]byte, error) {
	file := filepath.Join(u.dir, "targets", url.QueryEscape(name))
	if b, err := os.ReadFile(file); err == nil && info.VerifyLengthHashes(b) == nil {
		return b, nil
	}
	if u.o.Offline {
		return nil, fault.Newf(fault.Unavailable, "TUF target %s is not in the cache; fetch it online once", name)
	}
	at := name
	if u.trusted.Root.Signed.ConsistentSnapshot {
		hash := info.Hashes["sha256"]
		if hash == nil {
			hash = info.Hashes["sha512"]
		}
		if hash == nil {
			return nil, fault.Newf(fault.Unverified, "TUF target %s: the repository gives neither its sha256 nor its sha512", name)
		}
		dir, base := path.Split(name)
		at = dir + hex.EncodeToString(hash) + "." + base
	}
	segments := strings.Split(at, "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	if info.Length > maxTarget {
		return nil, fault.Newf(fault.TooLarge, "TUF target %s: %d bytes, want at most %d", name, info.Length, maxTarget)
	}
	b, err := u.download(ctx, strings.TrimSuffix(u.o.TargetsURL, "/")+"/"+strings.Join(segments, "/"), info.Length)
	if err != nil {
		return nil, err
	}
	if err := info.VerifyLengthHashes(b); err != nil {
		return nil, fault.Newf(fault.Unverified, "TUF target %s: %w; the repository serves other bytes than it signed", name, err)
	}
	if err := durable.WriteFile(file, b, 0o600); err != nil {
		return nil, err
	}
	return b, nil
}

// versioned is the file name of a role.
func (u *update) versioned(role string, version int64) string {
	name := url.PathEscape(role) + ".json"
	if u.trusted.Root.Signed.ConsistentSnapshot {
		return strconv.FormatInt(version, 10) + "." + name
	}
	return name
}

// cacheFile is where a role's metadata is kept. The name is quoted: roles may
// be called "../x".
func (u *update) cacheFile(role string) string {
	return filepath.Join(u.dir, url.QueryEscape(role)+".json")
}

// local is what the cache holds of a role; nil: nothing that can be read.
func (u *update) local(role string) []byte {
	b, err := os.ReadFile(u.cacheFile(role))
	if err != nil {
		return nil
	}
	return b
}

func (u *update) keep(role string, b []byte) error {
	return durable.WriteFile(u.cacheFile(role), b, 0o600)
}

// distrust is the error of metadata that is not to be trusted.
func (u *update) distrust(role string, err error) error {
	return fault.Newf(fault.Unverified, "TUF repository %s: role %s: %w; the repository is stale or was tampered with, or the root is another's", u.o.URL, role, err)
}

// offline is the answer of a role that must be in the cache.
func (u *update) offline(role string, b []byte, err error) error {
	if b == nil {
		return fault.Newf(fault.Unavailable, "TUF repository %s: role %s is not in the cache; fetch online once", u.o.URL, role)
	}
	if err != nil {
		return u.distrust(role, err)
	}
	return nil
}

// atMost is a signed length, or the limit when there is none or it is beyond.
func atMost(length, limit int64) int64 {
	if length <= 0 || length > limit {
		return limit
	}
	return length
}
