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
