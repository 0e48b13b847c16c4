package registry

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/internal/fault"
	"assay/internal/vectors"
)

const (
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	config  = `"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + digestA + `","size":2}`
	layer   = `{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"` + digestA + `","size":1}`
	child   = `{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + digestA + `","size":1}`
)

func image(members string) string { return `{"schemaVersion":2,` + members + `}` }

func TestParseManifest(t *testing.T) {
	for _, tt := range []struct {
		name, contentType, doc string
		code                   string // "": accepted
	}{
		{"image", typeImage, image(config + `,"layers":[` + layer + `]`), ""},
		{"image without layers", typeImage, image(config + `,"layers":[]`), ""},
		{"index", typeIndex, image(`"manifests":[` + child + `]`), ""},
		{"empty index", typeIndex, image(`"manifests":[]`), ""},
		{"Docker image", typeDockerImage, image(`"mediaType":"` + typeDockerImage + `",` + config + `,"layers":[]`), ""},
		{"Docker list", typeDockerList, image(`"mediaType":"` + typeDockerList + `","manifests":[` + child + `]`), ""},
		{"type from the document alone", "", image(`"mediaType":"` + typeImage + `",` + config + `,"layers":[]`), ""},
		{"parameters are ignored", typeImage + "; charset=utf-8", image(config + `,"layers":[]`), ""},
		{"unknown members", typeImage, image(config + `,"layers":[],"x-vendor":{"a":[1]}`), ""},
		{"embedded data", typeImage, image(`"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"data":"e30="},"layers":[]`), ""},

		{"both layers and manifests", typeImage, image(config + `,"layers":[],"manifests":[]`), codeManifestInvalid},
		{"index with layers", typeIndex, image(`"manifests":[],"layers":[]`), codeManifestInvalid},
		{"index with config", typeIndex, image(`"manifests":[],` + config), codeManifestInvalid},
		{"schema 1 in disguise", typeImage, image(config + `,"layers":[],"fsLayers":[]`), codeManifestInvalid},
		{"withdrawn artifact manifest", typeImage, image(config + `,"layers":[],"blobs":[]`), codeManifestInvalid},
		{"Content-Type of another kind", typeIndex, image(`"mediaType":"` + typeImage + `",` + config + `,"layers":[]`), codeManifestInvalid},
		{"no type at all", "", image(config + `,"layers":[]`), codeManifestInvalid},
		{"Docker without mediaType", typeDockerImage, image(config + `,"layers":[]`), codeManifestInvalid},
		{"foreign type", "application/json", image(config + `,"layers":[]`), codeManifestInvalid},
		{"empty mediaType", typeImage, image(`"mediaType":"",` + config + `,"layers":[]`), codeManifestInvalid},
		{"member twice", typeImage, image(config + `,"layers":[],"layers":[]`), codeManifestInvalid},
		{"member in another case", typeImage, image(config + `,"layers":[],"Manifests":[]`), codeManifestInvalid},
		{"trailing data", typeImage, image(config+`,"layers":[]`) + "{}", codeManifestInvalid},
		{"schemaVersion 1", typeImage, `{"schemaVersion":1,` + config + `,"layers":[]}`, codeManifestInvalid},
		{"schemaVersion as text", typeImage, `{"schemaVersion":"2",` + config + `,"layers":[]}`, codeManifestInvalid},
		{"no schemaVersion", typeImage, `{` + config + `,"layers":[]}`, codeManifestInvalid},
		{"no config", typeImage, image(`"layers":[]`), codeManifestInvalid},
		{"no layers", typeImage, image(config), codeManifestInvalid},
		{"null layers", typeImage, image(config + `,"layers":null`), codeManifestInvalid},
		{"null config", typeImage, image(`"config":null,"layers":[]`), codeManifestInvalid},
		{"null in layers", typeImage, image(config + `,"layers":[null]`), codeManifestInvalid},
		{"null document", typeImage, `null`, codeManifestInvalid},
		{"array", typeImage, `[]`, codeManifestInvalid},
		{"empty", typeImage, ``, codeManifestInvalid},
		{"no JSON", typeImage, "\x00\x01", codeManifestInvalid},
		{"layer without type", typeImage, image(config + `,"layers":[{"digest":"` + digestA + `","size":1}]`), codeManifestInvalid},
		{"layer type with spaces", typeImage, image(config + `,"layers":[{"mediaType":"a /b","digest":"` + digestA + `","size":1}]`), codeManifestInvalid},
		{"weak digest", typeImage, image(`"config":{"mediaType":"a/b","digest":"md5:d41d8cd98f00b204e9800998ecf8427e","size":1},"layers":[]`), codeDigestInvalid},
		{"upper case digest", typeImage, image(`"config":{"mediaType":"a/b","digest":"sha256:` + strings.Repeat("A", 64) + `","size":1},"layers":[]`), codeDigestInvalid},
		{"negative size", typeImage, image(`"config":{"mediaType":"a/b","digest":"` + digestA + `","size":-1},"layers":[]`), codeSizeInvalid},
		{"size beyond 64 bits", typeImage, image(`"config":{"mediaType":"a/b","digest":"` + digestA + `","size":18446744073709551616},"layers":[]`), codeManifestInvalid},
		{"data that is not the digest's", typeImage, image(`"config":{"mediaType":"a/b","digest":"` + digestA + `","size":2,"data":"e30="},"layers":[]`), codeManifestInvalid},
		{"bad artifactType", typeImage, image(config + `,"layers":[],"artifactType":"nope"`), codeManifestInvalid},
		{"bad subject", typeImage, image(config + `,"layers":[],"subject":{"mediaType":"a/b","digest":"x","size":1}`), codeDigestInvalid},
		{"annotations of numbers", typeImage, image(config + `,"layers":[],"annotations":{"a":1}`), codeManifestInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseManifest(tt.contentType, []byte(tt.doc), 100)
			var f *failure
			switch {
			case tt.code == "" && err != nil:
				t.Fatalf("refused: %v", err)
			case tt.code != "" && !errors.As(err, &f):
				t.Fatalf("got %v, want code %s", err, tt.code)
			case tt.code != "" && (f.code != tt.code || fault.HTTPStatus(err) != 400):
				t.Fatalf("got %s %d: %v; want %s 400", f.code, fault.HTTPStatus(err), err, tt.code)
			}
		})
	}
}

func TestManifestView(t *testing.T) {
	m, err := parseManifest(typeImage, []byte(image(config+`,"layers":[`+layer+`,{"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar","digest":"`+digestA+`","size":1,"urls":["http://169.254.169.254/"]}],
		"subject":`+child+`,"annotations":{"k":"v"}`)), 100)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%s|%s|%s|%d blobs|%d children|%v", m.mediaType, m.artifactType, m.subject, len(m.blobs), len(m.children), m.annotations)
	want := typeImage + "|application/vnd.oci.image.config.v1+json|" + digestA + "|2 blobs|0 children|map[k:v]"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	// A distributable layer that merely names URLs must be here like any other.
	m, err = parseManifest(typeImage, []byte(image(config+`,"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"`+digestA+`","size":1,"urls":["http://x/"]}]`)), 100)
	if err != nil || len(m.blobs) != 2 {
		t.Fatalf("%d blobs, %v; want 2", len(m.blobs), err)
	}
	for _, key := range []string{`"digest"`, `"d\u0069gest"`} {
		many := strings.ReplaceAll(strings.Repeat(child+",", 102)+child, `"digest"`, key)
		if _, err := parseManifest(typeIndex, []byte(image(`"manifests":[`+many+`]`)), 100); !errors.Is(err, fault.TooLarge) {
			t.Fatalf("103 children: %v, want too large", err)
		}
	}
}

// TestThreat_Registry_HostileManifests puts the shared hostile inputs through
// the parser within their limits of time and memory. What the index of the
// vectors wants of them at the door is in TestThreat_Registry_HostileAtTheDoor.
func TestThreat_Registry_HostileManifests(t *testing.T) {
	for name, want := range map[string]string{
		"mediatype-mismatch.json": codeManifestInvalid, // says index, is an image
		"digest-unknown-alg.json": codeDigestInvalid,
		"layers-100k.json":        codeManifestInvalid,
		"referrers-10001.json":    codeManifestInvalid, // more children than are taken
		"subject-self.json":       "",
		"foreign-urls.json":       "",
	} {
		t.Run(name, func(t *testing.T) {
			doc := vectors.Read(t, "hostile/oci", name)
			typ := typeImage
			if strings.HasPrefix(name, "referrers") {
				typ = typeIndex
			}
			var err error
			vectors.Within(t, 100*time.Millisecond, 32<<20, func() {
				if len(doc) > 4<<20 {
					err = failf(codeManifestInvalid, fault.TooLarge, "refused by its length") // as manifestBody does, before any parsing
					return
				}
				_, err = parseManifest(typ, doc, 8_192)
			})
			var f *failure
			if want == "" && err != nil || want != "" && (!errors.As(err, &f) || f.code != want) {
				t.Fatalf("got %v, want code %q", err, want)
			}
		})
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add(typeImage, []byte(image(config+`,"layers":[`+layer+`],"subject":`+child)))
	f.Add(typeIndex, []byte(image(`"manifests":[`+child+`],"artifactType":"a/b"`)))
	f.Add(typeDockerList, []byte(image(`"mediaType":"`+typeDockerList+`","manifests":[`+child+`]`)))
	f.Add("", []byte(image(`"mediaType":"`+typeImage+`",`+config+`,"layers":[null]`)))
	f.Fuzz(func(t *testing.T, contentType string, doc []byte) {
		m, err := parseManifest(contentType, doc, 50)
		if err != nil {
			var fl *failure
			if !errors.As(err, &fl) || fl.code == "" || fault.HTTPStatus(err)/100 != 4 {
				t.Fatalf("%v is no answer for a client", err)
			}
			return
		}
		if isImage(m.mediaType) == isIndex(m.mediaType) || isIndex(m.mediaType) && len(m.blobs) > 0 || isImage(m.mediaType) && len(m.children) > 0 {
			t.Fatalf("%+v is neither image nor index", m)
		}
		for _, d := range append(m.blobs, m.children...) {
			if d.Digest.Validate() != nil || d.Size < 0 {
				t.Fatalf("bad descriptor %+v passed", d)
			}
		}
		if m.subject != "" && m.subject.Validate() != nil {
			t.Fatalf("bad subject %q passed", m.subject)
		}
	})
}
