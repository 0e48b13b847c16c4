package attestation

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/artifact"
)

func TestReferrerManifest(t *testing.T) {
	if got := artifact.SHA256Of([]byte(EmptyConfig)); got != EmptyConfigDigest {
		t.Fatalf("digest of the empty config is %s", got)
	}
	b := testBundle(t)
	subject := Descriptor{MediaType: MediaTypeOCIManifest, Digest: artifact.SHA256Of(nil), Size: 7, Annotations: map[string]string{"x": "y"}}
	raw, err := NewReferrerManifest(subject, b, time.Date(2024, 5, 1, 12, 0, 0, 5, time.FixedZone("", 7200)))
	if err != nil {
		t.Fatal(err)
	}
	var got ReferrerManifest
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	subject.Annotations = nil
	want := ReferrerManifest{
		SchemaVersion: 2, MediaType: MediaTypeOCIManifest, ArtifactType: MediaTypeBundleV03,
		Config:  Descriptor{MediaType: MediaTypeOCIEmpty, Digest: EmptyConfigDigest, Size: 2},
		Layers:  []Descriptor{{MediaType: MediaTypeBundleV03, Digest: b.Digest(), Size: int64(len(b.Bytes()))}},
		Subject: subject,
		Annotations: map[string]string{AnnotationBundleContent: BundleContentDSSE, AnnotationCreated: "2024-05-01T10:00:00Z",
			AnnotationBundlePredicateType: "https://example.com/p/v1"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	m, err := NewMessageBundle(Material{}, artifact.SHA256Of(nil), []byte{1})
	if err != nil {
		t.Fatal(err)
	}
	a, err := ReferrerAnnotations(m, time.Unix(0, 0))
	if d := cmp.Diff(map[string]string{AnnotationBundleContent: BundleContentMessage, AnnotationCreated: "1970-01-01T00:00:00Z"}, a); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	if _, err := NewReferrerManifest(Descriptor{}, b, time.Unix(0, 0)); err == nil {
		t.Error("a subject without digest was accepted")
	}
}

func TestTags(t *testing.T) {
	d := artifact.Digest("sha256:" + sumA)
	if got, want := FallbackTag(d), "sha256-"+sumA; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	long := artifact.Digest("sha512:" + sumA + sumB)
	if got, want := FallbackTag(long), "sha512-"+sumA; got != want || !artifact.ValidTag(got) {
		t.Errorf("%s, want %s", got, want)
	}
	for tag, kind := range map[string]string{
		FallbackTag(d): "", LegacyTag(d, LegacySignatures): "sig", LegacyTag(d, LegacyAttestations): "att", LegacyTag(d, LegacySBOM): "sbom",
	} {
		if got, k, ok := ParseLegacyTag(tag); !ok || got != d || k != kind {
			t.Errorf("%s: %s, %s, %v", tag, got, k, ok)
		}
	}
	for _, tag := range []string{"", "latest", "sha256-", "sha256-" + sumA[1:], "sha256-" + strings.ToUpper(sumA), "sha256:" + sumA,
		"sha256-" + sumA + ".SIG", "sha256-" + sumA + ".", "sha256-" + sumA + "sig", "sha256-" + sumA + ".sig.sig", "sha512-" + sumA} {
		if d, k, ok := ParseLegacyTag(tag); ok {
			t.Errorf("%q: taken for %s, %q", tag, d, k)
		}
	}
}
