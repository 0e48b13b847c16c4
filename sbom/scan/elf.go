package scan

import (
	"bytes"
	"encoding/binary"
	"io"

	"assay/internal/fault"
)

// elfFile is the little that is asked of an ELF file. debug/elf reads much more,
// which counts when an image has thousands of them.
type elfFile struct {
	goInfo    bool   // .go.buildinfo
	goCode    bool   // Go's tables without it
	auditable []byte // .dep-v0
	note      []byte // the JSON of .note.package
	object    bool   // neither program nor library
	shared    bool   // or a program that relocates itself: its name tells
	static    bool   // nothing loads it
}

// maxSection bounds a section that is held.
const maxSection = 4 << 20

// elfLayout are the offsets of one class, in bytes (elf(5)).
type elfLayout struct {
	word                        int // size of an address
	shoff, shentsize, shnum     int
	shstrndx, phoff, phnum      int
	phentsize                   int
	secOffset, secSize, headLen int
}

var (
	elf32 = elfLayout{word: 4, phoff: 28, shoff: 32, phentsize: 42, phnum: 44, shentsize: 46, shnum: 48, shstrndx: 50, secOffset: 16, secSize: 20, headLen: 52}
	elf64 = elfLayout{word: 8, phoff: 32, shoff: 40, phentsize: 54, phnum: 56, shentsize: 58, shnum: 60, shstrndx: 62, secOffset: 24, secSize: 32, headLen: 64}
)

// readELF looks at a file's sections; nil, nil when it is no ELF file.
func readELF(r *io.SectionReader) (*elfFile, error) {
	var head [64]byte
	if n, _ := r.ReadAt(head[:], 0); n < elf32.headLen || !bytes.HasPrefix(head[:], []byte("\x7fELF")) {
		return nil, nil
	}
	l := elf64
	if head[4] == 1 {
		l = elf32
	}
	var order binary.ByteOrder = binary.LittleEndian
	if head[5] == 2 {
		order = binary.BigEndian
	}
	e := &elfFile{}
	kind := order.Uint16(head[16:])
	if kind != 2 && kind != 3 { // ET_EXEC, ET_DYN: the rest are objects and core files
		e.object = true
	}
	if err := e.segments(r, l, order, head[:], kind); err != nil {
		return nil, err
	}
	count, size := int(order.Uint16(head[l.shnum:])), int(order.Uint16(head[l.shentsize:]))
	names := int(order.Uint16(head[l.shstrndx:]))
	if count == 0 || size < l.secSize+l.word || names >= count {
		return e, nil // no sections: stripped of all that names anything
	}
	table, err := tableOf(r, word(head[l.shoff:], l, order), count*size, "sections")
	if err != nil {
		return nil, err
	}
	section := func(i int) (offset, length int64) {
		s := table[i*size:]
		return word(s[l.secOffset:], l, order), word(s[l.secSize:], l, order)
	}
	held := func(i int, what string) ([]byte, error) {
		offset, length := section(i)
		if length < 0 || length > maxSection || offset < 0 || offset > r.Size()-length {
			return nil, fault.Newf(fault.Invalid, "the ELF file's %s has %d bytes at %d of %d", what, length, offset, r.Size())
		}
		b := make([]byte, length)
		_, err := r.ReadAt(b, offset)
		if err == io.EOF {
			err = nil
		}
		return b, err
	}
	text, err := held(names, "names")
	if err != nil {
		return nil, err
	}
	for i := range count {
		at := int(order.Uint32(table[i*size:]))
		if at >= len(text) {
			continue
		}
		name, _, _ := bytes.Cut(text[at:], []byte{0})
		switch string(name) {
		case ".go.buildinfo":
			e.goInfo = true
		case ".gopclntab", ".note.go.buildid":
			e.goCode = true
		case ".dep-v0":
			if e.auditable, err = held(i, "list of crates"); err != nil {
				return nil, err
			}
		case ".note.package":
			b, err := held(i, "package note")
			if err != nil {
				return nil, err
			}
			e.note = note(b, order)
		}
	}
	return e, nil
}

// segments tells a program from a library: what has an interpreter is run, and
// what has neither that nor anything to be loaded with is static.
func (e *elfFile) segments(r *io.SectionReader, l elfLayout, order binary.ByteOrder, head []byte, kind uint16) error {
	count, size := int(order.Uint16(head[l.phnum:])), int(order.Uint16(head[l.phentsize:]))
	if count == 0 || size < 4 {
		return nil
	}
	table, err := tableOf(r, word(head[l.phoff:], l, order), count*size, "segments")
	if err != nil {
		return err
	}
	interpreter, dynamic := false, false
	for i := range count {
		switch order.Uint32(table[i*size:]) {
		case 2: // PT_DYNAMIC
			dynamic = true
		case 3: // PT_INTERP
			interpreter = true
		}
	}
	e.static = !interpreter && (kind == 2 || !dynamic)
	e.shared = kind == 3 && dynamic && !interpreter
	return nil
}

// tableOf reads a table that the file says it has; one that would not fit into
// the file is not believed, however much memory there is.
func tableOf(r *io.SectionReader, at int64, size int, what string) ([]byte, error) {
	if size > maxSection || at < 0 || at > r.Size()-int64(size) {
		return nil, fault.Newf(fault.Invalid, "the ELF file of %d bytes says that its %s are %d bytes at %d", r.Size(), what, size, at)
	}
	b := make([]byte, size)
	if n, err := r.ReadAt(b, at); n < size {
		return nil, fault.Newf(fault.Invalid, "the ELF file ends before its %s: %w", what, err)
	}
	return b, nil
}

func word(b []byte, l elfLayout, order binary.ByteOrder) int64 {
	if l.word == 4 {
		return int64(order.Uint32(b))
	}
	return int64(order.Uint64(b)) //nolint:gosec // a negative offset is refused by ReadAt
}

// note gives the text of the package metadata note: owner "FDO", 0xcafe1a7e.
func note(b []byte, order binary.ByteOrder) []byte {
	for len(b) >= 12 {
		owner, size, kind := int(order.Uint32(b)), int(order.Uint32(b[4:])), order.Uint32(b[8:])
		b = b[12:]
		up := func(n int) int { return (n + 3) &^ 3 }
		if owner > len(b) || up(owner) > len(b) || size > len(b)-up(owner) {
			return nil
		}
		if text := b[up(owner) : up(owner)+size]; kind == 0xcafe1a7e {
			return text
		}
		b = b[min(len(b), up(owner)+up(size)):]
	}
	return nil
}
