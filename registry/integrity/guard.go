package integrity

import (
	"context"
	"errors"
	"io"
	"time"

	"assay/artifact"
	"assay/blob"
	"assay/internal/fault"
)

// guard is a blob store that opens nothing that is damaged.
type guard struct {
	blob.Store
	c *Checker
}

type presigner interface {
	PresignGet(ctx context.Context, d artifact.Digest, ttl time.Duration) (url string, err error)
}

// signingGuard keeps what an object store can do besides.
type signingGuard struct {
	guard
	presigner
}

// Store is the blob store for those who serve bytes: its Open gives nothing
// that is known to be damaged, and hashes a small blob before it gives it out.
// Errors are then of kind fault.Tampered.
func (c *Checker) Store() blob.Store {
	g := guard{c.o.Blobs, c}
	if p, ok := c.o.Blobs.(presigner); ok {
		return signingGuard{g, p}
	}
	return g
}

// Open implements [blob.Store].
func (g guard) Open(ctx context.Context, d artifact.Digest) (blob.File, error) {
	bad, err := g.c.isDamaged(ctx, d)
	if err != nil {
		return nil, err
	}
	if bad {
		return nil, damagedError(d)
	}
	f, err := g.Store.Open(ctx, d)
	if errors.Is(err, fault.NotFound) {
		if is, missErr := g.c.missing(ctx, d); missErr != nil || is {
			return nil, errors.Join(damagedError(d), missErr)
		}
	}
	if err != nil {
		return nil, err
	}
	if f.Size() > g.c.o.ReadLimit || g.c.fresh(d, f) {
		return f, nil
	}
	finding, err := g.c.hash(ctx, d, f, nil)
	if finding != nil {
		err = errors.Join(damagedError(d), err) // not served, even where it could not be noted
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func damagedError(d artifact.Digest) error {
	return fault.Newf(fault.Tampered, "the stored bytes of %s are damaged: an operator puts them back with assay registry repair", d)
}
