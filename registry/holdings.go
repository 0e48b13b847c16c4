package registry

import (
	"context"
	"sync"
	"time"

	"assay/artifact"
	"assay/store"
)

// holdings remembers for a moment what repositories hold: the rows of manifests,
// and some of the manifests that hold a blob. All that can become untrue of
// these is that they are there: what this process takes away it forgets before
// the answer, and what another takes away it still shows for holdingAge. That
// something is absent is not remembered, nor who may see what: those are asked at
// every request. What tags name is remembered apart ([tagMemory]).
type holdings struct {
	mu        sync.RWMutex
	seq       int64 // raised by each forget
	forgot    time.Time
	manifests generations[holdingKey, manifestRow]
	blobs     generations[holdingKey, holderSet]
}

// holdingAge is how late a deletion by another process is seen, as with the
// gate's states.
const holdingAge = 500 * time.Millisecond

type holdingKey struct {
	repository string
	digest     artifact.Digest
}

// holderSet are the manifests of a repository that hold a blob.
type holderSet struct {
	list []artifact.Digest
	more bool // these are only the first
}

const maxHolders = 32

func newHoldings() *holdings {
	return &holdings{
		manifests: generations[holdingKey, manifestRow]{life: holdingAge},
		blobs:     generations[holdingKey, holderSet]{life: holdingAge},
	}
}

// recall gives what is remembered in one of the maps, and the state of the
// memory that keep wants to have back.
func recall[V any](h *holdings, in *generations[holdingKey, V], k holdingKey) (v V, ok bool, seq int64) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	v, ok = in.get(k, time.Now())
	return v, ok, h.seq
}

// keep remembers what tx read after recall gave seq, unless something was
// forgotten since the transaction began: what it sees may be older than that.
// What is remembered is as old as the transaction.
func keep[V any](h *holdings, in *generations[holdingKey, V], k holdingKey, v V, tx *store.Tx, seq int64) {
	age := tx.Age()
	if age >= holdingAge {
		return
	}
	read := time.Now().Add(-age)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seq == seq && read.After(h.forgot) {
		in.put(k, v, read)
	}
}

// forget drops everything once tx, which takes something away, is committed.
func (h *holdings) forget(tx *store.Tx) {
	tx.OnCommit(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.seq++
		h.forgot = time.Now()
		h.manifests.now, h.manifests.old = nil, nil
		h.blobs.now, h.blobs.old = nil, nil
	})
}

// manifestOf is findManifest, from memory where tx only reads.
func (r *Registry) manifestOf(ctx context.Context, tx *store.Tx, repository string, d artifact.Digest) (manifestRow, error) {
	if !tx.ReadOnly() {
		return findManifest(ctx, tx, repository, d)
	}
	k := holdingKey{repository, d}
	m, ok, seq := recall(r.holdings, &r.holdings.manifests, k)
	if ok {
		return m, nil
	}
	m, err := findManifest(ctx, tx, repository, d)
	if err == nil {
		keep(r.holdings, &r.holdings.manifests, k, m, tx, seq)
	}
	return m, err
}

// holdersOf gives the manifests of a repository that hold a blob, for memory as
// it was when it had seq.
func (r *Registry) holdersOf(ctx context.Context, tx *store.Tx, repository string, d artifact.Digest, seq int64) (holderSet, error) {
	found, err := store.Values[string](ctx, tx, `SELECT manifest FROM registry_reference WHERE child = ? AND kind = ? AND repository = ? LIMIT ?`,
		string(d), refBlob, repository, maxHolders+1)
	if err != nil {
		return holderSet{}, err
	}
	h := holderSet{more: len(found) > maxHolders}
	for _, m := range found[:min(len(found), maxHolders)] {
		h.list = append(h.list, artifact.Digest(m))
	}
	if len(h.list) > 0 && tx.ReadOnly() {
		keep(r.holdings, &r.holdings.blobs, holdingKey{repository, d}, h, tx, seq)
	}
	return h, nil
}
