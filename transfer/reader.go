package transfer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"time"

	"assay/artifact"
	"assay/internal/fault"
)

// Reader reads a file whose manifest was verified. Nothing of the file is held
// in memory beyond the manifest and the exporter's roots.
type Reader struct {
	*Verified
	tar  *tar.Reader
	raw  io.Reader
	head [][]byte // the first members, which were read already
}

// Pins finds the pin of the exporter that a file says it is of.
type Pins func(origin string, sequence int64) (Pin, error)

// Open reads up to the proof of the manifest, and no byte further.
func Open(ctx context.Context, r io.Reader, pins Pins, now time.Time) (*Reader, error) {
	rd := &Reader{tar: tar.NewReader(r), raw: r}
	signed, err := rd.entry(manifestName, maxSigned)
	if err != nil {
		return nil, err
	}
	// What the manifest says of the first two members is only believed once
	// they have proved it; their names are needed to find them.
	_, m, _, err := parseSigned(signed)
	if err != nil {
		return nil, err
	}
	p, err := pins(m.Origin, m.Sequence)
	if err != nil {
		return nil, err
	}
	for i := range 2 {
		limit := int64(maxRootsBytes)
		b, err := rd.entry(m.Members[i].Path, limit)
		if err != nil {
			return nil, err
		}
		rd.head = append(rd.head, b)
	}
	rd.Verified, err = Verify(ctx, signed, rd.head[0], rd.head[1], p, now)
	return rd, err
}

// header reads the next header, which must be that of a plain file of the name.
func (r *Reader) header(want string) (*tar.Header, error) {
	h, err := r.tar.Next()
	switch {
	case errors.Is(err, io.EOF):
		return nil, refuse(CodeContent, "the file ends before %s: it was cut short", want)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, refuse(CodeContent, "the file breaks off before %s: it was cut short", want)
	case err != nil:
		return nil, refuse(CodeContent, "before %s: not a bundle: %w", want, err)
	case h.Typeflag != tar.TypeReg || len(h.PAXRecords) > 0 || h.Linkname != "":
		return nil, refuse(CodeContent, "%.120q is no plain file (type %q): want %s", h.Name, string(h.Typeflag), want)
	case h.Name != want:
		return nil, refuse(CodeContent, "found %.120q where the manifest has %s", h.Name, want)
	case h.Size < 0:
		return nil, refuse(CodeContent, "%s has a size of %d", want, h.Size)
	}
	return h, nil
}

// entry reads a small member whole.
func (r *Reader) entry(name string, limit int64) ([]byte, error) {
	h, err := r.header(name)
	if err != nil {
		return nil, err
	}
	if h.Size > limit {
		return nil, refuse(CodeContent, "%s has %d bytes, want at most %d", name, h.Size, limit)
	}
	var buf bytes.Buffer // grows with what is there, not with what is promised
	if _, err := io.CopyN(&buf, r.tar, h.Size); err != nil {
		return nil, broken(name, err)
	}
	return buf.Bytes(), nil
}

func broken(name string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return refuse(CodeContent, "the file breaks off within %s: it was cut short", name)
	}
	return fault.Newf(fault.KindOf(err), "read %s: %w", name, err)
}

// Each hands every member to take, in order, and holds it to the manifest: take
// must not act upon what it read before Each returned without an error, or must
// check the digest itself, as a blob store does. What take leaves unread is read
// here. Behind the last member nothing may follow.
func (r *Reader) Each(ctx context.Context, take func(m Member, content io.Reader) error) error {
	for i, m := range r.Manifest.Members {
		if err := ctx.Err(); err != nil {
			return err
		}
		content := io.Reader(r.tar)
		if i < len(r.head) {
			if int64(len(r.head[i])) != m.Size {
				return refuse(CodeContent, "%s has %d bytes, the manifest says %d", m.Path, len(r.head[i]), m.Size)
			}
			content = bytes.NewReader(r.head[i])
		} else if err := r.begin(m); err != nil {
			return err
		}
		if err := r.one(m, content, take); err != nil {
			return err
		}
	}
	return r.end()
}

func (r *Reader) begin(m Member) error {
	h, err := r.header(m.Path)
	if err == nil && h.Size != m.Size {
		err = refuse(CodeContent, "%s has %d bytes, the manifest says %d", m.Path, h.Size, m.Size)
	}
	return err
}

func (r *Reader) one(m Member, content io.Reader, take func(Member, io.Reader) error) error {
	sum := sha256.New()
	hashing := &counting{r: io.TeeReader(content, sum)}
	err := take(m, hashing)
	if hashing.err != nil {
		return broken(m.Path, hashing.err)
	}
	if err != nil && fault.KindOf(err) != fault.Invalid {
		return err
	}
	// A taker that found other bytes says so in its own words; the file's fault
	// is told in the reader's.
	if _, cerr := io.Copy(io.Discard, hashing); cerr != nil {
		return broken(m.Path, cerr)
	}
	if hashing.n != m.Size {
		return broken(m.Path, io.ErrUnexpectedEOF)
	}
	if got := artifact.NewDigest(artifact.SHA256, sum.Sum(nil)); got != m.Digest {
		return refuse(CodeContent, "%s was altered: its bytes hash to %s", m.Path, got)
	}
	return err
}

// counting notes what was read and how reading failed.
type counting struct {
	r   io.Reader
	n   int64
	err error
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

// maxPadding is what may follow the end of a tar: zeros up to a full record.
const maxPadding = 1 << 20

func (r *Reader) end() error {
	h, err := r.tar.Next()
	if err == nil {
		return refuse(CodeContent, "the file has a member %.120q that the manifest does not name", h.Name)
	}
	if !errors.Is(err, io.EOF) {
		return refuse(CodeContent, "after the last member: %w", err)
	}
	buf := make([]byte, 32<<10)
	for n := 0; ; {
		k, err := r.raw.Read(buf)
		if n += k; n > maxPadding || len(bytes.Trim(buf[:k], "\x00")) > 0 {
			return refuse(CodeContent, "something follows the end of the bundle")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return broken("the end", err)
		}
	}
}
