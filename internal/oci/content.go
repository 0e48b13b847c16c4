package oci

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// Bounds of one VerifyContent.
const (
	maxObjects = 10_000 // manifests and blobs of an image
	maxDepth   = 4      // indexes within indexes
	atOnce     = 4      // blobs streamed at the same time
)

// idleTimeout is how long a stream may stand still. A variable for tests.
var idleTimeout = time.Minute

// VerifyContent reads everything that an image consists of, config, layers, and
// the children of an index, and hashes it on the way; nothing is kept. The
// first content that is missing, or is not what its digest and size say, is
// fault.Tampered with both digests: what a node would pull differs from what was
// signed. Content that no registry has to hold (non-distributable layers) and
// that is not there is fault.Undecided.
func (c *Client) VerifyContent(ctx context.Context, ref artifact.Reference) error {
	m, err := c.Manifest(ctx, ref)
	if err != nil {
		return err
	}
	v := &contentCheck{c: c, ref: artifact.Reference{Host: ref.Host, Repository: ref.Repository}, seen: map[artifact.Digest]bool{m.Digest: true}}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	// The manifests are walked here, while blobs are read beside it.
	walk := v.manifest(ctx, g, m, 0)
	// A blob's error ends the walk as cancelled, and is the one to tell.
	if err := g.Wait(); err != nil {
		return err
	}
	return walk
}

type contentCheck struct {
	c    *Client
	ref  artifact.Reference
	seen map[artifact.Digest]bool // touched by the walk alone
}

// first says whether d has to be looked at; fault.TooLarge when there is no end
// of them.
func (v *contentCheck) first(d Descriptor) (bool, error) {
	if err := d.Digest.Validate(); err != nil {
		return false, err
	}
	if d.Size < 0 {
		return false, fault.Newf(fault.Invalid, "%s: descriptor of %s has the size %d", v.ref, d.Digest, d.Size)
	}
	if v.seen[d.Digest] {
		return false, nil
	}
	if len(v.seen) == maxObjects {
		return false, fault.Newf(fault.TooLarge, "%s: consists of more than %d manifests and blobs", v.ref, maxObjects)
	}
	v.seen[d.Digest] = true
	return true, nil
}

func (v *contentCheck) manifest(ctx context.Context, g *errgroup.Group, raw *Manifest, depth int) error {
	var m manifest
	if err := strictjson.Unmarshal(raw.Bytes, &m); err != nil {
		return fault.Newf(fault.Invalid, "manifest %s: %w", raw.Digest, err)
	}
	if m.Manifests != nil {
		return v.children(ctx, g, m.Manifests, depth)
	}
	for _, d := range append([]Descriptor{m.Config}, m.Layers...) {
		todo, err := v.first(d)
		if err != nil {
			return fault.Newf(fault.KindOf(err), "manifest %s: %w", raw.Digest, err)
		}
		if todo {
			g.Go(func() error { return v.blob(ctx, d) })
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (v *contentCheck) children(ctx context.Context, g *errgroup.Group, list []Descriptor, depth int) error {
	if depth == maxDepth {
		return fault.Newf(fault.TooLarge, "%s: indexes within indexes, more than %d deep", v.ref, maxDepth)
	}
	for _, d := range list {
		todo, err := v.first(d)
		if err != nil {
			return err
		}
		if !todo {
			continue
		}
		child, err := v.c.Manifest(ctx, v.ref.WithDigest(d.Digest))
		if errors.Is(err, fault.NotFound) {
			return fault.Newf(fault.Tampered, "%s: expected manifest %s of %d bytes, found none: %w", v.ref, d.Digest, d.Size, err)
		}
		if err != nil {
			return err
		}
		if int64(len(child.Bytes)) != d.Size {
			return fault.Newf(fault.Tampered, "%s: expected manifest %s of %d bytes, found %d bytes", v.ref, d.Digest, d.Size, len(child.Bytes))
		}
		if err := v.manifest(ctx, g, child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// blob streams one blob through its hash.
func (v *contentCheck) blob(ctx context.Context, d Descriptor) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resp, err := v.c.request(ctx, 0, http.MethodGet, v.ref, "/blobs/"+string(d.Digest), nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		if strings.Contains(d.MediaType, ".nondistributable.") || strings.Contains(d.MediaType, ".foreign.") {
			return fault.Newf(fault.Undecided, "%s: layer %s is non-distributable and lies elsewhere: it cannot be checked here", v.ref, d.Digest)
		}
		return fault.Newf(fault.Tampered, "%s: expected blob %s of %d bytes, found none", v.ref, d.Digest, d.Size)
	}
	if resp.StatusCode != http.StatusOK {
		return statusError("blob "+string(d.Digest), resp)
	}
	h := d.Digest.Hash()
	body := watch(resp.Body, cancel)
	n, err := io.Copy(h, io.LimitReader(body, d.Size+1))
	body.stop()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	got := artifact.NewDigest(d.Digest.Algorithm(), h.Sum(nil))
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fault.Newf(fault.Unavailable, "%s: blob %s ends after %d of %d bytes: %w", v.ref, d.Digest, n, d.Size, err)
	case err != nil:
		return fault.Newf(fault.Unavailable, "%s: blob %s: %w", v.ref, d.Digest, err)
	case n > d.Size:
		return fault.Newf(fault.Tampered, "%s: expected blob %s of %d bytes, found more bytes", v.ref, d.Digest, d.Size)
	case got != d.Digest:
		return fault.Newf(fault.Tampered, "%s: expected blob %s of %d bytes, found content with digest %s of %d bytes", v.ref, d.Digest, d.Size, got, n)
	case n != d.Size:
		return fault.Newf(fault.Tampered, "%s: expected blob %s of %d bytes, found %d bytes", v.ref, d.Digest, d.Size, n)
	}
	return nil
}

// watched ends a stream that stands still.
type watched struct {
	io.Reader
	mu    sync.Mutex
	timer *time.Timer
}

func watch(r io.Reader, cancel context.CancelCauseFunc) *watched {
	return &watched{Reader: r, timer: time.AfterFunc(idleTimeout, func() {
		cancel(fault.Newf(fault.Unavailable, "no byte for %v", idleTimeout))
	})}
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if n > 0 {
		w.mu.Lock()
		w.timer.Reset(idleTimeout)
		w.mu.Unlock()
	}
	return n, err
}

func (w *watched) stop() { w.timer.Stop() }
