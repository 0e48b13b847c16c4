package gate

import (
	"context"
	"fmt"
	"sync"
	"time"

	"assay/artifact"
	"assay/config"
	"assay/identity"
	"assay/internal/fault"
	"assay/registry"
	"assay/store"
)

// maxStateAge is how late a change by another replica is seen.
const maxStateAge = 500 * time.Millisecond

// maxSubjects bounds the chain of evidence about evidence that is followed.
const maxSubjects = 8

// Visible says whether p sees a manifest: from memory, as a rule.
func (g *Gate) Visible(ctx context.Context, tx *store.Tx, p identity.Principal, repository string, d artifact.Digest) (bool, error) {
	if p.Kind == identity.KindSystem {
		return true, nil
	}
	s := g.Repository(repository)
	for range maxSubjects {
		blocked, err := g.blocks.has(ctx, tx, g.now(), d)
		if err != nil || blocked {
			return false, err
		}
		if !gated(&s) && s.Profile != config.ProfileDev {
			return true, nil
		}
		e, err := g.state(ctx, tx, repository, d)
		if err != nil {
			return false, err
		}
		switch {
		case !e.known:
			// Pushed before there was a gate, and not judged yet.
			return g.insider(ctx, p, repository, ""), nil
		case e.expires > 0 && e.basis == basisDev && store.Micros(g.now()) >= e.expires:
			return g.insider(ctx, p, repository, e.owner), nil
		case e.state == Active && e.carrier:
			// Evidence is seen by those who see what it is about. Where that is
			// not here, it waits for it.
			if blocked, err := g.blocks.has(ctx, tx, g.now(), e.subject); err != nil || blocked {
				return blocked && err == nil && g.investigator(ctx, p, repository), err
			}
			about, err := g.state(ctx, tx, repository, e.subject)
			if err != nil {
				return false, err
			}
			if !about.known {
				return g.insider(ctx, p, repository, e.owner), nil
			}
			if p.Kind != identity.KindAnonymous && registry.Owner(p) == e.owner {
				return true, nil
			}
			d = e.subject
		case e.state == Active:
			return true, nil
		default:
			return g.insider(ctx, p, repository, e.owner), nil
		}
	}
	return false, nil
}

// Withheld says whether a digest is under quarantine or revoked: a manifest, or a
// blob.
func (g *Gate) Withheld(ctx context.Context, tx *store.Tx, d artifact.Digest) (bool, error) {
	return g.blocks.has(ctx, tx, g.now(), d)
}

func (g *Gate) now() time.Time { return g.o.Clock() }

// insider says whether p works on what is not public yet: who pushed it, those
// who sign in the repository, and those who approve and operate it.
func (g *Gate) insider(ctx context.Context, p identity.Principal, repository, owner string) bool {
	if p.IsAnonymous() {
		return false
	}
	if owner != "" && registry.Owner(p) == owner {
		return true
	}
	for _, act := range []identity.Action{identity.ActSign, identity.ActApprove, identity.ActOperate} {
		if g.o.Access.Allow(ctx, p, act, identity.Repository(repository)) == nil {
			return true
		}
	}
	return false
}

// investigator says whether p looks into what is under quarantine.
func (g *Gate) investigator(ctx context.Context, p identity.Principal, repository string) bool {
	return !p.IsAnonymous() && (g.o.Access.Allow(ctx, p, identity.ActOperate, identity.Repository(repository)) == nil ||
		g.o.Access.Allow(ctx, p, identity.ActReadAudit, identity.Repository(repository)) == nil)
}

// SeesHeld says whether p's tags resolve to what waits: for who pushed it, and
// for those who sign.
func (g *Gate) SeesHeld(ctx context.Context, p identity.Principal, repository, owner string) bool {
	if p.IsAnonymous() || p.Kind == identity.KindSystem {
		return false // what is decided upon in the name of all is what all see
	}
	return registry.Owner(p) == owner || g.o.Access.Allow(ctx, p, identity.ActSign, identity.Repository(repository)) == nil
}

// Refusal tells those who are known, and may pull, why they do not get a
// manifest. Everybody else hears that it is not there.
func (g *Gate) Refusal(ctx context.Context, tx *store.Tx, p identity.Principal, repository string, d artifact.Digest) error {
	if p.IsAnonymous() {
		return nil
	}
	if b, err := blockedIn(ctx, tx, d); err != nil || b != nil {
		return blockedError(err, d, b)
	}
	r, err := find(ctx, tx, repository, d)
	if err != nil {
		return err
	}
	see := fmt.Sprintf("see assay registry status %s@%s", repository, d)
	switch {
	case r == nil:
		return fault.Newf(fault.Denied, "%s was pushed before repository %s had a gate, and is not judged yet; %s", d, repository, see)
	case r.carrier:
		return nil
	case r.state == Rejected:
		return fault.Newf(fault.Denied, "%s is rejected in repository %s: %s; %s", d, repository, r.reason, see)
	case r.basis == basisDev:
		return fault.Newf(fault.Denied, "%s expired in repository %s, which is of profile dev; push it again", d, repository)
	}
	why := "there is no evidence about it yet"
	s := g.Repository(repository)
	if st, err := g.standing(ctx, tx, r, &s); err != nil {
		return err
	} else if st != nil {
		why = trail(st)
	}
	return fault.Newf(fault.Denied, "%s is staged in repository %s and not public yet: %s; %s", d, repository, why, see)
}

// seen is what memory knows of a manifest.
type seen struct {
	known   bool
	state   State
	basis   string
	carrier bool
	subject artifact.Digest
	owner   string
	expires int64
}

// state reads what a manifest is. Within an Update it is read anew: what memory
// holds is committed, and what the transaction has changed is not in it.
func (g *Gate) state(ctx context.Context, tx *store.Tx, repository string, d artifact.Digest) (seen, error) {
	k := stateKey{repository, d}
	if tx.ReadOnly() {
		if e, ok := g.states.get(k, g.now()); ok {
			return e, nil
		}
	}
	r, err := find(ctx, tx, repository, d)
	if err != nil {
		return seen{}, err
	}
	var e seen
	if r != nil {
		e = seen{true, r.state, r.basis, r.carrier, r.subject, r.owner, r.expires}
	}
	if tx.ReadOnly() {
		g.states.put(k, e, g.now(), tx.Age())
	}
	return e, nil
}

type stateKey struct {
	repository string
	digest     artifact.Digest
}

type heldState struct {
	seen
	read time.Time
}

// states remembers what manifests are: two generations, of which the older is
// dropped when the newer is full. Changes of this process drop their entry;
// those of others are seen when an entry has reached its age.
type states struct {
	most   int
	maxAge time.Duration
	clock  func() time.Time

	mu       sync.RWMutex
	dropped  time.Time // of the last change
	new, old map[stateKey]heldState
}

func newStates(most int, maxAge time.Duration, clock func() time.Time) *states {
	return &states{most: most / 2, maxAge: maxAge, clock: clock, new: map[stateKey]heldState{}}
}

func (c *states) get(k stateKey, now time.Time) (seen, bool) {
	c.mu.RLock()
	e, ok := c.new[k]
	if !ok {
		e, ok = c.old[k]
	}
	c.mu.RUnlock()
	if age := now.Sub(e.read); !ok || age >= c.maxAge || age < 0 {
		return seen{}, false
	}
	return e.seen, true
}

// put keeps what was read in a transaction of an age, and is as old as that,
// unless something has changed since the transaction began: its snapshot may be
// older than the change.
func (c *states) put(k stateKey, e seen, now time.Time, age time.Duration) {
	if age >= c.maxAge {
		return
	}
	read := now.Add(-age)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !read.After(c.dropped) {
		return
	}
	if _, have := c.new[k]; !have && len(c.new) >= c.most {
		c.old, c.new = c.new, make(map[stateKey]heldState, 1024)
	}
	c.new[k] = heldState{e, read}
}

func (c *states) drop(k stateKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropped = c.clock()
	delete(c.new, k)
	delete(c.old, k)
}
