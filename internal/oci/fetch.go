package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// Head asks where a tag points, or whether a digest is there, without fetching
// the manifest. An empty digest: the registry does not say.
func (c *Client) Head(ctx context.Context, ref artifact.Reference) (artifact.Digest, error) {
	what := string(ref.Digest)
	if what == "" {
		what = ref.Tag
	}
	resp, err := c.do(ctx, http.MethodHead, ref, "/manifests/"+what, http.Header{"Accept": acceptManifests}, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", statusError("manifest "+ref.String(), resp)
	}
	d, err := artifact.ParseDigest(resp.Header.Get("Docker-Content-Digest"))
	if err != nil {
		return "", nil // not all registries say it
	}
	return d, nil
}

// BlobReader streams a blob of size bytes. Read gives io.EOF only when all that
// was read has the digest and the size: anything else is fault.Tampered, or
// fault.Unavailable where the registry stopped short.
func (c *Client) BlobReader(ctx context.Context, ref artifact.Reference, d artifact.Digest, size int64) (io.ReadCloser, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	resp, err := c.request(ctx, 0, http.MethodGet, ref, "/blobs/"+string(d), nil, nil)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		err := statusError("blob "+string(d), resp)
		_ = resp.Body.Close()
		cancel(nil)
		return nil, err
	}
	w := watch(resp.Body, cancel)
	return &checkedBlob{ctx: ctx, cancel: cancel, body: resp.Body, watched: w, want: d, left: size, size: size, hash: d.Hash()}, nil
}

type checkedBlob struct {
	ctx     context.Context //nolint:containedctx // of the stream, for its cause
	cancel  context.CancelCauseFunc
	body    io.Closer
	watched *watched
	want    artifact.Digest
	left    int64
	size    int64
	hash    interface {
		io.Writer
		Sum([]byte) []byte
	}
}

func (b *checkedBlob) Read(p []byte) (int, error) {
	n, err := b.watched.Read(p)
	if int64(n) > b.left {
		return 0, fault.Newf(fault.Tampered, "blob %s: expected %d bytes, the registry served more", b.want, b.size)
	}
	b.left -= int64(n)
	_, _ = b.hash.Write(p[:n]) // never errs
	switch {
	case err == nil:
		return n, nil
	case !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
		return n, fault.Newf(fault.Unavailable, "blob %s ended after %d of %d bytes: %w", b.want, b.size-b.left, b.size, err)
	case b.left > 0:
		return n, fault.Newf(fault.Tampered, "blob %s: expected %d bytes, the registry served %d", b.want, b.size, b.size-b.left)
	}
	if got := artifact.NewDigest(b.want.Algorithm(), b.hash.Sum(nil)); got != b.want {
		return n, fault.Newf(fault.Tampered, "blob: expected content with digest %s, the registry served %s", b.want, got)
	}
	return n, io.EOF
}

func (b *checkedBlob) Close() error {
	b.watched.stop()
	err := b.body.Close()
	b.cancel(nil)
	return err
}

// Referrers lists all that a registry says refers to ref.Digest, of every type:
// by the referrers API, or by its fallback tag where there is none. more says
// that there is more than is listed.
func (c *Client) Referrers(ctx context.Context, ref artifact.Reference) (list []Descriptor, more bool, err error) {
	list, more, err = c.listReferrers(ctx, ref)
	if err != nil {
		return nil, false, err
	}
	seen := map[artifact.Digest]bool{}
	list = slices.DeleteFunc(list, func(d Descriptor) bool {
		double := seen[d.Digest] || d.Digest.Validate() != nil
		seen[d.Digest] = true
		return double
	})
	return list, more, nil
}

// Parts are what a manifest is made of.
type Parts struct {
	Config    Descriptor // zero: an index
	Layers    []Descriptor
	Manifests []Descriptor
	Subject   artifact.Digest
}

// Blobs are config and layers, each once.
func (p *Parts) Blobs() (out []Descriptor) {
	seen := map[artifact.Digest]bool{}
	for _, d := range append([]Descriptor{p.Config}, p.Layers...) {
		if d.Digest != "" && !seen[d.Digest] {
			seen[d.Digest] = true
			out = append(out, d)
		}
	}
	return out
}

// Parts reads what a manifest names, each with a digest and a size that can be.
func (m *Manifest) Parts() (*Parts, error) {
	var doc manifest
	if err := strictjson.Unmarshal(m.Bytes, &doc); err != nil {
		return nil, fault.Newf(fault.Invalid, "manifest %s: %w", m.Digest, err)
	}
	p := &Parts{Config: doc.Config, Layers: doc.Layers, Manifests: doc.Manifests}
	if doc.Subject != nil {
		p.Subject = doc.Subject.Digest
	}
	for _, d := range append(p.Blobs(), p.Manifests...) {
		if err := d.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("manifest %s: %w", m.Digest, err)
		}
		if d.Size < 0 {
			return nil, fault.Newf(fault.Invalid, "manifest %s: descriptor of %s has the size %d", m.Digest, d.Digest, d.Size)
		}
	}
	if len(p.Layers)+len(p.Manifests) > maxObjects {
		return nil, fault.Newf(fault.TooLarge, "manifest %s: names more than %d manifests and blobs", m.Digest, maxObjects)
	}
	return p, nil
}
