package oci

import (
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"assay/artifact"
	"assay/internal/fault"
)

// Against go-containerregistry's registry, which has no referrers API by
// default: push, resolve, attach through the fallback tag, read back, verify.
func TestRoundTrip(t *testing.T) {
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	c := anonymous()
	ref := artifact.Reference{Host: strings.TrimPrefix(srv.URL, "http://"), Repository: repository, Tag: "v1"}
	img, err := random.Image(3000, 4)
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.PushImage(t.Context(), ref, img)
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Manifest(t.Context(), ref)
	if err != nil || m.Digest != d || artifact.SHA256Of(m.Bytes) != d {
		t.Fatalf("resolved %+v (%v), want %s", m, err, d)
	}
	if err := c.VerifyContent(t.Context(), ref); err != nil {
		t.Errorf("content: %v", err)
	}
	if got, more, err := c.Evidence(t.Context(), ref.WithDigest(d)); err != nil || more || len(got) != 0 {
		t.Errorf("%d items, %v, %v, want none yet", len(got), more, err)
	}
	for i, doc := range []string{`{"n":1}`, `{"n":2}`, `{"n":2}`} {
		if _, err := c.PushReferrer(t.Context(), ref.WithDigest(d), typeBundle, []byte(doc), map[string]string{createdAnno: fmt.Sprintf("2026-01-0%dT00:00:00Z", min(i, 1)+1)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.PushReferrer(t.Context(), ref.WithDigest(d), "text/plain", []byte("a readme"), nil); err != nil {
		t.Fatal(err)
	}
	got, more, err := c.Evidence(t.Context(), ref.WithDigest(d))
	if diff := cmp.Diff([]string{`{"n":2}`, `{"n":1}`}, texts(got)); diff != "" || more || err != nil {
		t.Errorf("%v, %v (-want +got):\n%s", more, err, diff)
	}
	if !strings.HasPrefix(got[0].Source, ref.Host+"/"+repository+"@sha256:") {
		t.Errorf("source %q", got[0].Source)
	}
}

// The fallback index of others keeps what this program knows nothing of.
func TestPushReferrerKeepsForeignEntries(t *testing.T) {
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	c := anonymous()
	ref := artifact.Reference{Host: strings.TrimPrefix(srv.URL, "http://"), Repository: repository, Tag: "v1"}
	img, err := random.Image(10, 1)
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.PushImage(t.Context(), ref, img)
	if err != nil {
		t.Fatal(err)
	}
	index := `{"schemaVersion":2,"mediaType":"` + typeIndex + `","annotations":{"of":"others"},"manifests":[{"mediaType":"` + typeManifest + `","digest":"` + string(d) + `","size":1,"platform":{"os":"linux","architecture":"arm64"},"data":"e30="}]}`
	tag := ref
	tag.Tag = FallbackTag(d)
	resp, err := c.do(t.Context(), http.MethodPut, tag, "/manifests/"+tag.Tag, http.Header{"Content-Type": {typeIndex}}, []byte(index))
	if err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatal(resp, err)
	}
	if _, err := c.PushReferrer(t.Context(), ref.WithDigest(d), typeBundle, []byte(`{}`), nil); err != nil {
		t.Fatal(err)
	}
	m, err := c.Manifest(t.Context(), tag)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Annotations map[string]string
		Manifests   []map[string]any
	}
	if err := json.Unmarshal(m.Bytes, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Annotations["of"] != "others" || len(doc.Manifests) != 2 || doc.Manifests[0]["platform"] == nil || doc.Manifests[0]["data"] != "e30=" {
		t.Errorf("index %s, want the foreign entry and annotation as they were and one more", m.Bytes)
	}
}

func TestFallbackTag(t *testing.T) {
	long := artifact.NewDigest(artifact.SHA512, make([]byte, sha512.Size))
	for d, want := range map[artifact.Digest]string{
		artifact.SHA256Of(nil): "sha256-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		long:                   "sha512-" + strings.Repeat("0", 64),
	} {
		if got := FallbackTag(d); got != want || !artifact.ValidTag(got) {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}

// Tag and digest, redirects and all: what is asked for is what comes, or an
// error.
func TestManifestDigestMismatch(t *testing.T) {
	f := newFake(t)
	img := f.image(t, "v1")
	other := f.image(t, "v2", f.blob([]byte("other")))
	f.manifests[string(img.Digest)] = f.manifests["v2"]
	c := anonymous()
	_, err := c.Manifest(t.Context(), f.ref().WithDigest(img.Digest))
	wantKind(t, err, fault.Tampered, string(img.Digest), string(other.Digest))
	b := f.blob([]byte("what was signed"))
	f.blobs[b.Digest] = []byte("what is served")
	_, err = c.Blob(t.Context(), f.ref(), b.Digest)
	wantKind(t, err, fault.Tampered, string(b.Digest), string(artifact.SHA256Of([]byte("what is served"))))
}

// A registry that serves two manifests under one tag: it is resolved once, and
// what it says of the digest must be true.
func TestThreat_Registry_TwoManifestsUnderOneTag(t *testing.T) {
	f := newFake(t)
	good, evil := f.image(t, "good"), f.image(t, "evil", f.blob([]byte("evil")))
	turn := 0
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/manifests/v1") {
			return false
		}
		m := f.manifests[[]string{"good", "evil"}[turn%2]]
		turn++
		w.Header().Set("Content-Type", m.mediaType)
		_, _ = w.Write(m.body)
		return true
	}
	c := anonymous()
	m, err := c.Manifest(t.Context(), f.tag("v1"))
	if err != nil || m.Digest != good.Digest {
		t.Fatalf("%+v, %v, want %s", m, err, good.Digest)
	}
	// Everything that follows goes by that digest and never asks the tag again.
	if err := c.VerifyContent(t.Context(), f.ref().WithDigest(m.Digest)); err != nil {
		t.Error(err)
	}
	if _, _, err := c.Evidence(t.Context(), f.ref().WithDigest(m.Digest)); err != nil {
		t.Error(err)
	}
	asked := 0
	for _, r := range f.requests {
		if strings.HasSuffix(r, "/manifests/v1") {
			asked++
		}
	}
	if asked != 1 {
		t.Errorf("the tag was asked %d times, want once", asked)
	}
	// One that announces the good digest and serves the evil manifest.
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/manifests/v1") {
			return false
		}
		w.Header().Set("Docker-Content-Digest", string(good.Digest))
		w.Header().Set("Content-Type", typeManifest)
		_, _ = w.Write(f.manifests[string(evil.Digest)].body)
		return true
	}
	_, err = c.Manifest(t.Context(), f.tag("v1"))
	wantKind(t, err, fault.Tampered, string(good.Digest), string(evil.Digest))
}

// A manifest that is an image to one reader and an index to another.
func TestThreat_Registry_LayersAndManifests(t *testing.T) {
	f := newFake(t)
	c := anonymous()
	l := []Descriptor{f.blob([]byte("x"))}
	for name, bad := range map[string]served{
		"both":                {typeManifest, fmt.Appendf(nil, `{"mediaType":%q,"layers":[{}],"manifests":[{}]}`, typeManifest)},
		"served as an index":  {typeIndex, fmt.Appendf(nil, `{"mediaType":%q,"layers":[{}]}`, typeManifest)},
		"served as an image":  {typeManifest, fmt.Appendf(nil, `{"mediaType":%q,"manifests":[{}]}`, typeIndex)},
		"twice":               {typeManifest, []byte(`{"layers":[],"layers":[{}]}`)},
		"in two spellings":    {typeManifest, []byte(`{"layers":[],"Layers":[{}]}`)},
		"no JSON":             {typeManifest, []byte(`hello`)},
		"trailing":            {typeManifest, []byte(`{} {}`)},
		"something else":      {typeManifest, []byte(`[]`)},
		"type is not a text":  {typeManifest, []byte(`{"mediaType":7}`)},
		"layers are not many": {typeManifest, []byte(`{"layers":"x"}`)},
	} {
		f.manifests["bad"] = bad
		_, err := c.Manifest(t.Context(), f.tag("bad"))
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
	f.put(t, typeManifest, map[string]any{"layers": l, "config": l[0]}, "good")
	m := f.manifests["good"]
	f.manifests["good"] = served{m.mediaType + "; charset=utf-8", m.body}
	if got, err := c.Manifest(t.Context(), f.tag("good")); err != nil || got.MediaType != typeManifest {
		t.Errorf("%+v, %v, want a manifest", got, err)
	}
}

// Endless bodies are cut at the cap, whatever is asked for.
func TestThreat_Registry_EndlessBody(t *testing.T) {
	f := newFake(t)
	subject := f.image(t, "v1")
	f.referrers = map[artifact.Digest][]Descriptor{}
	sent := 0
	endless := ""
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, endless) {
			return false
		}
		w.Header().Set("Content-Type", typeManifest)
		junk := []byte(strings.Repeat(" ", 64<<10))
		for sent = 0; sent < 200<<20; sent += len(junk) {
			if _, err := w.Write(junk); err != nil {
				return true // the client has hung up
			}
		}
		return true
	}
	c := anonymous(func(o *Options) { o.MaxBlob, o.MaxManifest = 2<<20, 1<<20 })
	for what, call := range map[string]func() error{
		"/manifests/v1": func() error { _, err := c.Manifest(t.Context(), f.tag("v1")); return err },
		"/blobs/":       func() error { _, err := c.Blob(t.Context(), f.ref(), subject.Digest); return err },
		"/referrers/":   func() error { _, _, err := c.Evidence(t.Context(), f.ref().WithDigest(subject.Digest)); return err },
	} {
		endless = what
		wantKind(t, call(), fault.TooLarge)
		f.CloseClientConnections()
		if sent > 64<<20 {
			t.Errorf("%s: %d bytes were taken in, the cap is 2 MiB", what, sent)
		}
	}
	// A refusal without end is no way in either.
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		for range 1000 {
			if _, err := w.Write([]byte(strings.Repeat("\x1b[2J", 16<<10))); err != nil {
				return true
			}
		}
		return true
	}
	_, err := c.Manifest(t.Context(), f.tag("v1"))
	wantKind(t, err, fault.Denied)
	if len(err.Error()) > 4000 || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("error of %d bytes quotes the registry as it is", len(err.Error()))
	}
}

func TestManifestStatus(t *testing.T) {
	f := newFake(t)
	status := 0
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v2/" {
			return false
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"errors":[{"code":"SOME_CODE","message":"some words"}]}`)
		return true
	}
	c := anonymous()
	for s, kind := range map[int]*fault.Kind{
		401: fault.Unauthenticated, 403: fault.Denied, 404: fault.NotFound, 413: fault.TooLarge, 429: fault.TooMany, 400: fault.Invalid, 500: fault.Unavailable, 503: fault.Unavailable,
	} {
		status = s
		_, err := c.Manifest(t.Context(), f.tag("v1"))
		wantKind(t, err, kind, "SOME_CODE")
	}
	f.Close()
	_, err := anonymous().Manifest(t.Context(), f.tag("v1"))
	wantKind(t, err, fault.Unavailable)
}
