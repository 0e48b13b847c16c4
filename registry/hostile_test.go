package registry_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/identity"
	"assay/internal/vectors"
	"assay/registry/registrytest"
)

// An index of ten thousand referrers is refused at the door, whatever the tag:
// also as the fallback tag, by which it would be read as evidence.
func TestThreat_Registry_TenThousandReferrersPushed(t *testing.T) {
	_, c := one(t)
	doc := string(vectors.Read(t, "hostile/oci", "referrers-10001.json"))
	subject := c.PushImage("a", "v1", registrytest.Image{Layer: "x"})
	for _, tag := range []string{"latest", "sha256-" + subject.Hex()} {
		vectors.Within(t, 2*time.Second, 64<<20, func() {
			r := c.Do("PUT", "/v2/a/manifests/"+tag, doc, "Content-Type", registrytest.IndexType)
			want(t, "as "+tag, r, http.StatusRequestEntityTooLarge, "MANIFEST_INVALID")
		})
		want(t, "the tag", c.Do("HEAD", "/v2/a/manifests/"+tag, ""), http.StatusNotFound, "")
	}
}

// A manifest that is about another is taken and listed as that one's referrer,
// before its subject is here, and changes nothing of what the subject is.
func TestThreat_Registry_SubjectSpoof(t *testing.T) {
	_, c := one(t)
	config := c.PushBlob("a", "{}")
	const made = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	doc := string(vectors.Read(t, "hostile/oci", "subject-self.json"))
	doc = strings.Replace(doc, made, string(config), 1) // its config, so that only the subject is false
	r := c.Do("PUT", "/v2/a/manifests/v1", doc, "Content-Type", registrytest.ImageType)
	want(t, "push", r, http.StatusCreated, "")
	wantHeader(t, "push", r, "Oci-Subject", made)
	list := c.Do("GET", "/v2/a/referrers/"+made, "")
	want(t, "referrers", list, http.StatusOK, "")
	if d := artifact.SHA256Of([]byte(doc)); !strings.Contains(string(list.Body), string(d)) {
		t.Errorf("the referrers do not name %s: %s", d, list.Body)
	}
	want(t, "the subject is not here for that", c.Do("GET", "/v2/a/manifests/"+made, ""), http.StatusNotFound, "MANIFEST_UNKNOWN")
	config2 := c.PushBlob("a", "{ }")
	self := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"a/b","digest":%q,"size":3},"layers":[],"subject":{"mediaType":%q,"digest":%q,"size":3}}`,
		registrytest.ImageType, config2, registrytest.ImageType, config2)
	want(t, "a blob as subject", c.Do("PUT", "/v2/a/manifests/v2", self, "Content-Type", registrytest.ImageType), http.StatusCreated, "")
}

// Layers are bytes to the registry: what hurts who unpacks it is stored and given
// back as it is, and nothing of it is unpacked, followed or inflated.
func TestThreat_Archive_LayersAreOpaque(t *testing.T) {
	s, c := one(t)
	for _, name := range []string{"absolute.tar", "symlink-escape.tar", "bomb-1GiB.gz", "zipslip.zip"} {
		layer := string(vectors.Read(t, "hostile/archive", name))
		vectors.Within(t, 5*time.Second, 32<<20, func() {
			c.PushImage("a", "v1", registrytest.Image{Layer: layer})
			d := artifact.SHA256Of([]byte(layer))
			r := c.Do("GET", "/v2/a/blobs/"+string(d), "")
			want(t, name, r, http.StatusOK, "")
			if artifact.SHA256Of(r.Body) != d {
				t.Errorf("%s came back as %d other bytes", name, len(r.Body))
			}
			wantHeader(t, name, r, "Content-Type", "application/octet-stream")
		})
	}
	// All that was written has a digest for its name.
	_ = filepath.WalkDir(s.Folder, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && (len(e.Name()) != 64 || !e.Type().IsRegular()) {
			t.Errorf("%s was left behind", path)
		}
		return err
	})
}

// Tokens without a signature, or with the key in their own header, open no door
// of the registry, in none of the ways to show them.
func TestThreat_Identity_HostileTokensAtEveryDoor(t *testing.T) {
	s, c := one(t)
	d := c.PushImage("a", "v1", registrytest.Image{Layer: "x"})
	s.Grant(t, "anybody", identity.RoleAdmin, "**")
	nobody := s.Client(t, "")
	for _, name := range []string{"alg-none.txt", "embedded-jwk.txt"} {
		raw := strings.TrimSpace(string(vectors.Read(t, "hostile/jwt", name)))
		for _, door := range [][3]string{
			{"GET", "/v2/", ""},
			{"GET", "/v2/_catalog", ""},
			{"GET", "/v2/a/tags/list", ""},
			{"GET", "/v2/a/manifests/v1", ""},
			{"HEAD", "/v2/a/manifests/v1", ""},
			{"GET", "/v2/a/blobs/" + string(d), ""},
			{"GET", "/v2/a/referrers/" + string(d), ""},
			{"POST", "/v2/a/blobs/uploads/", ""},
			{"PUT", "/v2/a/manifests/v2", "{}"},
			{"DELETE", "/v2/a/manifests/v1", ""},
			{"GET", "/token?scope=repository:a:pull,push", ""},
		} {
			for way, h := range map[string][]string{"bearer": {"Authorization", "Bearer " + raw}, "password": basic(raw)} {
				vectors.Within(t, time.Second, 4<<20, func() {
					r := nobody.Do(door[0], door[1], door[2], append(h, "Content-Type", registrytest.ImageType)...)
					if r.StatusCode != http.StatusUnauthorized {
						t.Errorf("%s as %s: %s %s answers %s, want 401", name, way, door[0], door[1], r.Status)
					}
				})
			}
		}
	}
	want(t, "what was there", c.Do("GET", "/v2/a/manifests/v1", ""), http.StatusOK, "")
}
