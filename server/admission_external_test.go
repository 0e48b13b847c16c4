package server

import (
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"assay/admission"
	"assay/artifact"
	"assay/client"
	"assay/config"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// TestAdmissionOfOtherRegistries asks over TLS about images of a registry that is
// not the site's: by the evidence that lies beside them, pinned, and while that
// registry is away; what is not named in the configuration is refused as before.
func TestAdmissionOfOtherRegistries(t *testing.T) {
	other := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))))
	defer other.Close()
	host := strings.TrimPrefix(other.URL, "http://")
	s := newSite(t, true, func(c *config.Config) {
		c.Admission = config.Admission{Listen: "127.0.0.1:0", Cluster: "c1", Registries: []string{host + "/org/**"}, PrivateRegistries: true}
	})
	s.apply(s.policyDoc("me@example.com"), false)
	r, ctx := s.reviewer(), t.Context()
	push := func(repository string) (string, artifact.Digest) {
		t.Helper()
		img, err := random.Image(64, 1)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := name.ParseReference(host+"/"+repository+":v1", name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, img); err != nil {
			t.Fatal(err)
		}
		raw, err := img.RawManifest()
		if err != nil {
			t.Fatal(err)
		}
		return string(raw), artifact.SHA256Of(raw)
	}
	attach := func(repository string, d artifact.Digest, size int64, bundle []byte) {
		t.Helper()
		const kind = "application/vnd.dev.sigstore.bundle.v0.3+json"
		img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), kind), static.NewLayer(bundle, kind))
		if err != nil {
			t.Fatal(err)
		}
		hash, err := v1.NewHash(string(d))
		if err != nil {
			t.Fatal(err)
		}
		about := mutate.Subject(img, v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: hash, Size: size})
		ref, err := name.ParseReference(host+"/"+repository+":evidence", name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, about.(v1.Image)); err != nil {
			t.Fatal(err)
		}
	}
	manifest, good := push("org/app")
	attach("org/app", good, int64(len(manifest)), s.sign("me@example.com", manifest))
	_, unsigned := push("org/unsigned")
	push("strange/app")
	pin := host + "/org/app:v1@" + string(good)

	if a := r.ask(admission.PathMutate, "shop", host+"/org/app:v1"); !a.Allowed || !strings.Contains(string(a.Patch), pin) {
		t.Fatalf("signed, by tag: %+v %s", a.Status, a.Patch)
	}
	for image, want := range map[string]string{
		host + "/org/unsigned:v1":                  "signatures/who",
		host + "/org/unsigned@" + string(unsigned): "signatures/who",
		host + "/org/none:v1":                      "none",
		host + "/strange/app:v1":                   "of registry " + host,
	} {
		if a := r.ask(admission.PathMutate, "shop", image); a.Allowed || !strings.Contains(a.Status.Message, want) {
			t.Errorf("%s: %+v, want %q", image, a.Status, want)
		}
	}
	other.Close()
	if a := r.ask(admission.PathValidate, "shop", pin); !a.Allowed {
		t.Errorf("what was decided, with the registry away: %+v", a.Status)
	}
	if a := r.ask(admission.PathMutate, "shop", host+"/org/app:v1"); a.Allowed {
		t.Error("a tag of a registry that is away was resolved")
	}
	if _, err := s.admin.Revoke(ctx, client.RevokeRequest{Entries: []client.Revocation{{Kind: "artifact", Digest: good, InvalidSince: time.Unix(0, 0), Reason: "backdoor"}}}); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return !r.ask(admission.PathValidate, "shop", pin).Allowed })
	if a := r.ask(admission.PathValidate, "shop", pin); !strings.Contains(a.Status.Message, "backdoor") {
		t.Errorf("%+v", a.Status)
	}
}
