package identity

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"assay/internal/fault"

	jose "github.com/go-jose/go-jose/v4"
)

// remoteIssuer is a real OIDC issuer over HTTPS on loopback.
type remoteIssuer struct {
	*httptest.Server
	t         testing.TB
	mu        sync.Mutex
	keys      []jose.JSONWebKey
	discovery func(w http.ResponseWriter, r *http.Request) // instead of the right answer
	jwks      func(w http.ResponseWriter, r *http.Request)
	fetches   atomic.Int32 // of the key set
}

func newRemoteIssuer(t testing.TB, keys ...jose.JSONWebKey) *remoteIssuer {
	i := &remoteIssuer{t: t, keys: keys}
	i.Server = httptest.NewTLSServer(http.HandlerFunc(i.serve))
	t.Cleanup(i.Close)
	return i
}

func (i *remoteIssuer) serve(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		if i.discovery != nil {
			i.discovery(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/keys"})
	case "/keys":
		i.fetches.Add(1)
		if i.jwks != nil {
			i.jwks(w, r)
			return
		}
		_, _ = w.Write(jwks(i.t, i.keys...))
	default:
		http.NotFound(w, r)
	}
}

func (i *remoteIssuer) change(f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f()
}

// config believes the issuer's own certificate.
func (i *remoteIssuer) config(t testing.TB) IssuerConfig {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return IssuerConfig{URL: i.URL, Type: TypeEmail, CABundle: path, AllowPrivate: true}
}

// movable is a clock that tests move.
type movable struct {
	mu  sync.Mutex
	now time.Time
}

func (c *movable) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *movable) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func noProxy(*http.Request) (*url.URL, error) { return nil, nil }

func (i *remoteIssuer) verifier(t testing.TB, cfg IssuerConfig) (*Verifier, *movable) {
	t.Helper()
	c := &movable{now: testNow}
	v, err := NewVerifier(VerifierOptions{Issuers: []IssuerConfig{cfg}, Clock: c.Now, Proxy: noProxy})
	if err != nil {
		t.Fatal(err)
	}
	return v, c
}

func (i *remoteIssuer) claims(now time.Time) map[string]any {
	return goodClaims(map[string]any{"iss": i.URL, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Minute).Unix()})
}

func TestDiscovery(t *testing.T) {
	s := newSigner(t, "k1")
	i := newRemoteIssuer(t, s.jwk)
	v, _ := i.verifier(t, i.config(t))
	var wg sync.WaitGroup
	for range 20 { // all wait for one fetch
		wg.Go(func() {
			if _, _, err := v.Verify(bg, s.token(t, i.claims(testNow), nil), AudienceSigstore); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := i.fetches.Load(); n != 1 {
		t.Errorf("%d fetches of the keys, want 1", n)
	}
}

// A new key is found when a token names it, but not more often than the rate
// allows, whatever tokens name.
func TestKeyRotation(t *testing.T) {
	a, b := newSigner(t, "a"), newSigner(t, "b")
	i := newRemoteIssuer(t, a.jwk)
	v, clock := i.verifier(t, i.config(t))
	verify := func(s signer) error {
		_, _, err := v.Verify(bg, s.token(t, i.claims(clock.Now()), nil), AudienceSigstore)
		return err
	}
	if err := verify(a); err != nil {
		t.Fatal(err)
	}
	i.change(func() { i.keys = []jose.JSONWebKey{a.jwk, b.jwk} })
	for range 50 {
		if err := verify(b); !errors.Is(err, fault.Unauthenticated) {
			t.Fatalf("within the interval: %v", err)
		}
	}
	if n := i.fetches.Load(); n != 1 {
		t.Errorf("%d fetches within the interval, want 1", n)
	}
	clock.add(keysInterval)
	if err := verify(b); err != nil {
		t.Error(err)
	}
	if err := verify(a); err != nil {
		t.Errorf("the old key in the overlap: %v", err)
	}
	if n := i.fetches.Load(); n != 2 {
		t.Errorf("%d fetches, want 2", n)
	}
	// The old key is withdrawn and forgotten with the next refresh.
	i.change(func() { i.keys = []jose.JSONWebKey{b.jwk} })
	clock.add(keysFresh)
	deadline := time.Now().Add(5 * time.Second)
	for verify(a) == nil {
		if time.Now().After(deadline) {
			t.Fatal("a withdrawn key is still believed")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// The issuer may be down for a while; then no more.
func TestKeysStale(t *testing.T) {
	s := newSigner(t, "k1")
	i := newRemoteIssuer(t, s.jwk)
	v, clock := i.verifier(t, i.config(t))
	verify := func() error {
		_, _, err := v.Verify(bg, s.token(t, i.claims(clock.Now()), nil), AudienceSigstore)
		return err
	}
	if err := verify(); err != nil {
		t.Fatal(err)
	}
	i.change(func() {
		i.jwks = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", http.StatusServiceUnavailable) }
	})
	for range 23 {
		clock.add(time.Hour)
		if err := verify(); err != nil {
			t.Fatalf("keys of the last day: %v", err)
		}
	}
	clock.add(2 * time.Hour)
	if err := verify(); !errors.Is(err, fault.Unavailable) {
		t.Errorf("after a day: %v, want unavailable", err)
	}
	i.change(func() { i.jwks = nil })
	clock.add(keysInterval)
	if err := verify(); err != nil {
		t.Errorf("after the issuer came back: %v", err)
	}
}

func TestThreat_Identity_IssuerRedirects(t *testing.T) {
	s := newSigner(t, "k1")
	elsewhere := newRemoteIssuer(t, s.jwk)
	for name, set := range map[string]func(i *remoteIssuer){
		"discovery redirects": func(i *remoteIssuer) {
			i.discovery = func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusFound)
			}
		},
		"keys redirect": func(i *remoteIssuer) {
			i.jwks = func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, elsewhere.URL+"/keys", http.StatusTemporaryRedirect)
			}
		},
		"another issuer's document": func(i *remoteIssuer) {
			i.discovery = func(w http.ResponseWriter, _ *http.Request) {
				_ = json.NewEncoder(w).Encode(map[string]any{"issuer": elsewhere.URL, "jwks_uri": elsewhere.URL + "/keys"})
			}
		},
		"issuer with a slash": func(i *remoteIssuer) {
			i.discovery = func(w http.ResponseWriter, _ *http.Request) {
				_ = json.NewEncoder(w).Encode(map[string]any{"issuer": i.URL + "/", "jwks_uri": i.URL + "/keys"})
			}
		},
		"keys by http": func(i *remoteIssuer) {
			i.discovery = func(w http.ResponseWriter, _ *http.Request) {
				_ = json.NewEncoder(w).Encode(map[string]any{"issuer": i.URL, "jwks_uri": "http://example.com/keys"})
			}
		},
		"keys in a file": func(i *remoteIssuer) {
			i.discovery = func(w http.ResponseWriter, _ *http.Request) {
				_ = json.NewEncoder(w).Encode(map[string]any{"issuer": i.URL, "jwks_uri": "file:///etc/passwd"})
			}
		},
		"keys at the metadata service": func(i *remoteIssuer) {
			i.discovery = func(w http.ResponseWriter, _ *http.Request) {
				_ = json.NewEncoder(w).Encode(map[string]any{"issuer": i.URL, "jwks_uri": "https://169.254.169.254/keys"})
			}
		},
		"duplicate issuer": func(i *remoteIssuer) {
			i.discovery = func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintf(w, `{"issuer":"x","issuer":%q,"jwks_uri":%q}`, i.URL, i.URL+"/keys")
			}
		},
		"endless discovery": func(i *remoteIssuer) {
			i.discovery = func(w http.ResponseWriter, _ *http.Request) {
				for range 10_000 {
					_, _ = fmt.Fprint(w, strings.Repeat(" ", 1024))
				}
			}
		},
		"endless keys": func(i *remoteIssuer) {
			i.jwks = func(w http.ResponseWriter, _ *http.Request) {
				_, _ = fmt.Fprint(w, `{"keys":[`)
				for range 10_000 {
					_, _ = fmt.Fprint(w, strings.Repeat(" ", 1024))
				}
			}
		},
		"no usable key": func(i *remoteIssuer) { i.keys = nil },
	} {
		t.Run(name, func(t *testing.T) {
			i := newRemoteIssuer(t, s.jwk)
			i.change(func() { set(i) })
			v, _ := i.verifier(t, i.config(t))
			before := elsewhere.fetches.Load()
			_, _, err := v.Verify(bg, s.token(t, i.claims(testNow), nil), AudienceSigstore)
			if !errors.Is(err, fault.Unavailable) {
				t.Errorf("got %v, want unavailable", err)
			}
			if elsewhere.fetches.Load() != before {
				t.Error("the other host was asked for keys")
			}
		})
	}
}

func TestJWKSFile(t *testing.T) {
	a, b := newSigner(t, "a"), newSigner(t, "b")
	path := filepath.Join(t.TempDir(), "jwks.json")
	write := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg := IssuerConfig{URL: testIssuer, Type: TypeEmail, JWKSFile: path}
	opts := VerifierOptions{Issuers: []IssuerConfig{cfg}, Clock: func() time.Time { return testNow }}
	if _, err := NewVerifier(opts); !errors.Is(err, fault.Invalid) {
		t.Errorf("no such file: %v", err)
	}
	write(jwks(t, a.jwk))
	v, err := NewVerifier(opts)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(s signer) error {
		_, _, err := v.Verify(bg, s.token(t, goodClaims(nil), nil), AudienceSigstore)
		return err
	}
	if err := verify(a); err != nil {
		t.Error(err)
	}
	if err := verify(b); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("a key that is not in the file: %v", err)
	}
	write(jwks(t, a.jwk, b.jwk)) // a larger file
	if err := verify(b); err != nil {
		t.Errorf("after the file changed: %v", err)
	}
	write([]byte(`{"keys":[`))
	if err := verify(a); !errors.Is(err, fault.Unavailable) {
		t.Errorf("a damaged file: %v", err)
	}
}

func TestSetIssuers(t *testing.T) {
	s := newSigner(t, "k1")
	i := newRemoteIssuer(t, s.jwk)
	cfg := i.config(t)
	local := newSigner(t, "l1")
	v, err := NewVerifier(VerifierOptions{
		Issuers: []IssuerConfig{cfg}, Clock: func() time.Time { return testNow }, Proxy: noProxy,
		Local: &LocalIssuer{URL: "https://assay.example.com/oidc", Keys: func() []jose.JSONWebKey { return []jose.JSONWebKey{local.jwk} }},
	})
	if err != nil {
		t.Fatal(err)
	}
	remote := func() error {
		_, _, err := v.Verify(bg, s.token(t, i.claims(testNow), nil), AudienceSigstore)
		return err
	}
	own := func(k signer) error {
		_, _, err := v.Verify(bg, k.token(t, goodClaims(map[string]any{"iss": "https://assay.example.com/oidc"}), nil), AudienceSigstore)
		return err
	}
	if err := errors.Join(remote(), own(local)); err != nil {
		t.Fatal(err)
	}
	if err := own(s); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("another issuer's key for the embedded one: %v", err)
	}
	if err := v.SetIssuers([]IssuerConfig{cfg, {URL: github, Type: TypeGitHub}}); err != nil {
		t.Fatal(err)
	}
	if err := remote(); err != nil || i.fetches.Load() != 1 {
		t.Errorf("an issuer that stayed was asked again (%d fetches) or lost: %v", i.fetches.Load(), err)
	}
	for name, bad := range map[string][]IssuerConfig{
		"twice":       {cfg, cfg},
		"the local":   {{URL: "https://assay.example.com/oidc", Type: TypeEmail}},
		"invalid":     {{URL: "x"}},
		"no CA file":  {{URL: testIssuer, Type: TypeEmail, CABundle: "/nonexistent"}},
		"CA file bad": {{URL: testIssuer, Type: TypeEmail, CABundle: os.Args[0]}},
	} {
		if err := v.SetIssuers(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if err := remote(); err != nil {
			t.Errorf("%s took the old issuers away: %v", name, err)
		}
	}
	if err := v.SetIssuers(nil); err != nil {
		t.Fatal(err)
	}
	if err := remote(); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("an issuer taken away: %v", err)
	}
	if err := own(local); err != nil {
		t.Errorf("the embedded issuer: %v", err)
	}
}

func TestParseJWKS(t *testing.T) {
	s := newSigner(t, "k1")
	enc := s.jwk
	enc.Use = "enc"
	private := s.jwk
	private.Key = s.key
	for name, b := range map[string][]byte{
		"empty": nil, "no keys": []byte(`{}`), "null": []byte(`null`), "for encryption": jwks(t, enc), "private": jwks(t, private),
		"symmetric":        []byte(`{"keys":[{"kty":"oct","k":"AAAA","kid":"k1"}]}`),
		"RSA 1024":         []byte(`{"keys":[{"kty":"RSA","e":"AQAB","n":"` + strings.Repeat("_", 170) + `","kid":"k1"}]}`),
		"not on the curve": []byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"` + strings.Repeat("A", 42) + `E","y":"` + strings.Repeat("A", 42) + `E"}]}`),
		"65 keys":          []byte(`{"keys":[` + strings.Repeat(`{},`, 64) + `{}]}`),
		"duplicate member": []byte(`{"keys":[],"keys":[]}`),
	} {
		if keys, err := parseJWKS(b); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %d keys, %v; want invalid", name, len(keys), err)
		}
	}
	// Unknown kinds beside a good one do no harm.
	good, err := s.jwk.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := parseJWKS([]byte(`{"keys":[{"kty":"AKP","alg":"ML-DSA-65","kid":"new"},` + string(good) + `]}`))
	if err != nil || len(keys) != 1 {
		t.Errorf("%d keys, %v", len(keys), err)
	}
}

func FuzzParseJWKS(f *testing.F) {
	s := newSigner(f, "k1")
	f.Add(jwks(f, s.jwk))
	f.Add([]byte(`{"keys":[{"kty":"RSA","e":"AQAB","n":"AAAA"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, err := parseJWKS(b)
		if (err == nil) == (len(keys) == 0) {
			t.Fatalf("%d keys, %v", len(keys), err)
		}
		for _, k := range keys {
			if !k.IsPublic() || !strong(k.Key) {
				t.Fatalf("accepted %+v", k)
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	s := newSigner(b, "k1")
	v := emailVerifier(b, s.jwk)
	raw := s.token(b, goodClaims(nil), nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := v.Verify(bg, raw, AudienceSigstore); err != nil {
			b.Fatal(err)
		}
	}
}
