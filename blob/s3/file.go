package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/minio/minio-go/v7"

	"assay/artifact"
	"assay/blob"
	"assay/internal/fault"
)

// file reads an object as a stream, and from elsewhere after a Seek by another
// request with a range. All requests ask for the one version that was opened.
type file struct {
	s    *Store
	ctx  context.Context //nolint:containedctx // a blob.File is read within the request that opened it
	d    artifact.Digest
	info minio.ObjectInfo
	body io.ReadCloser // stands at pos of the object; nil: none
	pos  int64         // of body
	off  int64         // where the next Read reads
}

// rereads is how often a stream that breaks is taken up again.
const rereads = 3

// Open asks for the whole object at once, so that the bytes on their way are
// not taken from under a reader by a Delete.
func (s *Store) Open(ctx context.Context, d artifact.Digest) (blob.File, error) {
	if err := check(ctx, d); err != nil {
		return nil, err
	}
	body, info, _, err := s.c.GetObject(ctx, s.o.Bucket, s.blobKey(d), minio.GetObjectOptions{})
	if err != nil {
		return nil, named(d, "open", err)
	}
	return &file{s: s, ctx: ctx, d: d, info: info, body: body}, nil
}

func (f *file) Size() int64        { return f.info.Size }
func (f *file) ModTime() time.Time { return f.info.LastModified }

func (f *file) Read(b []byte) (int, error) {
	if f.off >= f.info.Size {
		return 0, io.EOF
	}
	if len(b) == 0 {
		return 0, nil
	}
	for try := 0; ; try++ {
		n, err := f.read(b)
		f.off += int64(n)
		f.pos += int64(n)
		switch {
		case n > 0:
			return n, nil // an error comes again with the next Read
		case err == nil:
			continue
		case f.ctx.Err() != nil:
			return 0, f.ctx.Err()
		}
		f.drop()
		if try == rereads || fault.KindOf(err) == fault.NotFound {
			return 0, wrapf("read", f.d, err)
		}
	}
}

func (f *file) read(b []byte) (int, error) {
	if f.body == nil || f.pos != f.off {
		f.drop()
		var o minio.GetObjectOptions
		if err := errors.Join(o.SetRange(f.off, f.info.Size-1), o.SetMatchETag(f.info.ETag)); err != nil {
			return 0, err
		}
		body, _, _, err := f.s.c.GetObject(f.ctx, f.s.o.Bucket, f.s.blobKey(f.d), o)
		if err != nil {
			return 0, named(f.d, "read", err)
		}
		f.body, f.pos = body, f.off
	}
	n, err := f.body.Read(b[:min(int64(len(b)), f.info.Size-f.off)])
	if errors.Is(err, io.EOF) && f.off+int64(n) < f.info.Size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (f *file) drop() {
	if f.body != nil {
		_ = f.body.Close() // it was read only
		f.body = nil
	}
}

// Seek moves; the next Read asks for what it needs.
func (f *file) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.off
	case io.SeekEnd:
		offset += f.info.Size
	}
	if offset < 0 {
		return f.off, fault.Newf(fault.Invalid, "seek to %d in blob %s", offset, f.d)
	}
	f.off = offset
	return offset, nil
}

func (f *file) Close() error {
	f.drop()
	f.off = f.info.Size
	return nil
}

func wrapf(verb string, d artifact.Digest, err error) error {
	return fmt.Errorf("%s blob %s: %w", verb, d, unavailable(err))
}
