package tuf

import (
	"context"
	"crypto"
	"fmt"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"assay/internal/fault"
)

// TargetRevocations is the signed list of what is revoked.
const TargetRevocations = "revocations.json"

// RoleKeys are the keys of the two roles of a root that sign documents beside
// TUF's own: root, which is kept offline, and targets, which is online.
type RoleKeys struct {
	Root      []crypto.PublicKey
	Threshold int // how many of Root must sign
	Targets   []crypto.PublicKey
}

// ReadRoleKeys reads them from a root.json that the caller trusts. Its expiry is
// not looked at: what is signed with the keys has its own. Errors are
// fault.Invalid.
func ReadRoleKeys(root []byte) (RoleKeys, error) {
	m, err := checked(root, func(b []byte) (*metadata.Metadata[metadata.RootType], error) { return follows(nil, versionOf(b), b) })
	if err != nil {
		return RoleKeys{}, fault.Newf(fault.Invalid, "TUF root: %w", err)
	}
	return roleKeys(m)
}

// versionOf is the version that a root says it has; 0 for none.
func versionOf(b []byte) int64 {
	m, err := new(metadata.Metadata[metadata.RootType]).FromBytes(b)
	if err != nil {
		return 0
	}
	return m.Signed.Version
}

func roleKeys(m *metadata.Metadata[metadata.RootType]) (out RoleKeys, err error) {
	for _, role := range []struct {
		name string
		keys *[]crypto.PublicKey
	}{{metadata.ROOT, &out.Root}, {metadata.TARGETS, &out.Targets}} {
		r := m.Signed.Roles[role.name]
		if r == nil {
			return out, fault.Newf(fault.Invalid, "TUF root: it names no role %s", role.name)
		}
		if role.name == metadata.ROOT {
			out.Threshold = r.Threshold
		}
		for _, id := range r.KeyIDs {
			k := m.Signed.Keys[id]
			if k == nil {
				continue
			}
			pub, err := k.ToPublicKey()
			if err != nil {
				return out, fault.Newf(fault.Invalid, "TUF root: key %.12s: %w", id, err)
			}
			*role.keys = append(*role.keys, pub)
		}
	}
	return out, nil
}

// RoleKeys are those of all roots of the repository, the newest first.
func (r *Repository) RoleKeys() (out []RoleKeys, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range append(slices.Clone(r.older), r.root) {
		k, err := roleKeys(m)
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	slices.Reverse(out)
	return out, nil
}

// FetchTargets fetches several targets of one state of the repository, and gives
// them with the root.json that vouches for them. A target that the repository
// does not have is left out.
func FetchTargets(ctx context.Context, o ClientOptions, names ...string) (targets map[string][]byte, root []byte, err error) {
	targets = map[string][]byte{}
	err = fetching(ctx, o, func(up *update) error {
		for _, name := range names {
			info, err := up.find(ctx, name)
			if fault.KindOf(err) == fault.NotFound {
				continue
			}
			if err == nil {
				targets[name], err = up.fetch(ctx, name, info)
			}
			if err != nil {
				return fmt.Errorf("target %s: %w", name, err)
			}
		}
		root = up.local(metadata.ROOT)
		return nil
	})
	return targets, root, err
}

// Online is the signer of the targets role.
func (r *Repository) Online() crypto.Signer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.o.Roles.Targets
}
