package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	benchRepository = "bench/app"
	manifestType    = "application/vnd.oci.image.manifest.v1+json"
	emptyType       = "application/vnd.oci.empty.v1+json"
	mb              = 1 << 20
	chunk           = mb / 4
)

// image is a manifest with one layer. Bodies and digests are made before the
// clock runs, so that no registry is charged for the client's hashing.
type image struct {
	tag      string
	layer    []byte // its first bytes, which make it distinct
	rest     []byte // the others, shared by all images of a size
	digest   string // of the layer
	manifest []byte
}

func (m image) size() int { return len(m.layer) + len(m.rest) }

// body reads the bytes from..to of the layer.
func (m image) body(from, to int) io.Reader {
	if from >= len(m.layer) {
		return bytes.NewReader(m.rest[from-len(m.layer) : to-len(m.layer)])
	}
	return io.MultiReader(bytes.NewReader(m.layer[from:]), bytes.NewReader(m.rest[:to-len(m.layer)]))
}

// images makes n images whose layers are random and distinct.
func images(n, size int, prefix string) ([]image, error) {
	rest := make([]byte, size-64)
	_, _ = rand.Read(rest)
	out := make([]image, n)
	return out, inParallel(runtime.NumCPU(), n, func(i int) error {
		m := image{tag: prefix + "-" + strconv.Itoa(i), layer: make([]byte, 64), rest: rest}
		_, _ = rand.Read(m.layer)
		h := sha256.New()
		h.Write(m.layer)
		h.Write(m.rest)
		m.digest = "sha256:" + hex.EncodeToString(h.Sum(nil))
		m.manifest = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":2},"layers":[{"mediaType":"application/octet-stream","digest":%q,"size":%d}]}`,
			manifestType, emptyType, emptyDigest, m.digest, size)
		out[i] = m
		return nil
	})
}

// emptyDigest is of "{}", the config of every image.
const emptyDigest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"

// ociClient is one connection to a registry. It is for one goroutine.
type ociClient struct {
	repository string
	base       *url.URL
	bearer     string
	http       *http.Client
	buf        []byte
}

func newOCIClient(base, bearer string) (*ociClient, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	return &ociClient{repository: benchRepository, base: u, bearer: bearer, buf: make([]byte, 256<<10), http: &http.Client{
		Timeout: time.Minute,
		Transport: &http.Transport{
			MaxConnsPerHost: 1, MaxIdleConnsPerHost: 1, DisableCompression: true,
			ReadBufferSize: 64 << 10, WriteBufferSize: 64 << 10,
		},
	}}, nil
}

func (c *ociClient) close() { c.http.CloseIdleConnections() }

type call struct {
	method, path string // path or whole URL
	body         io.Reader
	size         int
	contentType  string
	contentRange string
	want         int
	hash         bool // have the answer's bytes hashed
}

// answer is what came back: the bytes are counted, and hashed when asked.
type answer struct {
	location string
	bytes    int64
	digest   string
}

// agents counts requests.
var agents atomic.Int64

func (c *ociClient) do(ctx context.Context, k call) (a answer, err error) {
	u, err := c.base.Parse(k.path)
	if err != nil {
		return a, err
	}
	req, err := http.NewRequestWithContext(ctx, k.method, u.String(), k.body)
	if err != nil {
		return a, err
	}
	req.ContentLength = int64(k.size)
	if k.size == 0 && k.method != http.MethodGet {
		req.Body = http.NoBody
	}
	for name, v := range map[string]string{"Content-Type": k.contentType, "Content-Range": k.contentRange} {
		if v != "" {
			req.Header.Set(name, v)
		}
	}
	if k.method == http.MethodGet {
		req.Header.Set("Accept", manifestType)
	}
	// Each request is of another client: Assay takes a pull that is repeated at
	// once for the same pull, and records it once.
	req.Header.Set("User-Agent", fmt.Sprint("assay-bench/", agents.Add(1)))
	if c.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+c.bearer)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return a, err
	}
	defer res.Body.Close()
	if res.StatusCode != k.want {
		said, _ := io.ReadAll(io.LimitReader(res.Body, 300))
		return a, fmt.Errorf("%s %s answers %d, want %d: %s", k.method, u.Path, res.StatusCode, k.want, said)
	}
	var w io.Writer
	h := sha256.New()
	if k.hash {
		w = h
	}
	for {
		n, err := res.Body.Read(c.buf)
		a.bytes += int64(n)
		if w != nil {
			_, _ = w.Write(c.buf[:n])
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return a, err
		}
	}
	if k.hash {
		a.digest = "sha256:" + hex.EncodeToString(h.Sum(nil))
	}
	if l := res.Header.Get("Location"); l != "" {
		// Relative to the request's URL (RFC 9110 section 10.2.2).
		full, err := u.Parse(l)
		if err != nil {
			return a, err
		}
		a.location = full.String()
	}
	return a, nil
}

// path is that of the client's repository.
func (c *ociClient) path(rest string) string { return "/v2/" + c.repository + rest }

func withDigest(location, digest string) string {
	sep := "?"
	if strings.Contains(location, "?") {
		sep = "&"
	}
	return location + sep + "digest=" + digest
}

// push uploads the layer in one PUT and the manifest by tag.
func (c *ociClient) push(ctx context.Context, m image) error {
	a, err := c.do(ctx, call{method: http.MethodPost, path: c.path("/blobs/uploads/"), want: http.StatusAccepted})
	if err != nil {
		return err
	}
	if _, err := c.do(ctx, call{method: http.MethodPut, path: withDigest(a.location, m.digest), body: m.body(0, m.size()), size: m.size(),
		contentType: "application/octet-stream", want: http.StatusCreated}); err != nil {
		return err
	}
	return c.putManifest(ctx, m)
}

// pushChunked uploads the layer in chunks (OCI Distribution 1.1, "Pushing a
// blob in chunks") and the manifest by tag.
func (c *ociClient) pushChunked(ctx context.Context, m image) error {
	a, err := c.do(ctx, call{method: http.MethodPost, path: c.path("/blobs/uploads/"), want: http.StatusAccepted})
	if err != nil {
		return err
	}
	for from := 0; from < m.size(); from += chunk {
		to := min(from+chunk, m.size())
		if a, err = c.do(ctx, call{method: http.MethodPatch, path: a.location, body: m.body(from, to), size: to - from,
			contentType: "application/octet-stream", contentRange: fmt.Sprintf("%d-%d", from, to-1), want: http.StatusAccepted}); err != nil {
			return err
		}
	}
	if _, err := c.do(ctx, call{method: http.MethodPut, path: withDigest(a.location, m.digest), want: http.StatusCreated}); err != nil {
		return err
	}
	return c.putManifest(ctx, m)
}

func (c *ociClient) putManifest(ctx context.Context, m image) error {
	_, err := c.do(ctx, call{method: http.MethodPut, path: c.path("/manifests/" + m.tag), body: bytes.NewReader(m.manifest),
		size: len(m.manifest), contentType: manifestType, want: http.StatusCreated})
	return err
}

// putConfig uploads the config that all images share.
func (c *ociClient) putConfig(ctx context.Context) error {
	a, err := c.do(ctx, call{method: http.MethodPost, path: c.path("/blobs/uploads/"), want: http.StatusAccepted})
	if err != nil {
		return err
	}
	_, err = c.do(ctx, call{method: http.MethodPut, path: withDigest(a.location, emptyDigest), body: strings.NewReader("{}"), size: 2,
		contentType: "application/octet-stream", want: http.StatusCreated})
	return err
}

// pull gets the manifest by tag and the layer. check compares digests too.
func (c *ociClient) pull(ctx context.Context, m image, check bool) error {
	a, err := c.do(ctx, call{method: http.MethodGet, path: c.path("/manifests/" + m.tag), want: http.StatusOK})
	if err != nil {
		return err
	}
	if a.bytes != int64(len(m.manifest)) {
		return fmt.Errorf("manifest %s has %d bytes, want %d", m.tag, a.bytes, len(m.manifest))
	}
	a, err = c.do(ctx, call{method: http.MethodGet, path: c.path("/blobs/" + m.digest), want: http.StatusOK, hash: check})
	if err != nil {
		return err
	}
	if a.bytes != int64(m.size()) || check && a.digest != m.digest {
		return fmt.Errorf("layer %s came as %d bytes %s, want %d", m.digest, a.bytes, a.digest, m.size())
	}
	return nil
}
