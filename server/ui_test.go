package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"assay/client"
	"assay/config"
	"assay/event"
	"assay/identity"

	jose "github.com/go-jose/go-jose/v4"
)

// webIssuer is an OpenID Connect issuer for people: authorization code with PKCE,
// and tokens that verify.
type webIssuer struct {
	*httptest.Server
	t     *testing.T
	key   *ecdsa.PrivateKey
	asked url.Values // the login under way
	email string
	nonce string // in place of the right one
}

func newWebIssuer(t *testing.T) *webIssuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &webIssuer{t: t, key: key, email: "ann@example.com"}
	mux := http.NewServeMux()
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	answer := func(w http.ResponseWriter, status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/keys", "authorization_endpoint": i.URL + "/authorize", "token_endpoint": i.URL + "/token", "code_challenge_methods_supported": []string{"S256"}})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	})
	mux.HandleFunc("GET /authorize", func(w http.ResponseWriter, r *http.Request) {
		i.asked = r.URL.Query()
		http.Redirect(w, r, i.asked.Get("redirect_uri")+"?"+url.Values{"state": {i.asked.Get("state")}, "code": {"the code"}, "iss": {i.URL}}.Encode(), http.StatusFound)
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		sum := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
		if r.PostForm.Get("code") != "the code" || r.PostForm.Get("redirect_uri") != i.asked.Get("redirect_uri") || base64.RawURLEncoding.EncodeToString(sum[:]) != i.asked.Get("code_challenge") {
			answer(w, 400, map[string]string{"error": "invalid_grant"})
			return
		}
		answer(w, 200, map[string]any{"id_token": i.token()})
	})
	return i
}

func (i *webIssuer) token() string {
	nonce := i.asked.Get("nonce")
	if i.nonce != "" {
		nonce = i.nonce
	}
	claims, err := json.Marshal(map[string]any{"iss": i.URL, "sub": "ann", "aud": "pages", "email": i.email, "email_verified": true, "nonce": nonce, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()})
	if err != nil {
		i.t.Fatal(err)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: "k"}}, nil)
	if err != nil {
		i.t.Fatal(err)
	}
	signed, err := s.Sign(claims)
	if err != nil {
		i.t.Fatal(err)
	}
	raw, err := signed.CompactSerialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return raw
}

// A person logs in at an issuer, sees what her roles are for, and no more once she
// is revoked. Another's answer to another login opens nothing.
func TestUILogin(t *testing.T) {
	i := newWebIssuer(t)
	s := newSite(t, false, func(c *config.Config) {
		c.Identity.Issuers = []identity.IssuerConfig{{URL: i.URL, Type: identity.TypeEmail, Audiences: map[identity.Audience]string{identity.AudienceAPI: "pages"}, AllowPrivate: true, Login: true}}
	})
	if _, err := s.admin.Apply(t.Context(), []byte("apiVersion: assay/v1\nkind: Grant\nmetadata: {name: ann}\nspec: {issuer: \""+i.URL+"\", subject: ann@example.com, role: viewer, scope: \"**\"}\n"), false, false); err != nil {
		t.Fatal(err)
	}
	browser := func() *http.Client {
		jar, err := cookiejar.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		return &http.Client{Jar: jar, Timeout: 20 * time.Second}
	}
	get := func(c *http.Client, address string) (*http.Response, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", "text/html")
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(b)
	}
	c := browser()
	resp, page := get(c, s.public+"/")
	if resp.Request.URL.Path != "/ui/login" || !strings.Contains(page, "Log in at "+i.URL) {
		t.Fatalf("a browser at the bare address comes to %s: %.300s", resp.Request.URL, page)
	}
	m := regexp.MustCompile(`href="(/ui/login/start[^"]+)"`).FindStringSubmatch(page)
	if m == nil {
		t.Fatal("no way to the issuer")
	}
	start := s.public + strings.ReplaceAll(m[1], "&amp;", "&")
	resp, page = get(c, strings.Replace(start, "next=%2fui%2f", "next=%2fui%2fartifacts", 1))
	if resp.StatusCode != 200 || resp.Request.URL.Path != "/ui/artifacts" || !strings.Contains(page, "ann@example.com") {
		t.Fatalf("after the login at %s: %d %.400s", resp.Request.URL, resp.StatusCode, page)
	}
	if got := i.asked.Get("redirect_uri"); got != s.public+"/ui/callback" {
		t.Errorf("redirect_uri %q", got)
	}
	if resp, _ := get(c, s.public+"/ui/audit"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a viewer at the audit trail: %d", resp.StatusCode)
	}
	// Her answer in a browser that began no login, and an answer to another one.
	back := s.public + "/ui/callback?" + url.Values{"state": {i.asked.Get("state")}, "code": {"the code"}}.Encode()
	if resp, page := get(browser(), back); resp.StatusCode != http.StatusBadRequest || !strings.Contains(page, "No login waits") {
		t.Errorf("another browser: %d", resp.StatusCode)
	}
	i.nonce = "another"
	if resp, _ := get(browser(), start); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("the answer to another login: %d", resp.StatusCode)
	}
	if _, err := s.admin.RevokeCredentials(t.Context(), client.RevokeCredentialRequest{Issuer: i.URL, Identity: "ann@example.com", Reason: "for the test"}); err != nil {
		t.Fatal(err)
	}
	if resp, _ := get(c, s.public+"/ui/artifacts"); resp.Request.URL.Path != "/ui/login" {
		t.Errorf("after the revocation she is at %s", resp.Request.URL)
	}
	if n := len(s.eventsOf(event.SessionOpened)); n != 1 {
		t.Errorf("%d sessions on record, want 1", n)
	}
}
