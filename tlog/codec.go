package tlog

import (
	"encoding/binary"
	"errors"
)

// MaxLeaf is the largest entry in bytes: C2SP tlog-tiles writes its length as
// two bytes.
const MaxLeaf = 1<<16 - 1

// maxBundle bounds the file of 256 entries; CT's are larger than others.
const maxBundle = tileWidth * (128 << 10)

// Record is one entry as it is stored.
type Record struct {
	Index uint64
	Leaf  []byte // what the tree hashes
	Raw   []byte // as it stands in its bundle
}

// Codec says how entries stand in bundles.
type Codec interface {
	// Folder is the bundles' folder below tile/: "entries", for CT "data".
	Folder() string
	// Split cuts the first entry off a bundle: its bytes and the Merkle leaf
	// that they stand for. It keeps b and must not panic on any input.
	Split(b []byte) (raw, leaf []byte, err error)
}

// Plain is the codec of C2SP tlog-tiles: length in two bytes, entry.
type Plain struct{}

// Folder implements [Codec].
func (Plain) Folder() string { return "entries" }

// Split implements [Codec].
func (Plain) Split(b []byte) (raw, leaf []byte, err error) {
	if len(b) < 2 {
		return nil, nil, errShort
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	if len(b) < n {
		return nil, nil, errShort
	}
	return b[:n:n], b[2:n:n], nil
}

var errShort = errors.New("the bundle ends within an entry")

// plainRecord is the inverse of [Plain.Split].
func plainRecord(leaf []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(leaf)), uint16(len(leaf))), leaf...)
}
