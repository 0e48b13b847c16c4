// Package s3 keeps blobs in an S3 bucket: a [blob.Store] over any service that
// speaks S3 with multipart uploads.
//
//	PREFIX/<algorithm>/<first two hex digits>/<hex>   blobs
//	PREFIX/uploads/<id>/state                         sessions: what is known of them, and the bytes since the last part
//	PREFIX/uploads/<id>/data                          their multipart upload, then its object until it is copied
//
// A session's whole state is in the bucket, so that another process can take it
// up: the parts, the running hash, the bytes that do not fill a part yet. It is
// written after each part and at Close; what a killed process had beyond that
// was acknowledged to nobody. State is replaced by If-Match, so that of two
// processes that hold one session the later one gets [fault.Conflict].
//
// A blob gets its name after its digest has been checked. Small content is one
// PUT with If-None-Match. Larger content is completed under the session's name
// and then copied by the service (CopyObject, in parts beyond 5 GiB), because the
// name is known only at the end of an upload. Every request that carries bytes is
// signed over their SHA-256, which the service checks. Memory is bounded by one
// part for each open writer.
package s3

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"assay/artifact"
	"assay/blob"
	"assay/internal/fault"
)

var algorithms = []string{artifact.SHA256, artifact.SHA384, artifact.SHA512}

// Store is a [blob.Store] in a bucket.
type Store struct {
	o         Options
	c         *minio.Core
	transport *http.Transport

	mu   sync.Mutex
	held map[string]bool // sessions that a writer of this process has
}

var _ blob.Store = (*Store)(nil)

// Close gives the connections free.
func (s *Store) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

// Ready says whether the bucket answers: [fault.Unavailable] with the reason
// when it does not.
func (s *Store) Ready(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// A listing of one, since the answer to HEAD has no room for a reason.
	for o := range s.c.ListObjectsIter(ctx, s.o.Bucket, minio.ListObjectsOptions{Prefix: s.key("sha256"), Recursive: true, MaxKeys: 1}) {
		switch {
		case o.Err == nil:
			return nil
		case minio.ToErrorResponse(o.Err).Code == "NoSuchBucket":
			return fault.Newf(fault.Unavailable, "S3 bucket %s at %s: there is no such bucket: make it, or correct the configuration", s.o.Bucket, s.o.Endpoint)
		}
		return fmt.Errorf("S3 bucket %s at %s: %w", s.o.Bucket, s.o.Endpoint, unavailable(o.Err))
	}
	return ctx.Err()
}

func (s *Store) key(parts ...string) string {
	k := strings.Join(parts, "/")
	if s.o.Prefix != "" {
		k = s.o.Prefix + "/" + k
	}
	return k
}

func (s *Store) blobKey(d artifact.Digest) string {
	hex := d.Hex()
	return s.key(d.Algorithm(), hex[:2], hex)
}

// Stat describes a blob.
func (s *Store) Stat(ctx context.Context, d artifact.Digest) (blob.Info, error) {
	if err := check(ctx, d); err != nil {
		return blob.Info{}, err
	}
	info, err := s.c.StatObject(ctx, s.o.Bucket, s.blobKey(d), minio.StatObjectOptions{})
	if err != nil {
		return blob.Info{}, named(d, "find", err)
	}
	return blob.Info{Digest: d, Size: info.Size, ModTime: info.LastModified}, nil
}

// Delete removes a blob. In a bucket with versions the service keeps the old
// one; under Object Lock it refuses, which is [fault.Denied].
func (s *Store) Delete(ctx context.Context, d artifact.Digest) error {
	// The service answers alike whether there was an object or not.
	if _, err := s.Stat(ctx, d); err != nil {
		return err
	}
	if err := s.c.RemoveObject(ctx, s.o.Bucket, s.blobKey(d), minio.RemoveObjectOptions{}); err != nil {
		return named(d, "delete", err)
	}
	return nil
}

// Walk visits every blob, a thousand a request.
func (s *Store) Walk(ctx context.Context, fn func(blob.Info) error) error {
	for _, alg := range algorithms {
		under := s.key(alg) + "/"
		ctx, stop := context.WithCancel(ctx)
		for o := range s.c.ListObjectsIter(ctx, s.o.Bucket, minio.ListObjectsOptions{Prefix: under, Recursive: true}) {
			if o.Err != nil {
				stop()
				return fmt.Errorf("walk blobs: %w", unavailable(o.Err))
			}
			fan, hex, _ := strings.Cut(strings.TrimPrefix(o.Key, under), "/")
			d, err := artifact.ParseDigest(alg + ":" + hex)
			if err != nil || d.Hex()[:2] != fan {
				continue
			}
			if err := fn(blob.Info{Digest: d, Size: o.Size, ModTime: o.LastModified}); err != nil {
				stop()
				return err
			}
		}
		err := ctx.Err()
		stop()
		if err != nil {
			return err
		}
	}
	return nil
}

// PresignGet gives an address at which anyone can read the blob for ttl (1 s to
// 7 days): the caller has authorised whoever it is for.
func (s *Store) PresignGet(ctx context.Context, d artifact.Digest, ttl time.Duration) (string, error) {
	if err := check(ctx, d); err != nil {
		return "", err
	}
	if ttl < time.Second || ttl > 7*24*time.Hour {
		return "", fault.Newf(fault.Invalid, "presigned address for %s: want from 1s to 168h", ttl)
	}
	u, err := s.c.PresignedGetObject(ctx, s.o.Bucket, s.blobKey(d), ttl, url.Values{"response-content-type": {"application/octet-stream"}})
	if err != nil {
		return "", named(d, "presign", err)
	}
	return u.String(), nil
}

// Retain locks a blob until a time (Object Lock): until then the service refuses
// to delete this version of it. A bucket without Object Lock is [fault.Invalid].
func (s *Store) Retain(ctx context.Context, d artifact.Digest, until time.Time) error {
	if err := check(ctx, d); err != nil {
		return err
	}
	mode := minio.Governance
	if s.o.Compliance {
		mode = minio.Compliance
	}
	until = until.UTC().Truncate(time.Second)
	err := s.c.PutObjectRetention(ctx, s.o.Bucket, s.blobKey(d), minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &until})
	return s.lockError(d, err)
}

// LegalHold locks a blob until it is told otherwise (Object Lock), or ends that.
// A bucket without Object Lock is [fault.Invalid].
func (s *Store) LegalHold(ctx context.Context, d artifact.Digest, on bool) error {
	if err := check(ctx, d); err != nil {
		return err
	}
	status := minio.LegalHoldDisabled
	if on {
		status = minio.LegalHoldEnabled
	}
	return s.lockError(d, s.c.PutObjectLegalHold(ctx, s.o.Bucket, s.blobKey(d), minio.PutObjectLegalHoldOptions{Status: &status}))
}

func (s *Store) lockError(d artifact.Digest, err error) error {
	switch code := minio.ToErrorResponse(err).Code; {
	case err == nil:
		return nil
	case code == "InvalidRequest", code == "InvalidBucketObjectLockConfiguration", code == "ObjectLockConfigurationNotFoundError", code == "NoSuchObjectLockConfiguration", code == "NotImplemented":
		return fault.Newf(fault.Invalid, "lock blob %s: bucket %s has no Object Lock: it is switched on when a bucket is made (%s)", d, s.o.Bucket, code)
	}
	return named(d, "lock", err)
}

// Expire ends the sessions that nobody has written to for the upload TTL, with
// their parts, and says how many. The registry calls it every hour.
func (s *Store) Expire(ctx context.Context) (int, error) {
	limit, under := s.o.Clock().Add(-s.o.UploadTTL), s.key("uploads")+"/"
	ids, young := map[string]string{}, map[string]bool{}
	note := func(key, upload string, at time.Time) {
		id, _, _ := strings.Cut(strings.TrimPrefix(key, under), "/")
		if at.After(limit) {
			young[id] = true
		} else if ids[id] == "" {
			ids[id] = upload
		}
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for o := range s.c.ListObjectsIter(ctx, s.o.Bucket, minio.ListObjectsOptions{Prefix: under, Recursive: true}) {
		if o.Err != nil {
			return 0, fmt.Errorf("expire uploads: %w", unavailable(o.Err))
		}
		note(o.Key, "", o.LastModified)
	}
	for m := range s.c.ListIncompleteUploads(ctx, s.o.Bucket, under, true) {
		if m.Err != nil {
			return 0, fmt.Errorf("expire uploads: %w", unavailable(m.Err))
		}
		note(m.Key, m.UploadID, m.Initiated)
	}
	n := 0
	for id, upload := range ids {
		if young[id] || !validID(id) || !s.hold(id) {
			continue
		}
		err := s.discard(ctx, id, upload)
		s.release(id)
		if err != nil {
			return n, fmt.Errorf("expire upload %s: %w", id, unavailable(err))
		}
		n++
	}
	return n, nil
}

// discard removes what a session has in the bucket.
func (s *Store) discard(ctx context.Context, id, upload string) error {
	var errs []error
	if upload != "" {
		if err := s.c.AbortMultipartUpload(ctx, s.o.Bucket, s.key("uploads", id, "data"), upload); err != nil && !gone(err) {
			errs = append(errs, err)
		}
	}
	for _, name := range []string{"data", "state"} { // the state last: it is what finds the rest
		if err := s.c.RemoveObject(ctx, s.o.Bucket, s.key("uploads", id, name), minio.RemoveObjectOptions{}); err != nil && !gone(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (s *Store) hold(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[id] {
		return false
	}
	s.held[id] = true
	return true
}

func (s *Store) release(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, id)
}

func check(ctx context.Context, d artifact.Digest) error {
	if err := d.Validate(); err != nil {
		return err
	}
	return ctx.Err()
}

// newID names a session as blob.Dir does: 130 bits, base32.
func newID() string { return rand.Text() }

func validID(id string) bool {
	return len(id) == 26 && strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}
