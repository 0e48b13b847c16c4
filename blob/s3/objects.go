package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"assay/internal/fault"
)

// Objects are small named objects under a prefix of a bucket, for what is not
// content-addressed: a backup's manifests and chunks.
type Objects struct {
	s *Store
}

// OpenObjects connects to a bucket as [Open] does.
func OpenObjects(ctx context.Context, o Options) (*Objects, error) {
	s, err := Open(ctx, o)
	if err != nil {
		return nil, err
	}
	return &Objects{s: s}, nil
}

// Close gives the connections free.
func (o *Objects) Close() error { return o.s.Close() }

// Put writes an object, in the place of one of that name; durable on return.
func (o *Objects) Put(ctx context.Context, name string, b []byte) error {
	sum := sha256.Sum256(b)
	_, err := o.s.c.PutObject(ctx, o.s.o.Bucket, o.s.key(name), bytes.NewReader(b), int64(len(b)), "", hex.EncodeToString(sum[:]),
		minio.PutObjectOptions{ContentType: octets, DisableContentSha256: plainBody})
	if err != nil {
		return fmt.Errorf("write %s: %w", name, unavailable(err))
	}
	return nil
}

// Get reads an object of at most limit bytes.
func (o *Objects) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	body, _, _, err := o.s.c.GetObject(ctx, o.s.o.Bucket, o.s.key(name), minio.GetObjectOptions{})
	if gone(err) {
		return nil, fault.Newf(fault.NotFound, "read %s: there is no such object", name)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, unavailable(err))
	}
	defer body.Close()
	b, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, unavailable(err))
	}
	if int64(len(b)) > limit {
		return nil, fault.Newf(fault.TooLarge, "read %s: more than %d bytes", name, limit)
	}
	return b, nil
}

// List gives the objects whose names begin with under, in order.
func (o *Objects) List(ctx context.Context, under string, fn func(name string, size int64, at time.Time) error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for i := range o.s.c.ListObjectsIter(ctx, o.s.o.Bucket, minio.ListObjectsOptions{Prefix: o.s.key(under), Recursive: true}) {
		if i.Err != nil {
			return fmt.Errorf("list %s: %w", under, unavailable(i.Err))
		}
		name := i.Key
		if o.s.o.Prefix != "" {
			name = strings.TrimPrefix(name, o.s.o.Prefix+"/")
		}
		if err := fn(name, i.Size, i.LastModified); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Delete removes an object; an absent one is removed already.
func (o *Objects) Delete(ctx context.Context, name string) error {
	if err := o.s.c.RemoveObject(ctx, o.s.o.Bucket, o.s.key(name), minio.RemoveObjectOptions{}); err != nil && !gone(err) {
		return fmt.Errorf("delete %s: %w", name, unavailable(err))
	}
	return nil
}
