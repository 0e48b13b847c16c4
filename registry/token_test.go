package registry_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"assay/identity"
	"assay/registry/registrytest"
)

// answer is what /token says.
type answer struct {
	Token       string `json:"token"`
	AccessToken string `json:"access_token"`
	Scope       string `json:"scope"`
	ExpiresIn   int    `json:"expires_in"`
}

func token(t testing.TB, r *registrytest.Response) answer {
	t.Helper()
	want(t, "token", r, http.StatusOK, "")
	wantHeader(t, "token", r, "Cache-Control", "no-store")
	var a answer
	if err := json.Unmarshal(r.Body, &a); err != nil {
		t.Fatal(err)
	}
	if a.AccessToken == "" || a.ExpiresIn < 1 || a.ExpiresIn > 300 {
		t.Fatalf("answer %+v, want a token of at most five minutes", a)
	}
	return a
}

func TestTokenFlow(t *testing.T) {
	s, c := one(t)
	c.PushImage("a", "v1", registrytest.Image{Layer: "x"})
	s.Grant(t, "reader", identity.RoleViewer, "a")
	reader, nobody := s.Client(t, "reader"), s.Client(t, "")

	r := nobody.Do("GET", "/v2/a/manifests/v1", "")
	want(t, "without credentials", r, http.StatusUnauthorized, "UNAUTHORIZED")
	wantHeader(t, "challenge", r, "WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="`+s.Host+`",scope="repository:a:pull"`)
	r = nobody.Do("POST", "/v2/a/blobs/uploads/", "")
	if h := r.Header.Get("WWW-Authenticate"); !strings.HasSuffix(h, `scope="repository:a:pull,push"`) {
		t.Fatalf("challenge of a push: %s", h)
	}
	use := func(tok, method, path string) *registrytest.Response {
		return nobody.Do(method, path, "", "Authorization", "Bearer "+tok)
	}

	a := token(t, reader.Do("GET", "/token?service="+s.Host+"&scope=repository:a:pull,push&scope=repository:secret:pull", ""))
	if a.Token != a.AccessToken {
		t.Fatal("token and access_token differ")
	}
	want(t, "pull", use(a.Token, "GET", "/v2/a/manifests/v1"), http.StatusOK, "")
	want(t, "ping", use(a.Token, "GET", "/v2/"), http.StatusOK, "")
	want(t, "push, never granted", use(a.Token, "POST", "/v2/a/blobs/uploads/"), http.StatusForbidden, "DENIED")
	r = reader.Do("GET", "/token", "", "Authorization", "Bearer "+a.Token)
	want(t, "a token for a token", r, http.StatusUnauthorized, "UNAUTHORIZED")

	// A narrow token of somebody with wider rights: told which scope to fetch.
	a = token(t, c.Do("GET", "/token?scope=repository:a:pull", ""))
	r = use(a.Token, "POST", "/v2/a/blobs/uploads/")
	want(t, "beyond the scope", r, http.StatusUnauthorized, "UNAUTHORIZED")
	if h := r.Header.Get("WWW-Authenticate"); !strings.Contains(h, `scope="repository:a:pull,push",error="insufficient_scope"`) {
		t.Fatalf("challenge: %s", h)
	}
	want(t, "another repository", use(a.Token, "GET", "/v2/b/tags/list"), http.StatusUnauthorized, "UNAUTHORIZED")
	want(t, "the catalog", use(a.Token, "GET", "/v2/_catalog"), http.StatusUnauthorized, "UNAUTHORIZED")

	// A grant withdrawn ends with the next request, not with the token.
	a = token(t, reader.Do("GET", "/token?scope=repository:a:pull", ""))
	if err := s.Access.Set(nil); err != nil {
		t.Fatal(err)
	}
	want(t, "after the grant is gone", use(a.Token, "GET", "/v2/a/manifests/v1"), http.StatusForbidden, "DENIED")
	r = use(a.Token+"x", "GET", "/v2/")
	want(t, "a broken token", r, http.StatusUnauthorized, "UNAUTHORIZED")
	if h := r.Header.Get("WWW-Authenticate"); !strings.Contains(h, `error="invalid_token"`) {
		t.Fatalf("challenge: %s", h)
	}
}

func TestTokenForms(t *testing.T) {
	s, c := one(t)
	c.PushImage("a", "v1", registrytest.Image{Layer: "x"})
	nobody := s.Client(t, "")
	secret := s.Token(t, "owner", identity.AudienceRegistry)
	post := func(form url.Values) *registrytest.Response {
		return nobody.Do("POST", "/token", form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	}
	for _, form := range []url.Values{
		{"grant_type": {"password"}, "username": {"x"}, "password": {secret}, "scope": {"repository:a:pull"}, "service": {s.Host}, "client_id": {"docker"}},
		{"grant_type": {"refresh_token"}, "refresh_token": {secret}, "scope": {"repository:a:pull"}},
	} {
		a := token(t, post(form))
		if a.Scope != "repository:a:pull" {
			t.Fatalf("scope %q", a.Scope)
		}
		want(t, "pull", nobody.Do("GET", "/v2/a/manifests/v1", "", "Authorization", "Bearer "+a.AccessToken), http.StatusOK, "")
	}
	for name, tt := range map[string]struct {
		r      *registrytest.Response
		status int
	}{
		"wrong password":    {post(url.Values{"grant_type": {"password"}, "username": {"x"}, "password": {"secret"}}), 401},
		"no password":       {post(url.Values{"grant_type": {"password"}, "username": {"x"}}), 401},
		"no grant type":     {post(url.Values{"username": {"x"}, "password": {secret}}), 400},
		"secret in the URL": {nobody.Do("POST", "/token?grant_type=password&username=x&password="+secret, "", "Content-Type", "application/x-www-form-urlencoded"), 400},
		"no form":           {nobody.Do("POST", "/token", "{}", "Content-Type", "application/json"), 400},
		"too large":         {post(url.Values{"grant_type": {"password"}, "password": {strings.Repeat("x", 40<<10)}}), 413},
		"another service":   {c.Do("GET", "/token?service=elsewhere", ""), 400},
		"scope of no shape": {c.Do("GET", "/token?scope=x", ""), 400},
		"65 scopes":         {c.Do("GET", "/token?"+strings.Repeat("scope=repository:a:pull&", 65), ""), 400},
		"wrong Basic":       {nobody.Do("GET", "/token", "", "Authorization", "Basic eDp5"), 401},
		"no such scheme":    {nobody.Do("GET", "/token", "", "Authorization", "Digest x"), 401},
		"method":            {c.Do("DELETE", "/token", ""), 405},
	} {
		if tt.r.StatusCode != tt.status {
			t.Errorf("%s: %s %s, want %d", name, tt.r.Status, clip(tt.r.Body), tt.status)
		}
	}
}

func TestAnonymousPulls(t *testing.T) {
	s, c := one(t)
	c.PushImage("public/a", "v1", registrytest.Image{Layer: "x"})
	c.PushImage("private/a", "v1", registrytest.Image{Layer: "x"})
	nobody := s.Client(t, "")
	want(t, "by default", nobody.Do("GET", "/v2/public/a/manifests/v1", ""), http.StatusUnauthorized, "UNAUTHORIZED")
	want(t, "the catalog by default", nobody.Do("GET", "/v2/_catalog", ""), http.StatusUnauthorized, "UNAUTHORIZED")
	s.Grant(t, "", identity.RoleViewer, "public/**")
	want(t, "configured", nobody.Do("GET", "/v2/public/a/manifests/v1", ""), http.StatusOK, "")
	want(t, "elsewhere", nobody.Do("GET", "/v2/private/a/manifests/v1", ""), http.StatusUnauthorized, "UNAUTHORIZED")
	want(t, "push", nobody.Do("POST", "/v2/public/a/blobs/uploads/", ""), http.StatusUnauthorized, "UNAUTHORIZED")
	want(t, "ping leads to a token", nobody.Do("GET", "/v2/", ""), http.StatusUnauthorized, "UNAUTHORIZED")
	a := token(t, nobody.Do("GET", "/token?scope=repository:public/a:pull,push&scope=repository:private/a:pull&scope=registry:catalog:*", ""))
	auth := []string{"Authorization", "Bearer " + a.Token}
	want(t, "ping", nobody.Do("GET", "/v2/", "", auth...), http.StatusOK, "")
	want(t, "pull", nobody.Do("GET", "/v2/public/a/manifests/v1", "", auth...), http.StatusOK, "")
	want(t, "pull elsewhere", nobody.Do("GET", "/v2/private/a/manifests/v1", "", auth...), http.StatusUnauthorized, "UNAUTHORIZED")
	r := nobody.Do("GET", "/v2/_catalog", "", auth...)
	if want(t, "catalog", r, http.StatusOK, ""); string(r.Body) != `{"repositories":["public/a"]}` {
		t.Fatalf("catalog: %s", r.Body)
	}
}
