package sbom

import (
	"bytes"
	"hash/maphash"
	"slices"
)

// refTable numbers the refs of a document, as they come, in the memory that
// their letters take and some 20 bytes each: a document may have a million.
type refTable struct {
	seed   maphash.Seed
	slots  []uint32 // number+1 by hash, open addressing; a power of two, at most three quarters full
	refs   []refEntry
	chunks [][]byte // the letters
	pass   uint8    // of reading
}

type refEntry struct {
	chunk, start, end uint32
	component         bool  // a component has it; dependencies may name what is nowhere
	element           bool  // a package or file of an SPDX 3 graph has it
	pass              uint8 // in which a component had it last
}

const refChunk = 256 << 10

func newRefTable() *refTable {
	return &refTable{seed: maphash.MakeSeed(), slots: make([]uint32, 1<<10), pass: 1}
}

func (t *refTable) bytes(n uint32) []byte {
	e := t.refs[n]
	return t.chunks[e.chunk][e.start:e.end]
}

// ref gives a ref by its number.
func (t *refTable) ref(n uint32) string { return string(t.bytes(n)) }

// slot is where a ref is, or would be.
func (t *refTable) slot(ref string) int {
	mask := len(t.slots) - 1
	for at := int(maphash.String(t.seed, ref)) & mask; ; at = (at + 1) & mask {
		if n := t.slots[at]; n == 0 || string(t.bytes(n-1)) == ref {
			return at
		}
	}
}

// find gives the number of a ref.
func (t *refTable) find(ref string) (n uint32, is bool) {
	n = t.slots[t.slot(ref)]
	return n - 1, n != 0
}

// number gives the number of a ref, which it has from now on.
func (t *refTable) number(ref string) uint32 {
	if n, is := t.find(ref); is {
		return n
	}
	if len(t.refs)*4 >= len(t.slots)*3 {
		t.grow()
	}
	last := len(t.chunks) - 1
	if last < 0 || len(t.chunks[last])+len(ref) > cap(t.chunks[last]) {
		t.chunks = append(t.chunks, make([]byte, 0, max(refChunk, len(ref))))
		last++
	}
	chunk := t.chunks[last]
	t.refs = append(t.refs, refEntry{chunk: uint32(last), start: uint32(len(chunk)), end: uint32(len(chunk) + len(ref))})
	t.chunks[last] = append(chunk, ref...)
	n := uint32(len(t.refs))
	t.slots[t.slot(ref)] = n
	return n - 1
}

func (t *refTable) grow() {
	t.slots = make([]uint32, 2*len(t.slots))
	mask := len(t.slots) - 1
	for n := range t.refs {
		at := int(maphash.Bytes(t.seed, t.bytes(uint32(n)))) & mask
		for t.slots[at] != 0 {
			at = (at + 1) & mask
		}
		t.slots[at] = uint32(n + 1)
	}
}

// has says whether a component has this ref.
func (t *refTable) has(ref string) bool {
	n, is := t.find(ref)
	return is && t.refs[n].component
}

// taken says whether a component had this ref before, in this pass.
func (t *refTable) taken(ref string) bool {
	n, is := t.find(ref)
	return is && t.refs[n].pass == t.pass
}

// take gives a component's ref its number.
func (t *refTable) take(ref string) uint32 {
	n := t.number(ref)
	t.refs[n].component, t.refs[n].pass = true, t.pass
	return n
}

// ranks gives the refs' numbers in the order of their letters, and the place of
// each in it.
func (t *refTable) ranks() (sorted, rank []uint32) {
	sorted, rank = make([]uint32, len(t.refs)), make([]uint32, len(t.refs))
	for i := range sorted {
		sorted[i] = uint32(i)
	}
	slices.SortFunc(sorted, func(a, b uint32) int { return bytes.Compare(t.bytes(a), t.bytes(b)) })
	for at, n := range sorted {
		rank[n] = uint32(at)
	}
	return sorted, rank
}
