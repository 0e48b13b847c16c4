package scan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"assay/artifact"
	"assay/internal/excerpt"
	"assay/internal/fault"
)

// pkg is a package as a file states it.
type pkg struct {
	typ, namespace, name, version string
	quals                         map[string]string
	source, sourceVersion         string
	supplier                      string
	licenses                      []string
	digests                       artifact.DigestSet
	scope                         string     // CycloneDX scope
	kind                          string     // component type; "" is library
	ids                           []string   // what others of its group need it by; its name when empty
	needs                         [][]string // each the alternatives, of which the first that is there counts
	direct                        bool       // the project itself names it
	os                            bool       // of the distribution, whose name and release it gets
	place                         string     // inside the file: "!/BOOT-INF/lib/a.jar"
}

// finding is what one file told.
type finding struct {
	pkgs  []pkg
	group string // whose packages may need one another; "" is this file alone
	// incomplete says what the file hides.
	incomplete []string
	owns       []string          // paths that a package manager put there
	program    *program          // an executable
	release    map[string]string // os-release
	licenses   []string          // of the package that the file's folder is named after
}

// collector gathers findings, by the path that they came from.
type collector struct {
	ctx      context.Context
	o        Options
	found    map[string]*found
	order    []string
	owned    map[uint64]struct{}
	seed     maphash.Seed
	buf      bytes.Buffer
	temp     string
	problems []string
	entries  int
	bytes    int64
	packages int
}

type found struct {
	*finding
	path, layer string
}

// memory is up to what size a file of a stream is held in memory.
const memory = 4 << 20

func newCollector(ctx context.Context, o Options) (*collector, error) {
	return &collector{ctx: ctx, o: o.withDefaults(), found: map[string]*found{}, owned: map[uint64]struct{}{}, seed: maphash.MakeSeed()}, nil
}

func (c *collector) close() {
	if c.temp != "" {
		_ = os.RemoveAll(c.temp)
	}
}

func (c *collector) tempFile() (*os.File, error) {
	if c.temp == "" {
		dir, err := os.MkdirTemp(c.o.TempDir, "assay-sbom-")
		if err != nil {
			return nil, fault.Wrap(fault.NoSpace, err)
		}
		c.temp = dir
	}
	f, err := os.CreateTemp(c.temp, "file-")
	if err != nil {
		return nil, fault.Wrap(fault.NoSpace, err)
	}
	return f, nil
}

// entry counts a file, a folder or a link.
func (c *collector) entry() error {
	if c.entries++; c.entries > c.o.Limits.Entries {
		return fault.Newf(fault.TooLarge, "more than %d files: raise the limit, or scan a part", c.o.Limits.Entries)
	}
	if c.entries&255 == 0 {
		return c.ctx.Err()
	}
	return nil
}

// incomplete notes what could not be known.
func (c *collector) incomplete(format string, args ...any) {
	if len(c.problems) < 200 {
		c.problems = append(c.problems, clip(fmt.Sprintf(format, args...)))
	}
}

func clip(s string) string { return excerpt.Text(s, 300) }

// wanted says whether a file is to be read, by its name alone; programs are told
// by their first bytes.
func wanted(p string, executable bool) (reader, bool) {
	if r := readerOf(p); r != nil {
		return r, true
	}
	return nil, executable || maybeProgram(p)
}

// file reads one regular file. content is valid during the call.
func (c *collector) file(p, layer string, r reader, content *io.SectionReader) error {
	limit := c.o.Limits.File
	if r == nil {
		if !isProgram(content) {
			return nil
		}
		r, limit = readProgram, c.o.Limits.Program
	}
	if large(p) {
		limit = c.o.Limits.Program
	}
	if content.Size() > limit {
		c.incomplete("%s: %d bytes, more than the %d that are read", p, content.Size(), limit)
		return nil
	}
	f, err := c.guarded(r, p, content)
	switch {
	case c.ctx.Err() != nil:
		return c.ctx.Err()
	case errors.Is(err, fault.NoSpace), errors.Is(err, fault.Tampered):
		return err
	case err != nil:
		c.incomplete("%s: could not be read: %s", p, err)
	}
	if f == nil {
		return nil
	}
	if c.packages += len(f.pkgs); c.packages > 4*c.o.Limits.Components {
		return fault.Newf(fault.TooLarge, "more than %d packages", 4*c.o.Limits.Components)
	}
	for _, own := range f.owns {
		c.owned[c.owner(own)] = struct{}{}
	}
	f.owns = nil
	if _, again := c.found[p]; !again {
		c.order = append(c.order, p)
	}
	c.found[p] = &found{finding: f, path: p, layer: layer}
	return nil
}

// guarded reads a file of unknown origin: a reader that stumbles takes nothing
// with it.
func (c *collector) guarded(r reader, p string, content *io.SectionReader) (f *finding, err error) {
	defer func() {
		if v := recover(); v != nil {
			f, err = nil, fault.Newf(fault.Invalid, "%v", v)
		}
	}()
	return r(c, p, content)
}

// drop forgets what a path told: an archive names a path twice, and the last
// counts.
func (c *collector) drop(p string) { delete(c.found, p) }

// owner is the key of a path, whichever way /usr is merged.
func (c *collector) owner(p string) uint64 {
	p = strings.TrimPrefix(p, "/")
	if rest, is := strings.CutPrefix(p, "usr/"); is {
		switch first, _, _ := strings.Cut(rest, "/"); first {
		case "bin", "sbin", "lib", "lib32", "lib64", "libx32":
			p = rest
		}
	}
	return maphash.String(c.seed, p)
}

func (c *collector) isOwned(p string) bool {
	_, is := c.owned[c.owner(p)]
	return is
}

// spool makes a stream's file readable at any place: in memory when it is small,
// else in a temporary file. done gives it back.
func (c *collector) spool(r io.Reader, size int64) (content *io.SectionReader, done func(), err error) {
	if size <= memory {
		c.buf.Reset()
		c.buf.Grow(int(size))
		if _, err := io.CopyN(&c.buf, r, size); err != nil {
			return nil, nil, err
		}
		return io.NewSectionReader(bytes.NewReader(c.buf.Bytes()), 0, size), func() {}, nil
	}
	f, err := c.tempFile()
	if err != nil {
		return nil, nil, err
	}
	done = func() { _ = f.Close(); _ = os.Remove(f.Name()) }
	if _, err := io.CopyN(f, r, size); err != nil {
		done()
		return nil, nil, err
	}
	return io.NewSectionReader(f, 0, size), done, nil
}

// cleanName is an entry's path below the root, without "./" and "/"; a name that
// leaves the root is refused.
func cleanName(name string, absolute bool) (string, error) {
	name = strings.ReplaceAll(name, "\\", "/")
	if strings.HasPrefix(name, "/") && !absolute {
		return "", fault.Newf(fault.Invalid, "the archive names the absolute path %.120q: want paths below its root", name)
	}
	if strings.Contains(name, "..") && slices.Contains(strings.Split(name, "/"), "..") {
		return "", fault.Newf(fault.Invalid, "the archive's path %.120q leaves its root", name)
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

// text reads a file whole.
func text(content *io.SectionReader) ([]byte, error) {
	b := make([]byte, content.Size())
	if _, err := io.ReadFull(io.NewSectionReader(content, 0, content.Size()), b); err != nil {
		return nil, err
	}
	return b, nil
}
