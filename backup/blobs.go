package backup

import (
	"context"
	"errors"
	"io"

	"assay/artifact"
	"assay/internal/fault"
)

// errFound ends the walk over an index early.
var errFound = errors.New("all found")

// Blobs gives those of want that a backup holds to fn, one after the other in the
// order of the index, each as it streams out of its pieces. The size is the
// backup's word and the bytes are not hashed: who takes them in does that. left
// are those that the backup has not. What fn gives as an error ends it.
func Blobs(ctx context.Context, l Listed, r Repo, keys Keys, want []artifact.Digest, fn func(ctx context.Context, d artifact.Digest, size int64, body io.Reader) error) (left []artifact.Digest, err error) {
	rd, err := newReader(ctx, r, l, keys)
	if err != nil {
		return want, err
	}
	open := make(map[artifact.Digest]bool, len(want))
	for _, d := range want {
		if err := d.Validate(); err != nil {
			return want, err
		}
		open[d] = true
	}
	err = rd.entries(ctx, func(ctx context.Context, e entry) error {
		if e.Blob == nil || !open[e.Blob.Digest] {
			return nil
		}
		if e.Blob.Size < 0 {
			return fault.Newf(fault.Tampered, "the backup says that blob %s has %d bytes", e.Blob.Digest, e.Blob.Size)
		}
		delete(open, e.Blob.Digest)
		if err := fn(ctx, e.Blob.Digest, e.Blob.Size, &pieces{ctx: ctx, rd: rd, left: e.Blob.Pieces}); err != nil {
			return err
		}
		if len(open) == 0 {
			return errFound
		}
		return nil
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	for _, d := range want {
		if open[d] {
			left = append(left, d)
		}
	}
	return left, err
}

// pieces reads pieces one after the other, each decrypted when it is due.
type pieces struct {
	ctx  context.Context //nolint:containedctx // of the one walk that it lives in
	rd   *reader
	left []Piece
	at   []byte
}

func (p *pieces) Read(b []byte) (int, error) {
	for len(p.at) == 0 {
		if len(p.left) == 0 {
			return 0, io.EOF
		}
		data, err := p.rd.piece(p.ctx, p.left[0])
		if err != nil {
			return 0, err
		}
		p.at, p.left = data, p.left[1:]
	}
	n := copy(b, p.at)
	p.at = p.at[n:]
	return n, nil
}
