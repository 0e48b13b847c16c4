package source

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"

	"assay/internal/fault"
)

// Bounds on an archive. Nothing of it is written anywhere: its files are hashed
// as they stream.
const (
	// DefaultArchiveBytes is how much an archive may unpack to.
	DefaultArchiveBytes = 4 << 30
	maxEntries          = 500_000
	maxPath             = 4096
	maxWindow           = 128 << 20 // of a decompressor
)

// entry is one file of an archive or a tree.
type entry struct {
	mode string // git's: 100644, 100755, 120000; "special" for all others
	id   string // as git names the content; "" where it has none
	size int64
}

// listing is what an archive holds, by path.
type listing struct {
	files    map[string]entry
	hostile  []string // paths that lead out of the archive, or stand in it twice
	commit   string   // that git archive wrote into the archive
	digits   int
	links    map[string]string // hard links to be resolved
	unpacked int64
	limit    int64
}

func newListing(digits int, limit int64) *listing {
	return &listing{files: map[string]entry{}, links: map[string]string{}, digits: digits, limit: limit}
}

// ReaderAtSize is a file that can be read at any place, as zip needs it.
type ReaderAtSize interface {
	io.ReaderAt
	io.Reader
	io.Seeker
}

// readArchive lists a tar, compressed by gzip, bzip2, xz or zstd or not at all,
// or a zip.
func readArchive(ctx context.Context, f ReaderAtSize, size int64, digits int, limit int64) (*listing, error) {
	l := newListing(digits, limit)
	head := make([]byte, 6)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	head = head[:n]
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if bytes.HasPrefix(head, []byte("PK\x03\x04")) || bytes.HasPrefix(head, []byte("PK\x05\x06")) {
		return l, l.zip(ctx, f, size)
	}
	r, done, err := decompress(bufio.NewReaderSize(f, 64<<10), head)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "archive: %w", err)
	}
	defer done()
	return l, l.tar(ctx, r)
}

func decompress(r io.Reader, head []byte) (io.Reader, func(), error) {
	none := func() {}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		return z, none, err
	case bytes.HasPrefix(head, []byte("BZh")):
		return bzip2.NewReader(r), none, nil
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		z, err := xz.NewReader(r, maxWindow)
		return z, none, err
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, none, err
		}
		return z, z.Close, nil
	}
	return r, none, nil
}

// errBomb is an archive that unpacks to more than it may.
func (l *listing) grow(n int64) error {
	if l.unpacked += n; l.unpacked > l.limit {
		return fault.Newf(fault.TooLarge, "the archive unpacks to more than %d bytes (--max-bytes)", l.limit)
	}
	return nil
}

// counted counts what a decompressor gives, headers and padding included.
type counted struct {
	r io.Reader
	l *listing
	c context.Context
}

func (c counted) Read(p []byte) (int, error) {
	if err := c.c.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	if gerr := c.l.grow(int64(n)); gerr != nil {
		return n, gerr
	}
	return n, err
}

func (l *listing) tar(ctx context.Context, r io.Reader) error {
	t := tar.NewReader(counted{r, l, ctx})
	for n := 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			if n == 0 {
				return fault.Newf(fault.Invalid, "the archive is empty, or no tar or zip")
			}
			l.resolve()
			return nil
		}
		if n == 0 && (errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF)) {
			return fault.Newf(fault.Invalid, "this is no archive, or only a piece of one: expected a zip or a tar, plain or compressed by gzip, bzip2, xz or zstd; found no entry (%w). Name the release's source archive first, then its tag: assay source compare app-1.0.tar.gz v1.0", err)
		}
		if err != nil {
			return archiveError(err)
		}
		if n >= maxEntries {
			return fault.Newf(fault.TooLarge, "an archive of more than %d entries", maxEntries)
		}
		switch h.Typeflag {
		case tar.TypeXGlobalHeader:
			if c := h.PAXRecords["comment"]; validID(c) {
				l.commit = c
			}
			continue
		case tar.TypeDir:
			if _, err := cleanPath(h.Name); err != nil {
				l.hostile = append(l.hostile, clipPath(h.Name))
			}
			continue
		}
		e, err := tarEntry(h, t, l.digits)
		if err != nil {
			return archiveError(err)
		}
		link := ""
		if h.Typeflag == tar.TypeLink {
			link = h.Linkname
		}
		l.add(h.Name, e, link)
	}
}

func archiveError(err error) error {
	if errors.Is(err, fault.TooLarge) || errors.Is(err, context.Canceled) {
		return err
	}
	return fault.Newf(fault.Invalid, "the archive cannot be read: %w", err)
}

func tarEntry(h *tar.Header, r io.Reader, digits int) (entry, error) {
	switch h.Typeflag {
	case tar.TypeReg:
		return hashed(fileMode(h.FileInfo().Mode()), h.Size, r, digits)
	case tar.TypeSymlink:
		return hashed("120000", int64(len(h.Linkname)), strings.NewReader(h.Linkname), digits)
	case tar.TypeLink:
		return entry{}, nil
	}
	return entry{mode: "special"}, nil
}

func fileMode(m fs.FileMode) string {
	if m.Perm()&0o100 != 0 {
		return "100755"
	}
	return "100644"
}

// hashed names content of a known length as git does.
func hashed(mode string, size int64, r io.Reader, digits int) (entry, error) {
	h := newObjectHash(digits)
	fmt.Fprintf(h, "blob %d\x00", size)
	n, err := io.Copy(h, r)
	if err != nil {
		return entry{}, err
	}
	if n != size {
		return entry{}, fmt.Errorf("a file of %d bytes instead of %d", n, size)
	}
	return entry{mode: mode, id: hex.EncodeToString(h.Sum(nil)), size: size}, nil
}

func (l *listing) zip(ctx context.Context, f io.ReaderAt, size int64) error {
	z, err := zip.NewReader(f, size)
	if err != nil {
		return fault.Newf(fault.Invalid, "the archive cannot be read: %w", err)
	}
	if len(z.File) > maxEntries {
		return fault.Newf(fault.TooLarge, "an archive of more than %d entries", maxEntries)
	}
	if validID(z.Comment) {
		l.commit = z.Comment
	}
	for _, f := range z.File {
		if strings.HasSuffix(f.Name, "/") {
			continue
		}
		if f.UncompressedSize64 > uint64(l.limit) { //nolint:gosec // a limit is positive
			return l.grow(l.limit + 1)
		}
		r, err := f.Open()
		if err != nil {
			return archiveError(err)
		}
		mode := fileMode(f.Mode())
		switch {
		case f.Mode()&fs.ModeSymlink != 0:
			mode = "120000"
		case !f.Mode().IsRegular():
			mode = "special"
		}
		e, err := hashed(mode, int64(f.UncompressedSize64), counted{r, l, ctx}, l.digits) //nolint:gosec // at most the limit
		_ = r.Close()
		if err != nil {
			return archiveError(err)
		}
		l.add(f.Name, e, "")
	}
	return nil
}

// add enters a file. A path that leads out of the archive, or that stands in it
// twice, is what a reader of the listing would not see and another tool would
// unpack.
func (l *listing) add(name string, e entry, link string) {
	p, err := cleanPath(name)
	if err != nil {
		l.hostile = append(l.hostile, clipPath(name))
		return
	}
	if _, twice := l.files[p]; twice {
		l.hostile = append(l.hostile, clipPath(name))
	}
	if link != "" {
		to, err := cleanPath(link)
		if err != nil {
			l.hostile = append(l.hostile, clipPath(name))
			return
		}
		l.links[p] = to
	}
	l.files[p] = e
}

// resolve gives hard links the content that they name.
func (l *listing) resolve() {
	for p, to := range l.links {
		e, ok := l.files[to]
		if _, again := l.links[to]; !ok || again {
			e = entry{mode: "special"}
		}
		l.files[p] = e
	}
}

func cleanPath(p string) (string, error) {
	p = strings.TrimPrefix(p, "./")
	if p == "" || len(p) > maxPath || p[0] == '/' || strings.ContainsAny(p, "\\\x00") || !fs.ValidPath(strings.TrimSuffix(p, "/")) || p == "." {
		return "", errors.New("no path within an archive")
	}
	return strings.TrimSuffix(p, "/"), nil
}

func clipPath(p string) string {
	if len(p) > 200 {
		p = strings.ToValidUTF8(p[:200], "") + "…"
	}
	return p
}

// prefix is the folder that all files of an archive lie in, "" for none.
func (l *listing) prefix() string {
	found := ""
	for p := range l.files {
		dir, _, ok := strings.Cut(p, "/")
		if !ok || found != "" && dir != found {
			return ""
		}
		found = dir
	}
	return found
}
