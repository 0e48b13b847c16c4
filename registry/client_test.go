package registry_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"assay/identity"
	"assay/registry/registrytest"
)

// TestContainerRegistryClient drives the client library of crane and cosign
// through the token flow: images, indexes, mounts, referrers, lists, deletes.
func TestContainerRegistryClient(t *testing.T) {
	each(t, func(t *testing.T, s *registrytest.Server, _ *registrytest.Client) {
		auth := remote.WithAuth(&authn.Basic{Username: "x", Password: s.Token(t, "owner", identity.AudienceRegistry)})
		ctx := remote.WithContext(t.Context())
		ref := func(format string, args ...any) name.Reference {
			t.Helper()
			r, err := name.ParseReference(s.Host + "/" + fmt.Sprintf(format, args...))
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		check := func(what string, err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		img, err := random.Image(300_000, 3)
		check("image", err)
		check("push", remote.Write(ref("team/app:v1"), img, auth, ctx))
		back, err := remote.Image(ref("team/app:v1"), auth, ctx)
		check("pull", err)
		check("validate what came back", validate.Image(back))
		layers, err := back.Layers()
		check("layers", err)
		mountable, err := mutate.AppendLayers(img, &remote.MountableLayer{Layer: layers[0], Reference: ref("team/app:v1")})
		check("append", err)
		check("push with a mount", remote.Write(ref("team/other:v1"), mountable, auth, ctx))

		idx, err := random.Index(10_000, 2, 3)
		check("index", err)
		check("push index", remote.WriteIndex(ref("team/app:all"), idx, auth, ctx))
		gotIdx, err := remote.Index(ref("team/app:all"), auth, ctx)
		check("pull index", err)
		check("validate index", validate.Index(gotIdx))

		digest, err := img.Digest()
		check("digest", err)
		size, err := img.Size()
		check("size", err)
		sig, err := random.Image(100, 1)
		check("signature", err)
		sig = mutate.ConfigMediaType(mutate.MediaType(sig, types.OCIManifestSchema1), "application/vnd.test.signature")
		sig, ok := mutate.Subject(sig, v1.Descriptor{MediaType: types.DockerManifestSchema2, Digest: digest, Size: size}).(v1.Image)
		if !ok {
			t.Fatal("a subject makes an image no image")
		}
		check("push referrer", remote.Write(ref("team/app:sig"), sig, auth, ctx))
		referrers, err := remote.Referrers(ref("team/app@%s", digest).(name.Digest), auth, ctx)
		check("referrers", err)
		list, err := referrers.IndexManifest()
		check("referrers", err)
		sigDigest, err := sig.Digest()
		check("digest", err)
		if len(list.Manifests) != 1 || list.Manifests[0].Digest != sigDigest || list.Manifests[0].ArtifactType != "application/vnd.test.signature" {
			t.Fatalf("referrers: %+v", list.Manifests)
		}

		tags, err := remote.List(ref("team/app").Context(), auth, ctx)
		if check("tags", err); !slices.Equal(tags, []string{"all", "sig", "v1"}) {
			t.Fatalf("tags: %v", tags)
		}
		repos, err := remote.Catalog(t.Context(), ref("x").Context().Registry, auth)
		if check("catalog", err); !slices.Equal(repos, []string{"team/app", "team/other"}) {
			t.Fatalf("catalog: %v", repos)
		}
		check("tag", remote.Tag(ref("team/app:v2").(name.Tag), img, auth, ctx))
		check("delete tag", remote.Delete(ref("team/app:v2"), auth, ctx))
		check("delete", remote.Delete(ref("team/app@%s", digest), auth, ctx))
		_, err = remote.Head(ref("team/app:v1"), auth, ctx)
		var terr *transport.Error
		if !errors.As(err, &terr) || terr.StatusCode != 404 {
			t.Fatalf("pull after delete: %v, want 404", err)
		}
		if _, err := remote.Image(ref("team/other:v1"), auth, ctx); err != nil {
			t.Fatalf("the other repository: %v", err)
		}
	})
}

func TestContainerRegistryClientAnonymous(t *testing.T) {
	s, c := one(t)
	c.PushImage("public", "v1", registrytest.Image{Layer: "x"})
	s.Grant(t, "", identity.RoleViewer, "public")
	r, err := name.ParseReference(s.Host + "/public:v1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := remote.Image(r, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	img, err := random.Image(10, 1)
	if err != nil {
		t.Fatal(err)
	}
	var terr *transport.Error
	if err := remote.Write(r, img, remote.WithContext(t.Context())); !errors.As(err, &terr) || terr.StatusCode != 401 {
		t.Fatalf("anonymous push: %v, want 401", err)
	}
}
