package scan

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
	"assay/sbom"
)

// singleFile finds out what a file is, and reads it.
func (c *collector) singleFile(f *os.File, size int64, name string) (*sbom.Document, error) {
	in := io.NewSectionReader(f, 0, size)
	base := filepath.Base(name)
	head := make([]byte, min(size, 512))
	if _, err := in.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	if len(head) < 4 {
		return nil, fault.Newf(fault.Invalid, "%s has %d bytes: too small to be an archive, a program, a lock file or a bill of materials", name, size)
	}
	whole := func(kind string) (subject, error) {
		d, _, err := artifact.SHA256Reader(io.NewSectionReader(in, 0, size))
		return subject{kind: kind, name: base, digest: d}, err
	}
	c.o.Progress(name)
	// A lock file or a jar is known by its name.
	if r := readerOf(base); r != nil {
		s, err := whole("application")
		if err != nil {
			return nil, err
		}
		return c.only(r, base, in, s)
	}
	switch {
	case isCompressed(head):
		return c.compressed(in, name, whole)
	case bytes.HasPrefix(head, []byte("PK\x03\x04")), bytes.HasPrefix(head, []byte("PK\x05\x06")):
		s, err := whole("file")
		if err != nil {
			return nil, err
		}
		if err := c.zip(in); err != nil {
			return nil, err
		}
		return c.document(s)
	case isProgramMagic(head):
		s, err := whole("application")
		if err != nil {
			return nil, err
		}
		return c.only(readProgram, base, in, s)
	case isTar(in):
		return c.plainTar(in, name, whole)
	}
	d, err := sbom.Read(io.NewSectionReader(in, 0, size), sbom.Limits{Bytes: c.o.Limits.Bytes, Components: c.o.Limits.Components})
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "%s is no image, archive, program or lock file that is known by its name, and no bill of materials: %w", name, err)
	}
	if c.o.NoDocuments {
		return nil, fault.Newf(fault.Invalid, "%s is a bill of materials already: sign it with assay attest --predicate, about what it describes", name)
	}
	return d, nil
}

// only reads one file that is a target by itself: what it cannot say is its
// fault, not a gap in something larger.
func (c *collector) only(r reader, base string, in *io.SectionReader, s subject) (*sbom.Document, error) {
	f, err := c.guarded(r, base, in)
	if err != nil {
		if c.ctx.Err() != nil {
			return nil, c.ctx.Err()
		}
		return nil, fault.Newf(fault.Invalid, "%s: %w", base, err)
	}
	if f == nil {
		f = &finding{}
	}
	c.found[base] = &found{finding: f, path: base}
	c.order = append(c.order, base)
	return c.document(s)
}

func isTar(in *io.SectionReader) bool {
	_, err := tar.NewReader(io.NewSectionReader(in, 0, in.Size())).Next()
	return err == nil
}

func (c *collector) plainTar(in *io.SectionReader, name string, whole func(string) (subject, error)) (*sbom.Document, error) {
	d, err := c.archivedImage(in, filepath.Base(name))
	if !errors.Is(err, errNoImage) {
		return d, err
	}
	s, err := whole("file")
	if err != nil {
		return nil, err
	}
	if err := c.tree(func(visit func(io.Reader, *io.SectionReader) error) error {
		return visit(nil, io.NewSectionReader(in, 0, in.Size()))
	}, nil); err != nil {
		return nil, err
	}
	return c.document(s)
}

// tree walks an archive of files, and again for hard links.
func (c *collector) tree(through func(func(io.Reader, *io.SectionReader) error) error, walked *tarWalk) error {
	w := walked
	if w == nil {
		w = &tarWalk{c: c}
	}
	if err := through(w.walk); err != nil {
		return err
	}
	if w.images || len(w.links) == 0 {
		return nil
	}
	return through(w.follow)
}

// compressed reads a compressed tar: as files in one pass; when an image comes
// out, it is unpacked into a temporary file, since its parts stand in any order.
func (c *collector) compressed(in *io.SectionReader, name string, whole func(string) (subject, error)) (*sbom.Document, error) {
	w := &tarWalk{c: c}
	err := c.tree(func(visit func(io.Reader, *io.SectionReader) error) error {
		return c.throughStream(io.NewSectionReader(in, 0, in.Size()), visit)
	}, w)
	if err != nil {
		return nil, err
	}
	if w.files == 0 {
		return nil, fault.Newf(fault.Invalid, "%s is compressed, and no archive is in it", name)
	}
	if w.images {
		tmp, err := c.tempFile()
		if err != nil {
			return nil, err
		}
		defer func() { _ = tmp.Close(); removeFile(tmp) }()
		size := int64(0)
		c.bytes = 0
		err = c.throughStream(io.NewSectionReader(in, 0, in.Size()), func(r io.Reader, _ *io.SectionReader) (err error) {
			size, err = io.Copy(tmp, r)
			return err
		})
		if err != nil {
			return nil, err
		}
		d, err := c.archivedImage(io.NewSectionReader(tmp, 0, size), filepath.Base(name))
		if !errors.Is(err, errNoImage) {
			return d, err
		}
	}
	s, err := whole("file")
	if err != nil {
		return nil, err
	}
	return c.document(s)
}

// topFiles are the places of an archive's files, when it has few enough to be an
// image's; errNoImage when it has more.
func topFiles(in *io.SectionReader) (map[string][2]int64, error) {
	at := io.NewSectionReader(in, 0, in.Size())
	t := tar.NewReader(at)
	out := map[string][2]int64{}
	links := map[string]string{}
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "a broken tar archive: %w", err)
		}
		name, err := cleanName(h.Name, false)
		if err != nil {
			return nil, err
		}
		switch h.Typeflag {
		case tar.TypeReg:
			if sparse(h) {
				continue
			}
			pos, err := at.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, err
			}
			if h.Size > in.Size()-pos {
				return nil, fault.Newf(fault.Invalid, "the archive ends within %.120q", name)
			}
			out[name] = [2]int64{pos, h.Size}
		case tar.TypeSymlink: // docker save names equal layers by links
			links[name] = path.Join(path.Dir(name), h.Linkname)
		case tar.TypeLink:
			links[name] = path.Clean(h.Linkname)
		}
		if len(out)+len(links) > 4096 {
			if _, is := out["manifest.json"]; !is {
				if _, is := out["index.json"]; !is {
					return nil, errNoImage
				}
			}
			if len(out)+len(links) > 100_000 {
				return nil, errNoImage
			}
		}
	}
	for name, to := range links {
		if place, is := out[to]; is {
			if _, own := out[name]; !own {
				out[name] = place
			}
		}
	}
	return out, nil
}

// zip reads the files of a zip archive.
func (c *collector) zip(in *io.SectionReader) error {
	z, err := zip.NewReader(in, in.Size())
	if err != nil {
		return fault.Newf(fault.Invalid, "not a zip archive, or a broken one: %w", err)
	}
	for _, f := range z.File {
		if err := c.entry(); err != nil {
			return err
		}
		name, err := cleanName(f.Name, false)
		if err != nil {
			return err
		}
		r, want := wanted(name, f.Mode()&0o111 != 0)
		if !want || !f.Mode().IsRegular() || f.UncompressedSize64 < 4 {
			continue
		}
		if f.UncompressedSize64 > uint64(c.o.Limits.Program) { //nolint:gosec // a limit is not negative
			c.incomplete("%s: %d bytes, more than the %d that are read", name, f.UncompressedSize64, c.o.Limits.Program)
			continue
		}
		if err := c.zipped(f, name, r); err != nil {
			return err
		}
	}
	return nil
}

func (c *collector) zipped(f *zip.File, name string, r reader) error {
	packed, err := f.Open()
	if err != nil {
		return fault.Newf(fault.Invalid, "%.120q: %w", name, err)
	}
	defer packed.Close()
	from := &bounded{c: c, r: packed, in: &counted{n: int64(f.CompressedSize64)}, compressed: true} //nolint:gosec // checked by archive/zip
	content, done, err := c.spool(from, int64(f.UncompressedSize64))                                //nolint:gosec // below Limits.Program
	if err != nil {
		return broken(name, err)
	}
	defer done()
	return c.file(name, "", r, content)
}

// folder reads a folder: a layout, or a tree of files. Links are not followed.
func (c *collector) folder(dir string) (*sbom.Document, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	defer root.Close()
	if is(root, "oci-layout") && is(root, "index.json") {
		return c.layoutFolder(root, dir)
	}
	c.o.Progress(dir)
	system := is(root, "etc/os-release") || is(root, "usr/lib/os-release") || is(root, "var/lib/dpkg")
	err = fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if p == "." {
				return fault.Wrap(fault.Invalid, err)
			}
			c.incomplete("%s: could not be read: %s", p, err)
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if err := c.entry(); err != nil {
			return err
		}
		if d.IsDir() {
			switch {
			case p == ".git" || strings.HasSuffix(p, "/.git"):
				return fs.SkipDir
			case system && (p == "proc" || p == "sys" || p == "dev"):
				return fs.SkipDir // of the running kernel, not of the system
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		return c.treeFile(root, p, d)
	})
	if err != nil {
		return nil, err
	}
	s := subject{kind: "application", name: filepath.Base(absolute(dir))}
	if system {
		s.kind = "operating-system"
	}
	return c.document(s)
}

func (c *collector) treeFile(root *os.Root, p string, d fs.DirEntry) error {
	r, want := wanted(p, false)
	if !want {
		st, err := d.Info()
		if err != nil || st.Mode()&0o111 == 0 {
			return nil
		}
	}
	f, err := root.Open(filepath.FromSlash(p))
	if err != nil {
		c.incomplete("%s: could not be opened: %s", p, errors.Unwrap(err))
		return nil
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Size() < 4 {
		return nil
	}
	return c.file(p, "", r, io.NewSectionReader(f, 0, st.Size()))
}

func is(root *os.Root, name string) bool {
	_, err := root.Stat(filepath.FromSlash(name))
	return err == nil
}

func absolute(p string) string {
	if abs, err := filepath.Abs(p); err == nil {
		return abs
	}
	return p
}

// stream reads a target from a stream, which is kept in a temporary file. name is
// what it would be called: a lock file is known by its name.
func (c *collector) stream(r io.Reader, name string) (*sbom.Document, error) {
	f, err := c.tempFile()
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close(); removeFile(f) }()
	size, err := io.Copy(f, io.LimitReader(r, c.o.Limits.Bytes+1))
	if err != nil {
		return nil, err
	}
	if size > c.o.Limits.Bytes {
		return nil, fault.Newf(fault.TooLarge, "more than %d bytes", c.o.Limits.Bytes)
	}
	return c.singleFile(f, size, name)
}
