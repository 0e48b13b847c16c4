package registry_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"assay/event"
	"assay/identity"
	"assay/identity/credential"
	"assay/internal/vectors"
	"assay/registry"
	"assay/registry/registrytest"
	"assay/store"
	"assay/store/storetest"
)

const (
	exchangeGrant = "urn:ietf:params:oauth:grant-type:token-exchange"
	jwtType       = "urn:ietf:params:oauth:token-type:jwt"
)

func form(c *registrytest.Client, fields ...string) *registrytest.Response {
	v := url.Values{}
	for i := 0; i+1 < len(fields); i += 2 {
		v.Set(fields[i], fields[i+1])
	}
	return c.Do("POST", "/token", v.Encode(), "Content-Type", "application/x-www-form-urlencoded")
}

type exchanged struct {
	AccessToken     string `json:"access_token"`
	RefreshToken    string `json:"refresh_token"`
	IssuedTokenType string `json:"issued_token_type"`
	TokenType       string `json:"token_type"`
	ExpiresIn       int    `json:"expires_in"`
}

func decode(t testing.TB, r *registrytest.Response) (e exchanged) {
	t.Helper()
	want(t, "token", r, http.StatusOK, "")
	if err := json.Unmarshal(r.Body, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

func basic(token string) []string {
	return []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("x:"+token))}
}

// A pipeline's token is exchanged for one that logs in: as password at /token
// and at /v2/, as bearer, within its scopes and no further.
func TestTokenExchange(t *testing.T) {
	each(t, func(t *testing.T, s *registrytest.Server, c *registrytest.Client) {
		nobody := s.Client(t, "")
		c.PushImage("team/app", "v1", registrytest.Image{Layer: "x"})
		c.PushImage("other/app", "v1", registrytest.Image{Layer: "x"})
		ci := s.Token(t, "owner", identity.AudienceRegistry)
		e := decode(t, form(nobody, "grant_type", exchangeGrant, "subject_token", ci, "subject_token_type", jwtType, "scope", "repository:team/*:pull"))
		if e.TokenType != "Bearer" || e.IssuedTokenType != "urn:ietf:params:oauth:token-type:access_token" || e.ExpiresIn != 900 {
			t.Fatalf("answer %+v", e)
		}
		bearer := []string{"Authorization", "Bearer " + e.AccessToken}
		for name, h := range map[string][]string{"password": basic(e.AccessToken), "bearer": bearer} {
			want(t, name, nobody.Do("GET", "/v2/team/app/manifests/v1", "", h...), http.StatusOK, "")
			want(t, name+", another repository", nobody.Do("GET", "/v2/other/app/manifests/v1", "", h...), http.StatusUnauthorized, "UNAUTHORIZED")
			want(t, name+", another action", nobody.Do("POST", "/v2/team/app/blobs/uploads/", "", h...), http.StatusUnauthorized, "UNAUTHORIZED")
		}
		// It buys scoped tokens within its scopes, and they end with it at the latest.
		a := token(t, nobody.Do("GET", "/token?scope=repository:team/app:pull,push&scope=repository:other/app:pull", "", basic(e.AccessToken)...))
		scoped := []string{"Authorization", "Bearer " + a.Token}
		want(t, "scoped", nobody.Do("GET", "/v2/team/app/manifests/v1", "", scoped...), http.StatusOK, "")
		want(t, "scoped, elsewhere", nobody.Do("GET", "/v2/other/app/manifests/v1", "", scoped...), http.StatusUnauthorized, "UNAUTHORIZED")
		want(t, "scoped, push", nobody.Do("POST", "/v2/team/app/blobs/uploads/", "", scoped...), http.StatusUnauthorized, "UNAUTHORIZED")
		// A grant withdrawn ends what it was exchanged for.
		if err := s.Access.Set(nil); err != nil {
			t.Fatal(err)
		}
		want(t, "without the grant", nobody.Do("GET", "/v2/team/app/manifests/v1", "", bearer...), http.StatusForbidden, "DENIED")
		for _, ev := range s.Events(t, event.TokenIssued) {
			if r := body(t, ev); r.Use == "exchange" && (r.Scope != "repository:team/*:pull" || !strings.HasPrefix(r.Credential, "jwt:")) {
				t.Errorf("event %+v", r)
			}
		}
	})
}

func TestThreat_Identity_TokenExchange(t *testing.T) {
	s, c := one(t)
	nobody := s.Client(t, "")
	good := s.Token(t, "owner", identity.AudienceRegistry)
	e := decode(t, form(nobody, "grant_type", exchangeGrant, "subject_token", good, "subject_token_type", jwtType))
	scoped := token(t, c.Do("GET", "/token?scope=repository:a:pull", "")).Token
	for name, f := range map[string][]string{
		"audience sigstore":   {"subject_token", s.Token(t, "owner", identity.AudienceSigstore), "subject_token_type", jwtType},
		"audience of the API": {"subject_token", s.Token(t, "owner", identity.AudienceAPI), "subject_token_type", jwtType},
		"its own answer":      {"subject_token", e.AccessToken, "subject_token_type", jwtType},
		"a scoped token":      {"subject_token", scoped, "subject_token_type", jwtType},
		"nothing":             {"subject_token_type", jwtType},
		"a million dots":      {"subject_token", strings.Repeat(".", 20_000), "subject_token_type", jwtType},
		"alg none":            {"subject_token", "eyJhbGciOiJub25lIn0.e30.", "subject_token_type", jwtType},
	} {
		want(t, name, form(nobody, append(f, "grant_type", exchangeGrant)...), http.StatusUnauthorized, "UNAUTHORIZED")
	}
	for name, f := range map[string][]string{
		"saml":              {"subject_token_type", "urn:ietf:params:oauth:token-type:saml2"},
		"for somebody else": {"subject_token_type", jwtType, "actor_token", "x"},
		"another audience":  {"subject_token_type", jwtType, "audience", "sigstore"},
		"a refresh token":   {"subject_token_type", jwtType, "requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"},
		"a day":             {"subject_token_type", jwtType, "expires_in", "86400"},
		"never":             {"subject_token_type", jwtType, "expires_in", "-1"},
		"a bad scope":       {"subject_token_type", jwtType, "scope", "repository:[a]:pull"},
		"a scope of files":  {"subject_token_type", jwtType, "scope", "file:/etc/passwd:read"},
	} {
		want(t, name, form(nobody, append(f, "grant_type", exchangeGrant, "subject_token", good)...), http.StatusBadRequest, "")
	}
	for _, name := range []string{"alg-none.txt", "embedded-jwk.txt"} {
		raw := strings.TrimSpace(string(vectors.Read(t, "hostile/jwt", name)))
		want(t, name, form(nobody, "grant_type", exchangeGrant, "subject_token", raw, "subject_token_type", jwtType), http.StatusUnauthorized, "UNAUTHORIZED")
		want(t, name+" as password", nobody.Do("GET", "/token", "", basic(raw)...), http.StatusUnauthorized, "UNAUTHORIZED")
		want(t, name+" as bearer", nobody.Do("GET", "/v2/", "", "Authorization", "Bearer "+raw), http.StatusUnauthorized, "UNAUTHORIZED")
	}
	// As refresh token: it buys scoped tokens, and those buy nothing.
	want(t, "scoped as refresh", form(nobody, "grant_type", "refresh_token", "refresh_token", scoped, "service", s.Host), http.StatusUnauthorized, "")
}

// docker login: a Basic GET with offline_token gives an identity token, which
// then buys scoped tokens by POST, and opens nothing itself.
func TestDockerLogin(t *testing.T) {
	each(t, func(t *testing.T, s *registrytest.Server, c *registrytest.Client) {
		nobody := s.Client(t, "")
		c.PushImage("a", "v1", registrytest.Image{Layer: "x"})
		r := c.Do("GET", "/token?account=me&client_id=docker&offline_token=true&service="+s.Host, "")
		e := decode(t, r)
		if e.RefreshToken == "" {
			t.Fatalf("no refresh token: %s", r.Body)
		}
		want(t, "refresh token as bearer", nobody.Do("GET", "/v2/", "", "Authorization", "Bearer "+e.RefreshToken), http.StatusUnauthorized, "")
		want(t, "refresh token as password", nobody.Do("GET", "/v2/", "", basic(e.RefreshToken)...), http.StatusUnauthorized, "")
		post := func() *registrytest.Response {
			return form(nobody, "grant_type", "refresh_token", "refresh_token", e.RefreshToken, "service", s.Host, "client_id", "docker", "scope", "repository:a:pull", "access_type", "offline")
		}
		got := decode(t, post())
		if got.RefreshToken != e.RefreshToken {
			t.Error("another refresh token: it would never end")
		}
		want(t, "pull", nobody.Do("GET", "/v2/a/manifests/v1", "", "Authorization", "Bearer "+got.AccessToken), http.StatusOK, "")
		// containerd: POST with the password first.
		got = decode(t, form(nobody, "grant_type", "password", "username", "me", "password", s.Token(t, "owner", identity.AudienceRegistry), "service", s.Host, "client_id", "containerd-client", "scope", "repository:a:pull"))
		want(t, "pull", nobody.Do("GET", "/v2/a/manifests/v1", "", "Authorization", "Bearer "+got.AccessToken), http.StatusOK, "")
		// A login is an event of its own.
		refreshes := 0
		for _, ev := range s.Events(t, event.TokenIssued) {
			if body(t, ev).Use == "refresh" {
				refreshes++
			}
		}
		if refreshes != 1 {
			t.Errorf("%d events of refresh tokens, want 1", refreshes)
		}
		if a := nobody.Do("GET", "/token?offline_token=true", ""); strings.Contains(string(a.Body), "refresh_token") {
			t.Errorf("a refresh token for nobody: %s", a.Body)
		}
	})
}

// robots starts a registry with credentials of its own.
func robots(t *testing.T, db *store.DB) (*registrytest.Server, *credential.Store) {
	t.Helper()
	if err := db.Migrate(t.Context(), event.Migrations, credential.Migrations); err != nil {
		t.Fatal(err)
	}
	var s *registrytest.Server
	var creds *credential.Store
	set := func() {
		if s != nil {
			if err := s.Access.Set(creds.Grants()); err != nil {
				t.Error(err)
			}
		}
	}
	var err error
	if creds, err = credential.Open(t.Context(), credential.Options{DB: db, Changed: set}); err != nil {
		t.Fatal(err)
	}
	s = registrytest.Start(t, db, func(o *registry.Options) {
		o.Credentials = creds
		auth := o.Auth.(registry.VerifierAuth)
		auth.Credentials = creds
		o.Auth = auth
	})
	return s, creds
}

// A robot's token is a password; what it bought ends with it, within a second.
func TestRobotTokens(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, creds := robots(t, db)
		nobody := s.Client(t, "")
		is, err := creds.Create(t.Context(), credential.Robot{
			Name: "ci", Rights: []credential.Right{{Role: identity.RolePush, Scope: "team/**"}}, Audiences: []identity.Audience{identity.AudienceRegistry},
		}, time.Hour, "admin")
		if err != nil {
			t.Fatal(err)
		}
		login := decode(t, nobody.Do("GET", "/token?offline_token=true", "", basic(is.Secret)...))
		scoped := token(t, nobody.Do("GET", "/token?scope=repository:team/app:pull,push", "", basic(is.Secret)...))
		ex := decode(t, form(nobody, "grant_type", exchangeGrant, "subject_token", is.Secret, "subject_token_type", "urn:ietf:params:oauth:token-type:access_token"))
		doors := map[string][]string{
			"password": basic(is.Secret), "bearer": {"Authorization", "Bearer " + is.Secret}, "scoped": {"Authorization", "Bearer " + scoped.Token},
			"exchanged": basic(ex.AccessToken),
		}
		for name, h := range doors {
			want(t, name, nobody.Do("POST", "/v2/team/app/blobs/uploads/", "", h...), http.StatusAccepted, "")
		}
		want(t, "beyond its scope", nobody.Do("POST", "/v2/other/app/blobs/uploads/", "", basic(is.Secret)...), http.StatusForbidden, "DENIED")
		want(t, "beyond its role", nobody.Do("DELETE", "/v2/team/app/manifests/v1", "", basic(is.Secret)...), http.StatusForbidden, "DENIED")

		if _, err := creds.Revoke(t.Context(), credential.Revocation{Robot: "ci", Reason: "found in a public repository"}, "admin"); err != nil {
			t.Fatal(err)
		}
		for name, h := range doors {
			want(t, name+", revoked", nobody.Do("POST", "/v2/team/app/blobs/uploads/", "", h...), http.StatusUnauthorized, "UNAUTHORIZED")
		}
		want(t, "refresh, revoked", form(nobody, "grant_type", "refresh_token", "refresh_token", login.RefreshToken), http.StatusUnauthorized, "")
		for _, bad := range []string{"assay_robot_", is.Secret + "x", strings.Repeat("assay_robot_", 500)} {
			want(t, "nonsense", nobody.Do("GET", "/v2/", "", basic(bad)...), http.StatusUnauthorized, "")
		}
		// Who tried is named, by every door, and without a count for each attempt.
		if err := s.Registry.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		tries := 0
		for _, ev := range s.Events(t, event.LoginFailed) {
			var b struct {
				Credential string `json:"credential"`
				Count      int    `json:"count"`
			}
			if err := ev.Decode(&b); err == nil && b.Credential == "" && ev.Actor == "anonymous" {
				continue // nonsense
			} else if err != nil || ev.Actor != credential.RobotIssuer+"#ci" || b.Credential != "robot:"+is.ID {
				t.Errorf("an attempt by %s with %q, %v", ev.Actor, b.Credential, err)
			}
			tries += b.Count
		}
		if tries < len(doors)+1 {
			t.Errorf("%d attempts are told of, want %d", tries, len(doors)+1)
		}
	})
}

// Pulls between the theft and the revocation are counted and told of.
func TestUnauthorizedPullsAreTold(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, creds := robots(t, db)
		nobody := s.Client(t, "")
		is, err := creds.Create(t.Context(), credential.Robot{
			Name: "ci", Rights: []credential.Right{{Role: identity.RolePush, Scope: "**"}}, Audiences: []identity.Audience{identity.AudienceRegistry},
		}, time.Hour, "admin")
		if err != nil {
			t.Fatal(err)
		}
		before := time.Now().Add(-time.Second)
		m := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
		want(t, "push", nobody.Do("PUT", "/v2/a/manifests/v1", string(m), append(basic(is.Secret), "Content-Type", "application/vnd.oci.image.index.v1+json")...), http.StatusCreated, "")
		for _, agent := range []string{"one", "two"} {
			want(t, "pull", nobody.Do("GET", "/v2/a/manifests/v1", "", append(basic(is.Secret), "User-Agent", agent)...), http.StatusOK, "")
		}
		if got := s.Events(t, event.ArtifactPulled); len(got) != 2 { // one sealed part, so that both tables count
			t.Fatalf("%d pulls", len(got))
		}
		want(t, "pull", nobody.Do("GET", "/v2/a/manifests/v1", "", append(basic(is.Secret), "User-Agent", "three")...), http.StatusOK, "")
		if err := s.Registry.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		r, err := creds.Revoke(t.Context(), credential.Revocation{Credential: "robot:" + is.ID, Since: before, Reason: "stolen"}, "admin")
		if err != nil {
			t.Fatal(err)
		}
		if r.Served != 3 {
			t.Errorf("served %d, want 3", r.Served)
		}
		got := s.Events(t, event.PullUnauthorized)
		if len(got) != 1 || body(t, got[0]).Count != 3 {
			t.Errorf("events %+v", got)
		}
		if !r.Matches("x#y", "robot:"+is.ID, time.Now().Add(-time.Second/2)) || r.Matches("x#y", "robot:other", time.Now()) || r.Matches("x#y", "robot:"+is.ID, before.Add(-time.Second)) {
			t.Error("Matches")
		}
	})
}

// CVE-2026-31801: an identity that may only create never overwrites a tag, by no
// way of pushing.
func TestThreat_Registry_CreateOnlyRole(t *testing.T) {
	each(t, func(t *testing.T, s *registrytest.Server, c *registrytest.Client) {
		s.Grant(t, "creator", identity.RoleCreateOnly, "a")
		creator := s.Client(t, "creator")
		first := creator.PushImage("a", "v1", registrytest.Image{Layer: "one"})
		other := creator.Manifest("a", registrytest.Image{Layer: "two"})
		r := creator.PutManifest("a", "v1", other)
		want(t, "overwrite", r, http.StatusForbidden, "DENIED")
		if !strings.Contains(string(r.Body), "at least role push") {
			t.Errorf("the refusal does not name the least role: %s", r.Body)
		}
		d := creator.PushImage("a", "", registrytest.Image{Layer: "two"})
		want(t, "overwrite by ?tag", creator.Do("PUT", "/v2/a/manifests/"+string(d)+"?tag=v1", string(other), "Content-Type", "application/vnd.oci.image.manifest.v1+json"), http.StatusForbidden, "DENIED")
		want(t, "delete and create anew", creator.Do("DELETE", "/v2/a/manifests/v1", ""), http.StatusForbidden, "DENIED")
		wantHeader(t, "the tag", creator.Do("HEAD", "/v2/a/manifests/v1", ""), "Docker-Content-Digest", string(first))
		creator.PushImage("a", "v2", registrytest.Image{Layer: "two"})
	})
}

// CVE-2026-4404: nothing that could be guessed opens a fresh registry.
func TestThreat_SetUp_NoDefaultPassword(t *testing.T) {
	s, _ := one(t)
	nobody := s.Client(t, "")
	for _, pair := range []string{"admin:admin", "admin:", ":", "admin:password", "admin:Harbor12345", "assay:assay", "root:root", "token:", "token:token", "anonymous:anonymous"} {
		h := []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(pair))}
		for _, path := range []string{"/v2/", "/v2/_catalog", "/token?scope=repository:a:pull", "/v2/a/manifests/v1"} {
			want(t, pair+" "+path, nobody.Do("GET", path, "", h...), http.StatusUnauthorized, "UNAUTHORIZED")
		}
	}
}
