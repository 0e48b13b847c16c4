package oci

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"assay/artifact"
	"assay/internal/fault"
)

// evidence reads what f holds about a digest; it must not fail.
func evidence(t *testing.T, c *Client, f *fake, d artifact.Digest) ([]string, bool) {
	t.Helper()
	got, more, err := c.Evidence(t.Context(), f.ref().WithDigest(d))
	if err != nil {
		t.Fatal(err)
	}
	return texts(got), more
}

// By the API and by the fallback tag the same referrers are found, the newest
// first, and nothing that is no bundle.
func TestEvidence(t *testing.T) {
	for _, api := range []bool{true, false} {
		t.Run(fmt.Sprint("API ", api), func(t *testing.T) {
			f := newFake(t)
			img := f.image(t, "v1")
			list := []Descriptor{
				f.refer(t, img.Digest, "2026-01-02T00:00:00Z", "second"),
				f.refer(t, img.Digest, "2026-01-03T00:00:00Z", "third a", "third b"),
				f.refer(t, img.Digest, "2026-01-01T00:00:00Z", "first"),
			}
			readme := f.refer(t, img.Digest, "2026-02-01T00:00:00Z", "a readme")
			readme.ArtifactType = "text/plain"
			untyped := f.refer(t, img.Digest, "2026-01-04T00:00:00Z", "untyped")
			untyped.ArtifactType = ""
			list = append(list, readme, untyped)
			if api {
				f.referrers = map[artifact.Digest][]Descriptor{img.Digest: list}
			} else {
				f.put(t, typeIndex, map[string]any{"manifests": list}, FallbackTag(img.Digest))
			}
			got, more := evidence(t, anonymous(), f, img.Digest)
			if d := cmp.Diff([]string{"untyped", "third a", "third b", "second", "first"}, got); d != "" || more {
				t.Errorf("truncated %v (-want +got):\n%s", more, d)
			}
		})
	}
}

// Legacy tags are read beside referrers.
func TestEvidenceLegacyTags(t *testing.T) {
	f := newFake(t)
	img := f.image(t, "v1")
	f.referrers = map[artifact.Digest][]Descriptor{img.Digest: {f.refer(t, img.Digest, "", "a bundle")}}
	sig, att, text := f.blob([]byte("a signature")), f.blob([]byte("an attestation")), f.blob([]byte("text"))
	sig.MediaType, sig.Annotations = mediaTypeSig, map[string]string{"dev.cosignproject.cosign/signature": "AAAA"}
	att.MediaType = mediaTypeDSSE
	f.image(t, FallbackTag(img.Digest)+".sig", sig, text)
	f.image(t, FallbackTag(img.Digest)+".att", att)
	f.image(t, FallbackTag(img.Digest)+".sbom", text)
	got, more, err := anonymous().Evidence(t.Context(), f.ref().WithDigest(img.Digest))
	if d := cmp.Diff([]string{"a bundle", "legacy: a signature", "legacy: an attestation"}, texts(got)); d != "" || more || err != nil {
		t.Fatalf("%v, %v (-want +got):\n%s", more, err, d)
	}
	if got[1].Legacy.Annotations["dev.cosignproject.cosign/signature"] != "AAAA" || got[1].Legacy.MediaType != mediaTypeSig {
		t.Errorf("legacy %+v lacks its annotations or type", got[1].Legacy)
	}
	// The newest layers are the last, and the cap counts all kinds together.
	got2, more := evidence(t, anonymous(func(o *Options) { o.MaxReferrer = 2 }), f, img.Digest)
	if d := cmp.Diff([]string{"a bundle", "legacy: a signature"}, got2); d != "" || !more {
		t.Errorf("truncated %v (-want +got):\n%s", more, d)
	}
}

// One referrer that anybody could push does not hide the others.
func TestEvidenceUnread(t *testing.T) {
	f := newFake(t)
	img := f.image(t, "v1")
	wrong := f.refer(t, artifact.SHA256Of([]byte("other")), "2026-01-09T00:00:00Z", "about another")
	gone := Descriptor{MediaType: typeManifest, ArtifactType: typeBundle, Digest: artifact.SHA256Of([]byte("gone")), Annotations: map[string]string{createdAnno: "2026-01-08"}}
	noBlob := f.refer(t, img.Digest, "2026-01-07T00:00:00Z", "no blob")
	delete(f.blobs, artifact.SHA256Of([]byte("no blob")))
	changed := f.refer(t, img.Digest, "2026-01-06T00:00:00Z", "changed", "beside it")
	f.blobs[artifact.SHA256Of([]byte("changed"))] = []byte("CHANGED")
	large := f.refer(t, img.Digest, "2026-01-05T00:00:00Z", strings.Repeat("x", 2000))
	bad := Descriptor{MediaType: typeManifest, ArtifactType: typeBundle, Digest: "sha256:../..", Annotations: map[string]string{createdAnno: "2026-01-04"}}
	good := f.refer(t, img.Digest, "2026-01-03T00:00:00Z", "good")
	f.referrers = map[artifact.Digest][]Descriptor{img.Digest: {wrong, gone, noBlob, changed, large, bad, good}}
	f.manifests[FallbackTag(img.Digest)+".sig"] = served{typeManifest, []byte("not json")}
	got, more := evidence(t, anonymous(func(o *Options) { o.MaxBlob = 1000 }), f, img.Digest)
	want := []string{"error: unverified", "error: not found", "error: not found", "error: tampered", "beside it", "error: too large", "error: invalid", "good", "error: invalid"}
	if d := cmp.Diff(want, got); d != "" || more {
		t.Errorf("truncated %v (-want +got):\n%s", more, d)
	}
	// A registry that fails is another matter: what it holds is unknown.
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, string(good.Digest)) {
			w.WriteHeader(http.StatusInternalServerError)
			return true
		}
		return false
	}
	_, _, err := anonymous().Evidence(t.Context(), f.ref().WithDigest(img.Digest))
	wantKind(t, err, fault.Unavailable)
	_, _, err = anonymous().Evidence(t.Context(), f.tag("v1"))
	wantKind(t, err, fault.Invalid)
}

// More referrers than are read: said so, whatever way they come.
func TestThreat_Registry_TenThousandReferrers(t *testing.T) {
	f := newFake(t)
	img := f.image(t, "v1")
	var list []Descriptor
	newest := f.refer(t, img.Digest, "2027-01-01T00:00:00Z", "the newest")
	for i := range 10_000 {
		list = append(list, Descriptor{MediaType: typeManifest, ArtifactType: typeBundle, Size: 1, Digest: artifact.SHA256Of(fmt.Append(nil, i)),
			Annotations: map[string]string{createdAnno: fmt.Sprintf("2026-01-01T00:00:%05dZ", i)}})
	}
	list = append(list, newest)
	f.referrers = map[artifact.Digest][]Descriptor{img.Digest: list}
	c := anonymous()
	got, more := evidence(t, c, f, img.Digest)
	if len(got) != 64 || !more || got[0] != "the newest" {
		t.Errorf("%d items, truncated %v, first %q; want 64, truncated, the newest first", len(got), more, got[0])
	}
	// In pages: without end, the client stops; empty pages do not fool it.
	for name, size := range map[string]int{"pages of 100": 100, "pages of one": 1, "empty pages": 0} {
		f.requests = nil
		f.hook = func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/referrers/") {
				return false
			}
			at, _ := strconv.Atoi(r.URL.Query().Get("at"))
			f.referrers[img.Digest] = list[at*size : (at+1)*size]
			w.Header().Set("Link", fmt.Sprintf(`<%s?at=%d>; rel="next"`, r.URL.Path, at+1))
			return false
		}
		_, more = evidence(t, c, f, img.Digest)
		pages := 0
		for _, r := range f.requests {
			if strings.Contains(r, "/referrers/") {
				pages++
			}
		}
		if !more || pages > maxPages {
			t.Errorf("%s: truncated %v after %d pages, want truncated after at most %d", name, more, pages, maxPages)
		}
	}
	// Types that are no evidence, in front of a page that is not read.
	for i := range list {
		list[i].ArtifactType = "text/plain"
	}
	if got, more := evidence(t, c, f, img.Digest); len(got) != 0 || !more {
		t.Errorf("%d items, truncated %v; want none, and truncated", len(got), more)
	}
}

// 100,000 layers are over the manifest's cap, in a tag's manifest as in a
// referrer.
func TestThreat_Registry_HundredThousandLayers(t *testing.T) {
	f := newFake(t)
	img := f.image(t, "v1")
	f.referrers = map[artifact.Digest][]Descriptor{}
	many := make([]Descriptor, 100_000)
	for i := range many {
		many[i] = Descriptor{MediaType: mediaTypeSig, Digest: img.Digest, Size: 1}
	}
	f.image(t, FallbackTag(img.Digest)+".sig", many...)
	f.image(t, "huge", many...)
	c := anonymous()
	_, err := c.Manifest(t.Context(), f.tag("huge"))
	wantKind(t, err, fault.TooLarge)
	if got, _ := evidence(t, c, f, img.Digest); len(got) != 1 || got[0] != "error: too large" {
		t.Errorf("%v, want one item that is too large", got)
	}
	wantKind(t, c.VerifyContent(t.Context(), f.tag("huge")), fault.TooLarge)
	// As many as fit into a manifest: the last ones are read.
	few := many[:20_000]
	l := f.blob([]byte("a signature"))
	l.MediaType = mediaTypeSig
	few[len(few)-1] = l
	f.image(t, FallbackTag(img.Digest)+".sig", few...)
	got, more := evidence(t, anonymous(func(o *Options) { o.MaxReferrer = 1 }), f, img.Digest)
	if d := cmp.Diff([]string{"legacy: a signature"}, got); d != "" || !more {
		t.Errorf("truncated %v (-want +got):\n%s", more, d)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"mediaType":"`+typeManifest+`","config":{},"layers":[{"digest":"sha256:`+strings.Repeat("0", 64)+`"}]}`), typeManifest)
	f.Add([]byte(`{"manifests":[{"digest":"x","size":-1}],"subject":null}`), typeIndex)
	f.Fuzz(func(t *testing.T, raw []byte, mediaType string) {
		m := &Manifest{Digest: artifact.SHA256Of(raw), MediaType: mediaType, Bytes: raw}
		if m.unambiguous(artifact.Reference{}) != nil {
			return
		}
		if mediaType != "" && m.MediaType != mediaType {
			t.Fatalf("served as %q, read as %q", mediaType, m.MediaType)
		}
	})
}
