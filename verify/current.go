package verify

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// Current gives the decision that holds for a digest in a scope, from memory
// or by one indexed read. The caller must not change it.
//
// A digest that was never decided is fault.NotFound. A decision past its
// ValidUntil, or from before the last change of trust, is given together with an
// error of kind fault.Undecided: a door refuses or lets it be decided anew,
// unless its rules let what already runs go on.
func (e *Engine) Current(ctx context.Context, digest artifact.Digest, scopeID string) (*Decision, error) {
	now := e.o.Clock()
	key := decisionKey{digest, scopeID}
	d, seq, ok := e.cache.get(key, now)
	if !ok {
		var err error
		if d, err = e.readCurrent(ctx, digest, scopeID); err != nil {
			return nil, err
		}
		e.cache.put(key, d, now, seq)
	}
	if epoch := e.o.Trust().Epoch; d.TrustEpoch < epoch {
		return d, fault.Newf(fault.Undecided, "the decision %s about %s is of trust epoch %d, and trust has changed since (epoch %d): it is to be made again", d.ID, digest, d.TrustEpoch, epoch)
	}
	if !now.Before(d.ValidUntil) {
		return d, fault.Newf(fault.Undecided, "the decision %s about %s ended at %s: it is to be made again", d.ID, digest, d.ValidUntil.UTC().Format(time.RFC3339))
	}
	return d, nil
}

func (e *Engine) readCurrent(ctx context.Context, digest artifact.Digest, scopeID string) (d *Decision, err error) {
	err = e.o.DB.View(ctx, func(tx *store.Tx) error {
		d, err = current(ctx, tx, digest, scopeID)
		return err
	})
	if errors.Is(err, fault.NotFound) {
		return nil, fault.Newf(fault.NotFound, "nothing was decided about %s in scope %s: run assay verify", digest, clip(scopeID, 100))
	}
	return d, err
}

// Standing reads in tx the decision that was last made about a digest in a
// scope, whether it still holds or not; fault.NotFound when there is none. It
// is for those whose change must be one with what they decide by.
func Standing(ctx context.Context, tx *store.Tx, digest artifact.Digest, scopeID string) (*Decision, error) {
	return current(ctx, tx, digest, scopeID)
}

// Reason is in short what failed, for a line of text; empty for an allow.
func (d *Decision) Reason() string { return failures(d.Checks, 2) }

type decisionKey struct {
	digest  artifact.Digest
	scopeID string
}

type cached struct {
	d    *Decision
	read time.Time
}

// decisions remembers what Current reads: two generations, of which the older
// is dropped when the newer is full. Writes of this process drop their entry;
// those of others are seen when an entry has reached its age.
type decisions struct {
	most   int
	maxAge time.Duration
	seq    atomic.Int64 // raised by every invalidation

	mu       sync.RWMutex
	new, old map[decisionKey]cached
}

func newDecisions(most int, maxAge time.Duration) *decisions {
	return &decisions{most: max(1, most/2), maxAge: maxAge, new: map[decisionKey]cached{}}
}

// get also gives the sequence number that a later put must name.
func (c *decisions) get(k decisionKey, now time.Time) (d *Decision, seq int64, ok bool) {
	seq = c.seq.Load()
	c.mu.RLock()
	hit, ok := c.new[k]
	if !ok {
		hit, ok = c.old[k]
	}
	c.mu.RUnlock()
	if age := now.Sub(hit.read); !ok || age >= c.maxAge || age < 0 {
		return nil, seq, false
	}
	return hit.d, seq, true
}

// put keeps what was read, unless something was written since: what was read
// may then be what it was before.
func (c *decisions) put(k decisionKey, d *Decision, now time.Time, seq int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seq.Load() != seq {
		return
	}
	if _, have := c.new[k]; !have && len(c.new) >= c.most {
		c.old, c.new = c.new, make(map[decisionKey]cached, c.most)
	}
	c.new[k] = cached{d, now}
}

func (c *decisions) drop(k decisionKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq.Add(1)
	delete(c.new, k)
	delete(c.old, k)
}
