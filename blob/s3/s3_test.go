package s3_test

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"assay/artifact"
	"assay/blob"
	"assay/blob/blobtest"
	"assay/blob/s3"
	"assay/blob/s3/s3test"
	"assay/internal/fault"
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantKind(t testing.TB, what string, err error, kind *fault.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("%s: %v, want kind %v", what, err, kind)
	}
}

func open(t testing.TB, o s3.Options) *s3.Store {
	t.Helper()
	s := must(s3.Open(t.Context(), o))(t)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// places gives each place of the suite a prefix of its own.
func places(o s3.Options) func(t *testing.T, place string) blob.Store {
	return func(t *testing.T, place string) blob.Store {
		o := o
		o.Prefix = "suite" + filepath.ToSlash(place)
		return open(t, o)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(7, uint64(n)))
	for i := 0; i+8 <= len(b); i += 8 {
		for v, j := r.Uint64(), 0; j < 8; j++ {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	return b
}

func TestSuiteOnServer(t *testing.T) {
	srv := s3test.Start(t)
	blobtest.Run(t, places(srv.Bucket(t, "suite")))
}

// fake is gofakes3, in this process; intercept may answer a request itself.
func fake(t testing.TB, intercept func(w http.ResponseWriter, r *http.Request) bool) s3.Options {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("assay"); err != nil {
		t.Fatal(err)
	}
	h := gofakes3.New(backend).Server()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// net/http keeps the length of nothing to itself, and the fake wants it.
		r.Header.Set("Content-Length", strconv.FormatInt(r.ContentLength, 10))
		if intercept == nil || !intercept(w, r) {
			h.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	return s3.Options{Endpoint: srv.URL, Bucket: "assay", PathStyle: true, Credentials: credentialsFile(t), Retries: 1}
}

func credentialsFile(t testing.TB) string {
	path := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(path, []byte("aws_access_key_id=a\naws_secret_access_key=b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return "file:" + path
}

// In parts of 64 KiB the whole suite goes by way of multipart uploads, which
// the fake permits and a real service does not.
func TestSuiteInSmallParts(t *testing.T) {
	o := fake(t, nil)
	o.PartSize = 64 << 10
	blobtest.Run(t, places(o))
}

func TestLargeUploadOverRestarts(t *testing.T) {
	srv := s3test.Start(t)
	o := srv.Bucket(t, "large")
	o.Prefix = "p/q"
	content := random(17<<20 + 5)
	cuts := []int{0, 3 << 20, 11<<20 + 77, len(content)}
	w := must(open(t, o).Create(t.Context()))(t)
	id := w.ID()
	for i := 1; i < len(cuts); i++ {
		if w.Offset() != int64(cuts[i-1]) {
			t.Fatalf("resumed at %d, want %d", w.Offset(), cuts[i-1])
		}
		must(w.Write(content[cuts[i-1]:cuts[i]]))(t)
		if i < len(cuts)-1 {
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			w = must(open(t, o).Resume(t.Context(), id))(t)
		}
	}
	d := artifact.SHA256Of(content)
	if err := w.Commit(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	s := open(t, o)
	f := must(s.Open(t.Context(), d))(t)
	if got := must(io.ReadAll(f))(t); !bytes.Equal(got, content) {
		t.Fatal("content came back changed")
	}
	must(f.Seek(-10, io.SeekEnd))(t)
	if got := must(io.ReadAll(f))(t); !bytes.Equal(got, content[len(content)-10:]) {
		t.Fatal("a range is another")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	// Under another algorithm the joined object is read once more.
	sum := sha512.Sum512(content)
	if err := blob.PutAs(t.Context(), s, content, artifact.NewDigest(artifact.SHA512, sum[:])); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "sha512 of other bytes", blob.PutAs(t.Context(), s, content[1:], artifact.NewDigest(artifact.SHA512, sum[:])), fault.Invalid)
	left(t, srv, "large/p/q/uploads")
}

// left wants no remains of sessions.
func left(t testing.TB, srv *s3test.Server, under string) {
	t.Helper()
	var files []string
	_ = filepath.WalkDir(filepath.Join(srv.Dir, filepath.FromSlash(under)), func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, path)
		}
		return nil
	})
	if len(files) > 0 {
		t.Errorf("remains of sessions: %v", files)
	}
}

// A process that dies without a word loses what it had since its last part, and
// the session goes on there.
func TestKilledWriter(t *testing.T) {
	srv := s3test.Start(t)
	o := srv.Bucket(t, "killed")
	content := random(12 << 20)
	w := must(open(t, o).Create(t.Context()))(t)
	must(w.Write(content[:11<<20]))(t) // never closed: the process is gone
	w2 := must(open(t, o).Resume(t.Context(), w.ID()))(t)
	if w2.Offset() != 10<<20 {
		t.Fatalf("goes on at %d, want the end of the second part", w2.Offset())
	}
	must(w2.Write(content[w2.Offset():]))(t)
	if err := w2.Commit(t.Context(), artifact.SHA256Of(content)); err != nil {
		t.Fatal(err)
	}
	// Should the first come to life again, it can harm nothing.
	if err := w.Close(); err == nil {
		t.Fatal("a writer whose session was finished elsewhere kept it")
	}
}

func TestTwoServersOneSession(t *testing.T) {
	srv := s3test.Start(t)
	o := srv.Bucket(t, "two")
	w := must(open(t, o).Create(t.Context()))(t)
	must(w.Write([]byte("begin")))(t)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	a := must(open(t, o).Resume(t.Context(), w.ID()))(t)
	b := must(open(t, o).Resume(t.Context(), w.ID()))(t)
	must(a.Write([]byte(" one")))(t)
	must(b.Write([]byte(" two")))(t)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "the later writer", b.Close(), fault.Conflict)
}

func TestExpire(t *testing.T) {
	srv := s3test.Start(t)
	o := srv.Bucket(t, "expire")
	at := time.Now()
	o.Clock = func() time.Time { return at }
	s := open(t, o)
	w := must(s.Create(t.Context()))(t)
	must(w.Write(random(6 << 20)))(t)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	d := must(blob.Put(t.Context(), s, []byte("stays")))(t)
	if n := must(s.Expire(t.Context()))(t); n != 0 {
		t.Fatalf("%d young sessions expired", n)
	}
	at = at.Add(25 * time.Hour)
	if n := must(s.Expire(t.Context()))(t); n != 1 {
		t.Fatalf("%d sessions expired, want 1", n)
	}
	_, err := s.Resume(t.Context(), w.ID())
	wantKind(t, "an expired session", err, fault.NotFound)
	must(s.Stat(t.Context(), d))(t)
	left(t, srv, "expire/uploads")
}

func TestPresign(t *testing.T) {
	srv := s3test.Start(t)
	s := open(t, srv.Bucket(t, "presign"))
	d := must(blob.Put(t.Context(), s, []byte("hello")))(t)
	u := must(s.PresignGet(t.Context(), d, time.Minute))(t)
	resp := must(http.Get(u))(t)
	defer resp.Body.Close()
	if b := must(io.ReadAll(resp.Body))(t); resp.StatusCode != http.StatusOK || string(b) != "hello" {
		t.Fatalf("%d %q", resp.StatusCode, b)
	}
	resp2 := must(http.Get(strings.Replace(u, d.Hex(), artifact.SHA256Of(nil).Hex(), 1)))(t)
	defer resp2.Body.Close()
	if resp2.StatusCode == http.StatusOK {
		t.Fatal("the address opens another blob too")
	}
	_, err := s.PresignGet(t.Context(), d, 8*24*time.Hour)
	wantKind(t, "8 days", err, fault.Invalid)
}

func TestRetain(t *testing.T) {
	srv := s3test.Start(t)
	s := open(t, srv.Bucket(t, "nolock"))
	d := must(blob.Put(t.Context(), s, []byte("keep me")))(t)
	wantKind(t, "a hold in a bucket without Object Lock", s.LegalHold(t.Context(), d, true), fault.Invalid)
	wantKind(t, "a bucket without Object Lock", s.Retain(t.Context(), d, time.Now().Add(time.Hour)), fault.Invalid)

	// Only the API makes a bucket with Object Lock.
	c := must(minio.New(strings.TrimPrefix(srv.Endpoint, "http://"), &minio.Options{Creds: credentials.NewStaticV4("assay-test", "assay-test-secret", ""), Region: "us-east-1"}))(t)
	if err := c.MakeBucket(t.Context(), "locked", minio.MakeBucketOptions{ObjectLocking: true}); err != nil {
		t.Fatal(err)
	}
	s = open(t, s3.Options{Endpoint: srv.Endpoint, Bucket: "locked", PathStyle: true, Credentials: srv.Credentials})
	d = must(blob.Put(t.Context(), s, []byte("keep me")))(t)
	info := must(c.StatObject(t.Context(), "locked", "sha256/"+d.Hex()[:2]+"/"+d.Hex(), minio.StatObjectOptions{}))(t)
	if err := s.Retain(t.Context(), d, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	err := c.RemoveObject(t.Context(), "locked", info.Key, minio.RemoveObjectOptions{VersionID: info.VersionID})
	if err == nil {
		t.Fatal("the locked version was deleted")
	}
	other := must(blob.Put(t.Context(), s, []byte("in court")))(t)
	key := "sha256/" + other.Hex()[:2] + "/" + other.Hex()
	version := must(c.StatObject(t.Context(), "locked", key, minio.StatObjectOptions{}))(t).VersionID
	remove := func() error {
		return c.RemoveObject(t.Context(), "locked", key, minio.RemoveObjectOptions{VersionID: version})
	}
	if err := s.LegalHold(t.Context(), other, true); err != nil {
		t.Fatal(err)
	}
	if remove() == nil {
		t.Fatal("a version on legal hold was deleted")
	}
	if err := s.LegalHold(t.Context(), other, false); err != nil {
		t.Fatal(err)
	}
	if err := remove(); err != nil {
		t.Fatal("after the hold", err)
	}
	if _, err := s.Stat(t.Context(), d); err != nil {
		t.Fatal(err)
	}
}

// A stream that breaks is taken up where it broke.
func TestReadGoesOn(t *testing.T) {
	content := random(1 << 20)
	d := artifact.SHA256Of(content)
	var breaks atomic.Int32
	o := fake(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, d.Hex()) || breaks.Add(1) > 2 {
			return false
		}
		from := 0
		_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		w.Header().Set("Content-Length", fmt.Sprint(len(content)-from))
		w.Header().Set("Etag", `"x"`)
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		_, _ = w.Write(content[from : from+100_000])
		panic(http.ErrAbortHandler)
	})
	s := open(t, o)
	must(blob.Put(t.Context(), s, content))(t)
	f := must(s.Open(t.Context(), d))(t)
	defer f.Close()
	if got := must(io.ReadAll(f))(t); !bytes.Equal(got, content) {
		t.Fatal("content came back changed")
	}
	if breaks.Load() != 3 {
		t.Fatalf("%d requests, want three", breaks.Load())
	}
}

// What the service does not take is Unavailable and acknowledged to nobody.
func TestServiceFails(t *testing.T) {
	var down atomic.Bool
	o := fake(t, func(w http.ResponseWriter, r *http.Request) bool {
		if down.Load() && r.Method == http.MethodPut {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	})
	o.PartSize = 1000
	s := open(t, o)
	w := must(s.Create(t.Context()))(t)
	must(w.Write(random(2500)))(t)
	down.Store(true)
	_, err := w.Write(random(1000))
	wantKind(t, "write", err, fault.Unavailable)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = blob.Put(t.Context(), s, []byte("x"))
	wantKind(t, "put", err, fault.Unavailable)
	down.Store(false)
	w = must(s.Resume(t.Context(), w.ID()))(t)
	if w.Offset() != 2000 {
		t.Fatalf("goes on at %d, want the last part that was kept", w.Offset())
	}
	if err := w.Cancel(); err != nil {
		t.Fatal(err)
	}
}

func TestThreat_Registry_S3RedirectIsNotFollowed(t *testing.T) {
	var reached atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Store(true) }))
	defer other.Close()
	d := artifact.SHA256Of([]byte("x"))
	o := fake(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, d.Hex()) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	s := open(t, o)
	must(blob.Put(t.Context(), s, []byte("x")))(t)
	if f, err := s.Open(t.Context(), d); err == nil {
		_ = f.Close()
		t.Fatal("a redirect was taken for the blob")
	}
	if reached.Load() {
		t.Fatal("the redirect was followed")
	}
}

func TestOptions(t *testing.T) {
	good := s3.Options{Endpoint: "https://s3.example", Bucket: "b", Credentials: "env"}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*s3.Options){
		"no endpoint":            func(o *s3.Options) { o.Endpoint = "" },
		"plain http":             func(o *s3.Options) { o.Endpoint = "http://s3.example" },
		"a path":                 func(o *s3.Options) { o.Endpoint = "https://s3.example/x" },
		"a user":                 func(o *s3.Options) { o.Endpoint = "https://u:p@s3.example" },
		"no bucket":              func(o *s3.Options) { o.Bucket = "" },
		"bucket with slash":      func(o *s3.Options) { o.Bucket = "a/b" },
		"prefix that climbs":     func(o *s3.Options) { o.Prefix = "../x" },
		"prefix with slash":      func(o *s3.Options) { o.Prefix = "x/" },
		"no credentials":         func(o *s3.Options) { o.Credentials = "" },
		"a secret in the open":   func(o *s3.Options) { o.Credentials = "AKIA:abc" },
		"metadata by other name": func(o *s3.Options) { o.Credentials = "IMDS" },
	} {
		o := good
		change(&o)
		err := o.Validate()
		wantKind(t, name, err, fault.Invalid)
		if strings.Contains(err.Error(), "AKIA") {
			t.Fatalf("%s: the message repeats the secret: %v", name, err)
		}
	}
	o := fake(t, nil)
	o.Bucket = "absent"
	_, err := s3.Open(t.Context(), o)
	wantKind(t, "absent bucket", err, fault.Unavailable)
	o.Credentials = "file:" + filepath.Join(t.TempDir(), "absent")
	_, err = s3.Open(t.Context(), o)
	wantKind(t, "absent credentials", err, fault.Invalid)
}

func TestWrongSecretIsToldApart(t *testing.T) {
	srv := s3test.Start(t)
	o := srv.Bucket(t, "secret")
	o.Credentials = credentialsFile(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := s3.Open(ctx, o)
	wantKind(t, "wrong secret", err, fault.Unavailable)
	if !strings.Contains(err.Error(), "credentials") {
		t.Fatalf("the message does not say what to mend: %v", err)
	}
}
