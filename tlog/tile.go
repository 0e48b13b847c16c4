package tlog

import (
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"

	"assay/internal/fault"
)

const (
	tileHeight = 8               // levels of the tree in a tile
	tileWidth  = 1 << tileHeight // hashes in a full tile, entries in a full bundle
	tileNodes  = 2*tileWidth - 1 // nodes of a full tile, its own root included
	maxLevel   = 63 / tileHeight // highest level of a tile that a size below 2^63 needs
)

// tile is a tile of hashes with every inner node that is complete. A copy of
// the struct shares its nodes; a push writes only beyond the n of every copy
// that readers have seen, so that readers need no lock and a batch that failed
// is undone by forgetting its copies.
type tile struct {
	n     int    // hashes at the bottom
	nodes []Hash // by height: 256 hashes, 128 parents, …, the root
}

func newTile() tile { return tile{nodes: make([]Hash, tileNodes)} }

// at is the place of the i-th node of a height in nodes.
func at(height, i int) int { return 2*tileWidth - (2*tileWidth)>>height + i }

// push adds a hash to a tile that is not full.
func (t *tile) push(h Hash) {
	i := t.n
	t.n++
	t.nodes[at(0, i)] = h
	for k := 0; i&1 == 1; k++ {
		h = nodeHash(t.nodes[at(k, i-1)], h)
		i >>= 1
		t.nodes[at(k+1, i)] = h
	}
}

// node gives a complete inner node.
func (t *tile) node(height, i int) (Hash, bool) {
	if i < 0 || (i+1)<<height > t.n {
		return Hash{}, false
	}
	return t.nodes[at(height, i)], true
}

// bytes is the tile as C2SP tlog-tiles stores it: the hashes one after another.
func (t *tile) bytes() []byte {
	b := make([]byte, 0, t.n*sha256.Size)
	for _, h := range t.nodes[:t.n] {
		b = append(b, h[:]...)
	}
	return b
}

// parseTile reads a stored tile of an exact width.
func parseTile(b []byte, width int) (tile, error) {
	if len(b) != width*sha256.Size {
		return tile{}, fault.Newf(fault.Tampered, "a tile of %d bytes, want %d", len(b), width*sha256.Size)
	}
	t := newTile()
	for i := range width {
		t.push(Hash(b[i*sha256.Size:]))
	}
	return t, nil
}

// resource is what C2SP tlog-tiles can name: a tile of hashes, or with entries
// a bundle of entries. width is 1 to 256, 256 a full one.
type resource struct {
	entries bool
	level   int
	n       uint64
	width   int
}

// path is the resource's path below the log's root, "/" between the parts.
// folder is what bundles stand in: "entries", for CT "data".
func (r resource) path(folder string) string {
	var b strings.Builder
	b.WriteString("tile/")
	if r.entries {
		b.WriteString(folder)
	} else {
		b.WriteString(strconv.Itoa(r.level))
	}
	groups := []uint64{r.n % 1000}
	for n := r.n / 1000; n > 0; n /= 1000 {
		groups = append(groups, n%1000)
	}
	for i := len(groups) - 1; i > 0; i-- {
		fmt.Fprintf(&b, "/x%03d", groups[i])
	}
	fmt.Fprintf(&b, "/%03d", groups[0])
	if r.width < tileWidth {
		fmt.Fprintf(&b, ".p/%d", r.width)
	}
	return b.String()
}

// parseResource reads what path wrote, and nothing else: numbers only, in
// their one shortest form, so that no file but a tile can be named.
func parseResource(path, folder string) (resource, bool) {
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok || len(path) > 128 {
		return resource{}, false
	}
	kind, rest, ok := strings.Cut(rest, "/")
	if !ok {
		return resource{}, false
	}
	r := resource{width: tileWidth}
	if kind == folder {
		r.entries = true
	} else {
		l, err := strconv.ParseUint(kind, 10, 8)
		if err != nil || l > maxLevel {
			return resource{}, false
		}
		r.level = int(l)
	}
	if n, w, partial := strings.Cut(rest, ".p/"); partial {
		width, err := strconv.ParseUint(w, 10, 8)
		if err != nil || width == 0 {
			return resource{}, false
		}
		rest, r.width = n, int(width)
	}
	parts := strings.Split(rest, "/")
	if len(parts) > 6 { // 10^18 bundles
		return resource{}, false
	}
	for i, p := range parts {
		if i < len(parts)-1 {
			if p, ok = strings.CutPrefix(p, "x"); !ok {
				return resource{}, false
			}
		}
		g, err := strconv.ParseUint(p, 10, 16)
		if err != nil || len(p) != 3 {
			return resource{}, false
		}
		r.n = r.n*1000 + g
	}
	return r, r.path(folder) == path
}
