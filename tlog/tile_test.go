package tlog

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"assay/internal/fault"

	"github.com/google/go-cmp/cmp"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
)

func TestResourcePath(t *testing.T) {
	tests := []struct {
		path string
		want resource
		ok   bool
	}{
		{"tile/0/000", resource{width: 256}, true},
		{"tile/3/123", resource{level: 3, n: 123, width: 256}, true},
		{"tile/0/x001/x234/067", resource{n: 1234067, width: 256}, true},
		{"tile/0/x001/x234/067.p/8", resource{n: 1234067, width: 8}, true},
		{"tile/entries/x001/000", resource{entries: true, n: 1000, width: 256}, true},
		{"tile/entries/000.p/255", resource{entries: true, width: 255}, true},

		{"tile/0/000.p/256", resource{}, false},
		{"tile/0/000.p/0", resource{}, false},
		{"tile/0/000.p/08", resource{}, false},
		{"tile/0/000.p/", resource{}, false},
		{"tile/0/00", resource{}, false},
		{"tile/0/0000", resource{}, false},
		{"tile/0/x000/000", resource{}, false},
		{"tile/0/001/000", resource{}, false},
		{"tile/00/000", resource{}, false},
		{"tile/8/000", resource{}, false},
		{"tile/-1/000", resource{}, false},
		{"tile/+1/000", resource{}, false},
		{"tile/0/x-01/000", resource{}, false},
		{"tile/data/000", resource{}, false},
		{"tile/0/../../lock", resource{}, false},
		{"tile/entries/../../../assay.db", resource{}, false},
		{"tile/entries/..%2f000", resource{}, false},
		{"tile/0/000\x00", resource{}, false},
		{"tile//000", resource{}, false},
		{"tile/", resource{}, false},
		{"", resource{}, false},
		{"tile/0/" + strings.Repeat("x999/", 20) + "999", resource{}, false},
	}
	for _, tt := range tests {
		got, ok := parseResource(tt.path, "entries")
		if d := cmp.Diff(tt.want, got, cmp.AllowUnexported(resource{})); ok != tt.ok || ok && d != "" {
			t.Errorf("%q: ok %v, want %v (-want +got):\n%s", tt.path, ok, tt.ok, d)
		}
	}
}

func FuzzParseResource(f *testing.F) {
	for _, s := range []string{"tile/0/000", "tile/entries/x001/x234/067.p/8", "tile/0/../../lock", "tile/7/x999/x999/x999/x999/x999/999.p/255"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r, ok := parseResource(path, "entries")
		if !ok {
			return
		}
		if got := r.path("entries"); got != path {
			t.Errorf("%q is also %q", path, got)
		}
		if !filepath.IsLocal(path) || r.width < 1 || r.width > tileWidth || r.level > maxLevel {
			t.Errorf("%q was taken for %+v", path, r)
		}
	})
}

func FuzzPlainSplit(f *testing.F) {
	f.Add(plainRecord([]byte("entry")))
	f.Add([]byte{0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		raw, leaf, err := Plain{}.Split(b)
		if err != nil {
			return
		}
		if string(raw) != string(plainRecord(leaf)) || string(b[:len(raw)]) != string(raw) {
			t.Errorf("%x was split into %x, %x", b, raw, leaf)
		}
	})
}

// memory is a Source over what extend gives.
type memory map[string][]byte

func (m memory) put(ws []written) {
	for _, w := range ws {
		m[w.res.path("entries")] = w.tile.bytes()
	}
}

func (m memory) Checkpoint(context.Context) ([]byte, error) { return nil, fault.NotFound }

func (m memory) Tile(_ context.Context, level int, n uint64, width int) ([]byte, error) {
	if b, ok := m[resource{level: level, n: n, width: width}.path("entries")]; ok {
		return b, nil
	}
	return nil, fault.NotFound
}

func (m memory) Bundle(context.Context, uint64, int) ([]byte, error) { return nil, fault.NotFound }

// TestTree compares roots with an independent implementation and checks every
// proof, in batches of all shapes, from memory and as loaded again.
func TestTree(t *testing.T) {
	ctx := t.Context()
	rng := rand.New(rand.NewPCG(1, 2))
	src := memory{}
	tree := &Tree{root: emptyRoot(), cache: newTileCache(4), src: src, codec: Plain{}}
	ref := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	var leaves []Hash
	roots := map[uint64]Hash{}
	for len(leaves) < 70_000 {
		n := 1 + rng.IntN(3)
		switch rng.IntN(12) {
		case 0:
			n = 256 - len(leaves)%256 // up to a full tile
		case 1:
			n = rng.IntN(3000)
		}
		if len(leaves) > 2000 {
			n += 4000
		}
		var batch []Hash
		for range n {
			h := LeafHash(leafN(len(leaves) + len(batch)))
			batch = append(batch, h)
			if err := ref.Append(h[:], nil); err != nil {
				t.Fatal(err)
			}
		}
		// A batch that is given up leaves no trace.
		_, _ = tree.extend([]Hash{{9}, {9}, {9}})
		next, ws := tree.extend(batch)
		src.put(ws)
		next.adopt(ws)
		tree, leaves = next, append(leaves, batch...)
		want, err := ref.GetRootHash(nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(leaves) > 0 && tree.root != Hash(want) {
			t.Fatalf("root of %d is %x, want %x", len(leaves), tree.root, want)
		}
		roots[tree.size] = tree.root
		if tree.size < 600 || len(leaves) > 69_000 {
			checkProofs(t, ctx, tree, leaves, roots, rng)
			again, err := LoadTree(ctx, src, Plain{}, Checkpoint{Size: tree.size, Root: tree.root})
			if err != nil {
				t.Fatal(err)
			}
			checkProofs(t, ctx, again, leaves, roots, rng)
		}
	}
}

func checkProofs(t *testing.T, ctx context.Context, tree *Tree, leaves []Hash, roots map[uint64]Hash, rng *rand.Rand) {
	t.Helper()
	for range 20 {
		i := rng.Uint64N(tree.size)
		p, err := tree.InclusionProof(ctx, i, tree.size)
		if err != nil {
			t.Fatal(err)
		}
		if err := VerifyInclusion(i, tree.size, leaves[i][:], p, tree.root[:]); err != nil {
			t.Fatal(err)
		}
	}
	for size, root := range roots {
		if size == 0 || size > tree.size {
			continue
		}
		p, err := tree.ConsistencyProof(ctx, size, tree.size)
		if err != nil {
			t.Fatal(err)
		}
		if err := VerifyConsistency(size, tree.size, p, root[:], tree.root[:]); err != nil {
			t.Fatal(err)
		}
		i := rng.Uint64N(size) // in an older tree
		if p, err = tree.InclusionProof(ctx, i, size); err != nil {
			t.Fatal(err)
		}
		if err := VerifyInclusion(i, size, leaves[i][:], p, root[:]); err != nil {
			t.Fatal(err)
		}
	}
}
