package oci

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"assay/artifact"
	"assay/internal/fault"
)

func TestMayHold(t *testing.T) {
	for _, c := range []struct {
		host, target string
		want         bool
	}{
		{"registry.example.com", "https://registry.example.com/token", true},
		{"registry.example.com", "https://REGISTRY.example.com/token", true},
		{"registry.example.com", "https://auth.example.com/token", true},
		{"index.docker.io", "https://auth.docker.io/token", true},
		{"registry.example.com", "http://auth.example.com/token", false}, // in the clear
		{"registry.example.com", "https://example.com.evil.test/token", false},
		{"registry.example.com", "https://evil.test/registry.example.com", false},
		{"registry.example.com:443", "https://evil.test", false},
		{"one.github.io", "https://two.github.io/token", false}, // a public suffix is nobody's domain
		{"one.co.uk", "https://two.co.uk/token", false},
		{"127.0.0.1:5000", "https://127.0.0.1:5001/token", false},
		{"127.0.0.1:5000", "http://127.0.0.1:5000/token", true},
		{"10.0.0.1", "https://169.254.169.254/latest", false},
		{"registry", "https://registry2/token", false},
		{"[::1]:5000", "https://[::1]:5001/", false},
	} {
		u, err := url.Parse(c.target)
		if err != nil {
			t.Fatal(err)
		}
		if got := (&hostBound{host: c.host}).mayHold(&http.Request{URL: u}); got != c.want {
			t.Errorf("credentials of %s to %s: %v, want %v", c.host, c.target, got, c.want)
		}
	}
}

// private makes f ask for Basic credentials.
func private(f *fake, inner func(http.ResponseWriter, *http.Request) bool) {
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if _, p, ok := r.BasicAuth(); !ok || p != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		return inner != nil && inner(w, r)
	}
}

// elsewhere is another host that notes what it is sent, and holds the same
// blobs.
func elsewhere(t *testing.T, f *fake) *fake {
	t.Helper()
	e := newFake(t)
	e.blobs = f.blobs
	return e
}

func noCredentials(t *testing.T, e *fake) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.auth) != 0 {
		t.Errorf("another host was sent %q", e.auth)
	}
}

// byName leads host names to servers of this test, and notes what each was sent.
type byName struct {
	to   map[string]*fake
	sent []string // "host authorization"
}

func (n *byName) RoundTrip(r *http.Request) (*http.Response, error) {
	n.sent = append(n.sent, r.URL.Host+" "+r.Header.Get("Authorization"))
	f := n.to[r.URL.Host]
	if f == nil {
		return nil, fmt.Errorf("no such host: %s", r.URL.Host)
	}
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = "http", f.host()
	return http.DefaultTransport.RoundTrip(r)
}

// The realm of a challenge is the registry's own word: credentials do not
// follow it to another host.
func TestThreat_Registry_RealmOfAnotherHost(t *testing.T) {
	f := newFake(t)
	f.image(t, "v1")
	evil := newFake(t)
	evil.hook = func(w http.ResponseWriter, r *http.Request) bool {
		_, _ = fmt.Fprint(w, `{"token":"t","access_token":"t"}`)
		return true
	}
	for realm, kind := range map[string]*fault.Kind{
		"https://evil.test/token":                         fault.Denied,
		"http://registry.example.com.evil.test/token":     fault.Denied,
		"https://registry.example.com@evil.test/token":    fault.Denied,
		"http://auth.example.com/token":                   fault.Denied,      // its own domain, in the clear
		evil.URL + "/token":                               fault.Unavailable, // the library refuses private addresses itself
		"http://169.254.169.254/latest/meta-data?service": fault.Unavailable,
	} {
		f.hook = func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s",service="x"`, realm))
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		net := &byName{to: map[string]*fake{"registry.example.com": f, "evil.test": evil, "auth.example.com": evil, "registry.example.com.evil.test": evil}}
		ref := artifact.Reference{Host: "registry.example.com", Repository: repository, Tag: "v1"}
		_, err := New(Options{Keychain: keys{"registry.example.com": "secret"}, Transport: net}).Manifest(t.Context(), ref)
		wantKind(t, err, kind)
		for _, s := range net.sent {
			if host, auth, _ := strings.Cut(s, " "); host != "registry.example.com" && auth != "" {
				t.Errorf("realm %s: %s was sent %q", realm, host, auth)
			}
		}
	}
	noCredentials(t, evil)
	// Its own realm is believed, and gets the password; the registry the token.
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.URL.Path == "/token":
			_, p, _ := r.BasicAuth()
			_, _ = fmt.Fprintf(w, `{"token":"for-%s"}`, p)
			return true
		case r.Header.Get("Authorization") != "Bearer for-secret":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="x"`, f.URL))
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		return false
	}
	if _, err := New(Options{Keychain: keys{f.host(): "secret"}}).Manifest(t.Context(), f.tag("v1")); err != nil {
		t.Error(err)
	}
}

// A redirect to another host (a content network) is followed without
// credentials.
func TestThreat_Registry_RedirectToAnotherHost(t *testing.T) {
	f := newFake(t)
	img := f.image(t, "v1", f.blob([]byte("a layer")))
	e := elsewhere(t, f)
	private(f, func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(w, r, e.URL+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	c := New(Options{Keychain: keys{f.host(): "secret"}})
	if _, err := c.Blob(t.Context(), f.ref(), artifact.SHA256Of([]byte("a layer"))); err != nil {
		t.Error(err)
	}
	if err := c.VerifyContent(t.Context(), f.ref().WithDigest(img.Digest)); err != nil {
		t.Error(err)
	}
	noCredentials(t, e)
	if len(e.requests) == 0 {
		t.Error("the redirect was not followed: the test proves nothing")
	}
	// In circles it comes to an end.
	e.hook = func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, e.URL+r.URL.Path+"x", http.StatusTemporaryRedirect)
		return true
	}
	_, err := c.Blob(t.Context(), f.ref(), artifact.SHA256Of([]byte("a layer")))
	wantKind(t, err, fault.Unavailable, "redirects")
}

// Where an upload goes on is the registry's word too.
func TestThreat_Registry_LocationOfAnotherHost(t *testing.T) {
	f := newFake(t)
	img := f.image(t, "v1")
	e := elsewhere(t, f)
	e.hook = func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusCreated)
		return true
	}
	private(f, func(w http.ResponseWriter, r *http.Request) bool {
		switch r.Method {
		case http.MethodPost:
			w.Header().Set("Location", e.URL+"/upload?state=1")
			w.WriteHeader(http.StatusAccepted)
		case http.MethodPut:
			w.Header().Set("OCI-Subject", string(img.Digest))
			w.WriteHeader(http.StatusCreated)
		case http.MethodHead:
			w.WriteHeader(http.StatusNotFound)
		default:
			return false
		}
		return true
	})
	c := New(Options{Keychain: keys{f.host(): "secret"}})
	if _, err := c.PushReferrer(t.Context(), f.ref().WithDigest(img.Digest), typeBundle, []byte(`{}`), nil); err != nil {
		t.Error(err)
	}
	noCredentials(t, e)
	if len(e.requests) == 0 {
		t.Error("the Location was not followed: the test proves nothing")
	}
}

// A list's next page lies on the same host or nowhere.
func TestThreat_Registry_NextPageOfAnotherHost(t *testing.T) {
	f := newFake(t)
	img := f.image(t, "v1")
	e := elsewhere(t, f)
	f.referrers = map[artifact.Digest][]Descriptor{}
	private(f, func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/referrers/") {
			w.Header().Set("Link", fmt.Sprintf(`<%s/next>; rel="next"`, e.URL))
		}
		return false
	})
	c := New(Options{Keychain: keys{f.host(): "secret"}})
	_, more, err := c.Evidence(t.Context(), f.ref().WithDigest(img.Digest))
	if err != nil || !more {
		t.Errorf("truncated %v, %v; want truncated: there is a page that was not read", more, err)
	}
	if len(e.requests) != 0 {
		t.Errorf("the other host was asked %v", e.requests)
	}
}

// Credentials of one registry are not used at another.
func TestCredentialsOfOneHost(t *testing.T) {
	a, b := newFake(t), newFake(t)
	a.image(t, "v1")
	b.image(t, "v1")
	private(a, nil)
	c := New(Options{Keychain: keys{a.host(): "secret"}})
	for _, f := range []*fake{a, b} {
		if _, err := c.Manifest(t.Context(), f.tag("v1")); err != nil {
			t.Error(err)
		}
	}
	noCredentials(t, b)
	if len(a.auth) == 0 {
		t.Error("the credentials were never used: the test proves nothing")
	}
}
