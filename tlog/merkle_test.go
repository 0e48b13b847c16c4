package tlog

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/internal/vectors"

	"github.com/google/go-cmp/cmp"
)

// vector is a case of merkle-proofs: each kind has its own subset of fields.
type vector struct {
	Size1, Size2      uint64
	LeafIdx, TreeSize uint64
	Start, End, Size  uint64
	Root, LeafHash    []byte
	Root1, Root2      []byte
	Proof             [][]byte
	Desc              string
	WantErr           bool
}

func (v vector) verify(kind string) error {
	switch kind {
	case "inclusion":
		return VerifyInclusion(v.LeafIdx, v.TreeSize, v.LeafHash, v.Proof, v.Root)
	case "consistency":
		return VerifyConsistency(v.Size1, v.Size2, v.Proof, v.Root1, v.Root2)
	case "subtreeinclusion":
		return VerifySubtreeInclusion(v.LeafIdx, v.Start, v.End, v.LeafHash, v.Proof, v.Root)
	case "subtreeconsistency":
		return VerifySubtreeConsistency(v.Start, v.End, v.Size, v.Proof, v.Root1, v.Root2)
	}
	panic("kind " + kind)
}

func TestMerkleVectors(t *testing.T) {
	dir := filepath.Join(vectors.Dir(t, "merkle-proofs"), "testdata")
	got := map[string]int{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		kind, _, _ := strings.Cut(filepath.ToSlash(rel), "/")
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var v vector
		if err := json.Unmarshal(b, &v); err != nil {
			t.Errorf("%s: %v", rel, err)
			return nil
		}
		verr := v.verify(kind)
		if (verr != nil) != v.WantErr {
			t.Errorf("%s (%s): got %v, want an error: %v", rel, v.Desc, verr, v.WantErr)
		}
		if v.WantErr {
			got[kind+" REJECT"]++
		} else {
			got[kind+" ACCEPT"]++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{ // INDEX.md
		"consistency ACCEPT": 6, "consistency REJECT": 92,
		"inclusion ACCEPT": 6, "inclusion REJECT": 92,
		"subtreeconsistency ACCEPT": 12, "subtreeconsistency REJECT": 106,
		"subtreeinclusion ACCEPT": 12, "subtreeinclusion REJECT": 192,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("cases run (-want +got):\n%s", d)
	}
}

// FuzzSubtreeConsistency compares our own walk with the library's on what both
// can say: subtrees that begin at 0 are trees.
func FuzzSubtreeConsistency(f *testing.F) {
	f.Add(uint64(3), uint64(7), []byte{1})
	f.Add(uint64(8), uint64(8), []byte{})
	f.Add(uint64(128), uint64(200), []byte{0, 5})
	f.Fuzz(func(t *testing.T, m, n uint64, damage []byte) {
		n = 1 + n%300
		m = 1 + m%n
		tree, _ := (&Tree{root: emptyRoot(), cache: newTileCache(4), codec: Plain{}}).extend(hashesTo(n))
		path, err := tree.ConsistencyProof(t.Context(), m, n)
		if err != nil {
			t.Fatal(err)
		}
		root1, err := tree.RootAt(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		for i, d := range damage { // one byte names a hash, the next what becomes of it
			if i%2 == 0 || len(path) == 0 {
				continue
			}
			j := int(damage[i-1]) % len(path)
			switch d % 3 {
			case 0:
				path = append(path[:j:j], path[j+1:]...)
			case 1:
				path = append(path[:j:j], append([][]byte{path[j]}, path[j:]...)...)
			case 2:
				path[j] = append([]byte{path[j][0] ^ d}, path[j][1:]...)
			}
		}
		want := VerifyConsistency(m, n, path, root1[:], tree.root[:])
		got := VerifySubtreeConsistency(0, m, n, path, root1[:], tree.root[:])
		if (want == nil) != (got == nil) || len(damage) < 2 && got != nil {
			t.Errorf("[0, %d) in %d with %d hashes: %v, the library says %v", m, n, len(path), got, want)
		}
	})
}

func hashesTo(n uint64) []Hash {
	out := make([]Hash, n)
	for i := range out {
		out[i] = LeafHash(leafN(i))
	}
	return out
}
