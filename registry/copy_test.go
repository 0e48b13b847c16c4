package registry_test

import (
	"encoding/json"
	"strings"
	"testing"

	"assay/artifact"
	"assay/identity"
	"assay/internal/oci"
	"assay/registry"
	"assay/registry/registrytest"

	"github.com/google/go-containerregistry/pkg/authn"
)

// login gives a subject's token to one registry.
func login(t *testing.T, s *registrytest.Server, subject string) authn.Keychain {
	t.Helper()
	k, err := oci.HostKeychain(s.Host, []byte("token:"+s.Token(t, subject, identity.AudienceRegistry)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A copy brings an index, its children, its referrers and what refers to those,
// and the older tags, under their digests, and is gone on with when it broke off.
func TestCopy(t *testing.T) {
	from, src := one(t)
	to, dst := one(t)
	child := src.PushImage("team/app", "", registrytest.Image{Layer: "amd64"})
	childSize := len(src.Do("GET", "/v2/team/app/manifests/"+string(child), "").Body)
	index, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": registrytest.IndexType,
		"manifests": []any{map[string]any{"mediaType": registrytest.ImageType, "digest": child, "size": childSize}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want(t, "index", src.PutManifest("team/app", "v1", index), 201, "")
	d := artifact.SHA256Of(index)
	sbom := src.PushImage("team/app", "", registrytest.Image{Layer: "an SBOM", Subject: d, ArtifactType: "application/spdx+json"})
	about := src.PushImage("team/app", "", registrytest.Image{Layer: "its signature", Subject: sbom, ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json"})
	old := src.PushImage("team/app", "sha256-"+d.Hex()+".sig", registrytest.Image{Layer: "older"})
	ofChild := src.PushImage("team/app", "", registrytest.Image{Layer: "about amd64", Subject: child, ArtifactType: "application/x-test"})

	// The destination has no tag while anything is missing.
	var tagged []string
	copier := &oci.Copier{
		From: oci.New(oci.Options{Keychain: login(t, from, "owner")}), To: oci.New(oci.Options{Keychain: login(t, to, "owner")}),
		Progress: func(s oci.Step) {
			if r := dst.Do("HEAD", "/v2/moved/app/manifests/v1", ""); r.StatusCode == 200 {
				tagged = append(tagged, string(s.Digest))
			}
		},
	}
	source := artifact.Reference{Host: from.Host, Repository: "team/app", Tag: "v1"}
	target := artifact.Reference{Host: to.Host, Repository: "moved/app", Tag: "v1"}
	got, err := copier.Copy(t.Context(), source, target)
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest != d || got.Manifests != 6 || got.Referrers != 4 || len(tagged) > 0 {
		t.Errorf("copied %+v; tagged before %v", got, tagged)
	}
	for _, m := range []string{"v1", string(child), string(sbom), string(about), string(ofChild), "sha256-" + d.Hex() + ".sig"} {
		r := dst.Do("GET", "/v2/moved/app/manifests/"+m, "")
		want(t, m, r, 200, "")
		if o := src.Do("GET", "/v2/team/app/manifests/"+m, ""); string(o.Body) != string(r.Body) {
			t.Errorf("%s differs", m)
		}
	}
	if r := dst.Do("GET", "/v2/moved/app/manifests/sha256-"+d.Hex()+".sig", ""); r.Header.Get("Docker-Content-Digest") != string(old) {
		t.Errorf("the signature's tag names %s", r.Header.Get("Docker-Content-Digest"))
	}
	for subject, referrer := range map[artifact.Digest]artifact.Digest{d: sbom, sbom: about, child: ofChild} {
		if r := dst.Do("GET", "/v2/moved/app/referrers/"+string(subject), ""); !strings.Contains(string(r.Body), string(referrer)) {
			t.Errorf("referrers of %s: %s", subject, r.Body)
		}
	}
	again, err := copier.Copy(t.Context(), source, target)
	if err != nil || again.Manifests != 0 || again.Blobs != 0 {
		t.Errorf("a second copy wrote %+v, %v", again, err)
	}

	// A copy that breaks off leaves no tag, and the next one goes on.
	limited, small := one(t, limits(registry.Limits{MaxManifest: 700}))
	broken := &oci.Copier{From: copier.From, To: oci.New(oci.Options{Keychain: login(t, limited, "owner")})}
	src.PushImage("team/app", "big", registrytest.Image{Layer: "x", Annotations: map[string]string{"a": strings.Repeat("a", 600)}})
	source.Tag = "big"
	if _, err := broken.Copy(t.Context(), source, artifact.Reference{Host: limited.Host, Repository: "a/b", Tag: "v1"}); err == nil {
		t.Error("a manifest over the limit was copied")
	}
	want(t, "tag after a refused copy", small.Do("GET", "/v2/a/b/manifests/v1", ""), 404, "")
}
