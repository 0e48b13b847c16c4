package oci

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"assay/artifact"
	"assay/internal/fault"
)

// multi is an index of two images that share a layer, under the tag v1.
func multi(t *testing.T, f *fake) (index Descriptor, images [2]Descriptor, shared Descriptor) {
	t.Helper()
	shared = f.blob([]byte("the base layer"))
	images[0] = f.image(t, "amd64", shared, f.blob([]byte("for amd64")))
	images[1] = f.image(t, "arm64", shared, f.blob([]byte(strings.Repeat("for arm64 ", 100_000))))
	return f.put(t, typeIndex, map[string]any{"manifests": images[:]}, "v1"), images, shared
}

// Everything is read, each thing once.
func TestVerifyContent(t *testing.T) {
	f := newFake(t)
	multi(t, f)
	if err := anonymous().VerifyContent(t.Context(), f.tag("v1")); err != nil {
		t.Fatal(err)
	}
	asked := map[string]int{}
	for _, r := range f.requests {
		if r != "GET /v2/" {
			asked[r]++
		}
	}
	want := map[string]int{"GET /v2/team/app/manifests/v1": 1}
	for name := range f.manifests {
		if strings.HasPrefix(name, "sha256:") && name != string(artifact.SHA256Of(f.manifests["v1"].body)) {
			want["GET /v2/team/app/manifests/"+name] = 1
		}
	}
	for d := range f.blobs {
		want["GET /v2/team/app/blobs/"+string(d)] = 1
	}
	if d := cmp.Diff(want, asked, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("requests (-want +got):\n%s", d)
	}
}

func TestVerifyContentTampered(t *testing.T) {
	layer := artifact.SHA256Of([]byte("for amd64"))
	for name, c := range map[string]struct {
		change func(f *fake, images [2]Descriptor)
		kind   *fault.Kind
		words  []string
	}{
		"layer changed": {func(f *fake, _ [2]Descriptor) { f.blobs[layer] = []byte("for amd65") }, fault.Tampered,
			[]string{string(layer), string(artifact.SHA256Of([]byte("for amd65")))}},
		"layer longer":   {func(f *fake, _ [2]Descriptor) { f.blobs[layer] = []byte("for amd64 and more") }, fault.Tampered, []string{string(layer), "more"}},
		"layer shorter":  {func(f *fake, _ [2]Descriptor) { f.blobs[layer] = []byte("for") }, fault.Tampered, []string{string(layer), "9 bytes", "3"}},
		"layer missing":  {func(f *fake, _ [2]Descriptor) { delete(f.blobs, layer) }, fault.Tampered, []string{string(layer), "none"}},
		"config changed": {func(f *fake, _ [2]Descriptor) { f.blobs[artifact.SHA256Of([]byte("{}"))] = []byte("[]") }, fault.Tampered, nil},
		"child missing":  {func(f *fake, i [2]Descriptor) { delete(f.manifests, string(i[1].Digest)) }, fault.Tampered, []string{"none"}},
		"child changed": {func(f *fake, i [2]Descriptor) { f.manifests[string(i[1].Digest)] = f.manifests["amd64"] }, fault.Tampered,
			[]string{"expected"}},
		"server fails": {func(f *fake, _ [2]Descriptor) {
			f.hook = func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, "/blobs/") {
					w.WriteHeader(http.StatusBadGateway)
					return true
				}
				return false
			}
		}, fault.Unavailable, nil},
		"connection cut": {func(f *fake, _ [2]Descriptor) {
			f.hook = func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, string(layer)) {
					w.Header().Set("Content-Length", "9")
					_, _ = w.Write([]byte("for"))
					return true
				}
				return false
			}
		}, fault.Unavailable, []string{string(layer)}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			_, images, _ := multi(t, f)
			c.change(f, images)
			wantKind(t, anonymous().VerifyContent(t.Context(), f.tag("v1")), c.kind, c.words...)
		})
	}
}

// Sizes that lie, digests that are none, and things that have no end.
func TestThreat_Registry_HostileContent(t *testing.T) {
	f := newFake(t)
	l := f.blob([]byte("layer"))
	lie := l
	lie.Size = 4
	f.image(t, "smaller", lie)
	lie.Size = 6
	f.image(t, "larger", lie)
	lie.Size = -1
	f.image(t, "negative", lie)
	f.image(t, "no digest", Descriptor{MediaType: typeLayer, Digest: "../../etc/passwd", Size: 1})
	f.put(t, typeManifest, map[string]any{"layers": []Descriptor{l}}, "no-config")
	many := make([]Descriptor, 15_000)
	for i := range many {
		many[i] = Descriptor{Digest: artifact.SHA256Of(fmt.Append(nil, i)), Size: 1}
	}
	f.put(t, typeIndex, map[string]any{"manifests": many}, "many children")
	f.manifests["many-children"] = f.manifests["many children"]
	f.manifests["no-digest"] = f.manifests["no digest"]
	deep := f.image(t, "leaf")
	for range 10 {
		deep = f.put(t, typeIndex, map[string]any{"manifests": []Descriptor{deep}}, "deep")
	}
	foreign := Descriptor{MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Digest: artifact.SHA256Of([]byte("windows")), Size: 7}
	f.image(t, "foreign", foreign)
	for tag, kind := range map[string]*fault.Kind{
		"smaller": fault.Tampered, "larger": fault.Tampered, "negative": fault.Invalid, "no-digest": fault.Invalid, "no-config": fault.Invalid,
		"many-children": fault.Tampered, "deep": fault.TooLarge, "foreign": fault.Undecided,
	} {
		t.Run(tag, func(t *testing.T) {
			wantKind(t, anonymous().VerifyContent(t.Context(), f.tag(tag)), kind)
		})
	}
	wantKind(t, anonymous().VerifyContent(t.Context(), f.tag("absent")), fault.NotFound)
}

// A layer of many gigabytes is read to its size and no byte further, and never
// held in memory.
func TestThreat_Registry_EndlessLayer(t *testing.T) {
	f := newFake(t)
	l := Descriptor{MediaType: typeLayer, Digest: artifact.SHA256Of([]byte("x")), Size: 8 << 20}
	f.image(t, "v1", l)
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, string(l.Digest)) {
			return false
		}
		junk := make([]byte, 1<<20)
		for range 4096 {
			if _, err := w.Write(junk); err != nil {
				return true
			}
		}
		t.Error("4 GiB were taken in")
		return true
	}
	wantKind(t, anonymous().VerifyContent(t.Context(), f.tag("v1")), fault.Tampered, "more")
}

// A stream that stands still ends.
func TestVerifyContentStandsStill(t *testing.T) {
	old := idleTimeout
	idleTimeout = 50 * time.Millisecond
	defer func() { idleTimeout = old }()
	f := newFake(t)
	l := f.blob([]byte("a layer"))
	f.image(t, "v1", l)
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, string(l.Digest)) {
			return false
		}
		_, _ = w.Write([]byte("a "))
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
		case <-time.After(10 * time.Second):
			t.Error("the client waits for ever")
		}
		return true
	}
	start := time.Now()
	wantKind(t, anonymous().VerifyContent(t.Context(), f.tag("v1")), fault.Unavailable)
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestMain(m *testing.M) {
	// Nothing here may find the credentials of whoever runs the tests.
	os.Setenv("DOCKER_CONFIG", os.DevNull)
	os.Exit(m.Run())
}
