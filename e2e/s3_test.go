//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/blob/s3"
	"assay/blob/s3/s3test"
	"assay/registry"
	"assay/registry/registrytest"
	"assay/store"
	"assay/store/storetest"
)

func s3Site(t *testing.T) (*site, *s3test.Server) {
	srv := s3test.Start(t)
	o := srv.Bucket(t, "assay-blobs")
	s := &site{t: t, data: filepath.Join(shortTemp(t), "data"), env: []string{
		"ASSAY_BLOB_S3_ENDPOINT=" + o.Endpoint, "ASSAY_BLOB_S3_BUCKET=" + o.Bucket, "ASSAY_BLOB_S3_PREFIX=site/one",
		"ASSAY_BLOB_S3_PATH_STYLE=true", "ASSAY_BLOB_S3_CREDENTIALS=" + o.Credentials,
	}}
	return s, srv
}

// TestS3 runs a site whose blobs lie in a bucket of a real S3 server: crane and
// cosign notice nothing.
func TestS3(t *testing.T) {
	s, srv := s3Site(t)
	s.start("127.0.0.1:0")
	env := s.home(alice)
	image := pushImage(t, s, env, "team/app", strings.Repeat("content ", 1<<20)) // compresses
	must(t, env, "crane", "validate", "--remote", image)
	dir := t.TempDir()
	s.assay("trust", "root", "--out", filepath.Join(dir, "root.json"))
	must(t, env, "cosign", "initialize", "--mirror", s.Services.TUF, "--root", filepath.Join(dir, "root.json"))
	who := []string{"--certificate-identity", alice, "--certificate-oidc-issuer", s.Services.OIDC}
	must(t, env, "cosign", "sign", "--yes", "--identity-token", s.token(alice, "sigstore"), image)
	must(t, env, "cosign", append(append([]string{"verify"}, who...), image)...)
	in := 0
	_ = filepath.WalkDir(filepath.Join(srv.Dir, "assay-blobs", "site", "one", "sha256"), func(_ string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			in++
		}
		return nil
	})
	here, _ := filepath.Glob(filepath.Join(s.data, "blobs", "sha256", "*", "*"))
	if in < 5 || len(here) > 0 {
		t.Fatalf("%d blobs in the bucket, %d in the data folder", in, len(here))
	}
	s.stop()
}

// TestThreat_Store_S3KillDuringUpload kills the server with kill -9 in the
// middle of an upload; the client goes on where the new one says.
func TestThreat_Store_S3KillDuringUpload(t *testing.T) {
	s, _ := s3Site(t)
	listen := freeAddress(t)
	s.start(listen)
	content := make([]byte, 24<<20)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range content {
		content[i] = byte(r.Uint32())
	}
	token := s.token(alice, "assay-registry")
	base := "http://" + listen
	call := func(ctx context.Context, method, url string, body io.Reader, header ...string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, method, url, body)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("assay", token)
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			resp.Body = io.NopCloser(bytes.NewReader(b))
		}
		return resp, err
	}
	want := func(resp *http.Response, err error, code int) *http.Response {
		t.Helper()
		if err != nil || resp.StatusCode != code {
			t.Fatalf("%v, %v, want %d", resp, err, code)
		}
		return resp
	}
	at := func(resp *http.Response) string {
		l := resp.Header.Get("Location")
		if strings.HasPrefix(l, "/") {
			l = base + l
		}
		return l
	}
	resp, err := call(t.Context(), http.MethodPost, base+"/v2/team/big/blobs/uploads/", nil)
	location := at(want(resp, err, http.StatusAccepted))
	const first = 7 << 20
	resp, err = call(t.Context(), http.MethodPatch, location, bytes.NewReader(content[:first]), "Content-Type", "application/octet-stream", "Content-Range", fmt.Sprintf("0-%d", first-1))
	location = at(want(resp, err, http.StatusAccepted))

	// The second chunk stalls after 12 MiB, and the server dies.
	pr, pw := io.Pipe()
	sent := make(chan struct{})
	go func() {
		_, _ = pw.Write(content[first : first+12<<20])
		close(sent)
	}()
	gone := make(chan error, 1)
	go func() {
		_, err := call(t.Context(), http.MethodPatch, location, pr, "Content-Type", "application/octet-stream")
		gone <- err
	}()
	<-sent
	time.Sleep(300 * time.Millisecond) // what was sent is on its way to the bucket
	s.kill()
	_ = pw.CloseWithError(io.ErrUnexpectedEOF)
	<-gone
	s.start(listen)
	resp, err = call(t.Context(), http.MethodGet, location, nil)
	resp = want(resp, err, http.StatusNoContent)
	var have int
	if _, err := fmt.Sscanf(resp.Header.Get("Range"), "0-%d", &have); err != nil {
		t.Fatalf("Range %q", resp.Header.Get("Range"))
	}
	have++
	if have < first {
		t.Fatalf("%d bytes were acknowledged, the new server has %d", first, have)
	}
	t.Logf("acknowledged %d, kept %d of %d that were sent", first, have, first+12<<20)
	location = at(resp)
	resp, err = call(t.Context(), http.MethodPatch, location, bytes.NewReader(content[have:]), "Content-Type", "application/octet-stream", "Content-Range", fmt.Sprintf("%d-%d", have, len(content)-1))
	location = at(want(resp, err, http.StatusAccepted))
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(content))
	sep := "?"
	if strings.Contains(location, "?") {
		sep = "&"
	}
	resp, err = call(t.Context(), http.MethodPut, location+sep+"digest="+digest, nil)
	want(resp, err, http.StatusCreated)
	resp, err = call(t.Context(), http.MethodGet, base+"/v2/team/big/blobs/"+digest, nil, "Range", "bytes=20000000-")
	b, _ := io.ReadAll(want(resp, err, http.StatusPartialContent).Body)
	if !bytes.Equal(b, content[20_000_000:]) {
		t.Fatal("the blob came back changed")
	}
	s.stop()
}

// TestOCIConformanceS3 runs the official suite over a bucket.
func TestOCIConformanceS3(t *testing.T) {
	program, err := exec.LookPath("conformance")
	if err != nil {
		t.Fatal(`the suite is not on PATH: PATH="$(tools/install.sh conformance):$PATH"`)
	}
	srv := s3test.Start(t)
	blobs, err := s3.Open(t.Context(), srv.Bucket(t, "conformance"))
	if err != nil {
		t.Fatal(err)
	}
	defer blobs.Close()
	s := registrytest.Start(t, storetest.Open(t, store.SQLite), func(o *registry.Options) { o.Blobs = blobs })
	runConformance(t, program, s, "1.1", map[string]string{"Sparse Manifests": "Disabled", "Blob anonymous mount": "Skip"})
}

// TestS3Redirect: with registry.redirect, a large blob is fetched from the bucket
// itself, and crane follows; small ones and manifests pass through the registry.
func TestS3Redirect(t *testing.T) {
	s, srv := s3Site(t)
	s.env = append(s.env, "ASSAY_REGISTRY_REDIRECT=5m")
	s.start("127.0.0.1:0")
	env := s.home(alice)
	dir := t.TempDir()
	noise := make([]byte, 3<<20)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	image := pushImage(t, s, env, "team/app", string(noise))
	must(t, env, "crane", "pull", image, filepath.Join(dir, "image.tar"))
	manifest := must(t, env, "crane", "manifest", image)
	var m struct {
		Config struct{ Digest string }
		Layers []struct {
			Digest string
			Size   int64
		}
	}
	if err := json.Unmarshal([]byte(manifest), &m); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	get := func(d string) *http.Response {
		req, _ := http.NewRequest("GET", s.PublicURL+"/v2/team/app/blobs/"+d, nil)
		req.SetBasicAuth("token", s.token(alice, "assay-registry"))
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	large := get(m.Layers[0].Digest)
	if at := large.Header.Get("Location"); large.StatusCode != http.StatusTemporaryRedirect || !strings.Contains(at, strings.TrimPrefix(srv.Endpoint, "http://")) || large.Header.Get("Cache-Control") != "private, no-store" {
		t.Errorf("%d %v", large.StatusCode, large.Header)
	}
	if small := get(m.Config.Digest); small.StatusCode != http.StatusOK {
		t.Errorf("the configuration: %d", small.StatusCode)
	}
	s.stop()
}
