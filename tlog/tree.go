package tlog

import (
	"context"
	"sync"

	"assay/internal/fault"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// Tree is the log at one size. It does not change. Every tile that it reads is
// checked against the node above it, up to the root, before it is used: a file
// that has rotted or was altered is [fault.Tampered], never a wrong proof.
type Tree struct {
	size  uint64
	root  Hash
	edge  []tile // by level: the last tile, which is not full
	cache *tileCache
	src   Source
	codec Codec
}

// LoadTree reads the right edge of the tree of a checkpoint and checks that it
// leads to the checkpoint's root. What is absent or leads elsewhere is
// [fault.Tampered].
func LoadTree(ctx context.Context, src Source, codec Codec, c Checkpoint) (*Tree, error) {
	t := &Tree{size: c.Size, cache: newTileCache(cacheTiles), src: src, codec: codec}
	for level := 0; c.Size>>(tileHeight*level) > 0 && level <= maxLevel; level++ {
		n := c.Size >> (tileHeight * level)
		e := newTile()
		if w := int(n % tileWidth); w > 0 {
			b, err := src.Tile(ctx, level, n/tileWidth, w)
			if err == nil {
				e, err = parseTile(b, w)
			}
			if err != nil {
				return nil, lost(err, "the tree of %d entries: tile %d of level %d", c.Size, n/tileWidth, level)
			}
		}
		t.edge = append(t.edge, e)
	}
	root, err := t.rootAt(ctx, c.Size)
	if err != nil {
		return nil, err
	}
	if root != c.Root {
		return nil, fault.Newf(fault.Tampered, "the tiles lead to root %x for %d entries, the signed checkpoint says %x", root, c.Size, c.Root)
	}
	t.root = root
	return t, nil
}

// lost makes an absent file [fault.Tampered]: the checkpoint says it is there.
func lost(err error, format string, a ...any) error {
	kind := fault.KindOf(err)
	if kind == fault.NotFound || kind == fault.TooLarge {
		kind = fault.Tampered
	}
	return fault.Newf(kind, format+": %w", append(a, err)...)
}

// Size is the number of entries.
func (t *Tree) Size() uint64 { return t.size }

// Root is the RFC 6962 root of the entries.
func (t *Tree) Root() Hash { return t.root }

// node gives the root of the complete subtree of 2^level entries.
func (t *Tree) node(ctx context.Context, level uint, index uint64) (Hash, error) {
	tl, k := int(level/tileHeight), int(level%tileHeight)
	n, i := index>>(tileHeight-k), int(index&(1<<(tileHeight-k)-1))
	last := t.size >> (tileHeight * (tl + 1)) // number of the tile that is not full
	if tl < len(t.edge) && n == last {
		if h, ok := t.edge[tl].node(k, i); ok {
			return h, nil
		}
	}
	if n >= last {
		return Hash{}, fault.Newf(fault.NotFound, "node %d of level %d is not in the tree of %d entries", index, level, t.size)
	}
	full, err := t.tile(ctx, tl, n)
	if err != nil {
		return Hash{}, err
	}
	h, _ := full.node(k, i)
	return h, nil
}

// tile gives a full tile, checked against its parent.
func (t *Tree) tile(ctx context.Context, level int, n uint64) (*tile, error) {
	if c := t.cache.get(level, n); c != nil {
		return c, nil
	}
	want, err := t.node(ctx, uint(level+1)*tileHeight, n)
	if err != nil {
		return nil, err
	}
	b, err := t.src.Tile(ctx, level, n, tileWidth)
	if err != nil {
		return nil, lost(err, "tile %d of level %d", n, level)
	}
	c, err := parseTile(b, tileWidth)
	if err != nil {
		return nil, lost(err, "tile %d of level %d", n, level)
	}
	if got, _ := c.node(tileHeight, 0); got != want {
		return nil, fault.Newf(fault.Tampered, "tile %d of level %d has root %x, the tree above it says %x: restore the log's folder from a backup", n, level, got, want)
	}
	t.cache.put(level, n, &c)
	return &c, nil
}

// rootAt computes the root of the first size entries.
func (t *Tree) rootAt(ctx context.Context, size uint64) (Hash, error) {
	if size == 0 {
		return emptyRoot(), nil
	}
	var root Hash
	have := false
	for level := uint(0); size>>level > 0; level++ {
		if size>>level&1 == 0 {
			continue
		}
		h, err := t.node(ctx, level, size>>level-1)
		if err != nil {
			return Hash{}, err
		}
		if have {
			h = nodeHash(h, root)
		}
		root, have = h, true
	}
	return root, nil
}

// RootAt computes the root of the first size entries, which must be in the
// tree ([fault.Invalid]).
func (t *Tree) RootAt(ctx context.Context, size uint64) (Hash, error) {
	if size > t.size {
		return Hash{}, fault.Newf(fault.Invalid, "the tree has %d entries, not %d", t.size, size)
	}
	return t.rootAt(ctx, size)
}

// InclusionProof proves that entry index is in the tree of the first size
// entries. An index or size that is not in the tree is [fault.Invalid].
func (t *Tree) InclusionProof(ctx context.Context, index, size uint64) ([][]byte, error) {
	if size > t.size || index >= size {
		return nil, fault.Newf(fault.Invalid, "no proof of entry %d in a tree of %d: the log has %d entries", index, size, t.size)
	}
	nodes, err := proof.Inclusion(index, size)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	return t.prove(ctx, nodes)
}

// ConsistencyProof proves that the tree of the first a entries is a prefix of
// that of the first b. 0 < a <= b <= size, else [fault.Invalid].
func (t *Tree) ConsistencyProof(ctx context.Context, a, b uint64) ([][]byte, error) {
	if a == 0 || a > b || b > t.size {
		return nil, fault.Newf(fault.Invalid, "no proof from a tree of %d to one of %d: want 0 < first <= second <= %d", a, b, t.size)
	}
	nodes, err := proof.Consistency(a, b)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	return t.prove(ctx, nodes)
}

func (t *Tree) prove(ctx context.Context, nodes proof.Nodes) ([][]byte, error) {
	flat := make([]Hash, len(nodes.IDs))
	hashes := make([][]byte, len(nodes.IDs))
	for i, id := range nodes.IDs {
		h, err := t.node(ctx, id.Level, id.Index)
		if err != nil {
			return nil, err
		}
		flat[i] = h
		hashes[i] = flat[i][:]
	}
	out, err := nodes.Rehash(hashes, rfc6962.DefaultHasher.HashChildren)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err)
	}
	return out, nil
}

// Records reads entries from a bundle on: those of [from, to) that stand in
// the bundle of from, each checked against the tree. from must be below to and
// to at most the size ([fault.Invalid]).
func (t *Tree) Records(ctx context.Context, from, to uint64) ([]Record, error) {
	if from >= to || to > t.size {
		return nil, fault.Newf(fault.Invalid, "no entries [%d, %d): the log has %d", from, to, t.size)
	}
	n := from / tileWidth
	to = min(to, (n+1)*tileWidth)
	b, err := t.src.Bundle(ctx, n, int(min(tileWidth, t.size-n*tileWidth)))
	if err != nil {
		if k := fault.KindOf(err); k == fault.Denied || k == fault.Unauthenticated {
			return nil, err
		}
		return nil, lost(err, "entry bundle %d", n)
	}
	var out []Record
	for i := n * tileWidth; i < to; i++ {
		raw, leaf, err := t.codec.Split(b)
		if err != nil {
			return nil, fault.Newf(fault.Tampered, "entry %d in its bundle: %w", i, err)
		}
		b = b[len(raw):]
		if i < from {
			continue
		}
		want, err := t.node(ctx, 0, i)
		if err != nil {
			return nil, err
		}
		if LeafHash(leaf) != want {
			return nil, fault.Newf(fault.Tampered, "entry %d is not what was logged: its hash is not the tree's; restore the log's folder from a backup", i)
		}
		out = append(out, Record{Index: i, Leaf: leaf, Raw: raw})
	}
	return out, nil
}

// tileCache holds full tiles, which never change. It keeps the tiles that came
// last.
type tileCache struct {
	mu    sync.Mutex
	tiles map[tileKey]*tile
	order []tileKey // ring
	next  int
}

type tileKey struct {
	level int
	n     uint64
}

const cacheTiles = 256 // 16 KiB each

func newTileCache(n int) *tileCache {
	return &tileCache{tiles: make(map[tileKey]*tile), order: make([]tileKey, 0, n)}
}

func (c *tileCache) get(level int, n uint64) *tile {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tiles[tileKey{level, n}]
}

func (c *tileCache) put(level int, n uint64, t *tile) {
	k := tileKey{level, n}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.tiles[k]; ok {
		c.tiles[k] = t
		return
	}
	if len(c.order) < cap(c.order) {
		c.order = append(c.order, k)
	} else {
		delete(c.tiles, c.order[c.next])
		c.order[c.next] = k
		c.next = (c.next + 1) % len(c.order)
	}
	c.tiles[k] = t
}

// written is a tile that a batch made or grew.
type written struct {
	res  resource
	tile tile
}

// extend gives the tree with more leaves, and the tiles that this makes. t is
// unchanged. Full tiles are not yet in the cache: see [Tree.adopt].
func (t *Tree) extend(leaves []Hash) (*Tree, []written) {
	next := &Tree{size: t.size, edge: append([]tile(nil), t.edge...), cache: t.cache, src: t.src, codec: t.codec}
	var out []written
	dirty := make([]bool, maxLevel+2)
	var push func(level int, n uint64, h Hash)
	push = func(level int, n uint64, h Hash) {
		if level == len(next.edge) {
			next.edge = append(next.edge, newTile())
		}
		e := &next.edge[level]
		e.push(h)
		dirty[level] = true
		if e.n < tileWidth {
			return
		}
		full := *e
		out = append(out, written{resource{level: level, n: n / tileWidth, width: tileWidth}, full})
		*e, dirty[level] = newTile(), false
		root, _ := full.node(tileHeight, 0)
		push(level+1, n/tileWidth, root)
	}
	for _, h := range leaves {
		push(0, next.size, h)
		next.size++
	}
	for level, e := range next.edge {
		if dirty[level] {
			out = append(out, written{resource{level: level, n: next.size >> (tileHeight * (level + 1)), width: e.n}, e})
		}
	}
	next.root = next.edgeRoot()
	return next, out
}

// edgeRoot computes the root without reading a file: all that it needs stands
// in the edge, or in a full tile's parent there.
func (t *Tree) edgeRoot() Hash {
	var root Hash
	have := false
	for _, e := range t.edge {
		for k := range tileHeight {
			if e.n>>k&1 == 0 {
				continue
			}
			h, _ := e.node(k, e.n>>k-1)
			if have {
				h = nodeHash(h, root)
			}
			root, have = h, true
		}
	}
	if !have {
		return emptyRoot()
	}
	return root
}

// adopt puts the full tiles of a committed batch into the cache.
func (t *Tree) adopt(ws []written) {
	for _, w := range ws {
		if w.res.width == tileWidth {
			full := w.tile
			t.cache.put(w.res.level, w.res.n, &full)
		}
	}
}
