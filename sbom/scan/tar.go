package scan

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"hash/maphash"
	"io"
	"os"
	"path"
	"strings"

	"assay/internal/fault"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// inflated gives what a stream holds, whether it is compressed or not. The ratio
// and the sum of all that comes out are bounded.
func (c *collector) inflated(r io.Reader) (out io.Reader, compressed bool, done func(), err error) {
	in := &counted{r: r}
	b := bufio.NewReaderSize(in, 256<<10)
	head, err := b.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, nil, err
	}
	done = func() {}
	var plain io.Reader = b
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, true, nil, fault.Newf(fault.Invalid, "not gzip: %w", err)
		}
		plain, compressed = z, true
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, true, nil, fault.Newf(fault.Invalid, "not zstd: %w", err)
		}
		plain, compressed, done = z, true, z.Close
	case bytes.HasPrefix(head, []byte("BZh")):
		plain, compressed = bzip2.NewReader(b), true
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, true, nil, fault.Newf(fault.Invalid, "xz is not read: want gzip, zstd, bzip2 or no compression (unpack it first: xz -d)")
	}
	return &bounded{c: c, r: plain, in: in, compressed: compressed}, compressed, done, nil
}

type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// bounded refuses what has no end.
type bounded struct {
	c          *collector
	r          io.Reader
	in         *counted
	out        int64
	compressed bool
}

// freeBytes may be made of anything: small archives of zeros are no attack.
const freeBytes = 64 << 20

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.out += int64(n)
	b.c.bytes += int64(n)
	switch {
	case b.c.bytes > b.c.o.Limits.Bytes:
		return 0, fault.Newf(fault.TooLarge, "more than %d bytes after decompression: raise the limit if that is right", b.c.o.Limits.Bytes)
	case b.compressed && b.out > freeBytes && b.out > b.in.n*b.c.o.Limits.Ratio:
		return 0, fault.Newf(fault.TooLarge, "%d bytes became %d: no archive is packed %d times, this is a bomb", b.in.n, b.out, b.c.o.Limits.Ratio)
	}
	if err != nil && !errors.Is(err, io.EOF) && fault.KindOf(err) == fault.Internal {
		err = fault.Newf(fault.Invalid, "decompress: %w", err)
	}
	return n, err
}

// shadow is what upper layers put over lower ones, by the hash of the path.
type shadow struct {
	seed    maphash.Seed
	over    map[uint64]uint8
	pending []pending
	lastDir string
	dirOver bool
}

type pending struct {
	key  uint64
	mark uint8
}

const (
	overPath = 1 << iota // something is there
	overTree             // and what is below it is gone
)

func newShadow() *shadow { return &shadow{seed: maphash.MakeSeed(), over: map[uint64]uint8{}} }

func (s *shadow) add(p string, mark uint8) {
	s.pending = append(s.pending, pending{maphash.String(s.seed, p), mark})
}

// lower ends a layer: what it holds hides what comes after.
func (s *shadow) lower() {
	for _, one := range s.pending {
		s.over[one.key] |= one.mark
	}
	s.pending, s.lastDir, s.dirOver = nil, "", false
}

func (s *shadow) hides(p string) bool {
	if len(s.over) == 0 {
		return false
	}
	dir := path.Dir(p)
	if dir != s.lastDir {
		s.lastDir, s.dirOver = dir, false
		for at := dir; ; at = path.Dir(at) {
			if s.over[maphash.String(s.seed, at)]&overTree != 0 {
				s.dirOver = true
				break
			}
			if at == "." || at == "/" {
				break
			}
		}
	}
	return s.dirOver || s.over[maphash.String(s.seed, p)]&overPath != 0
}

// tarWalk is one archive or layer that is walked.
type tarWalk struct {
	c       *collector
	label   string // the layer's digest; "" for an archive
	shadow  *shadow
	bottom  bool // no layer comes below
	escapes map[string]string
	links   map[string][]string // hard links that are wanted, by their target
	images  bool                // an image's index was seen
	files   int
}

// walk reads a tar. in, when not nil, is the same bytes, to be read in place.
func (w *tarWalk) walk(r io.Reader, in *io.SectionReader) error {
	var from = r
	if in != nil {
		from = in
	}
	t := tar.NewReader(from)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			if fault.KindOf(err) == fault.Internal {
				err = fault.Newf(fault.Invalid, "not a tar archive, or a broken one: %w", err)
			}
			return err
		}
		if err := w.c.entry(); err != nil {
			return err
		}
		if err := w.entry(t, h, in); err != nil {
			return err
		}
	}
}

func (w *tarWalk) entry(t *tar.Reader, h *tar.Header, in *io.SectionReader) error {
	name, err := cleanName(h.Name, w.shadow != nil)
	if err != nil || name == "" {
		return err
	}
	if len(name) > 4096 {
		return fault.Newf(fault.Invalid, "the archive has a path of %d bytes", len(name))
	}
	w.files++
	if w.shadow == nil {
		if err := w.escape(name, h); err != nil {
			return err
		}
		switch name {
		case "manifest.json", "index.json", "oci-layout":
			w.images = true
		}
	} else if w.covered(name, h) {
		return nil
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, '\x00':
		w.c.drop(name)
		return w.regular(t, h, in, name)
	case tar.TypeLink:
		return w.link(name, h)
	default:
		w.c.drop(name)
	}
	return nil
}

// covered keeps the layers' books, and says whether there is nothing to read.
func (w *tarWalk) covered(name string, h *tar.Header) bool {
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	if dir == "" {
		dir = "."
	}
	if base == ".wh..wh..opq" {
		w.shadow.add(dir, overTree)
		return true
	}
	if gone, is := strings.CutPrefix(base, ".wh."); is {
		if !strings.HasPrefix(gone, ".wh.") {
			w.shadow.add(path.Join(dir, gone), overPath|overTree)
		}
		return true
	}
	hidden := w.shadow.hides(name)
	if !w.bottom {
		mark := uint8(overPath)
		if h.Typeflag != tar.TypeDir {
			mark |= overTree
		}
		w.shadow.add(name, mark)
	}
	return hidden
}

// escape refuses what would leave the archive's root if it were unpacked: a
// program that unpacks it, later, may not be so careful.
func (w *tarWalk) escape(name string, h *tar.Header) error {
	for at := path.Dir(name); at != "."; at = path.Dir(at) {
		if to, is := w.escapes[at]; is {
			return fault.Newf(fault.Invalid, "the archive's path %.120q goes through the link %.120q to %.120q, outside of its root", name, at, to)
		}
	}
	if h.Typeflag != tar.TypeSymlink {
		return nil
	}
	to := h.Linkname
	if !strings.HasPrefix(to, "/") {
		if joined := path.Join(path.Dir(name), to); joined != ".." && !strings.HasPrefix(joined, "../") {
			return nil
		}
	}
	if len(w.escapes) >= 100_000 {
		return fault.Newf(fault.TooLarge, "the archive has more than 100000 links that leave its root")
	}
	if w.escapes == nil {
		w.escapes = map[string]string{}
	}
	w.escapes[name] = to
	return nil
}

func (w *tarWalk) regular(t *tar.Reader, h *tar.Header, in *io.SectionReader, name string) error {
	r, want := wanted(name, h.Mode&0o111 != 0)
	if !want || h.Size < 4 || h.Size > w.c.o.Limits.Program {
		if want && h.Size > w.c.o.Limits.Program {
			w.c.incomplete("%s: %d bytes, more than the %d that are read", name, h.Size, w.c.o.Limits.Program)
		}
		return nil
	}
	return w.content(t, h, in, name, r)
}

func (w *tarWalk) content(t *tar.Reader, h *tar.Header, in *io.SectionReader, name string, r reader) error {
	if in != nil && !sparse(h) {
		at, err := in.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		if h.Size > in.Size()-at {
			return fault.Newf(fault.Invalid, "the archive ends within %.120q", name)
		}
		return w.c.file(name, w.label, r, io.NewSectionReader(in, at, h.Size))
	}
	var head [4]byte
	if _, err := io.ReadFull(t, head[:]); err != nil {
		return broken(name, err)
	}
	if r == nil && !isProgramMagic(head[:]) {
		return nil
	}
	if r != nil && !large(name) && h.Size > w.c.o.Limits.File {
		w.c.incomplete("%s: %d bytes, more than the %d that are read", name, h.Size, w.c.o.Limits.File)
		return nil
	}
	content, done, err := w.c.spool(io.MultiReader(bytes.NewReader(head[:]), t), h.Size)
	if err != nil {
		return broken(name, err)
	}
	defer done()
	return w.c.file(name, w.label, r, content)
}

func broken(name string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fault.Newf(fault.Invalid, "the archive ends within %.120q", name)
	}
	return err
}

func sparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// link notes a hard link whose own name is wanted while its target's is not:
// the target is read in a second pass. A program is read under its first name.
func (w *tarWalk) link(name string, h *tar.Header) error {
	r, _ := wanted(name, false)
	if r == nil {
		return nil
	}
	target, err := cleanName(h.Linkname, w.shadow != nil)
	if err != nil {
		return err
	}
	if w.links == nil {
		w.links = map[string][]string{}
	}
	if len(w.links) >= 200_000 {
		return fault.Newf(fault.TooLarge, "the archive has more than 200000 hard links to read")
	}
	w.links[target] = append(w.links[target], name)
	return nil
}

// follow reads the targets of hard links.
func (w *tarWalk) follow(r io.Reader, in *io.SectionReader) error {
	var from = r
	if in != nil {
		from = in
	}
	t := tar.NewReader(from)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fault.Newf(fault.Invalid, "a broken tar archive: %w", err)
		}
		name, err := cleanName(h.Name, w.shadow != nil)
		if err != nil || len(w.links[name]) == 0 || h.Typeflag != tar.TypeReg || h.Size < 4 {
			continue
		}
		names := w.links[name]
		delete(w.links, name)
		content, done, err := w.linked(t, h, in)
		if err != nil {
			return broken(name, err)
		}
		for _, link := range names {
			if err := w.c.file(link, w.label, readerOf(link), content); err != nil {
				done()
				return err
			}
		}
		done()
	}
}

func (w *tarWalk) linked(t *tar.Reader, h *tar.Header, in *io.SectionReader) (*io.SectionReader, func(), error) {
	if in != nil && !sparse(h) {
		at, err := in.Seek(0, io.SeekCurrent)
		return io.NewSectionReader(in, at, h.Size), func() {}, err
	}
	if h.Size > w.c.o.Limits.Program {
		return nil, nil, fault.Newf(fault.TooLarge, "%s: %d bytes", h.Name, h.Size)
	}
	return w.c.spool(t, h.Size)
}

func removeFile(f *os.File) { _ = os.Remove(f.Name()) }
