package tlog

import (
	"bytes"
	"crypto/sha256"
	"math/bits"

	"assay/internal/fault"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// Hash is a node of the RFC 6962 Merkle tree: SHA-256.
type Hash = [sha256.Size]byte

// LeafHash is SHA-256(0x00 || leaf), RFC 6962 section 2.1.
func LeafHash(leaf []byte) Hash {
	h := sha256.New()
	h.Write([]byte{rfc6962.RFC6962LeafHashPrefix})
	h.Write(leaf)
	var out Hash
	h.Sum(out[:0])
	return out
}

// nodeHash is SHA-256(0x01 || left || right).
func nodeHash(l, r Hash) Hash {
	var b [1 + 2*sha256.Size]byte
	b[0] = rfc6962.RFC6962NodeHashPrefix
	copy(b[1:], l[:])
	copy(b[1+sha256.Size:], r[:])
	return sha256.Sum256(b[:])
}

// emptyRoot is the root of the tree of no leaves: SHA-256 of nothing.
func emptyRoot() Hash { return sha256.Sum256(nil) }

// VerifyInclusion checks that the leaf of that hash stands at index in the
// tree of that size and root (RFC 6962 section 2.1.1). hash, root and every
// element of path are 32 bytes. Any other answer than nil is
// [fault.Unverified].
func VerifyInclusion(index, size uint64, hash []byte, path [][]byte, root []byte) error {
	if err := checkHashes(path, hash, root); err != nil {
		return err
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, size, hash, path, root); err != nil {
		return fault.Newf(fault.Unverified, "inclusion of entry %d in the tree of %d: %w", index, size, err)
	}
	return nil
}

// VerifyConsistency checks that the tree of size1 and root1 is a prefix of the
// tree of size2 and root2 (RFC 6962 section 2.1.2). size1 = 0 is refused: every
// tree extends the empty one, so that such a proof would say nothing and its
// roots would go unread. Any other answer than nil is [fault.Unverified].
func VerifyConsistency(size1, size2 uint64, path [][]byte, root1, root2 []byte) error {
	if size1 == 0 {
		return fault.Newf(fault.Unverified, "consistency of trees of %d and %d: nothing can be proven of an empty tree", size1, size2)
	}
	if size1 == size2 && len(path) == 0 && bytes.Equal(root1, root2) {
		return nil
	}
	if err := checkHashes(path, root1, root2); err != nil {
		return err
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, size1, size2, path, root1, root2); err != nil {
		return fault.Newf(fault.Unverified, "consistency of trees of %d and %d: %w", size1, size2, err)
	}
	return nil
}

// VerifySubtreeInclusion checks that the leaf of that hash stands at index in
// the subtree of the entries [start, end) whose root is given
// (draft-ietf-plants-merkle-tree-certs, section 4.3). Any other answer than
// nil is [fault.Unverified].
func VerifySubtreeInclusion(index, start, end uint64, hash []byte, path [][]byte, root []byte) error {
	if !validSubtree(start, end) || index < start || index >= end {
		return fault.Newf(fault.Unverified, "entry %d in the subtree [%d, %d): not a subtree that holds it", index, start, end)
	}
	return VerifyInclusion(index-start, end-start, hash, path, root)
}

// VerifySubtreeConsistency checks that the subtree [start, end) with root1 is
// part of the tree of that size with root2 (draft-ietf-plants-merkle-tree-certs,
// section 4.4). The empty subtree start = end has the empty tree's root and
// no proof, and is part of every tree. Any other answer than nil is
// [fault.Unverified].
func VerifySubtreeConsistency(start, end, size uint64, path [][]byte, root1, root2 []byte) error {
	bad := func(why string) error {
		return fault.Newf(fault.Unverified, "subtree [%d, %d) in the tree of %d: %s", start, end, size, why)
	}
	if !validSubtree(start, end) || end > size {
		return bad("not a subtree of it")
	}
	if start == end {
		if e := emptyRoot(); len(path) != 0 || !bytes.Equal(root1, e[:]) {
			return bad("an empty subtree has the empty root and no proof")
		}
		return nil
	}
	if start == 0 && end == size && len(path) == 0 && bytes.Equal(root1, root2) {
		return nil
	}
	if err := checkHashes(path, root1, root2); err != nil {
		return err
	}
	first, second, ok := walkSubtree(start, end-1, size-1, Hash(root1), path)
	if !ok {
		return bad("the proof has the wrong length")
	}
	if first != Hash(root1) || second != Hash(root2) {
		return bad("the proof leads to another root")
	}
	return nil
}

// walkSubtree climbs from the subtree [fn, sn] in the tree whose last leaf is
// tn, all inclusive, and gives the roots of both that the proof leads to.
func walkSubtree(fn, sn, tn uint64, root Hash, path [][]byte) (first, second Hash, ok bool) {
	shift := func() { fn, sn, tn = fn>>1, sn>>1, tn>>1 }
	for fn != sn && (sn == tn || sn&1 == 1) {
		shift()
	}
	if fn == sn {
		first = root // the subtree is complete, or the tree's own right edge
	} else {
		if len(path) == 0 {
			return first, second, false
		}
		first, path = Hash(path[0]), path[1:]
	}
	second = first
	for _, p := range path {
		if tn == 0 {
			return first, second, false
		}
		c := Hash(p)
		if sn&1 == 1 || sn == tn {
			if fn < sn {
				first = nodeHash(c, first)
			}
			second = nodeHash(c, second)
			for sn&1 == 0 {
				shift()
			}
		} else {
			second = nodeHash(second, c)
		}
		shift()
	}
	return first, second, tn == 0
}

// validSubtree says whether [start, end) is a subtree: start is a multiple of
// the least power of two that is not below its width.
func validSubtree(start, end uint64) bool {
	if end < start {
		return false
	}
	w := end - start
	if w <= 1 {
		return true
	}
	shift := bits.Len64(w - 1)
	return shift < 64 && start&(1<<shift-1) == 0
}

func checkHashes(path [][]byte, more ...[]byte) error {
	if len(path) > 64 {
		return fault.Newf(fault.Unverified, "a proof of %d hashes: no tree is higher than 64", len(path))
	}
	for _, hs := range [][][]byte{path, more} {
		for _, h := range hs {
			if len(h) != sha256.Size {
				return fault.Newf(fault.Unverified, "a hash of %d bytes in a proof: want %d", len(h), sha256.Size)
			}
		}
	}
	return nil
}
