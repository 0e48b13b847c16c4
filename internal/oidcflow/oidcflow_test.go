package oidcflow_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/internal/fault"
	"assay/internal/oidcflow"
)

// issuer is an OpenID Connect provider that holds clients to the standards: a
// code counts once, with its redirect and its PKCE verifier.
type issuer struct {
	*httptest.Server
	mu      sync.Mutex
	code    url.Values // the authorization request that the code stands for
	pending int        // device polls until the person agrees
	edit    func(claims map[string]any)
	meta    func(m map[string]any)
	refuse  string
	no      bool // no refresh token
}

func newIssuer(t *testing.T) *issuer {
	i := &issuer{edit: func(map[string]any) {}, meta: func(map[string]any) {}}
	mux := http.NewServeMux()
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	answer := func(w http.ResponseWriter, status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		m := map[string]any{
			"issuer": i.URL, "authorization_endpoint": i.URL + "/authorize", "token_endpoint": i.URL + "/token",
			"device_authorization_endpoint": i.URL + "/device", "code_challenge_methods_supported": []string{"S256"}, "scopes_supported": []string{"openid", "email", "offline_access"},
		}
		i.meta(m)
		answer(w, 200, m)
	})
	mux.HandleFunc("GET /authorize", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if q.Get("client_id") != "cli" || q.Get("response_type") != "code" || !strings.Contains(q.Get("scope"), "openid email") {
			http.Error(w, "bad request "+q.Encode(), 400)
			return
		}
		i.mu.Lock()
		i.code = q
		i.mu.Unlock()
		back := url.Values{"state": {q.Get("state")}, "iss": {i.URL}}
		if i.refuse != "" {
			back.Set("error", i.refuse)
		} else {
			back.Set("code", "the code")
		}
		http.Redirect(w, r, q.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
	})
	mux.HandleFunc("POST /device", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, map[string]any{"device_code": "device", "user_code": "ABCD-EFGH", "verification_uri": i.URL + "/activate", "expires_in": 60, "interval": 1})
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		i.mu.Lock()
		defer i.mu.Unlock()
		fail := func(code string) { answer(w, 400, map[string]string{"error": code}) }
		nonce := ""
		switch f := r.PostForm; f.Get("grant_type") {
		case "authorization_code":
			sum := sha256.Sum256([]byte(f.Get("code_verifier")))
			if i.code == nil || f.Get("code") != "the code" || f.Get("redirect_uri") != i.code.Get("redirect_uri") || base64.RawURLEncoding.EncodeToString(sum[:]) != i.code.Get("code_challenge") {
				fail("invalid_grant")
				return
			}
			nonce, i.code = i.code.Get("nonce"), nil
		case "urn:ietf:params:oauth:grant-type:device_code":
			if i.pending > 0 {
				i.pending--
				fail("authorization_pending")
				return
			}
			if i.pending < 0 {
				fail("access_denied")
				return
			}
		case "refresh_token":
			if f.Get("refresh_token") != "refresh" {
				fail("invalid_grant")
				return
			}
		default:
			fail("unsupported_grant_type")
			return
		}
		claims := map[string]any{"iss": i.URL, "aud": "cli", "sub": "1", "exp": time.Now().Add(time.Hour).Unix(), "nonce": nonce}
		i.edit(claims)
		b, _ := json.Marshal(claims)
		out := map[string]any{"id_token": "e30." + base64.RawURLEncoding.EncodeToString(b) + ".c2ln", "token_type": "Bearer"}
		if !i.no {
			out["refresh_token"] = "refresh"
		}
		answer(w, 200, out)
	})
	return i
}

// browse is a person who follows where she is sent.
func browse(address string) error {
	resp, err := http.Get(address) //nolint:noctx // a browser
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.Body.Close()
}

func go_(address string) error { go func() { _ = browse(address) }(); return nil }

func TestBrowser(t *testing.T) {
	i := newIssuer(t)
	c := &oidcflow.Client{Issuer: i.URL, ID: "cli"}
	got, err := c.Browser(t.Context(), func(address string) error {
		// Another page's request, with a state of its own, changes nothing.
		u, _ := url.Parse(address)
		if resp, err := http.Get(u.Query().Get("redirect_uri") + "?code=stolen&state=guess"); err != nil || resp.StatusCode != http.StatusBadRequest {
			t.Errorf("a forged answer: %v %v", resp, err)
		}
		if u.Query().Get("code_challenge_method") != "S256" || len(u.Query().Get("nonce")) < 40 || !strings.Contains(u.Query().Get("scope"), "offline_access") {
			t.Errorf("address %s", address)
		}
		return go_(address)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.Refresh != "refresh" || time.Until(got.Expires) < 50*time.Minute {
		t.Errorf("tokens %+v", got)
	}
	i.no = true
	again, err := c.Refresh(t.Context(), got.Refresh)
	if err != nil || again.Refresh != "refresh" || again.IDToken == "" {
		t.Errorf("refresh: %+v, %v", again, err)
	}
	if _, err := c.Refresh(t.Context(), "another"); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("another refresh token: %v", err)
	}
}

func TestDevice(t *testing.T) {
	i := newIssuer(t)
	c := &oidcflow.Client{Issuer: i.URL, ID: "cli"}
	i.pending = 1
	shown := ""
	got, err := c.Device(t.Context(), func(address, code, _ string) { shown = address + " " + code })
	if err != nil || got.IDToken == "" || shown != i.URL+"/activate ABCD-EFGH" {
		t.Fatalf("%+v, %v, shown %q", got, err, shown)
	}
	i.pending = -1
	if _, err := c.Device(t.Context(), func(string, string, string) {}); !errors.Is(err, fault.Unauthenticated) || !strings.Contains(err.Error(), "access_denied") {
		t.Errorf("denied: %v", err)
	}
	i.meta = func(m map[string]any) { delete(m, "device_authorization_endpoint") }
	if _, err := c.Device(t.Context(), func(string, string, string) {}); !errors.Is(err, fault.Invalid) {
		t.Errorf("without a device flow: %v", err)
	}
}

// What an issuer, or one who stands in for it, answers wrongly is refused.
func TestThreat_Identity_LoginAnswers(t *testing.T) {
	for name, bend := range map[string]func(i *issuer){
		"another issuer's token": func(i *issuer) { i.edit = func(c map[string]any) { c["iss"] = "https://other.example" } },
		"another client's token": func(i *issuer) { i.edit = func(c map[string]any) { c["aud"] = "other" } },
		"a token for two":        func(i *issuer) { i.edit = func(c map[string]any) { c["aud"] = []string{"cli", "other"} } },
		"another login's token":  func(i *issuer) { i.edit = func(c map[string]any) { c["nonce"] = "other" } },
		"an ended token":         func(i *issuer) { i.edit = func(c map[string]any) { c["exp"] = 1 } },
		"another name":           func(i *issuer) { i.meta = func(m map[string]any) { m["issuer"] = "https://other.example" } },
		"a token endpoint in the clear": func(i *issuer) {
			i.meta = func(m map[string]any) { m["token_endpoint"] = "http://other.example/token" }
		},
		"a page in the clear": func(i *issuer) {
			i.meta = func(m map[string]any) { m["authorization_endpoint"] = "http://other.example/" }
		},
		"a page with credentials": func(i *issuer) {
			i.meta = func(m map[string]any) { m["authorization_endpoint"] = "https://a:b@other.example/" }
		},
		"no PKCE": func(i *issuer) {
			i.meta = func(m map[string]any) { m["code_challenge_methods_supported"] = []string{"plain"} }
		},
		"refused": func(i *issuer) { i.refuse = "access_denied" },
	} {
		t.Run(name, func(t *testing.T) {
			i := newIssuer(t)
			bend(i)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if got, err := (&oidcflow.Client{Issuer: i.URL, ID: "cli"}).Browser(ctx, go_); err == nil {
				t.Fatalf("taken: %+v", got)
			} else if ctx.Err() != nil {
				t.Fatalf("only ended by time: %v", err)
			}
		})
	}
	// A redirect of an endpoint is not followed, and an endless answer is cut.
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer elsewhere.Close()
	for name, h := range map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		},
		"endless": func(w http.ResponseWriter, _ *http.Request) {
			for range 3 << 10 {
				if _, err := fmt.Fprint(w, strings.Repeat(" ", 1<<10)); err != nil {
					return
				}
			}
		},
	} {
		s := httptest.NewServer(h)
		if _, err := (&oidcflow.Client{Issuer: s.URL, ID: "cli"}).Browser(t.Context(), go_); err == nil {
			t.Errorf("%s: taken", name)
		}
		s.Close()
	}
	if _, err := (&oidcflow.Client{Issuer: "http://issuer.example", ID: "cli"}).Browser(t.Context(), go_); !errors.Is(err, fault.Invalid) {
		t.Errorf("an issuer in the clear: %v", err)
	}
}
