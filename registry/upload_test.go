package registry_test

import (
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/identity"
	"assay/registry"
	"assay/registry/registrytest"
	"assay/store"
	"assay/store/storetest"
)

func TestUploadWays(t *testing.T) {
	each(t, func(t *testing.T, _ *registrytest.Server, c *registrytest.Client) {
		content := strings.Repeat("0123456789", 1000)
		d := string(artifact.SHA256Of([]byte(content)))
		for _, way := range []struct {
			name string
			push func() *registrytest.Response
		}{
			{"single POST", func() *registrytest.Response { return c.Do("POST", "/v2/a/blobs/uploads/?digest="+d, content) }},
			{"POST, PUT", func() *registrytest.Response {
				return c.Do("PUT", begin(t, c, "a")+"?digest="+d, content)
			}},
			{"POST, PATCH stream, PUT", func() *registrytest.Response {
				at := begin(t, c, "a")
				r, err := c.Try("PATCH", at, io.MultiReader(strings.NewReader(content))) // no Content-Length
				if err != nil {
					t.Fatal(err)
				}
				want(t, "PATCH", r, http.StatusAccepted, "")
				return c.Do("PUT", r.Header.Get("Location")+"?digest="+d, "")
			}},
			{"POST, PATCH twice, PUT with the rest", func() *registrytest.Response {
				at := begin(t, c, "a")
				r := c.Do("PATCH", at, content[:4000], "Content-Range", "0-3999")
				want(t, "PATCH", r, http.StatusAccepted, "")
				wantHeader(t, "PATCH", r, "Range", "0-3999")
				r = c.Do("PATCH", r.Header.Get("Location"), content[4000:8000], "Content-Range", "bytes 4000-7999/*")
				wantHeader(t, "PATCH", r, "Range", "0-7999")
				return c.Do("PUT", r.Header.Get("Location")+"?digest="+d, content[8000:], "Content-Range", "8000-9999")
			}},
		} {
			t.Run(way.name, func(t *testing.T) {
				r := way.push()
				want(t, "push", r, http.StatusCreated, "")
				wantHeader(t, "push", r, "Location", "/v2/a/blobs/"+d)
				wantHeader(t, "push", r, "Docker-Content-Digest", d)
				r = c.Do("GET", r.Header.Get("Location"), "")
				if want(t, "GET", r, http.StatusOK, ""); string(r.Body) != content {
					t.Fatalf("GET gave %d other bytes", len(r.Body))
				}
				want(t, "DELETE", c.Do("DELETE", "/v2/a/blobs/"+d, ""), http.StatusAccepted, "")
				want(t, "GET after DELETE", c.Do("GET", "/v2/a/blobs/"+d, ""), http.StatusNotFound, "BLOB_UNKNOWN")
			})
		}
	})
}

func begin(t testing.TB, c *registrytest.Client, repository string) string {
	t.Helper()
	r := c.Do("POST", "/v2/"+repository+"/blobs/uploads/", "")
	want(t, "POST", r, http.StatusAccepted, "")
	return r.Header.Get("Location")
}

func TestChunksOutOfOrder(t *testing.T) {
	_, c := one(t)
	at := begin(t, c, "a")
	want(t, "first chunk", c.Do("PATCH", at, "0123456789", "Content-Range", "0-9"), http.StatusAccepted, "")
	for _, bad := range []string{"0-9", "9-18", "11-20", "20-29"} {
		r := c.Do("PATCH", at, "0123456789", "Content-Range", bad)
		want(t, "chunk "+bad, r, http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID")
		wantHeader(t, "chunk "+bad, r, "Range", "0-9")
		wantHeader(t, "chunk "+bad, r, "Location", at)
	}
	r := c.Do("GET", at, "")
	want(t, "status", r, http.StatusNoContent, "")
	wantHeader(t, "status", r, "Range", "0-9")
	want(t, "length against range", c.Do("PATCH", at, "0123", "Content-Range", "10-19"), http.StatusBadRequest, "SIZE_INVALID")
	for _, bad := range []string{"x", "10", "10-", "-10", "19-10", "10-9223372036854775807", "bytes 10-19/x", "+10-19"} {
		want(t, "Content-Range "+bad, c.Do("PATCH", at, "0123456789", "Content-Range", bad), http.StatusBadRequest, "BLOB_UPLOAD_INVALID")
	}
	r, err := c.Try("PATCH", at, io.MultiReader(strings.NewReader("0123456789+")), "Content-Range", "10-19")
	if err != nil {
		t.Fatal(err)
	}
	want(t, "a stream longer than its range", r, http.StatusBadRequest, "SIZE_INVALID")
	d := artifact.SHA256Of([]byte("01234567890123456789"))
	want(t, "end", c.Do("PUT", at+"?digest="+string(d), ""), http.StatusCreated, "")
	want(t, "status after the end", c.Do("GET", at, ""), http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
}

func TestUploadSurvivesRestart(t *testing.T) {
	db, dir := storetest.Open(t, store.SQLite), t.TempDir()
	s := registrytest.StartIn(t, db, dir)
	c := owner(t, s)
	at := begin(t, c, "a")
	want(t, "PATCH", c.Do("PATCH", at, "before,", "Content-Range", "0-6"), http.StatusAccepted, "")

	s = registrytest.StartIn(t, db, dir)
	c = owner(t, s)
	r := c.Do("GET", at, "")
	want(t, "status", r, http.StatusNoContent, "")
	wantHeader(t, "status", r, "Range", "0-6")
	want(t, "PATCH", c.Do("PATCH", at, "after", "Content-Range", "7-11"), http.StatusAccepted, "")
	d := artifact.SHA256Of([]byte("before,after"))
	want(t, "PUT", c.Do("PUT", at+"?digest="+string(d), ""), http.StatusCreated, "")
}

// A broken connection keeps what arrived, and the client goes on from there.
func TestUploadGoesOnAfterBrokenConnection(t *testing.T) {
	s, c := one(t)
	at := begin(t, c, "a")
	pr, pw := io.Pipe()
	go func() {
		_, _ = io.WriteString(pw, strings.Repeat("x", 1000))
		pw.CloseWithError(errors.New("cable pulled"))
	}()
	if r, err := c.Try("PATCH", at, pr); err == nil {
		want(t, "broken PATCH", r, http.StatusBadRequest, "BLOB_UPLOAD_INVALID")
	}
	var r *registrytest.Response
	for range 100 { // the server may still hold the session for a moment
		if r = s.Client(t, "owner").Do("GET", at, ""); r.StatusCode == http.StatusNoContent {
			break
		}
	}
	want(t, "status", r, http.StatusNoContent, "")
	var last int
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "0-%d", &last); err != nil || last >= 1000 {
		t.Fatalf("Range %q, want what arrived", r.Header.Get("Range"))
	}
	have := last + 1
	if last == 0 {
		have = 0 // "0-0" stands for nothing, too
	}
	content := strings.Repeat("x", 1500)
	want(t, "PATCH", c.Do("PATCH", at, content[have:], "Content-Range", fmt.Sprintf("%d-1499", have)), http.StatusAccepted, "")
	want(t, "PUT", c.Do("PUT", at+"?digest="+string(artifact.SHA256Of([]byte(content))), ""), http.StatusCreated, "")
}

func TestUploadRefusals(t *testing.T) {
	_, c := one(t, limits(registry.Limits{MaxBlob: 100}))
	some := string(artifact.SHA256Of([]byte("something else")))
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		code                     string
	}{
		{"wrong digest", "POST", "/v2/a/blobs/uploads/?digest=" + some, "content", 400, "DIGEST_INVALID"},
		{"no digest", "PUT", begin(t, c, "a"), "content", 400, "DIGEST_INVALID"},
		{"malformed digest", "PUT", begin(t, c, "a") + "?digest=sha256:xyz", "content", 400, "DIGEST_INVALID"},
		{"weak digest", "POST", "/v2/a/blobs/uploads/?digest=md5:d41d8cd98f00b204e9800998ecf8427e", "", 400, "DIGEST_INVALID"},
		{"unknown algorithm for chunks", "POST", "/v2/a/blobs/uploads/?digest-algorithm=md5", "", 400, "DIGEST_INVALID"},
		{"too large", "POST", "/v2/a/blobs/uploads/?digest=" + some, strings.Repeat("x", 101), 413, "SIZE_INVALID"},
		{"unknown upload", "PATCH", "/v2/a/blobs/uploads/AAAAAAAAAAAAAAAAAAAAAAAAAA.00000000000000000000000000000000", "x", 404, "BLOB_UPLOAD_UNKNOWN"},
		{"upload of no shape", "PATCH", "/v2/a/blobs/uploads/x", "x", 404, "BLOB_UPLOAD_UNKNOWN"},
		{"bad name", "POST", "/v2/A/blobs/uploads/", "", 400, "NAME_INVALID"},
		{"bad mount", "POST", "/v2/a/blobs/uploads/?mount=x&from=b", "", 400, "DIGEST_INVALID"},
		{"bad mount source", "POST", "/v2/a/blobs/uploads/?from=../b&mount=" + some, "", 400, "NAME_INVALID"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want(t, tt.name, c.Do(tt.method, tt.path, tt.body), tt.status, tt.code)
		})
	}
	r, err := c.Try("PATCH", begin(t, c, "a"), io.MultiReader(strings.NewReader(strings.Repeat("x", 101))))
	if err != nil {
		t.Fatal(err)
	}
	want(t, "too large, streamed", r, http.StatusRequestEntityTooLarge, "SIZE_INVALID")
}

func TestUploadBelongsToWhoBeganIt(t *testing.T) {
	s, c := one(t)
	s.Grant(t, "other", identity.RolePublisher, "**")
	other := s.Client(t, "other")
	at := begin(t, c, "a")
	for _, method := range []string{"GET", "PATCH", "DELETE"} {
		want(t, "another principal's "+method, other.Do(method, at, ""), http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
	}
	elsewhere := strings.Replace(at, "/v2/a/", "/v2/b/", 1)
	want(t, "in another repository", c.Do("PATCH", elsewhere, "x"), http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
	want(t, "one's own", c.Do("DELETE", at, ""), http.StatusNoContent, "")
	want(t, "cancelled", c.Do("GET", at, ""), http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
}

func TestUploadsAreBounded(t *testing.T) {
	_, c := one(t, limits(registry.Limits{Uploads: 1, UploadWait: 500 * time.Millisecond}))
	slow, w := io.Pipe()
	first := make(chan *registrytest.Response, 1)
	at := begin(t, c, "a")
	go func() {
		r, _ := c.Try("PATCH", at, slow)
		first <- r
	}()
	if _, err := w.Write([]byte("x")); err != nil { // the first body is being read
		t.Fatal(err)
	}
	var r *registrytest.Response
	// Until the first one holds the only place, however busy the machine is.
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if r = c.Do("PATCH", begin(t, c, "a"), "x"); r.StatusCode == http.StatusTooManyRequests {
			break
		}
	}
	want(t, "second body", r, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	wantHeader(t, "second body", r, "Retry-After", "1")
	_ = w.Close()
	want(t, "first body", <-first, http.StatusAccepted, "")
	want(t, "after it", c.Do("PATCH", begin(t, c, "a"), "x"), http.StatusAccepted, "")
}

func TestBlobReads(t *testing.T) {
	_, c := one(t)
	content := "0123456789"
	d := c.PushBlob("a", content)
	path := "/v2/a/blobs/" + string(d)
	for _, tt := range []struct {
		name    string
		method  string
		headers []string
		status  int
		body    string
		header  [2]string
	}{
		{"whole", "GET", nil, 200, content, [2]string{"Content-Length", "10"}},
		{"HEAD", "HEAD", nil, 200, "", [2]string{"Content-Length", "10"}},
		{"range", "GET", []string{"Range", "bytes=2-4"}, 206, "234", [2]string{"Content-Range", "bytes 2-4/10"}},
		{"open range", "GET", []string{"Range", "bytes=7-"}, 206, "789", [2]string{"Content-Range", "bytes 7-9/10"}},
		{"last bytes", "GET", []string{"Range", "bytes=-2"}, 206, "89", [2]string{"Content-Range", "bytes 8-9/10"}},
		{"beyond", "GET", []string{"Range", "bytes=10-20"}, 416, "", [2]string{"Content-Range", "bytes */10"}},
		{"several ranges are not split up", "GET", []string{"Range", "bytes=0-1,4-5"}, 200, content, [2]string{"Content-Length", "10"}},
		{"not modified", "GET", []string{"If-None-Match", `"` + string(d) + `"`}, 304, "", [2]string{"Etag", `"` + string(d) + `"`}},
		{"range of something else", "GET", []string{"Range", "bytes=0-1", "If-Range", `"x"`}, 200, content, [2]string{"Content-Length", "10"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := c.Do(tt.method, path, "", tt.headers...)
			want(t, tt.name, r, tt.status, "")
			wantHeader(t, tt.name, r, tt.header[0], tt.header[1])
			if tt.status != 416 && string(r.Body) != tt.body {
				t.Fatalf("body %q, want %q", r.Body, tt.body)
			}
			if tt.status == 200 || tt.status == 206 {
				wantHeader(t, tt.name, r, "Docker-Content-Digest", string(d))
				wantHeader(t, tt.name, r, "Content-Type", "application/octet-stream")
			}
		})
	}
	want(t, "absent", c.Do("GET", "/v2/a/blobs/"+string(artifact.SHA256Of([]byte("absent"))), ""), http.StatusNotFound, "BLOB_UNKNOWN")
	want(t, "no digest", c.Do("GET", "/v2/a/blobs/latest", ""), http.StatusBadRequest, "DIGEST_INVALID")
}

func TestSHA512(t *testing.T) {
	each(t, func(t *testing.T, _ *registrytest.Server, c *registrytest.Client) {
		content := "sha512 content"
		sum := sha512.Sum512([]byte(content))
		d := string(artifact.NewDigest(artifact.SHA512, sum[:]))
		want(t, "push", c.Do("POST", "/v2/a/blobs/uploads/?digest="+d, content), http.StatusCreated, "")
		m := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":%d},"layers":[]}`,
			registrytest.ImageType, d, len(content))
		msum := sha512.Sum512([]byte(m))
		md := string(artifact.NewDigest(artifact.SHA512, msum[:]))
		r := c.PutManifest("a", md+"?tag=one&tag=two", []byte(m))
		want(t, "push manifest", r, http.StatusCreated, "")
		wantHeader(t, "push manifest", r, "Oci-Tag", "one, two")
		for _, ref := range []string{md, "one", "two"} {
			r := c.Do("GET", "/v2/a/manifests/"+ref, "")
			want(t, "GET "+ref, r, http.StatusOK, "")
			wantHeader(t, "GET "+ref, r, "Docker-Content-Digest", md)
		}
		want(t, "tag with digest", c.PutManifest("a", "three?digest="+md, []byte(m)), http.StatusCreated, "")
		want(t, "tag with another digest", c.PutManifest("a", "four?digest="+d, []byte(m)), http.StatusBadRequest, "DIGEST_INVALID")
	})
}
