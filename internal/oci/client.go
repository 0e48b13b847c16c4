// Package oci reads and writes OCI registries of any make: resolve a tag once,
// fetch a manifest by that digest, read its referrers and legacy signature
// tags, push an image or a referrer.
//
// Three rules hold throughout. What was asked for by digest is checked against
// that digest. Every answer has a cap. Credentials go to the host that they
// belong to, and nowhere a challenge or a redirect points (CVE-2026-33540,
// CVE-2025-27403).
package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/telemetry"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Options configure a [Client]. The zero value uses the docker credential
// helpers and HTTPS, with plain HTTP for loopback only.
type Options struct {
	Keychain  authn.Keychain    // nil: the user's docker configuration
	Transport http.RoundTripper // nil: http.DefaultTransport, which honours HTTP(S)_PROXY and NO_PROXY
	UserAgent string
	Insecure  []string // hosts that speak plain HTTP, besides loopback

	MaxManifest int64 // bytes; 0: 4 MiB
	MaxBlob     int64 // bytes of a blob held in memory; 0: 16 MiB
	MaxReferrer int   // referrers read, newest first; 0: 64
}

// Client talks to registries. It is safe for concurrent use and keeps one
// authenticated transport for each repository and access.
type Client struct {
	opts Options

	mu         sync.Mutex
	transports map[string]http.RoundTripper
}

// New makes a client.
func New(o Options) *Client {
	if o.Keychain == nil {
		o.Keychain = authn.DefaultKeychain
	}
	if o.Transport == nil {
		o.Transport = telemetry.Transport(http.DefaultTransport)
	}
	if o.UserAgent == "" {
		o.UserAgent = "assay"
	}
	if o.MaxManifest == 0 {
		o.MaxManifest = 4 << 20
	}
	if o.MaxBlob == 0 {
		o.MaxBlob = 16 << 20
	}
	if o.MaxReferrer == 0 {
		o.MaxReferrer = 64
	}
	return &Client{opts: o, transports: map[string]http.RoundTripper{}}
}

// Manifest is a manifest as a registry served it, checked against Digest.
type Manifest struct {
	Digest    artifact.Digest
	MediaType string
	Bytes     []byte
}

// acceptManifests are the media types that Assay judges.
var acceptManifests = []string{
	"application/vnd.oci.image.manifest.v1+json",
	"application/vnd.oci.image.index.v1+json",
	"application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
}

func (c *Client) registry(host string) (name.Registry, error) {
	opts := []name.Option{name.StrictValidation}
	ref := artifact.Reference{Host: host}
	insecure := ref.Loopback()
	for _, h := range c.opts.Insecure {
		insecure = insecure || h == host
	}
	if insecure {
		opts = append(opts, name.Insecure)
	}
	r, err := name.NewRegistry(host, opts...)
	if err != nil {
		return r, fault.Wrap(fault.Invalid, err)
	}
	return r, nil
}

// Registry actions of the token flow.
const (
	pull = "pull"
	push = "pull,push"
)

func (c *Client) transport(ctx context.Context, ref artifact.Reference, access string) (http.RoundTripper, string, error) {
	reg, err := c.registry(ref.Host)
	if err != nil {
		return nil, "", err
	}
	key := ref.Host + " " + ref.Repository + " " + access
	c.mu.Lock()
	rt := c.transports[key]
	c.mu.Unlock()
	if rt == nil {
		auth, err := authn.Resolve(ctx, c.opts.Keychain, reg)
		if err != nil {
			return nil, "", fmt.Errorf("credentials for %s: %w", ref.Host, err)
		}
		scope := "repository:" + ref.Repository + ":" + access
		if ref.Repository == "" {
			scope = "registry:catalog:*"
		}
		inner := transport.NewUserAgent(&hostBound{host: ref.Host, next: c.opts.Transport}, c.opts.UserAgent)
		rt, err = transport.NewWithContext(ctx, reg, auth, inner, []string{scope})
		if err != nil {
			return nil, "", registryError("reach "+ref.Host, err)
		}
		c.mu.Lock()
		c.transports[key] = rt
		c.mu.Unlock()
	}
	return rt, reg.Scheme() + "://" + ref.Host, nil
}

// requestTimeout bounds a request whose answer is small.
const requestTimeout = 5 * time.Minute

// do performs a request below /v2/<repository>/ and hands the answer on
// whatever its status; redirects are followed without credentials.
func (c *Client) do(ctx context.Context, method string, ref artifact.Reference, path string, header http.Header, body []byte) (*http.Response, error) {
	return c.request(ctx, requestTimeout, method, ref, path, header, body)
}

// request is do with a time limit that includes the body; 0 is none.
func (c *Client) request(ctx context.Context, timeout time.Duration, method string, ref artifact.Reference, path string, header http.Header, body []byte) (*http.Response, error) {
	access := pull
	if method != http.MethodGet && method != http.MethodHead {
		access = push
	}
	rt, base, err := c.transport(ctx, ref, access)
	if err != nil {
		return nil, err
	}
	u := path
	if !strings.HasPrefix(path, "http://") && !strings.HasPrefix(path, "https://") {
		if u = base + "/v2/" + ref.Repository + path; ref.Repository == "" {
			u = base + path
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	client := &http.Client{Transport: rt, Timeout: timeout, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if len(via) > 5 {
			return errors.New("more than five redirects")
		}
		return nil
	}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, registryError(method+" "+ref.String(), err)
	}
	return resp, nil
}

// Manifest fetches the manifest of ref: by its digest when it has one, else by
// tag, which is resolved this once. Whatever digest the caller works with from
// here on is the one that is returned, so that a registry that serves two
// manifests under one tag gains nothing (CVE-2022-47633).
func (c *Client) Manifest(ctx context.Context, ref artifact.Reference) (*Manifest, error) {
	what := string(ref.Digest)
	if what == "" {
		what = ref.Tag
	}
	if what == "" {
		what = "latest"
	}
	resp, err := c.do(ctx, http.MethodGet, ref, "/manifests/"+what, http.Header{"Accept": acceptManifests}, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, statusError("manifest "+ref.String(), resp)
	}
	b, err := readCapped(resp.Body, c.opts.MaxManifest, "manifest "+ref.String())
	if err != nil {
		return nil, err
	}
	want, said := ref.Digest, artifact.Digest("")
	if h, err := artifact.ParseDigest(resp.Header.Get("Docker-Content-Digest")); err == nil {
		said = h
	}
	if want == "" {
		if want = said; want == "" {
			want = artifact.SHA256Of(b)
		}
	}
	if err := check(b, want, "manifest "+ref.String()); err != nil {
		return nil, err
	}
	mediaType, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	m := &Manifest{Digest: want, MediaType: strings.TrimSpace(mediaType), Bytes: b}
	return m, m.unambiguous(ref)
}

// unambiguous refuses a manifest that two readers could take for two things: one
// that says another media type than the registry, or that is both an image and
// an index (GHSA-qq97-vm5h-rrhg).
func (m *Manifest) unambiguous(ref artifact.Reference) error {
	var doc struct {
		MediaType string           `json:"mediaType"`
		Layers    []jsontext.Value `json:"layers"`
		Manifests []jsontext.Value `json:"manifests"`
	}
	if err := strictjson.Unmarshal(m.Bytes, &doc); err != nil {
		return fault.Newf(fault.Invalid, "manifest %s: %w", ref, err)
	}
	if doc.MediaType != "" && m.MediaType != "" && doc.MediaType != m.MediaType {
		return fault.Newf(fault.Invalid, "manifest %s: the registry serves it as %.100q, it says of itself %.100q", ref, m.MediaType, doc.MediaType)
	}
	if m.MediaType == "" {
		m.MediaType = doc.MediaType
	}
	if len(doc.Layers) > 0 && len(doc.Manifests) > 0 {
		return fault.Newf(fault.Invalid, "manifest %s: has both layers and manifests", ref)
	}
	return nil
}

// Blob fetches a small blob into memory, checked against its digest.
func (c *Client) Blob(ctx context.Context, ref artifact.Reference, d artifact.Digest) ([]byte, error) {
	resp, err := c.do(ctx, http.MethodGet, ref, "/blobs/"+string(d), nil, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, statusError("blob "+string(d), resp)
	}
	b, err := readCapped(resp.Body, c.opts.MaxBlob, "blob "+string(d))
	if err != nil {
		return nil, err
	}
	return b, check(b, d, "blob "+string(d))
}

func check(b []byte, want artifact.Digest, what string) error {
	h := want.Hash()
	h.Write(b)
	if got := artifact.NewDigest(want.Algorithm(), h.Sum(nil)); got != want {
		return fault.Newf(fault.Tampered, "%s: expected content with digest %s, the registry served %s", what, want, got)
	}
	return nil
}

func readCapped(r io.Reader, max int64, what string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, max+1))
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "%s: %w", what, err)
	}
	if int64(len(b)) > max {
		return nil, fault.Newf(fault.TooLarge, "%s: larger than %d bytes", what, max)
	}
	return b, nil
}

// statusError turns a registry's refusal into an error of the right kind, with
// the registry's own words, capped.
func statusError(what string, resp *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 8<<10))
	words := strings.TrimSpace(string(b))
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(b, &doc) == nil && len(doc.Errors) > 0 {
		words = doc.Errors[0].Code + ": " + doc.Errors[0].Message
	}
	if len(words) > 500 {
		words = words[:500]
	}
	kind := fault.Unavailable
	switch resp.StatusCode {
	case http.StatusNotFound:
		kind = fault.NotFound
	case http.StatusUnauthorized:
		kind = fault.Unauthenticated
	case http.StatusForbidden:
		kind = fault.Denied
	case http.StatusTooManyRequests:
		kind = fault.TooMany
	case http.StatusRequestEntityTooLarge:
		kind = fault.TooLarge
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType:
		kind = fault.Invalid
	}
	return fault.Newf(kind, "%s: the registry answers %d %s", what, resp.StatusCode, strconv.QuoteToASCII(words))
}

func registryError(what string, err error) error {
	var te *transport.Error
	if errors.As(err, &te) {
		switch te.StatusCode {
		case http.StatusUnauthorized:
			return fault.Newf(fault.Unauthenticated, "%s: %w; log in first (docker login, or assay token)", what, err)
		case http.StatusForbidden:
			return fault.Newf(fault.Denied, "%s: %w", what, err)
		case http.StatusNotFound:
			return fault.Newf(fault.NotFound, "%s: %w", what, err)
		}
	}
	if fault.KindOf(err) != fault.Internal {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fault.Newf(fault.Unavailable, "%s: %w", what, err)
}
