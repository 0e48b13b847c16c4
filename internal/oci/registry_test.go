package oci

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"

	"assay/artifact"
	"assay/internal/fault"
)

const (
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeBundle   = "application/vnd.dev.sigstore.bundle.v0.3+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"
	repository   = "team/app"
)

// fake is a registry of one repository, over HTTP, that serves what it was
// given, right or wrong. A hook answers in its place when it says so.
type fake struct {
	*httptest.Server
	hook func(w http.ResponseWriter, r *http.Request) bool

	mu        sync.Mutex
	manifests map[string]served // by tag and by digest
	blobs     map[artifact.Digest][]byte
	referrers map[artifact.Digest][]Descriptor // nil: the API answers 404
	requests  []string                         // "METHOD path"
	auth      []string                         // Authorization headers that came
}

type served struct {
	mediaType string
	body      []byte
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{manifests: map[string]served{}, blobs: map[artifact.Digest][]byte{}}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r.Method+" "+r.URL.Path)
	if a := r.Header.Get("Authorization"); a != "" {
		f.auth = append(f.auth, a)
	}
	if f.hook != nil && f.hook(w, r) {
		return
	}
	if r.URL.Path == "/v2/" {
		return
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/v2/"+repository+"/")
	kind, name, _ := strings.Cut(rest, "/")
	switch {
	case !ok:
	case kind == "manifests":
		if m, ok := f.manifests[name]; ok {
			w.Header().Set("Content-Type", m.mediaType)
			_, _ = w.Write(m.body)
			return
		}
	case kind == "blobs":
		if b, ok := f.blobs[artifact.Digest(name)]; ok {
			_, _ = w.Write(b)
			return
		}
	case kind == "referrers" && f.referrers != nil:
		w.Header().Set("Content-Type", typeIndex)
		_ = json.NewEncoder(w).Encode(map[string]any{"schemaVersion": 2, "mediaType": typeIndex, "manifests": append([]Descriptor{}, f.referrers[artifact.Digest(name)]...)})
		return
	}
	http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"not here"}]}`, http.StatusNotFound)
}

func (f *fake) host() string { return strings.TrimPrefix(f.URL, "http://") }

func (f *fake) ref() artifact.Reference {
	return artifact.Reference{Host: f.host(), Repository: repository}
}

func (f *fake) tag(tag string) artifact.Reference {
	r := f.ref()
	r.Tag = tag
	return r
}

func (f *fake) blob(b []byte) Descriptor {
	d := artifact.SHA256Of(b)
	f.blobs[d] = b
	return Descriptor{MediaType: typeLayer, Digest: d, Size: int64(len(b))}
}

// put serves a document by its digest, and by the tags.
func (f *fake) put(t *testing.T, mediaType string, doc map[string]any, tags ...string) Descriptor {
	t.Helper()
	doc["schemaVersion"], doc["mediaType"] = 2, mediaType
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	d := artifact.SHA256Of(b)
	for _, name := range append(tags, string(d)) {
		f.manifests[name] = served{mediaType, b}
	}
	return Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
}

func (f *fake) image(t *testing.T, tag string, layers ...Descriptor) Descriptor {
	t.Helper()
	return f.put(t, typeManifest, map[string]any{"config": f.blob([]byte("{}")), "layers": layers}, tag)
}

// refer adds a bundle about a subject as a referrer manifest, not yet listed.
func (f *fake) refer(t *testing.T, subject artifact.Digest, created string, bundles ...string) Descriptor {
	t.Helper()
	layers := []Descriptor{}
	for _, b := range bundles {
		l := f.blob([]byte(b))
		l.MediaType = typeBundle
		layers = append(layers, l)
	}
	d := f.put(t, typeManifest, map[string]any{"artifactType": typeBundle, "config": f.blob([]byte("{}")), "layers": layers,
		"subject": Descriptor{MediaType: typeManifest, Digest: subject, Size: 1}})
	d.ArtifactType, d.Annotations = typeBundle, map[string]string{createdAnno: created}
	return d
}

func anonymous(change ...func(*Options)) *Client {
	o := Options{Keychain: keys(nil)}
	for _, c := range change {
		c(&o)
	}
	return New(o)
}

// keys are passwords by host.
type keys map[string]string

func (k keys) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if p, ok := k[r.RegistryStr()]; ok {
		return &authn.Basic{Username: "me", Password: p}, nil
	}
	return authn.Anonymous, nil
}

func wantKind(t *testing.T, err error, kind *fault.Kind, words ...string) {
	t.Helper()
	if fault.KindOf(err) != kind {
		t.Fatalf("error %v of kind %v, want %v", err, fault.KindOf(err), kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func texts(items []Evidence) (out []string) {
	for _, e := range items {
		switch {
		case e.Err != nil:
			out = append(out, fmt.Sprint("error: ", fault.KindOf(e.Err).Name()))
		case e.Legacy != nil:
			out = append(out, "legacy: "+string(e.Legacy.Payload))
		default:
			out = append(out, string(e.Bundle))
		}
	}
	return out
}
