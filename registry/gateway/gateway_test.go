package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/artifact"
	"assay/blob/sweep"
	"assay/config"
	"assay/event"
	"assay/identity"
	"assay/registry"
	"assay/registry/gateway"
	"assay/registry/registrytest"
	"assay/store"
	"assay/store/storetest"
)

// bed is a gateway in front of a second registry of this make, over a wire that
// a test can cut, count on, and tamper with.
type bed struct {
	up, own  *registrytest.Server
	pusher   *registrytest.Client // at the upstream
	puller   *registrytest.Client // here
	gw       *gateway.Gateway
	wire     *httptest.Server
	cut      atomic.Bool
	requests atomic.Int64
	blobs    atomic.Int64
	tamper   atomic.Pointer[func(path string, body []byte) []byte]
	seen     sync.Map // Authorization by path
	now      atomic.Int64
	secret   string // file of the gateway's credentials
	metrics  *prometheus.Registry
}

func writeSecret(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (b *bed) clock() time.Time     { return time.Unix(0, b.now.Load()) }
func (b *bed) pass(d time.Duration) { b.now.Add(int64(d)) }

func newBed(t *testing.T, db *store.DB, more ...registrytest.Option) *bed {
	t.Helper()
	b := &bed{}
	b.now.Store(time.Now().UnixNano())
	b.up = registrytest.Start(t, storetest.Open(t, store.SQLite), func(o *registry.Options) { o.PublicURL = "" })
	b.up.Grant(t, "pusher", identity.RolePublisher, "**")
	b.up.Grant(t, "gateway", identity.RoleViewer, "**")
	b.pusher = b.up.Client(t, "pusher")
	target, err := url.Parse(b.up.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ModifyResponse = func(resp *http.Response) error {
		f := b.tamper.Load()
		if f == nil {
			return nil
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		body = (*f)(resp.Request.URL.Path, body)
		resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		resp.Header.Del("Content-Length")
		return nil
	}
	b.wire = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.requests.Add(1)
		if strings.Contains(r.URL.Path, "/blobs/") {
			b.blobs.Add(1)
		}
		b.seen.Store(r.URL.Path, r.Header.Get("Authorization"))
		if b.cut.Load() {
			panic(http.ErrAbortHandler)
		}
		// Basic alone, so that the test needs no token service behind the wire.
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(b.wire.Close)
	secret := writeSecret(t, "gateway:"+b.up.Token(t, "gateway", identity.AudienceRegistry))
	b.secret = secret
	if err := db.Migrate(t.Context(), event.Migrations, sweep.Migrations, registry.Migrations, gateway.Migrations); err != nil {
		t.Fatal(err)
	}
	b.metrics = prometheus.NewRegistry()
	if b.gw, err = gateway.New(gateway.Options{DB: db, Clock: b.clock, Registerer: b.metrics}); err != nil {
		t.Fatal(err)
	}
	rules, err := config.NewRepositories(config.RepositorySpec{
		Pattern: "mirror/**", ImmutableTags: nil,
		Upstream: config.UpstreamSpec{URL: b.wire.URL + "/team", Credentials: "file:" + secret, AllowPrivate: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.gw.Set(rules)
	b.own = registrytest.Start(t, db, append(more, func(o *registry.Options) { o.Upstream = b.gw })...)
	b.own.Grant(t, "puller", identity.RoleViewer, "**")
	b.own.Grant(t, "puller", identity.RolePublisher, "**")
	b.puller = b.own.Client(t, "puller")
	return b
}

func each(t *testing.T, f func(t *testing.T, b *bed)) {
	storetest.Each(t, func(t *testing.T, db *store.DB) { f(t, newBed(t, db)) })
}

func want(t *testing.T, what string, r *registrytest.Response, status int) {
	t.Helper()
	if r.StatusCode != status {
		t.Fatalf("%s: %s %s, want %d", what, r.Status, r.Body, status)
	}
}

const accept = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"

func TestPullThrough(t *testing.T) {
	each(t, func(t *testing.T, b *bed) {
		d := b.pusher.PushImage("team/app", "v1", registrytest.Image{Layer: "layer one"})
		sig := b.pusher.PushImage("team/app", "", registrytest.Image{Layer: "a signature", Subject: d, ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json"})
		b.pusher.PushImage("team/app", "sha256-"+d.Hex()+".sig", registrytest.Image{Layer: "an older signature"})

		r := b.puller.Do("GET", "/v2/mirror/app/manifests/v1", "", "Accept", accept)
		want(t, "first pull", r, 200)
		if got := r.Header.Get("Docker-Content-Digest"); got != string(d) {
			t.Fatalf("digest %s, want %s", got, d)
		}
		// Evidence came along, with its blobs; the image's blobs did not.
		layer := artifact.SHA256Of([]byte("layer one"))
		if _, err := b.own.Blobs.Stat(t.Context(), layer); err == nil {
			t.Error("a layer that nobody asked for was fetched")
		}
		b.cut.Store(true)
		r = b.puller.Do("GET", "/v2/mirror/app/referrers/"+string(d), "")
		want(t, "referrers", r, 200)
		if !strings.Contains(string(r.Body), string(sig)) {
			t.Errorf("referrers without %s: %s", sig, r.Body)
		}
		for _, s := range []string{"a signature", "an older signature"} {
			want(t, "blob of evidence", b.puller.Do("GET", "/v2/mirror/app/blobs/"+string(artifact.SHA256Of([]byte(s))), ""), 200)
		}
		want(t, "pull of what is here, upstream down", b.puller.Do("GET", "/v2/mirror/app/manifests/v1", "", "Accept", accept), 200)
		want(t, "blob that is not here, upstream down", b.puller.Do("GET", "/v2/mirror/app/blobs/"+string(layer), ""), 502)
		want(t, "tag that is not here, upstream down", b.puller.Do("GET", "/v2/mirror/app/manifests/v2", "", "Accept", accept), 502)
		b.cut.Store(false)
		r = b.puller.Do("GET", "/v2/mirror/app/blobs/"+string(layer), "")
		want(t, "blob", r, 200)
		if string(r.Body) != "layer one" {
			t.Errorf("blob is %q", r.Body)
		}
		b.cut.Store(true)
		want(t, "blob again", b.puller.Do("GET", "/v2/mirror/app/blobs/"+string(layer), ""), 200)

		// Due again: what is kept is served, and the client is told.
		b.pass(time.Hour)
		r = b.puller.Do("GET", "/v2/mirror/app/manifests/v1", "", "Accept", accept)
		want(t, "due, upstream down", r, 200)
		if !strings.Contains(r.Header.Get("Warning"), "could not be asked") {
			t.Errorf("Warning: %q", r.Header.Get("Warning"))
		}
		b.cut.Store(false)
		b.pass(time.Minute)
		d2 := b.pusher.PushImage("team/app", "v1", registrytest.Image{Layer: "layer three"})
		r = b.puller.Do("HEAD", "/v2/mirror/app/manifests/v1", "", "Accept", accept)
		want(t, "moved", r, 200)
		if got := r.Header.Get("Docker-Content-Digest"); got != string(d2) {
			t.Errorf("tag names %s, want %s", got, d2)
		}
		moves := b.own.Events(t, event.TagMoved)
		last := moves[len(moves)-1]
		if last.Actor != "system:gateway" || last.Digest != d2 {
			t.Errorf("move by %s to %s", last.Actor, last.Digest)
		}
	})
}

func TestPushIsRefused(t *testing.T) {
	each(t, func(t *testing.T, b *bed) {
		r := b.puller.Do("POST", "/v2/mirror/app/blobs/uploads/", "")
		want(t, "upload", r, 403)
		if !strings.Contains(string(r.Body), "gateway") {
			t.Errorf("reason: %s", r.Body)
		}
		r = b.puller.Do("PUT", "/v2/mirror/app/manifests/v1", "{}", "Content-Type", "application/vnd.oci.image.manifest.v1+json")
		want(t, "manifest", r, 403)
		if n := b.requests.Load(); n != 0 {
			t.Errorf("%d requests to the upstream", n)
		}
		want(t, "another repository", b.puller.Do("POST", "/v2/own/app/blobs/uploads/", ""), 202)
	})
}

// Many who want one blob at once cost the upstream one fetch.
func TestOneFetchForMany(t *testing.T) {
	each(t, func(t *testing.T, b *bed) {
		b.pusher.PushImage("team/app", "v1", registrytest.Image{Layer: strings.Repeat("layer ", 200_000)})
		want(t, "pull", b.puller.Do("GET", "/v2/mirror/app/manifests/v1", "", "Accept", accept), 200)
		before := b.blobs.Load()
		d := artifact.SHA256Of([]byte(strings.Repeat("layer ", 200_000)))
		var wg sync.WaitGroup
		var failed atomic.Int64
		for range 16 {
			wg.Go(func() {
				r, err := b.puller.Try("GET", "/v2/mirror/app/blobs/"+string(d), http.NoBody)
				if err != nil || r.StatusCode != 200 || len(r.Body) != 1_200_000 {
					failed.Add(1)
				}
			})
		}
		wg.Wait()
		if n := failed.Load(); n > 0 {
			t.Errorf("%d of 16 failed", n)
		}
		if n := b.blobs.Load() - before; n > 1 {
			t.Errorf("%d fetches, want 1", n)
		}
	})
}

// What an upstream serves under a digest is hashed before it is kept, and never
// reaches a client otherwise.
func TestThreat_Registry_UpstreamMismatch(t *testing.T) {
	each(t, func(t *testing.T, b *bed) {
		d := b.pusher.PushImage("team/app", "v1", registrytest.Image{Layer: "layer one"})
		flip := func(part string) {
			f := func(path string, body []byte) []byte {
				if strings.Contains(path, part) && len(body) > 4 {
					body = bytes.Clone(body)
					body[len(body)/2] ^= 1
				}
				return body
			}
			b.tamper.Store(&f)
		}
		flip("/manifests/")
		r := b.puller.Do("GET", "/v2/mirror/app/manifests/"+string(d), "", "Accept", accept)
		want(t, "manifest", r, 502)
		if !strings.Contains(string(r.Body), "digest") {
			t.Errorf("reason: %s", r.Body)
		}
		b.tamper.Store(nil)
		want(t, "pull", b.puller.Do("GET", "/v2/mirror/app/manifests/v1", "", "Accept", accept), 200)
		flip("/blobs/")
		layer := "/v2/mirror/app/blobs/" + string(artifact.SHA256Of([]byte("layer one")))
		want(t, "blob", b.puller.Do("GET", layer, ""), 502)
		more := func(path string, body []byte) []byte {
			if strings.Contains(path, "/blobs/") {
				body = append(bytes.Clone(body), "more"...)
			}
			return body
		}
		b.tamper.Store(&more)
		want(t, "longer blob", b.puller.Do("GET", layer, ""), 502)
		b.tamper.Store(nil)
		want(t, "blob again", b.puller.Do("GET", layer, ""), 200)
		if n := len(b.own.Events(t, event.UpstreamMismatch)); n != 3 {
			t.Errorf("%d events of a mismatch, want 3", n)
		}
	})
}

// A hostile upstream names the digest of what another repository here holds: it
// has to bring the bytes itself (CVE-2024-39897).
func TestThreat_Registry_GatewayGivesNoHiddenBlob(t *testing.T) {
	each(t, func(t *testing.T, b *bed) {
		b.puller.PushImage("secret/app", "v1", registrytest.Image{Layer: "a secret layer"})
		hidden := artifact.SHA256Of([]byte("a secret layer"))
		b.pusher.PushImage("team/app", "v1", registrytest.Image{Layer: "a secret layer"})
		b.own.Grant(t, "mallory", identity.RoleViewer, "mirror/**")
		mallory := b.own.Client(t, "mallory")
		want(t, "pull", mallory.Do("GET", "/v2/mirror/app/manifests/v1", "", "Accept", accept), 200)
		gone := func(path string, body []byte) []byte {
			if strings.Contains(path, "/blobs/") {
				return []byte("not it")
			}
			return body
		}
		b.tamper.Store(&gone)
		r := mallory.Do("GET", "/v2/mirror/app/blobs/"+string(hidden), "")
		want(t, "blob that the upstream has not", r, 502)
		if strings.Contains(string(r.Body), "secret layer") {
			t.Error("the hidden layer was served")
		}
	})
}

// Credentials go to the upstream's host, and not where it redirects to nor to a
// realm of its choice; metadata services are never contacted.
func TestThreat_Registry_GatewayCredentialsStayHome(t *testing.T) {
	var leaked atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Add(1)
		}
		_, _ = w.Write([]byte("layer one"))
	}))
	defer other.Close()
	for name, answer := range map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+"/x", http.StatusTemporaryRedirect)
		},
		"metadata": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data", http.StatusTemporaryRedirect)
		},
		"realm": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+other.URL+`/token",service="x"`)
			w.WriteHeader(401)
		},
	} {
		t.Run(name, func(t *testing.T) {
			up := httptest.NewServer(answer)
			defer up.Close()
			db := storetest.Open(t, store.SQLite)
			if err := db.Migrate(t.Context(), event.Migrations, sweep.Migrations, registry.Migrations, gateway.Migrations); err != nil {
				t.Fatal(err)
			}
			gw, err := gateway.New(gateway.Options{DB: db, Secret: func(string) ([]byte, error) { return []byte("robot:hunter22"), nil }})
			if err != nil {
				t.Fatal(err)
			}
			rules, err := config.NewRepositories(config.RepositorySpec{Pattern: "m/**", Upstream: config.UpstreamSpec{URL: up.URL, Credentials: "file:x", AllowPrivate: true}})
			if err != nil {
				t.Fatal(err)
			}
			gw.Set(rules)
			s := registrytest.Start(t, db, func(o *registry.Options) { o.Upstream = gw })
			s.Grant(t, "puller", identity.RoleViewer, "**")
			r := s.Client(t, "puller").Do("GET", "/v2/m/app/manifests/v1", "", "Accept", accept)
			if r.StatusCode != 502 {
				t.Errorf("%s %s, want 502", r.Status, r.Body)
			}
			if strings.Contains(string(r.Body), "hunter22") {
				t.Error("the password is in the answer")
			}
		})
	}
	if n := leaked.Load(); n > 0 {
		t.Errorf("%d requests with credentials to another host", n)
	}
}

// A tag that is pulled again and again is looked up when it is due, by whoever
// comes or by the worker; what nobody has is not asked for each time.
func TestPollAndAbsent(t *testing.T) {
	each(t, func(t *testing.T, b *bed) {
		want(t, "absent", b.puller.Do("GET", "/v2/mirror/app/manifests/v9", ""), 404)
		n := b.requests.Load()
		want(t, "absent again", b.puller.Do("GET", "/v2/mirror/app/manifests/v9", ""), 404)
		if b.requests.Load() != n {
			t.Error("the upstream was asked again at once")
		}
		d := b.pusher.PushImage("team/app", "v9", registrytest.Image{Layer: "x"})
		if err := b.gw.Lookup(t.Context(), b.own.Intake(), "mirror/app", "v9"); err != nil {
			t.Fatal(err)
		}
		if got, _, err := b.own.Intake().Points(t.Context(), "mirror/app", "v9"); err != nil || got != d {
			t.Fatalf("after a look-up the tag names %s, %v; want %s", got, err, d)
		}
		// A pull makes the worker look when it is due, and not before.
		want(t, "pull", b.puller.Do("GET", "/v2/mirror/app/manifests/v9", "", "Accept", accept), 200)
		n = b.requests.Load()
		if err := b.gw.Poll(t.Context(), b.own.Intake()); err != nil || b.requests.Load() != n {
			t.Errorf("what is not due was looked up, %v", err)
		}
		if err := b.gw.Lookup(t.Context(), b.own.Intake(), "other/app", "v9"); err == nil {
			t.Error("a repository without upstream was looked up")
		}
	})
}

// No URL that content or an upstream names is followed: layers' own URLs are
// left to clients, and an upstream on a private network is contacted only where
// that is allowed.
func TestThreat_Registry_GatewayFollowsNobody(t *testing.T) {
	var fetched atomic.Int64
	outside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { fetched.Add(1) }))
	defer outside.Close()
	b := newBed(t, storetest.Open(t, store.SQLite))
	conf := b.pusher.PushBlob("team/app", "{}")
	doc := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"a/b","digest":%q,"size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"digest":"sha256:%064d","size":1,"urls":[%q,"http://169.254.169.254/latest/meta-data/"]}]}`, registrytest.ImageType, conf, 7, outside.URL)
	want(t, "push upstream", b.pusher.PutManifest("team/app", "foreign", []byte(doc)), 201)
	want(t, "pull", b.puller.Do("GET", "/v2/mirror/app/manifests/foreign", "", "Accept", accept), 200)
	want(t, "the foreign layer", b.puller.Do("GET", fmt.Sprintf("/v2/mirror/app/blobs/sha256:%064d", 7), ""), 404)
	if n := fetched.Load(); n != 0 {
		t.Errorf("a layer's URL was followed %d times", n)
	}

	private := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { fetched.Add(1) }))
	defer private.Close()
	db := storetest.Open(t, store.SQLite)
	if err := db.Migrate(t.Context(), event.Migrations, registry.Migrations, gateway.Migrations); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{private.URL, "https://169.254.169.254", "https://[fd00:ec2::254]", "https://[::ffff:10.0.0.1]"} {
		rules, err := config.NewRepositories(config.RepositorySpec{Pattern: "m/**", Upstream: config.UpstreamSpec{URL: at}})
		if err != nil {
			t.Fatal(err)
		}
		gw, err := gateway.New(gateway.Options{DB: db})
		if err != nil {
			t.Fatal(err)
		}
		gw.Set(rules)
		s := registrytest.Start(t, db, func(o *registry.Options) { o.Upstream = gw })
		s.Grant(t, "puller", identity.RoleViewer, "**")
		r := s.Client(t, "puller").Do("GET", "/v2/m/app/manifests/v1", "", "Accept", accept)
		if r.StatusCode < 500 {
			t.Errorf("%s: %s %s, want that it is refused", at, r.Status, r.Body)
		}
	}
	if n := fetched.Load(); n != 0 {
		t.Errorf("a private address was contacted %d times", n)
	}
}
