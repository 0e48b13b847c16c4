package tuf

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"assay/internal/fault"
)

// load reads what is there: the chain of roots, each signed by the one before
// and by itself, then timestamp, snapshot and targets under the newest root.
// Expiry is no damage: Refresh mends it.
func (r *Repository) load(versions []int64) error {
	for _, v := range versions {
		name := strconv.FormatInt(v, 10) + ".root.json"
		b, err := r.read(name)
		if err != nil {
			return err
		}
		root, err := checked(b, func(b []byte) (*metadata.Metadata[metadata.RootType], error) { return follows(r.root, v, b) })
		if err != nil {
			return tampered(name, err)
		}
		if r.root != nil {
			r.older = append(r.older, r.root)
		}
		r.root, r.rootBytes = root, b
	}
	// A crash may have fallen between N.root.json and its copy.
	if b, err := r.read("root.json"); err != nil || !bytes.Equal(b, r.rootBytes) {
		if err := r.write("root.json", r.rootBytes); err != nil {
			return err
		}
	}
	return r.loadOnline()
}

// follows reads root v, signed by the one before (nil for the first that is
// there) and by itself.
func follows(before *metadata.Metadata[metadata.RootType], v int64, b []byte) (*metadata.Metadata[metadata.RootType], error) {
	root, err := new(metadata.Metadata[metadata.RootType]).FromBytes(b)
	switch {
	case err != nil:
		return nil, err
	case root.Signed.Version != v:
		return nil, fmt.Errorf("its version is %d", root.Signed.Version)
	case before == nil:
	case before.Signed.Version != v-1:
		return nil, fmt.Errorf("it follows root %d, and clients walk them all", before.Signed.Version)
	default:
		if err := before.VerifyDelegate(metadata.ROOT, root); err != nil {
			return nil, err
		}
	}
	return root, root.VerifyDelegate(metadata.ROOT, root)
}

func (r *Repository) loadOnline() error {
	b, err := r.read("timestamp.json")
	if errors.Is(err, fault.NotFound) {
		return nil // nothing was published yet
	}
	if err != nil {
		return err
	}
	if r.timestamp, err = parse[metadata.TimestampType](r, metadata.TIMESTAMP, "timestamp.json", b); err != nil {
		return err
	}
	snap := r.timestamp.Signed.Meta["snapshot.json"]
	if snap == nil {
		return tampered("timestamp.json", errors.New("it names no snapshot"))
	}
	name := strconv.FormatInt(snap.Version, 10) + ".snapshot.json"
	if b, err = r.read(name); err != nil {
		return tampered(name, err)
	}
	if r.snapshot, err = parse[metadata.SnapshotType](r, metadata.SNAPSHOT, name, b); err != nil {
		return err
	}
	tgt := r.snapshot.Signed.Meta["targets.json"]
	if tgt == nil {
		return tampered(name, errors.New("it names no targets"))
	}
	name = strconv.FormatInt(tgt.Version, 10) + ".targets.json"
	if b, err = r.read(name); err != nil {
		return tampered(name, err)
	}
	r.targets, err = parse[metadata.TargetsType](r, metadata.TARGETS, name, b)
	return err
}

// parse reads metadata and verifies it under the newest root. What an older one
// vouches for is left from a rotation that a crash cut short: it is kept, and
// the next refresh signs it anew.
func parse[T metadata.Roles](r *Repository, role, name string, b []byte) (*metadata.Metadata[T], error) {
	m, err := checked(b, func(b []byte) (*metadata.Metadata[T], error) {
		m, err := new(metadata.Metadata[T]).FromBytes(b)
		if err != nil {
			return nil, err
		}
		err = r.root.VerifyDelegate(role, m)
		for i := len(r.older) - 1; err != nil && i >= 0; i-- {
			if r.older[i].VerifyDelegate(role, m) == nil {
				r.resign, err = true, nil
			}
		}
		return m, err
	})
	if err != nil {
		return nil, tampered(name, err)
	}
	return m, nil
}

func tampered(name string, err error) error {
	return fault.Newf(fault.Tampered, "TUF repository: %s is damaged or was changed: %w; restore it from a backup", name, err)
}

// checkSigners compares the signers with the root's keys.
func (r *Repository) checkSigners() error {
	roles := r.o.Roles
	for name, signers := range map[string][]crypto.Signer{
		metadata.ROOT: roles.Root, metadata.TARGETS: {roles.Targets}, metadata.SNAPSHOT: {roles.Snapshot}, metadata.TIMESTAMP: {roles.Timestamp},
	} {
		for _, s := range signers {
			_, id, err := tufKey(s)
			if err != nil {
				return err
			}
			if !slices.Contains(r.root.Signed.Roles[name].KeyIDs, id) {
				return fault.Newf(fault.Conflict, "TUF repository: root %d does not name the %s key %.12s…; rotate the root, or give the key that it names", r.root.Signed.Version, name, id)
			}
		}
	}
	return nil
}

// tufKey is a signer's public key as TUF writes it, with its ID.
func tufKey(s crypto.Signer) (*metadata.Key, string, error) {
	pub, ok := s.Public().(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, "", fault.Newf(fault.Invalid, "TUF key: want ECDSA P-256, found %T", s.Public())
	}
	k, err := metadata.KeyFromPublicKey(pub)
	if err != nil {
		return nil, "", err
	}
	id, err := k.ID()
	return k, id, err
}

// sign adds a signature of each signer and writes the metadata.
func sign[T metadata.Roles](ctx context.Context, m *metadata.Metadata[T], signers ...crypto.Signer) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, s := range signers {
		if _, err := m.Sign(adapter{s}); err != nil {
			return nil, fmt.Errorf("sign TUF metadata: %w", err)
		}
	}
	return m.ToBytes(false)
}

// adapter gives a crypto.Signer to go-tuf.
type adapter struct{ crypto.Signer }

func (a adapter) PublicKey(...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return a.Public(), nil
}

func (a adapter) SignMessage(msg io.Reader, _ ...signature.SignOption) ([]byte, error) {
	h := sha256.New()
	if _, err := io.Copy(h, msg); err != nil {
		return nil, err
	}
	return a.Sign(rand.Reader, h.Sum(nil), crypto.SHA256)
}

// Refresh renews what is past half of its life. The root is renewed only when
// its signers are at hand; otherwise its expiry is logged as a warning.
func (r *Repository) Refresh(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refresh(ctx, true)
}

func (r *Repository) refresh(ctx context.Context, withRoot bool) error {
	now := r.o.Clock()
	due := func(expires time.Time, life time.Duration) bool { return now.Add(life / 2).After(expires) }
	if withRoot && due(r.root.Signed.Expires, r.o.Lifetimes.Root) {
		if err := r.renewRoot(ctx); err != nil {
			return err
		}
	}
	switch {
	case r.targets == nil:
		return nil // nothing published
	case r.resign || due(r.targets.Signed.Expires, r.o.Lifetimes.Targets):
		return r.publish(ctx, r.targets)
	case due(r.snapshot.Signed.Expires, r.o.Lifetimes.Snapshot):
		return r.publishSnapshot(ctx)
	case due(r.timestamp.Signed.Expires, r.o.Lifetimes.Timestamp):
		return r.publishTimestamp(ctx)
	}
	return nil
}

func (r *Repository) renewRoot(ctx context.Context) error {
	if len(r.o.Roles.Root) < r.root.Signed.Roles[metadata.ROOT].Threshold {
		r.o.Logger.Warn("TUF root is past half of its life and its keys are not here: sign a new root before it expires", "version", r.root.Signed.Version, "expires", r.root.Signed.Expires)
		return nil
	}
	next, err := new(metadata.Metadata[metadata.RootType]).FromBytes(r.rootBytes)
	if err != nil {
		return err
	}
	next.ClearSignatures()
	return r.writeRoot(ctx, next, r.root.Signed.Version+1, r.o.Roles.Root)
}

// Rotate replaces the signers of all roles at once: a new root, signed by the
// old root keys (which must be at hand) and by the new ones, and then everything
// below it. Clients follow from any earlier root. One that is in the middle of
// an update may refuse, and succeeds when it asks again: [Repository.SetRoles]
// has a way without that.
func (r *Repository) Rotate(ctx context.Context, next Roles) error { return r.SetRoles(ctx, next) }

// Run refreshes now and then every hour until ctx ends. Errors are logged, and
// tried again.
func (r *Repository) Run(ctx context.Context) error {
	for {
		if err := r.Refresh(ctx); err != nil && ctx.Err() == nil {
			r.o.Logger.Error("TUF refresh failed; it is tried again in an hour", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Hour):
		}
	}
}
