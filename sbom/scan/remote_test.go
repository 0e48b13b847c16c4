package scan_test

import (
	"bytes"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/oci"
	"assay/sbom/scan"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// TestImage: an image of a registry, by its index, for the platform that is
// asked for; the document is about that platform's manifest.
func TestImage(t *testing.T) {
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	index := mutate.IndexMediaType(empty.Index, "application/vnd.oci.image.index.v1+json")
	digests := map[string]string{}
	for _, arch := range []string{"amd64", "arm64"} {
		var layers []v1.Layer
		for _, b := range [][]byte{
			tarOf(t, entry{name: "a/requirements.txt", text: "gone==1\n"}),
			tarOf(t, entry{name: "a/.wh.requirements.txt"}, entry{name: "b/requirements.txt", text: "for-" + arch + "==1\n"}),
		} {
			l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
			if err != nil {
				t.Fatal(err)
			}
			layers = append(layers, l)
		}
		img, err := mutate.AppendLayers(empty.Image, layers...)
		if err != nil {
			t.Fatal(err)
		}
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests[arch] = d.String()
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	tag, err := name.NewTag(host + "/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(tag, index); err != nil {
		t.Fatal(err)
	}
	ref, err := artifact.ParseReference(host + "/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	client := oci.New(oci.Options{})
	for arch, digest := range digests {
		o := options
		o.Platform = "linux/" + arch
		d, err := scan.Image(t.Context(), client, ref, o)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"for-" + arch + " 1"}, packages(t, d, "pypi")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", arch, diff)
		}
		if got := "sha256:" + d.Component(d.Roots[0]).Digests["sha256"]; got != digest {
			t.Errorf("%s: about %s, want %s", arch, got, digest)
		}
	}
	o := options
	o.Platform = "linux/s390x"
	if _, err := scan.Image(t.Context(), client, ref, o); !errors.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "linux/amd64, linux/arm64") {
		t.Errorf("got %v, want the platforms that are there", err)
	}
}
