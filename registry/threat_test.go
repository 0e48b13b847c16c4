package registry_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"assay/artifact"
	"assay/event"
	"assay/identity"
	"assay/internal/vectors"
	"assay/registry"
	"assay/registry/registrytest"
)

func TestThreat_Registry_LayersAndManifests(t *testing.T) {
	_, c := one(t)
	d := c.PushBlob("a", "{}")
	doc := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"a/b","digest":%q,"size":2},"layers":[],"manifests":[]}`, registrytest.ImageType, d)
	want(t, "both layers and manifests", c.PutManifest("a", "latest", []byte(doc)), http.StatusBadRequest, "MANIFEST_INVALID")
	doc = strings.Replace(doc, `,"manifests":[]`, "", 1)
	want(t, "Content-Type of an index", c.PutManifest("a", "latest", []byte(doc), "Content-Type", registrytest.IndexType), http.StatusBadRequest, "MANIFEST_INVALID")
	want(t, "nothing was stored", c.Do("GET", "/v2/a/tags/list", ""), http.StatusNotFound, "NAME_UNKNOWN")
	want(t, "as it should be", c.PutManifest("a", "latest", []byte(doc)), http.StatusCreated, "")
}

// TestThreat_Registry_HostileAtTheDoor sends the shared hostile inputs and
// demands what their index says.
func TestThreat_Registry_HostileAtTheDoor(t *testing.T) {
	var fetched atomic.Int64
	outside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { fetched.Add(1) }))
	defer outside.Close()
	_, c := one(t)
	for name, w := range map[string]struct {
		status int
		code   string
	}{
		"mediatype-mismatch.json": {400, "MANIFEST_INVALID"},
		"digest-unknown-alg.json": {400, "DIGEST_INVALID"},
		"layers-100k.json":        {413, "MANIFEST_INVALID"},
		"foreign-urls.json":       {400, "MANIFEST_BLOB_UNKNOWN"}, // its config is not here
		"subject-self.json":       {400, "MANIFEST_BLOB_UNKNOWN"},
	} {
		doc := vectors.Read(t, "hostile/oci", name)
		r := c.Do("PUT", "/v2/a/manifests/latest", string(doc), "Content-Type", registrytest.ImageType)
		want(t, name, r, w.status, w.code)
	}
	// With its config pushed a foreign layer is taken, and left where it is.
	d := c.PushBlob("a", "{}")
	doc := fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"a/b","digest":%q,"size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"digest":"sha256:%064d","size":1,"urls":[%q]}],"subject":{"mediaType":%q,"digest":"sha256:%064d","size":1}}`, d, 0, outside.URL, registrytest.ImageType, 1)
	r := c.Do("PUT", "/v2/a/manifests/latest", doc, "Content-Type", registrytest.ImageType)
	want(t, "foreign layer", r, http.StatusCreated, "")
	wantHeader(t, "missing subject", r, "Oci-Subject", fmt.Sprintf("sha256:%064d", 1))
	if n := fetched.Load(); n != 0 {
		t.Fatalf("the server followed a layer's URL %d times", n)
	}
}

func TestThreat_Registry_ManifestOverLimit(t *testing.T) {
	s, c := one(t)
	want(t, "one byte too many", c.Do("PUT", "/v2/a/manifests/latest", strings.Repeat(" ", 4<<20+1), "Content-Type", registrytest.ImageType), http.StatusRequestEntityTooLarge, "MANIFEST_INVALID")
	r, err := c.Try("PUT", "/v2/a/manifests/latest", io.MultiReader(io.LimitReader(spaces{}, 4<<20+1)), "Content-Type", registrytest.ImageType)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "streamed without a length", r, http.StatusRequestEntityTooLarge, "MANIFEST_INVALID")

	// A length alone must cost nothing: 1 TiB is announced, and refused unread.
	req := httptest.NewRequestWithContext(t.Context(), "PUT", "/v2/a/manifests/latest", http.NoBody)
	req.ContentLength = 1 << 40
	req.Header.Set("Content-Type", registrytest.ImageType)
	req.SetBasicAuth("x", s.Token(t, "owner", identity.AudienceRegistry))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, req)
	runtime.ReadMemStats(&after)
	if w.Code != http.StatusRequestEntityTooLarge {
		t.Fatalf("announced 1 TiB: %d", w.Code)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
		t.Fatalf("refusing it allocated %d bytes", grown)
	}
}

type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// TestThreat_Registry_BlobOfAnotherRepository: that bytes are stored gives
// nobody a right to them, by GET, mount, or a manifest that names them.
func TestThreat_Registry_BlobOfAnotherRepository(t *testing.T) {
	each(t, func(t *testing.T, s *registrytest.Server, c *registrytest.Client) {
		c.PushImage("secret", "v1", registrytest.Image{Layer: "secret layer"})
		secret := string(artifact.SHA256Of([]byte("secret layer")))
		s.Grant(t, "other", identity.RolePublisher, "public")
		other := s.Client(t, "other")
		want(t, "GET there", other.Do("GET", "/v2/secret/blobs/"+secret, ""), http.StatusForbidden, "DENIED")
		want(t, "GET here", other.Do("GET", "/v2/public/blobs/"+secret, ""), http.StatusNotFound, "BLOB_UNKNOWN")
		want(t, "HEAD here", other.Do("HEAD", "/v2/public/blobs/"+secret, ""), http.StatusNotFound, "")
		for _, from := range []string{"&from=secret", ""} {
			r := other.Do("POST", "/v2/public/blobs/uploads/?mount="+secret+from, "")
			want(t, "mount"+from, r, http.StatusAccepted, "")
		}
		want(t, "GET after the mount", other.Do("GET", "/v2/public/blobs/"+secret, ""), http.StatusNotFound, "BLOB_UNKNOWN")
		other.PushBlob("public", "{}")
		doc := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"a/b","digest":%q,"size":2},"layers":[{"mediaType":"a/b","digest":%q,"size":12}]}`,
			registrytest.ImageType, artifact.SHA256Of([]byte("{}")), secret)
		want(t, "a manifest that names it", other.PutManifest("public", "x", []byte(doc)), http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN")
		doc = fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":"sha256:%064d","size":1}]}`, registrytest.IndexType, registrytest.ImageType, 0)
		want(t, "an index of what is not there", other.PutManifest("public", "x", []byte(doc)), http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN")

		// Within a repository an upload is its uploader's until a manifest has it.
		s.Grant(t, "other", identity.RolePublisher, "secret")
		upload := string(c.PushBlob("secret", "not yet in an image"))
		want(t, "another's young upload", other.Do("GET", "/v2/secret/blobs/"+upload, ""), http.StatusNotFound, "BLOB_UNKNOWN")
		want(t, "one's own", c.Do("GET", "/v2/secret/blobs/"+upload, ""), http.StatusOK, "")
		// With the right to pull the source, a mount works.
		want(t, "mount", other.Do("POST", "/v2/public/blobs/uploads/?mount="+secret+"&from=secret", ""), http.StatusCreated, "")
		want(t, "GET", other.Do("GET", "/v2/public/blobs/"+secret, ""), http.StatusOK, "")
		// It is on record, once; what could not be mounted is not.
		mounts := s.Events(t, event.BlobMounted)
		var b struct {
			Repository string `json:"repository"`
			From       string `json:"from"`
			Decision   string `json:"decision"`
			Credential string `json:"credential"`
		}
		if len(mounts) != 1 || mounts[0].Decode(&b) != nil || string(mounts[0].Digest) != secret || b.Repository != "public" || b.From != "secret" || b.Decision != "allow" || b.Credential == "" {
			t.Errorf("mounts on record: %+v, %+v", mounts, b)
		}
	})
}

// TestThreat_Registry_ExistenceOfForeignBlob: a manifest that names a blob of
// another repository, with its size or a wrong one, is answered like one that
// names a blob which is nowhere (CVE-2024-39897).
func TestThreat_Registry_ExistenceOfForeignBlob(t *testing.T) {
	each(t, func(t *testing.T, s *registrytest.Server, c *registrytest.Client) {
		c.PushImage("secret", "v1", registrytest.Image{Layer: "secret layer"})
		s.Grant(t, "other", identity.RolePublisher, "public")
		other := s.Client(t, "other")
		mine := other.PushBlob("public", "{}")
		there := string(artifact.SHA256Of([]byte("secret layer")))
		nowhere := string(artifact.SHA256Of([]byte("never pushed")))
		young := string(c.PushBlob("public", "of another uploader"))
		put := func(name, config, layer string, size int) *registrytest.Response {
			doc := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"a/b","digest":%q,"size":2},"layers":[{"mediaType":"a/b","digest":%q,"size":%d}]}`,
				registrytest.ImageType, config, layer, size)
			r := other.PutManifest("public", "x", []byte(doc))
			want(t, name, r, http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN")
			return r
		}
		for _, size := range []int{12, 13, 1, 19} {
			blank := strings.ReplaceAll(string(put("nowhere", string(mine), nowhere, size).Body), nowhere, "D")
			for name, d := range map[string]string{"of another repository": there, "of another uploader": young} {
				got := strings.ReplaceAll(string(put(name, string(mine), d, size).Body), d, "D")
				if got != blank {
					t.Fatalf("a blob %s, size %d: %s\none that is nowhere: %s", name, size, got, blank)
				}
			}
			// Nor by which of two is missed: as config beside one that is nowhere.
			put("beside one that is nowhere", there, nowhere, size)
		}
		// Of what the pusher sees the size is told, as it helps.
		doc := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"a/b","digest":%q,"size":3},"layers":[]}`, registrytest.ImageType, mine)
		want(t, "one's own, wrong size", other.PutManifest("public", "x", []byte(doc)), http.StatusBadRequest, "SIZE_INVALID")
	})
}

// TestThreat_Registry_StaleAfterDelete: what is deleted is gone with the answer,
// and what lives stays whole.
func TestThreat_Registry_StaleAfterDelete(t *testing.T) {
	each(t, func(t *testing.T, s *registrytest.Server, c *registrytest.Client) {
		img := c.PushImage("a", "v1", registrytest.Image{Layer: "layer"})
		layer := string(artifact.SHA256Of([]byte("layer")))
		s.Grant(t, "reader", identity.RoleViewer, "**")
		reader := s.Client(t, "reader")
		want(t, "reader's GET", reader.Do("GET", "/v2/a/blobs/"+layer, ""), http.StatusOK, "")
		want(t, "a blob in use", c.Do("DELETE", "/v2/a/blobs/"+layer, ""), http.StatusMethodNotAllowed, "UNSUPPORTED")

		index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%s}]}`, registrytest.IndexType, registrytest.ImageType, img,
			c.Do("HEAD", "/v2/a/manifests/v1", "").Header.Get("Content-Length"))
		want(t, "index", c.PutManifest("a", "all", []byte(index)), http.StatusCreated, "")
		want(t, "a manifest in use", c.Do("DELETE", "/v2/a/manifests/"+string(img), ""), http.StatusMethodNotAllowed, "UNSUPPORTED")
		want(t, "the index", c.Do("DELETE", "/v2/a/manifests/"+string(artifact.SHA256Of([]byte(index))), ""), http.StatusAccepted, "")
		want(t, "its tag", c.Do("GET", "/v2/a/manifests/all", ""), http.StatusNotFound, "MANIFEST_UNKNOWN")

		want(t, "the image", c.Do("DELETE", "/v2/a/manifests/"+string(img), ""), http.StatusAccepted, "")
		for _, path := range []string{"/v2/a/manifests/v1", "/v2/a/manifests/" + string(img), "/v2/a/blobs/" + layer} {
			want(t, "reader's GET "+path, reader.Do("GET", path, ""), http.StatusNotFound, "")
		}
		want(t, "once more", c.Do("DELETE", "/v2/a/manifests/"+string(img), ""), http.StatusNotFound, "MANIFEST_UNKNOWN")
		r := c.Do("GET", "/v2/a/tags/list", "")
		if want(t, "tags", r, http.StatusOK, ""); string(r.Body) != `{"name":"a","tags":[]}` {
			t.Fatalf("tags: %s", r.Body)
		}
	})
}

func TestThreat_Registry_CreateOnlyOverwrites(t *testing.T) {
	each(t, func(t *testing.T, s *registrytest.Server, c *registrytest.Client) {
		s.Grant(t, "creator", identity.RolePublisher, "**", identity.ActPull, identity.ActCreate)
		creator := s.Client(t, "creator")
		first := creator.PushImage("a", "v1", registrytest.Image{Layer: "one"})
		m := creator.Manifest("a", registrytest.Image{Layer: "two"})
		want(t, "overwrite", creator.PutManifest("a", "v1", m), http.StatusForbidden, "DENIED")
		want(t, "overwrite by a tag parameter", creator.PutManifest("a", string(artifact.SHA256Of(m))+"?tag=v1", m), http.StatusForbidden, "DENIED")
		wantHeader(t, "the tag", c.Do("HEAD", "/v2/a/manifests/v1", ""), "Docker-Content-Digest", string(first))
		want(t, "a refused push leaves nothing", c.Do("HEAD", "/v2/a/manifests/"+string(artifact.SHA256Of(m)), ""), http.StatusNotFound, "")
		want(t, "a new tag", creator.PutManifest("a", "v2", m), http.StatusCreated, "")
		want(t, "the same again", creator.PutManifest("a", "v2", m), http.StatusCreated, "")
		want(t, "delete", creator.Do("DELETE", "/v2/a/manifests/v1", ""), http.StatusForbidden, "DENIED")

		s.Grant(t, "signer", identity.RoleSigner, "**")
		signer := s.Client(t, "signer")
		sig := signer.Manifest("a", registrytest.Image{Layer: "signature", Subject: first})
		want(t, "a signer's tag", signer.PutManifest("a", "v3", sig), http.StatusForbidden, "DENIED")
		want(t, "a signer's image", signer.PutManifest("a", string(artifact.SHA256Of(m)), signer.Manifest("a", registrytest.Image{Layer: "image"})), http.StatusBadRequest, "DIGEST_INVALID")
		img := signer.Manifest("a", registrytest.Image{Layer: "image"})
		want(t, "a signer's image", signer.PutManifest("a", string(artifact.SHA256Of(img)), img), http.StatusForbidden, "DENIED")
		want(t, "a signer's referrer", signer.PutManifest("a", string(artifact.SHA256Of(sig)), sig), http.StatusCreated, "")
		carrier := "sha256-" + first.Hex() + ".sig"
		for _, layer := range []string{"signature 1", "signature 2"} {
			want(t, "a signer's carrier tag", signer.PutManifest("a", carrier, signer.Manifest("a", registrytest.Image{Layer: layer})), http.StatusCreated, "")
		}
	})
}

// TestThreat_Registry_TwoManifestsUnderOneTag: while a tag moves, each answer
// is one manifest, with its own digest, type and length.
func TestThreat_Registry_TwoManifestsUnderOneTag(t *testing.T) {
	s, c := one(t)
	manifests := [2][]byte{c.Manifest("a", registrytest.Image{Layer: "one"}), c.Manifest("a", registrytest.Image{Layer: "the other, longer"})}
	want(t, "push", c.PutManifest("a", "latest", manifests[0]), http.StatusCreated, "")
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		mover := s.Client(t, "owner")
		for i := range 60 {
			if r, err := mover.Try("PUT", "/v2/a/manifests/latest", bytes.NewReader(manifests[i%2]), "Content-Type", registrytest.ImageType); err != nil || r.StatusCode != http.StatusCreated {
				t.Errorf("move: %v %v", r, err)
			}
		}
		close(stop)
	})
	for range 4 {
		wg.Go(func() {
			reader := s.Client(t, "owner")
			for {
				select {
				case <-stop:
					return
				default:
				}
				r, err := reader.Try("GET", "/v2/a/manifests/latest", http.NoBody)
				if err != nil || r.StatusCode != http.StatusOK || string(artifact.SHA256Of(r.Body)) != r.Header.Get("Docker-Content-Digest") {
					t.Errorf("an answer mixes two manifests: %v %v", r, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestThreat_Registry_CredentialsStayHome: neither realm nor Location nor Link
// follow the Host header, and nothing redirects.
func TestThreat_Registry_CredentialsStayHome(t *testing.T) {
	s, c := one(t)
	c.PushImage("a", "v1", registrytest.Image{Layer: "x"})
	c.PushImage("a", "v2", registrytest.Image{Layer: "x"})
	for _, path := range []string{"/v2/", "/v2/a/manifests/v1", "/v2/a/blobs/uploads/", "/v2/a/tags/list?n=1"} {
		for _, token := range []string{"", s.Token(t, "owner", identity.AudienceRegistry)} {
			method := "GET"
			if strings.HasSuffix(path, "uploads/") {
				method = "POST"
			}
			req := httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody)
			req.Host = "evil.example"
			req.Header.Set("X-Forwarded-Host", "evil.example")
			req.Header.Set("Forwarded", "host=evil.example")
			if token != "" {
				req.SetBasicAuth("x", token)
			}
			w := httptest.NewRecorder()
			s.ServeHTTP(w, req)
			if w.Code/100 == 3 {
				t.Errorf("%s %s redirects", method, path)
			}
			for name, values := range w.Header() {
				if strings.Contains(strings.Join(values, " "), "evil") {
					t.Errorf("%s %s: header %s is %q", method, path, name, values)
				}
			}
			if token == "" && (w.Code != 401 || !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), `Bearer realm="`+s.URL+`/token",service="`+s.Host+`"`)) {
				t.Errorf("%s %s: %d, challenge %q", method, path, w.Code, w.Header().Get("WWW-Authenticate"))
			}
			if u, err := url.Parse(w.Header().Get("Location")); err != nil || u.Host != "" {
				t.Errorf("%s %s: Location leads to %q", method, path, u.Host)
			}
		}
	}
}

// TestThreat_Identity_AudienceOfAnotherDoor: a token for signing, or for the
// API, is no password here.
func TestThreat_Identity_AudienceOfAnotherDoor(t *testing.T) {
	s, c := one(t)
	c.PushImage("a", "v1", registrytest.Image{Layer: "x"})
	for _, aud := range []identity.Audience{identity.AudienceSigstore, identity.AudienceAPI} {
		token := s.Token(t, "owner", aud)
		for _, path := range []string{"/v2/", "/v2/a/manifests/v1", "/token?scope=repository:a:pull"} {
			for _, scheme := range []string{"Basic", "Bearer"} {
				req := httptest.NewRequestWithContext(t.Context(), "GET", path, http.NoBody)
				if req.SetBasicAuth("x", token); scheme == "Bearer" {
					req.Header.Set("Authorization", "Bearer "+token)
				}
				w := httptest.NewRecorder()
				if s.ServeHTTP(w, req); w.Code != http.StatusUnauthorized {
					t.Errorf("%s token as %s at %s: %d, want 401", aud, scheme, path, w.Code)
				}
			}
		}
	}
	total := 0
	for _, n := range failedLogins(t, s.Events(t, "login.failed")) {
		total += n
	}
	if total != 12 {
		t.Errorf("%d failed logins recorded, want 12", total)
	}
}

// TestThreat_UI_SandboxAndCookies: no answer can act as a page of this origin,
// and no cookie is a credential.
func TestThreat_UI_SandboxAndCookies(t *testing.T) {
	s, c := one(t)
	d := c.PushBlob("a", "<script>alert(1)</script>")
	anonymous := s.Client(t, "")
	for _, r := range []*registrytest.Response{
		c.Do("GET", "/v2/a/blobs/"+string(d), ""),
		c.Do("GET", "/v2/a/manifests/<script>", ""),
		anonymous.Do("GET", "/v2/", ""),
		anonymous.Do("GET", "/token", ""),
		anonymous.Do("GET", "/v2/%3Cscript%3E/manifests/x", ""),
	} {
		wantHeader(t, r.Request.URL.Path, r, "X-Content-Type-Options", "nosniff")
		if csp := r.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "sandbox") {
			t.Errorf("%s: policy %q", r.Request.URL.Path, csp)
		}
		if ct := r.Header.Get("Content-Type"); strings.Contains(ct, "html") {
			t.Errorf("%s: %s", r.Request.URL.Path, ct)
		}
		if len(r.Cookies()) > 0 {
			t.Errorf("%s sets cookies", r.Request.URL.Path)
		}
	}
	token := s.Token(t, "owner", identity.AudienceRegistry)
	r := anonymous.Do("GET", "/v2/a/blobs/"+string(d), "", "Cookie", "Authorization=Bearer "+token+"; token="+token)
	want(t, "cookie", r, http.StatusUnauthorized, "UNAUTHORIZED")
}

// TestThreat_Metrics_LabelsOfAttackers: whatever is asked for, the label sets
// stay the same.
func TestThreat_Metrics_LabelsOfAttackers(t *testing.T) {
	reg := prometheus.NewRegistry()
	s, c := one(t, func(o *registry.Options) { o.Registerer = reg })
	c.PushImage("a", "v1", registrytest.Image{Layer: "x"})
	want(t, "pull", c.Do("GET", "/v2/a/manifests/v1", ""), http.StatusOK, "")
	for i := range 200 {
		req := httptest.NewRequestWithContext(t.Context(), "GET", "/v2/", http.NoBody)
		req.Method = fmt.Sprintf("M%d", i)
		req.URL.Path = fmt.Sprintf("/v2/r%d/manifests/t%d", i, i)
		s.ServeHTTP(httptest.NewRecorder(), req)
		c.Do("GET", req.URL.Path, "")
	}
	if err := s.Registry.Close(t.Context()); err != nil { // records are written, and counted
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "assay_registry_") {
			seen++
		}
		if len(f.GetMetric()) > 40 {
			t.Errorf("%s has %d series", f.GetName(), len(f.GetMetric()))
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if strings.ContainsAny(l.GetValue(), "0123456789/") && l.GetName() != "class" {
					t.Errorf("%s: label %s=%q", f.GetName(), l.GetName(), l.GetValue())
				}
			}
		}
	}
	if seen < 5 {
		t.Errorf("%d families of metrics, want them all", seen)
	}
}
