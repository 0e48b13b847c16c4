package threat

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Files are what can be executed of an image: path without its leading slash to
// SHA-256. A file counts that has an execute bit, or begins as a program or a
// script does: whoever sets the bit at run time executes the image's file.
type Files map[string]artifact.Digest

// Limits of one image.
const (
	maxFiles    = 200_000
	maxUnpacked = 16 << 30
	maxPath     = 4096
)

// Layer opens one layer's bytes, as they are stored. Its reader must refuse
// content that does not have the layer's digest.
type Layer func() (io.ReadCloser, error)

// Unpack reads an image's layers, lowest first.
func Unpack(ctx context.Context, layers []Layer) (Files, error) {
	all := Files{}
	left := int64(maxUnpacked)
	for i, open := range layers {
		if err := unpackLayer(ctx, all, open, &left); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	return all, nil
}

type layerState struct {
	added   Files
	removed []string // by whiteouts: the path and what is below it
	emptied []string // by opaque markers: what is below it
	links   [][2]string
}

func unpackLayer(ctx context.Context, all Files, open Layer, left *int64) error {
	raw, err := open()
	if err != nil {
		return err
	}
	defer raw.Close()
	in, done, err := inflate(raw)
	if err != nil {
		return err
	}
	defer done()
	l := &layerState{added: Files{}}
	t := tar.NewReader(&limited{in, left})
	for n := 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fault.Newf(fault.Invalid, "tar: %w", err)
		}
		if n > 5_000_000 {
			return fault.Newf(fault.TooLarge, "more than 5000000 entries")
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := l.entry(h, t); err != nil {
			return err
		}
		if len(all)+len(l.added) > maxFiles {
			return fault.Newf(fault.TooLarge, "more than %d files that can be executed", maxFiles)
		}
	}
	// What the reader of the digest says comes with the last byte.
	if _, err := io.Copy(io.Discard, raw); err != nil {
		return err
	}
	l.over(all)
	return nil
}

func (l *layerState) entry(h *tar.Header, content io.Reader) error {
	if len(h.Name) > maxPath {
		return fault.Newf(fault.Invalid, "a path of %d bytes", len(h.Name))
	}
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	dir, base := path.Split(name)
	if base == ".wh..wh..opq" {
		l.emptied = append(l.emptied, strings.TrimSuffix(dir, "/"))
		return nil
	}
	if gone, is := strings.CutPrefix(base, ".wh."); is {
		l.removed = append(l.removed, dir+gone)
		return nil
	}
	delete(l.added, name)
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
	case tar.TypeLink:
		l.links = append(l.links, [2]string{name, strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")})
		return nil
	case tar.TypeDir:
		return nil
	default:
		l.removed = append(l.removed, name) // a link or device in place of the file below
		return nil
	}
	in := bufio.NewReader(content)
	head, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if h.Mode&0o111 == 0 && !bytes.HasPrefix(head, []byte("#!")) && !bytes.Equal(head, []byte("\x7fELF")) {
		l.removed = append(l.removed, name)
		return nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, in); err != nil {
		return err
	}
	l.added[name] = artifact.NewDigest("sha256", sum.Sum(nil))
	return nil
}

// over lays the layer over those below it.
func (l *layerState) over(all Files) {
	linked := Files{}
	for _, x := range l.links {
		if d, have := l.added[x[1]]; have {
			linked[x[0]] = d
		} else if d, have := all[x[1]]; have {
			linked[x[0]] = d
		}
	}
	if len(l.removed)+len(l.emptied) > 0 {
		exact, below := map[string]bool{}, map[string]bool{}
		for _, p := range l.removed {
			exact[p], below[p] = true, true
		}
		for _, p := range l.emptied {
			below[p] = true
		}
		for name := range all {
			gone := exact[name]
			for p := name; !gone && p != ""; {
				i := strings.LastIndexByte(p, '/')
				p = p[:max(i, 0)]
				gone = below[p]
			}
			if gone {
				delete(all, name)
			}
		}
	}
	for _, more := range []Files{l.added, linked} {
		for name, d := range more {
			all[name] = d
		}
	}
}

func inflate(r io.Reader) (io.Reader, func(), error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, _ := b.Peek(4)
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, nil, fault.Newf(fault.Invalid, "gzip: %w", err)
		}
		return z, func() { _ = z.Close() }, nil
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, nil, fault.Newf(fault.Invalid, "zstd: %w", err)
		}
		return z, z.Close, nil
	}
	return b, func() {}, nil
}

type limited struct {
	r    io.Reader
	left *int64
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if *l.left -= int64(n); *l.left < 0 {
		return 0, fault.Newf(fault.TooLarge, "more than %d bytes unpacked", int64(maxUnpacked))
	}
	return n, err
}

// maxKept bounds the images whose files are kept.
const maxKept = 2_000

// Kept gives an image's files that were kept; nil: they were not.
func (s *Store) Kept(ctx context.Context, d artifact.Digest) (f Files, err error) {
	var b []byte
	err = s.db.View(ctx, func(tx *store.Tx) error {
		b = nil
		rows, err := tx.Query(ctx, `SELECT files FROM threat_files WHERE digest = ?`, string(d))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := rows.Scan(&b); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	if err != nil || b == nil {
		return nil, err
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fault.Wrap(fault.Tampered, err)
	}
	if err := json.NewDecoder(z).Decode(&f); err != nil {
		return nil, fault.Wrap(fault.Tampered, err)
	}
	return f, nil
}

// Keep keeps an image's files. What is kept the longest goes when there are many.
func (s *Store) Keep(ctx context.Context, d artifact.Digest, f Files) error {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := json.NewEncoder(z).Encode(f); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return s.db.Update(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO threat_files (digest, made, files) VALUES (?, ?, ?) ON CONFLICT (digest) DO NOTHING`, string(d), store.Micros(tx.Now()), b.Bytes()); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM threat_files WHERE digest NOT IN (SELECT digest FROM threat_files ORDER BY made DESC, digest LIMIT ?)`, maxKept)
		return err
	})
}
