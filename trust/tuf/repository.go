package tuf

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"assay/internal/clock"
	"assay/internal/durable"
	"assay/internal/fault"
)

// Roles are the signers of the four TUF roles, ECDSA P-256 each. Root may be
// empty when the folder holds a root already: offline keys then stay offline.
type Roles struct {
	Root          []crypto.Signer
	RootThreshold int // of a new root; 0: all of Root
	Targets       crypto.Signer
	Snapshot      crypto.Signer
	Timestamp     crypto.Signer
	// Cosigners sign targets, snapshot and timestamp too, while one key follows
	// another; Listed says that the root names them for these roles. See
	// [Repository.SetRoles].
	Cosigners []crypto.Signer
	Listed    bool
}

// Lifetimes say how long metadata is valid. Past half of it, [Repository.Refresh]
// renews it. The timestamp's bounds how long an attacker between server and
// client can hide an update.
type Lifetimes struct{ Root, Targets, Snapshot, Timestamp time.Duration }

// DefaultLifetimes are a year, 90 days, 30 days and 7 days.
func DefaultLifetimes() Lifetimes {
	const day = 24 * time.Hour
	return Lifetimes{Root: 365 * day, Targets: 90 * day, Snapshot: 30 * day, Timestamp: 7 * day}
}

// Options configure a repository.
type Options struct {
	Dir   string // its folder; made when absent
	Roles Roles
	// Before are root keys of earlier times that are at hand. With them, a root
	// that does not name the signers of Roles is followed by one that does, as
	// after a rotation that was cut short; without them, it is refused.
	Before    []crypto.Signer
	Lifetimes Lifetimes    // zero fields take their default
	Clock     clock.Clock  // nil: the system's
	Logger    *slog.Logger // nil: none
}

// Repository is a TUF repository in a folder, written by this process alone
// and safe for concurrent use.
type Repository struct {
	o  Options
	mu sync.Mutex

	root      *metadata.Metadata[metadata.RootType]
	rootBytes []byte
	targets   *metadata.Metadata[metadata.TargetsType] // nil before the first Publish
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	timestamp *metadata.Metadata[metadata.TimestampType]

	older  []*metadata.Metadata[metadata.RootType] // the roots before root
	resign bool                                    // what is published is signed by an older root's keys
}

// maxFile caps a file of the repository that is read back.
const maxFile = 4 << 20

// NewRepository opens the repository in o.Dir, or makes its first root there.
// An existing one is verified as a client would, apart from expiry: damage is
// fault.Tampered. Signers that the root does not name are fault.Conflict.
func NewRepository(ctx context.Context, o Options) (*Repository, error) {
	d := DefaultLifetimes()
	for _, l := range []struct{ v, def *time.Duration }{
		{&o.Lifetimes.Root, &d.Root}, {&o.Lifetimes.Targets, &d.Targets},
		{&o.Lifetimes.Snapshot, &d.Snapshot}, {&o.Lifetimes.Timestamp, &d.Timestamp},
	} {
		if *l.v <= 0 {
			*l.v = *l.def
		}
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Roles.Targets == nil || o.Roles.Snapshot == nil || o.Roles.Timestamp == nil {
		return nil, fault.Newf(fault.Invalid, "TUF repository: want signers for targets, snapshot and timestamp")
	}
	if err := durable.MkdirAll(filepath.Join(o.Dir, "targets"), 0o700); err != nil {
		return nil, err
	}
	r := &Repository{o: o}
	versions, err := r.rootVersions()
	if err != nil {
		return nil, err
	}
	if len(versions) == 0 {
		return r, r.create(ctx)
	}
	if err := r.load(versions); err != nil {
		return nil, err
	}
	if len(o.Before) > 0 {
		return r, r.setRoles(ctx, o.Roles, o.Before)
	}
	return r, r.checkSigners()
}

// create writes root version 1.
func (r *Repository) create(ctx context.Context) error {
	if len(r.o.Roles.Root) == 0 {
		return fault.Newf(fault.Invalid, "TUF repository: %s has no root yet, and no root signer is given; put 1.root.json there, or give the root keys once", r.o.Dir)
	}
	root := metadata.Root()
	if err := setRoles(&root.Signed, r.o.Roles); err != nil {
		return err
	}
	return r.writeRoot(ctx, root, 1, r.o.Roles.Root)
}

// setRoles puts the keys and thresholds of roles into a root.
func setRoles(root *metadata.RootType, roles Roles) error {
	root.Keys, root.Roles = map[string]*metadata.Key{}, map[string]*metadata.Role{}
	for name, signers := range map[string][]crypto.Signer{
		metadata.ROOT: roles.Root, metadata.TARGETS: roles.named(roles.Targets), metadata.SNAPSHOT: roles.named(roles.Snapshot), metadata.TIMESTAMP: roles.named(roles.Timestamp),
	} {
		role := &metadata.Role{Threshold: 1, KeyIDs: []string{}}
		if name == metadata.ROOT {
			role.Threshold = len(signers)
		}
		for _, s := range signers {
			key, id, err := tufKey(s)
			if err != nil {
				return fmt.Errorf("%s key: %w", name, err)
			}
			if slices.Contains(role.KeyIDs, id) {
				return fault.Newf(fault.Invalid, "TUF repository: one key is given twice for role %s; a threshold counts keys", name)
			}
			root.Keys[id] = key
			role.KeyIDs = append(role.KeyIDs, id)
		}
		root.Roles[name] = role
	}
	if t := roles.RootThreshold; t != 0 {
		if t < 1 || t > len(roles.Root) {
			return fault.Newf(fault.Invalid, "TUF repository: root threshold %d of %d keys", t, len(roles.Root))
		}
		root.Roles[metadata.ROOT].Threshold = t
	}
	return nil
}

// writeRoot signs and publishes a root of the given version.
func (r *Repository) writeRoot(ctx context.Context, root *metadata.Metadata[metadata.RootType], version int64, signers []crypto.Signer) error {
	root.Signed.Version = version
	root.Signed.Expires = r.expiry(r.o.Lifetimes.Root)
	b, err := sign(ctx, root, signers...)
	if err != nil {
		return err
	}
	if err := root.VerifyDelegate(metadata.ROOT, root); err != nil {
		return fault.Newf(fault.Invalid, "TUF root %d: %w", version, err)
	}
	if err := r.write(strconv.FormatInt(version, 10)+".root.json", b); err != nil {
		return err
	}
	if err := r.write("root.json", b); err != nil {
		return err
	}
	if r.root != nil {
		r.older = append(r.older, r.root)
	}
	r.root, r.rootBytes = root, b
	r.o.Logger.Info("TUF root published", "version", version, "expires", root.Signed.Expires)
	return nil
}

// Root is the newest root.json, for `cosign initialize --root`.
func (r *Repository) Root() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.rootBytes)
}

// Target is the content of a target as it is published; nil: there is none.
func (r *Repository) Target(name string) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.targets == nil || r.targets.Signed.Targets[name] == nil {
		return nil, nil
	}
	want := r.targets.Signed.Targets[name].Hashes["sha256"]
	b, err := r.read(filepath.Join("targets", hex.EncodeToString(want)+"."+name))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b); !bytes.Equal(sum[:], want) {
		return nil, fault.Newf(fault.Tampered, "TUF target %s is not what was published", name)
	}
	return b, nil
}

// Publish makes targets, name to content, the repository's whole set of
// targets. It returns after they are durable and served. What is published
// already is not written again; names are plain file names.
func (r *Repository) Publish(ctx context.Context, targets map[string][]byte) (changed bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	files := map[string]*metadata.TargetFiles{}
	for name, b := range targets {
		if !targetName.MatchString(name) {
			return false, fault.Newf(fault.Invalid, "TUF target %q: want a plain file name", name)
		}
		sum := sha256.Sum256(b)
		files[name] = &metadata.TargetFiles{Length: int64(len(b)), Hashes: metadata.Hashes{"sha256": sum[:]}, Path: name}
	}
	if r.targets != nil && maps.EqualFunc(files, r.targets.Signed.Targets, func(a, b *metadata.TargetFiles) bool { return a.Equal(*b) }) {
		return false, r.refresh(ctx, false)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := r.write(filepath.Join("targets", hex.EncodeToString(files[name].Hashes["sha256"])+"."+name), targets[name]); err != nil {
			return false, err
		}
	}
	next := metadata.Targets()
	if r.targets != nil {
		next.Signed.Version = r.targets.Signed.Version
	}
	next.Signed.Targets = files
	if err := r.publish(ctx, next); err != nil {
		return false, err
	}
	r.o.Logger.Info("TUF targets published", "version", next.Signed.Version, "targets", slices.Sorted(maps.Keys(files)))
	return true, nil
}

// publish writes new targets metadata, then the snapshot, then the timestamp.
func (r *Repository) publish(ctx context.Context, t *metadata.Metadata[metadata.TargetsType]) error {
	t.Signed.Version = r.nextVersion(t.Signed.Version)
	t.Signed.Expires = r.expiry(r.o.Lifetimes.Targets)
	t.ClearSignatures()
	b, err := sign(ctx, t, r.o.Roles.online(r.o.Roles.Targets)...)
	if err != nil {
		return err
	}
	if err := r.write(strconv.FormatInt(t.Signed.Version, 10)+".targets.json", b); err != nil {
		return err
	}
	r.targets = t
	return r.publishSnapshot(ctx)
}

func (r *Repository) publishSnapshot(ctx context.Context) error {
	s := metadata.Snapshot()
	if r.snapshot != nil {
		s.Signed.Version = r.snapshot.Signed.Version
	}
	s.Signed.Version = r.nextVersion(s.Signed.Version)
	s.Signed.Expires = r.expiry(r.o.Lifetimes.Snapshot)
	s.Signed.Meta = map[string]*metadata.MetaFiles{"targets.json": {Version: r.targets.Signed.Version}}
	b, err := sign(ctx, s, r.o.Roles.online(r.o.Roles.Snapshot)...)
	if err != nil {
		return err
	}
	if err := r.write(strconv.FormatInt(s.Signed.Version, 10)+".snapshot.json", b); err != nil {
		return err
	}
	r.snapshot = s
	return r.publishTimestamp(ctx)
}

func (r *Repository) publishTimestamp(ctx context.Context) error {
	t := metadata.Timestamp()
	if r.timestamp != nil {
		t.Signed.Version = r.timestamp.Signed.Version
	}
	t.Signed.Version = r.nextVersion(t.Signed.Version)
	t.Signed.Expires = r.expiry(r.o.Lifetimes.Timestamp)
	t.Signed.Meta = map[string]*metadata.MetaFiles{"snapshot.json": {Version: r.snapshot.Signed.Version}}
	b, err := sign(ctx, t, r.o.Roles.online(r.o.Roles.Timestamp)...)
	if err != nil {
		return err
	}
	if err := r.write("timestamp.json", b); err != nil {
		return err
	}
	r.timestamp, r.resign = t, false
	return nil
}

// nextVersion rises with each writing and with time: see the package comment.
func (r *Repository) nextVersion(last int64) int64 { return max(last+1, r.o.Clock().Unix()) }

func (r *Repository) expiry(d time.Duration) time.Time {
	return r.o.Clock().Add(d).UTC().Truncate(time.Second)
}

func (r *Repository) write(name string, b []byte) error {
	return durable.WriteFile(filepath.Join(r.o.Dir, name), b, 0o600)
}

// rootVersions lists the roots in the folder, ascending.
func (r *Repository) rootVersions() ([]int64, error) {
	files, err := os.ReadDir(r.o.Dir)
	if err != nil {
		return nil, err
	}
	var out []int64
	for _, f := range files {
		if n, ok := strings.CutSuffix(f.Name(), ".root.json"); ok {
			if v, err := strconv.ParseInt(n, 10, 64); err == nil && v > 0 {
				out = append(out, v)
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// read gives a file of the repository; absent is fault.NotFound.
func (r *Repository) read(name string) ([]byte, error) {
	path := filepath.Join(r.o.Dir, name)
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Newf(fault.NotFound, "TUF repository: %s is absent", path)
	}
	if err != nil {
		return nil, err
	}
	if st.Size() > maxFile {
		return nil, fault.Newf(fault.Tampered, "TUF repository: %s has %d bytes", path, st.Size())
	}
	return os.ReadFile(path)
}
