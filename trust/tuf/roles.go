package tuf

import (
	"context"
	"crypto"
	"maps"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"assay/internal/fault"
)

// online are the signers of an online role, whose own signer is first.
func (o Roles) online(own crypto.Signer) []crypto.Signer {
	return append([]crypto.Signer{own}, o.Cosigners...)
}

// named are the signers that the root names for an online role.
func (o Roles) named(own crypto.Signer) []crypto.Signer {
	if o.Listed {
		return o.online(own)
	}
	return []crypto.Signer{own}
}

// SetRoles brings the repository to other signers: a new root where the root
// does not say what next says, signed by its own keys and by a threshold of the
// keys of the root before, which are among before and the present ones; then
// everything below it. Nothing is written where all is so already, so it can be
// called again after a crash. Old root keys that do not reach the threshold are
// [fault.Conflict], and nothing changes.
//
// A change of the online key takes three calls, and at no instant does a client
// find metadata that its root does not vouch for, whatever it had fetched
// before: Cosigners {new}, Listed; then the new one with Cosigners {old}, Listed;
// then the new one alone. Between the calls lies at least the time that a client
// takes for one update; between the last two, what else the old key signed below
// the root is signed anew.
func (r *Repository) SetRoles(ctx context.Context, next Roles, before ...crypto.Signer) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.setRoles(ctx, next, before)
}

func (r *Repository) setRoles(ctx context.Context, next Roles, before []crypto.Signer) error {
	if len(next.Root) == 0 || next.Targets == nil || next.Snapshot == nil || next.Timestamp == nil {
		return fault.Newf(fault.Invalid, "TUF rotation: want signers for all four roles")
	}
	root := metadata.Root()
	if err := setRoles(&root.Signed, next); err != nil {
		return err
	}
	if !sameRoles(&root.Signed, &r.root.Signed) {
		if err := r.follow(ctx, root, next, slices.Concat(before, r.o.Roles.Root)); err != nil {
			return err
		}
	}
	r.o.Roles = next
	stale, err := r.signedByOthers()
	if err != nil {
		return err
	}
	if r.resign = r.resign || stale; !r.resign || r.targets == nil {
		return nil
	}
	return r.publish(ctx, r.targets)
}

// follow writes the root that follows the present one.
func (r *Repository) follow(ctx context.Context, root *metadata.Metadata[metadata.RootType], next Roles, before []crypto.Signer) error {
	signers := slices.Clone(next.Root)
	for _, old := range before {
		_, id, err := tufKey(old)
		if err != nil {
			return err
		}
		known := slices.ContainsFunc(signers, func(s crypto.Signer) bool { _, have, err := tufKey(s); return err == nil && have == id })
		if !known && slices.Contains(r.root.Signed.Roles[metadata.ROOT].KeyIDs, id) {
			signers = append(signers, old)
		}
	}
	root.Signed.Version = r.root.Signed.Version + 1
	root.Signed.Expires = r.expiry(r.o.Lifetimes.Root)
	trial := *root
	if _, err := sign(ctx, &trial, signers...); err != nil {
		return err
	}
	if err := r.root.VerifyDelegate(metadata.ROOT, &trial); err != nil {
		return fault.Newf(fault.Conflict, "TUF rotation: root %d does not name the signers that are given, and the old root keys at hand do not reach its threshold: give the keys that it names, or restore them from a backup: %w", r.root.Signed.Version, err)
	}
	older := r.root
	if err := r.writeRoot(ctx, root, root.Signed.Version, signers); err != nil {
		return err
	}
	r.older = append(r.older, older)
	// What is published may be signed by keys that count no more.
	if r.targets != nil && r.root.VerifyDelegate(metadata.TARGETS, r.targets) != nil {
		r.resign = true
	}
	return nil
}

// sameRoles says whether two roots name the same keys.
func sameRoles(a, b *metadata.RootType) bool {
	return maps.EqualFunc(a.Roles, b.Roles, func(x, y *metadata.Role) bool {
		return x.Threshold == y.Threshold && sameSet(x.KeyIDs, y.KeyIDs)
	})
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// signedByOthers says whether what is published bears other signatures than
// those of the present signers.
func (r *Repository) signedByOthers() (bool, error) {
	if r.targets == nil {
		return false, nil
	}
	for _, c := range []struct {
		own  crypto.Signer
		sigs []metadata.Signature
	}{{r.o.Roles.Targets, r.targets.Signatures}, {r.o.Roles.Snapshot, r.snapshot.Signatures}, {r.o.Roles.Timestamp, r.timestamp.Signatures}} {
		var want, have []string
		for _, s := range r.o.Roles.online(c.own) {
			_, id, err := tufKey(s)
			if err != nil {
				return false, err
			}
			want = append(want, id)
		}
		for _, s := range c.sigs {
			have = append(have, s.KeyID)
		}
		if !sameSet(want, have) {
			return true, nil
		}
	}
	return false, nil
}
