package registry

import (
	"context"
	"errors"
	"sync"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// tagMemory remembers for a moment what tags name and what is held for them, each
// as of a state of the tables of tags. As soon as this process commits a change to
// one of them nothing remembered is of the state any more; what another process
// changes in an embedded database (none does while a server runs) is seen after
// holdingAge. With PostgreSQL nothing is remembered.
type tagMemory struct {
	changes *store.Changes
	mu      sync.RWMutex
	seen    generations[tagKey, tagSeen]
}

type tagKey struct{ repository, tag string }

// tagSeen is a tag that is set.
type tagSeen struct {
	state  uint64
	digest artifact.Digest
	held   heldTag // the newest that is held for it; no digest: nothing is
}

func newTagMemory(db *store.DB) *tagMemory {
	return &tagMemory{changes: db.Changes("registry_tag"), seen: generations[tagKey, tagSeen]{life: holdingAge}}
}

// tagOf gives what a tag names, and what is held for it. unset is why it names
// nothing; [fault.NotFound] where it is not set.
func (r *Registry) tagOf(ctx context.Context, tx *store.Tx, repository, tag string) (d artifact.Digest, held heldTag, unset, err error) {
	m, k := r.tags, tagKey{repository, tag}
	state, known := m.changes.At(tx)
	if known {
		m.mu.RLock()
		s, ok := m.seen.get(k, time.Now())
		m.mu.RUnlock()
		if ok && s.state == state {
			return s.digest, s.held, nil, nil
		}
	}
	d, _, unset = findTag(ctx, tx, repository, tag)
	if unset != nil && !errors.Is(unset, fault.NotFound) {
		return "", heldTag{}, nil, unset
	}
	if r.vis != nil {
		if held, err = newestHeld(ctx, tx, repository, tag); err != nil {
			return "", heldTag{}, nil, err
		}
	}
	if age := tx.Age(); known && unset == nil && age < holdingAge && m.changes.Still(state) {
		m.mu.Lock()
		m.seen.put(k, tagSeen{state, d, held}, time.Now().Add(-age))
		m.mu.Unlock()
	}
	return d, held, unset, nil
}
