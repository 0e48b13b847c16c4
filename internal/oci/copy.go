package oci

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"assay/artifact"
	"assay/internal/fault"
)

// Step is one thing that a copy did.
type Step struct {
	Kind   string // blob or manifest
	Digest artifact.Digest
	Size   int64
	There  bool // it was there already
}

// Copier copies images between registries, digests unchanged.
type Copier struct {
	From, To *Client
	// Alone leaves out what refers to the image.
	Alone bool
	// Progress is told of each step, from several goroutines; nil: nobody is.
	Progress func(Step)
}

// Copied says what a copy moved and what was there already.
type Copied struct {
	Digest    artifact.Digest `json:"digest"`
	Manifests int             `json:"manifests"` // written
	Blobs     int             `json:"blobs"`     // written
	Bytes     int64           `json:"bytes"`     // written
	Skipped   int             `json:"skipped"`   // manifests and blobs that were there
	Referrers int             `json:"referrers"` // found about the image and what it is made of
}

// maxCopyDepth bounds evidence about evidence.
const maxCopyDepth = 8

// Copy copies what src names to dst: blobs, then manifests, those of an index
// first, then all that refers to them with the tags sha256-….sig, .att and .sbom,
// and dst's tag last. Until then nobody who pulls by that tag sees anything of
// it. What is there is not copied again, so a copy that broke off goes on where
// it was. With a digest and no tag in dst, the copy ends before the tag.
func (c *Copier) Copy(ctx context.Context, src, dst artifact.Reference) (*Copied, error) {
	m, err := c.From.Manifest(ctx, src)
	if err != nil {
		return nil, err
	}
	if dst.Digest != "" && dst.Digest != m.Digest {
		return nil, fault.Newf(fault.Invalid, "%s is %s, and was to be copied as %s", src, m.Digest, dst.Digest)
	}
	k := &copying{Copier: c, src: bare(src), dst: bare(dst), seen: map[artifact.Digest]bool{}, result: Copied{Digest: m.Digest}}
	if err := k.tree(ctx, m, 0); err != nil {
		return nil, err
	}
	if dst.Tag != "" {
		if err := c.To.putManifest(ctx, dst, dst.Tag, m); err != nil {
			return nil, err
		}
	}
	return &k.result, nil
}

func bare(r artifact.Reference) artifact.Reference {
	return artifact.Reference{Host: r.Host, Repository: r.Repository}
}

type copying struct {
	*Copier
	src, dst artifact.Reference
	seen     map[artifact.Digest]bool // manifests; touched by the walk alone

	mu     sync.Mutex
	result Copied
}

func (k *copying) step(s Step) {
	k.mu.Lock()
	switch {
	case s.There:
		k.result.Skipped++
	case s.Kind == "blob":
		k.result.Blobs++
		k.result.Bytes += s.Size
	default:
		k.result.Manifests++
		k.result.Bytes += s.Size
	}
	k.mu.Unlock()
	if k.Progress != nil {
		k.Progress(s)
	}
}

// tree copies a manifest with all that it is made of, and what refers to each.
func (k *copying) tree(ctx context.Context, m *Manifest, depth int) error {
	if k.seen[m.Digest] {
		return nil
	}
	if len(k.seen) == maxObjects {
		return fault.Newf(fault.TooLarge, "%s: more than %d manifests", k.src, maxObjects)
	}
	if depth > maxCopyDepth {
		return fault.Newf(fault.TooLarge, "%s: indexes and evidence more than %d deep", k.src, maxCopyDepth)
	}
	k.seen[m.Digest] = true
	parts, err := m.Parts()
	if err != nil {
		return err
	}
	if err := k.blobs(ctx, parts); err != nil {
		return err
	}
	for _, d := range parts.Manifests {
		child, err := k.From.Manifest(ctx, k.src.WithDigest(d.Digest))
		if errors.Is(err, fault.NotFound) {
			return fault.Newf(fault.NotFound, "index %s names manifest %s, which the source has not: %w", m.Digest, d.Digest, err)
		}
		if err != nil {
			return err
		}
		if err := k.tree(ctx, child, depth+1); err != nil {
			return err
		}
	}
	if err := k.manifest(ctx, m); err != nil || k.Alone {
		return err
	}
	return k.about(ctx, m.Digest, depth)
}

func (k *copying) blobs(ctx context.Context, parts *Parts) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, d := range parts.Blobs() {
		g.Go(func() error { return k.blob(ctx, d) })
	}
	return g.Wait()
}

func (k *copying) blob(ctx context.Context, d Descriptor) error {
	head, err := k.To.do(ctx, http.MethodHead, k.dst, "/blobs/"+string(d.Digest), nil, nil)
	if err != nil {
		return err
	}
	_ = head.Body.Close()
	if head.StatusCode == http.StatusOK {
		k.step(Step{"blob", d.Digest, d.Size, true})
		return nil
	}
	mount := ""
	if k.src.Host == k.dst.Host {
		mount = k.src.Repository
	}
	// A token that ends while a body is under way cannot be renewed under it.
	for try := 0; ; try++ {
		var body io.ReadCloser
		body, err = k.From.BlobReader(ctx, k.src, d.Digest, d.Size)
		if errors.Is(err, fault.NotFound) && (strings.Contains(d.MediaType, ".nondistributable.") || strings.Contains(d.MediaType, ".foreign.")) {
			return nil // lies elsewhere, by its own declaration
		}
		if err == nil {
			err = k.To.putBlob(ctx, k.dst, d, mount, body)
			_ = body.Close()
		}
		if err == nil {
			k.step(Step{"blob", d.Digest, d.Size, false})
			return nil
		}
		if kind := fault.KindOf(err); try == 2 || ctx.Err() != nil || kind != fault.Unavailable && kind != fault.Unauthenticated {
			return err
		}
	}
}

// manifest writes a manifest by digest, unless it is there.
func (k *copying) manifest(ctx context.Context, m *Manifest) error {
	have, err := k.To.Head(ctx, k.dst.WithDigest(m.Digest))
	if err == nil && (have == m.Digest || have == "") {
		k.step(Step{"manifest", m.Digest, int64(len(m.Bytes)), true})
		return nil
	}
	// Some registries answer a HEAD of what is not there, or not yet to be seen,
	// with a refusal; the PUT says what is so.
	if err := k.To.putManifest(ctx, k.dst, string(m.Digest), m); err != nil {
		return err
	}
	k.step(Step{"manifest", m.Digest, int64(len(m.Bytes)), false})
	return nil
}

// about copies what refers to a manifest.
func (k *copying) about(ctx context.Context, d artifact.Digest, depth int) error {
	list, more, err := k.From.Referrers(ctx, k.src.WithDigest(d))
	if err != nil {
		return err
	}
	if more {
		return fault.Newf(fault.TooLarge, "%s@%s: more referrers than are read; nothing is left out silently, so the copy ends here", k.src, d)
	}
	for _, r := range list {
		m, err := k.From.Manifest(ctx, k.src.WithDigest(r.Digest))
		if errors.Is(err, fault.NotFound) {
			continue // a list that names what is gone
		}
		if err != nil {
			return err
		}
		k.result.Referrers++
		if err := k.tree(ctx, m, depth+1); err != nil {
			return err
		}
		if err := k.listed(ctx, d, m, r); err != nil {
			return err
		}
	}
	if d.Algorithm() != artifact.SHA256 {
		return nil
	}
	for _, suffix := range []string{".sig", ".att", ".sbom"} {
		if err := k.carrier(ctx, FallbackTag(d)+suffix, depth); err != nil {
			return err
		}
	}
	return nil
}

// listed makes sure that the destination lists a referrer: by itself, or by the
// fallback tag.
func (k *copying) listed(ctx context.Context, subject artifact.Digest, m *Manifest, r Descriptor) error {
	have, _, err := k.To.Referrers(ctx, k.dst.WithDigest(subject))
	if err != nil {
		return err
	}
	for _, h := range have {
		if h.Digest == m.Digest {
			return nil
		}
	}
	resp, err := k.To.do(ctx, http.MethodGet, k.dst, "/referrers/"+string(subject), nil, nil)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil // it has the API; what it does not show yet is its own affair
	}
	r.MediaType, r.Digest, r.Size = m.MediaType, m.Digest, int64(len(m.Bytes))
	return k.To.addToFallback(ctx, k.dst, subject, r)
}

func (k *copying) carrier(ctx context.Context, tag string, depth int) error {
	src, dst := k.src, k.dst
	src.Tag, dst.Tag = tag, tag
	m, err := k.From.Manifest(ctx, src)
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	k.result.Referrers++
	if err := k.tree(ctx, m, depth+1); err != nil {
		return err
	}
	if have, err := k.To.Head(ctx, dst); err == nil && have == m.Digest {
		return nil
	}
	return k.To.putManifest(ctx, dst, tag, m)
}

// putManifest writes a manifest under a tag or its digest, byte for byte.
func (c *Client) putManifest(ctx context.Context, ref artifact.Reference, as string, m *Manifest) error {
	resp, err := c.do(ctx, http.MethodPut, ref, "/manifests/"+as, http.Header{"Content-Type": {m.MediaType}}, m.Bytes)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		return statusError("push "+ref.Repository+" "+as, resp)
	}
	if d, err := artifact.ParseDigest(resp.Header.Get("Docker-Content-Digest")); err == nil && d != m.Digest && d.Algorithm() == m.Digest.Algorithm() {
		return fault.Newf(fault.Tampered, "push %s %s: the registry stored %s instead of %s", ref.Repository, as, d, m.Digest)
	}
	return nil
}

// putBlob streams a blob up, or has it mounted from another repository of the
// registry.
func (c *Client) putBlob(ctx context.Context, ref artifact.Reference, d Descriptor, mount string, body io.Reader) error {
	path := "/blobs/uploads/"
	if mount != "" {
		path += "?" + url.Values{"mount": {string(d.Digest)}, "from": {mount}}.Encode()
	}
	start, err := c.do(ctx, http.MethodPost, ref, path, nil, nil)
	if err != nil {
		return err
	}
	defer start.Body.Close()
	if mount != "" && start.StatusCode == http.StatusCreated {
		return nil
	}
	if start.StatusCode != http.StatusAccepted {
		return statusError("push blob "+string(d.Digest), start)
	}
	loc, err := start.Request.URL.Parse(start.Header.Get("Location"))
	if err != nil {
		return fault.Newf(fault.Unavailable, "push blob %s: the registry gives no usable Location: %w", d.Digest, err)
	}
	q := loc.Query()
	q.Set("digest", string(d.Digest))
	loc.RawQuery = q.Encode()
	rt, _, err := c.transport(ctx, ref, push)
	if err != nil {
		return err
	}
	// The body's own error says more than the transport's.
	read := &errorReader{r: body}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, loc.String(), io.NopCloser(read))
	if err != nil {
		return fault.Wrap(fault.Invalid, err)
	}
	if req.ContentLength = d.Size; d.Size == 0 {
		req.Body = http.NoBody
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := (&http.Client{Transport: rt, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	if failed := read.failed(); failed != nil {
		if err == nil {
			_ = resp.Body.Close()
		}
		return failed
	}
	if err != nil {
		return registryError("push blob "+string(d.Digest), err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		return statusError("push blob "+string(d.Digest), resp)
	}
	return nil
}

type errorReader struct {
	r   io.Reader
	mu  sync.Mutex
	err error
}

func (e *errorReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		e.mu.Lock()
		e.err = err
		e.mu.Unlock()
	}
	return n, err
}

func (e *errorReader) failed() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}
