//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// idp is an OpenID Connect issuer on loopback: pipelines' tokens signed on
// demand, and logins of people with code, PKCE and refresh tokens.
type idp struct {
	*httptest.Server
	key    *ecdsa.PrivateKey
	mu     sync.Mutex
	asked  url.Values
	life   time.Duration
	person string
}

func newIDP(t *testing.T) *idp {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &idp{key: key, life: time.Hour, person: alice}
	mux := http.NewServeMux()
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	answer := func(w http.ResponseWriter, status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, map[string]any{
			"issuer": i.URL, "jwks_uri": i.URL + "/keys", "authorization_endpoint": i.URL + "/authorize", "token_endpoint": i.URL + "/token",
			"code_challenge_methods_supported": []string{"S256"}, "scopes_supported": []string{"openid", "email", "offline_access"},
			"id_token_signing_alg_values_supported": []string{"ES256"}, "response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	})
	mux.HandleFunc("GET /authorize", func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		i.asked = r.URL.Query()
		i.mu.Unlock()
		http.Redirect(w, r, r.FormValue("redirect_uri")+"?"+url.Values{"state": {r.FormValue("state")}, "code": {"c"}}.Encode(), http.StatusFound)
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		client, nonce := r.PostFormValue("client_id"), ""
		switch r.PostFormValue("grant_type") {
		case "authorization_code":
			sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
			if i.asked.Get("client_id") != client || i.asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) || i.asked.Get("redirect_uri") != r.PostFormValue("redirect_uri") {
				answer(w, 400, map[string]string{"error": "invalid_grant"})
				return
			}
			nonce, i.asked = i.asked.Get("nonce"), nil
		case "refresh_token":
			if r.PostFormValue("refresh_token") != "r-"+client {
				answer(w, 400, map[string]string{"error": "invalid_grant"})
				return
			}
		}
		answer(w, 200, map[string]any{"token_type": "Bearer", "refresh_token": "r-" + client, "id_token": i.sign(map[string]any{
			"aud": client, "sub": "42", "email": i.person, "email_verified": true, "nonce": nonce, "groups": []string{"payments"},
		})})
	})
	return i
}

func (i *idp) sign(claims map[string]any) string {
	now := time.Now()
	claims["iss"], claims["iat"] = i.URL, now.Unix()
	if claims["exp"] == nil {
		claims["exp"] = now.Add(i.life).Unix()
	}
	b, _ := json.Marshal(claims)
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: "k"}}, nil)
	if err != nil {
		panic(err)
	}
	sig, err := s.Sign(b)
	if err != nil {
		panic(err)
	}
	raw, _ := sig.CompactSerialize()
	return raw
}

// apply brings documents to a site.
func (s *site) apply(docs string) {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "docs.yaml")
	if err := os.WriteFile(file, []byte(docs), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.assay("apply", "-f", file)
}

// link makes docker-credential-assay on a PATH of its own.
func link(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink(assayBin(t), filepath.Join(dir, "docker-credential-assay")); err != nil {
		t.Fatal(err)
	}
	return "PATH=" + dir + string(os.PathListSeparator) + os.Getenv("PATH")
}

// helped is an environment in which tools ask docker-credential-assay for a
// registry's credentials.
func helped(t *testing.T, registry string, extra ...string) []string {
	t.Helper()
	dir := t.TempDir()
	doc := fmt.Sprintf(`{"credHelpers": {%q: "assay"}}`, registry)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	return cleanEnv(append([]string{link(t), "HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "DOCKER_CONFIG=" + dir, "REGISTRY_AUTH_FILE=" + filepath.Join(dir, "config.json")}, extra...)...)
}

// TestCredentialHelper: crane, skopeo, oras and cosign push, copy and pull with
// docker-credential-assay and nothing else.
func TestCredentialHelper(t *testing.T) {
	s := up(t)
	env := helped(t, s.Services.Registry, "ASSAY_DATA="+s.data, "ASSAY_SUBJECT="+alice)
	image := pushImage(t, s, env, "team/app", "one")
	reg := s.Services.Registry
	must(t, env, "skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+image, "docker://"+reg+"/team/copy:v1")
	must(t, env, "oras", "manifest", "fetch", "--plain-http", reg+"/team/copy:v1")
	must(t, env, "cosign", "tree", image)

	// A robot's token, stored by the protocol as docker login does it.
	secret := strings.TrimSpace(s.assay("robot", "create", "puller", "--allow", "pull=team/copy", "--expires", "1h"))
	robot := helped(t, reg)
	feed(t, robot, fmt.Sprintf(`{"ServerURL": %q, "Username": "puller", "Secret": %q}`, reg, secret), "docker-credential-assay", "store")
	must(t, robot, "crane", "manifest", reg+"/team/copy:v1")
	must(t, robot, "skopeo", "inspect", "--tls-verify=false", "docker://"+reg+"/team/copy:v1")
	refused(t, []string{"DENIED"}, robot, "crane", "manifest", image)
	// Revoked: gone within a second, for every client; more than that is allowed
	// for here, since machines are slow at times.
	s.assay("robot", "revoke", "puller", "--reason", "the laptop is gone")
	began := time.Now()
	for run(t, robot, "crane", "manifest", reg+"/team/copy:v1").code == 0 {
		if time.Since(began) > 10*time.Second {
			t.Fatal("still served ten seconds after it was revoked")
		}
	}
	feed(t, robot, reg, "docker-credential-assay", "erase")
	refused(t, []string{"UNAUTHORIZED"}, robot, "crane", "manifest", reg+"/team/copy:v1")
}

func feed(t *testing.T, env []string, stdin, program string, args ...string) string {
	t.Helper()
	path := program
	for _, kv := range env {
		if dirs, ok := strings.CutPrefix(kv, "PATH="); ok {
			for _, d := range filepath.SplitList(dirs) {
				if _, err := os.Stat(filepath.Join(d, program)); err == nil {
					path = filepath.Join(d, program)
					break
				}
			}
		}
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env, cmd.Stdin = env, strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", program, args, err, out)
	}
	return string(out)
}

// TestFederation: pipelines of GitHub, GitLab and Kubernetes come with their
// issuers' tokens, are matched by their claims, and push with real clients, by
// the token itself and by what it is exchanged for.
func TestFederation(t *testing.T) {
	s := up(t)
	hub, k8s := newIDP(t), newIDP(t)
	s.apply(fmt.Sprintf(`apiVersion: assay/v1
kind: Issuer
metadata: {name: hub}
spec: {url: %q, type: github, allow_private: true}
---
apiVersion: assay/v1
kind: Issuer
metadata: {name: cluster}
spec: {url: %q, type: kubernetes, allow_private: true}
---
apiVersion: assay/v1
kind: Grant
metadata: {name: release}
spec: {issuer: %[1]q, claims: {repository: org/app, ref: "refs/tags/*", workflow: release}, role: create-only, scope: "org/app"}
---
apiVersion: assay/v1
kind: Grant
metadata: {name: nodes}
spec: {issuer: %[2]q, claims: {kubernetes.io/namespace: prod}, role: pull, scope: "org/**"}
`, hub.URL, k8s.URL))
	job := func(aud, ref string) string {
		c := map[string]any{"aud": aud, "sub": "repo:org/app:ref:" + ref, "ref": ref, "repository": "org/app", "workflow": "release"}
		for _, name := range []string{"job_workflow_ref", "job_workflow_sha", "sha", "event_name", "runner_environment", "repository_id", "repository_owner",
			"repository_owner_id", "repository_visibility", "workflow_ref", "workflow_sha", "run_id", "run_attempt"} {
			c[name] = "x"
		}
		c["job_workflow_ref"] = "org/app/.github/workflows/release.yaml@" + ref
		return hub.sign(c)
	}
	as := func(token string) []string {
		dir := t.TempDir()
		auth := base64.StdEncoding.EncodeToString([]byte("token:" + token))
		if err := os.WriteFile(filepath.Join(dir, "config.json"), fmt.Appendf(nil, `{"auths": {%q: {"auth": %q}}}`, s.Services.Registry, auth), 0o600); err != nil {
			t.Fatal(err)
		}
		return cleanEnv("HOME="+dir, "DOCKER_CONFIG="+dir)
	}
	exchange := func(token string, more ...string) string {
		v := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {token}, "subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"}}
		for i := 0; i+1 < len(more); i += 2 {
			v.Set(more[i], more[i+1])
		}
		resp, err := http.PostForm(s.PublicURL+"/token", v)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var a struct {
			AccessToken string `json:"access_token"`
		}
		b, _ := io.ReadAll(resp.Body)
		_ = json.Unmarshal(b, &a)
		return a.AccessToken
	}
	tag := job("assay-registry", "refs/tags/v1")
	image := pushImage(t, s, as(tag), "org/app", "one")
	ex := exchange(tag, "scope", "repository:org/app:pull")
	if ex == "" {
		t.Fatal("the job's token was not exchanged")
	}
	must(t, as(ex), "crane", "manifest", image)
	refused(t, nil, as(ex), "crane", "tag", image, "v2") // its scope is pull
	refused(t, []string{"403"}, as(tag), "crane", "copy", image, s.Services.Registry+"/other/app:v1")
	// It may create, and never overwrite: the refusal names the least role.
	refused(t, []string{"DENIED", "at least role push"}, as(tag), "crane", "mutate", "--label", "a=b", "-t", s.Services.Registry+"/org/app:v1", image)
	refused(t, []string{"DENIED"}, as(job("assay-registry", "refs/heads/main")), "crane", "manifest", image)
	for _, aud := range []string{"sigstore", "assay-api", "https://github.com/org"} {
		refused(t, []string{"UNAUTHORIZED"}, as(job(aud, "refs/tags/v1")), "crane", "manifest", image)
		if exchange(job(aud, "refs/tags/v1")) != "" {
			t.Errorf("a token of audience %s was exchanged", aud)
		}
	}

	// The kubelet: the pod's token, by the credential provider.
	pod := func(ns string) string {
		return k8s.sign(map[string]any{"aud": []string{"assay-registry"}, "sub": "system:serviceaccount:" + ns + ":app",
			"kubernetes.io": map[string]any{"namespace": ns, "serviceaccount": map[string]any{"name": "app", "uid": "1"}}})
	}
	for ns, allowed := range map[string]bool{"prod": true, "dev": false} {
		request := fmt.Sprintf(`{"apiVersion": "credentialprovider.kubelet.k8s.io/v1", "kind": "CredentialProviderRequest", "image": %q, "serviceAccountToken": %q}`, image, pod(ns))
		out := feed(t, cleanEnv("HOME="+t.TempDir()), request, assayBin(t), "credential-helper", "kubelet")
		var answer struct {
			Auth map[string]struct{ Username, Password string }
		}
		if err := json.Unmarshal([]byte(out), &answer); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		got := run(t, as(answer.Auth[s.Services.Registry].Password), "crane", "manifest", image)
		if (got.code == 0) != allowed {
			t.Errorf("namespace %s: exit code %d\n%s", ns, got.code, got.stderr)
		}
	}
	// And the trail names the pipelines.
	if out := s.assay("audit", "query", "--kind", "artifact.pushed", "--repository", "org/app"); !strings.Contains(out, hub.URL+"#https://github.com/org/app/.github/workflows/release.yaml@refs/tags/v1") {
		t.Errorf("the push's record does not name the workflow:\n%s", out)
	}
}

// TestLogin: a person logs in with a browser, and crane and assay work as her,
// by group, until the login ends; then it renews itself.
func TestLogin(t *testing.T) {
	s := up(t)
	i := newIDP(t)
	s.apply(fmt.Sprintf(`apiVersion: assay/v1
kind: Issuer
metadata: {name: people}
spec: {url: %q, type: email, allow_private: true, login: true, audiences: {assay-registry: cli-registry, assay-api: cli-api}}
---
apiVersion: assay/v1
kind: Team
metadata: {name: payments}
spec: {members: [{issuer: %[1]q, group: payments}]}
---
apiVersion: assay/v1
kind: Grant
metadata: {name: payments}
spec: {team: payments, role: push, scope: "payments/**"}
---
apiVersion: assay/v1
kind: Grant
metadata: {name: auditors}
spec: {issuer: %[1]q, subject: alice@example.com, role: auditor, scope: "**"}
`, i.URL))
	env := helped(t, s.Services.Registry, "ASSAY_SERVER="+s.PublicURL)
	i.life = 2 * time.Second // so that the helper has to renew
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, assayBin(t), "login", "--no-browser")
	cmd.Env = env
	var out, errs lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	address := regexp.MustCompile(`http://\S+/authorize\?\S+`)
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	seen := map[string]bool{}
	for ended := false; !ended; {
		for _, a := range address.FindAllString(errs.String(), -1) {
			if !seen[a] {
				seen[a] = true
				if resp, err := http.Get(a); err != nil || resp.StatusCode != 200 {
					t.Errorf("the browser: %v %v", resp, err)
				} else {
					_ = resp.Body.Close()
				}
			}
		}
		select {
		case err := <-done:
			if ended = true; err != nil {
				t.Fatalf("login: %v\n%s%s", err, out.String(), errs.String())
			}
		case <-time.After(10 * time.Millisecond):
		}
	}
	if !strings.Contains(out.String(), "for assay-registry") || !strings.Contains(out.String(), "for assay-api") || !strings.Contains(errs.String(), "as client cli-registry") {
		t.Errorf("login said\n%s%s", out.String(), errs.String())
	}
	i.life = time.Hour
	image := pushImage(t, s, env, "payments/app", "one")
	refused(t, []string{"403"}, env, "crane", "copy", image, s.Services.Registry+"/other/app:v1")
	// As herself at the API too, and nobody's word is needed but the issuer's.
	if got := must(t, env, assayBin(t), "audit", "query", "--kind", "artifact.pushed"); !strings.Contains(got, i.URL+"#"+alice) {
		t.Errorf("audit query:\n%s", got)
	}
	// All that she has is revoked: both doors shut, whatever renews itself.
	s.assay("access", "revoke", "--issuer", i.URL, "--identity", alice, "--since", "1h", "--reason", "the laptop was stolen")
	refused(t, []string{"UNAUTHORIZED"}, env, "crane", "manifest", image)
	must(t, env, assayBin(t), "logout")
	refused(t, nil, env, "crane", "manifest", image)
}

// TestDockerLoginFlow is what docker login, docker pull and containerd send, in
// their order.
func TestDockerLoginFlow(t *testing.T) {
	s := up(t)
	image := pushImage(t, s, s.home(alice), "team/app", "one")
	digest := image[strings.Index(image, "@")+1:]
	do := func(method, target, authorization string, form url.Values) (int, http.Header, map[string]any) {
		t.Helper()
		var body io.Reader
		if form != nil {
			body = strings.NewReader(form.Encode())
		}
		req, _ := http.NewRequestWithContext(t.Context(), method, target, body)
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		if form != nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var m map[string]any
		b, _ := io.ReadAll(resp.Body)
		_ = json.NewDecoder(bytes.NewReader(b)).Decode(&m)
		return resp.StatusCode, resp.Header, m
	}
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("alice:"+s.token(alice, "assay-registry")))
	status, h, _ := do("GET", s.PublicURL+"/v2/", "", nil)
	challenge := regexp.MustCompile(`^Bearer realm="([^"]+)",service="([^"]+)"$`).FindStringSubmatch(h.Get("WWW-Authenticate"))
	if status != 401 || challenge == nil {
		t.Fatalf("ping: %d %q", status, h.Get("WWW-Authenticate"))
	}
	// docker login: moby's registry/auth.go asks for an identity token.
	status, _, login := do("GET", challenge[1]+"?"+url.Values{"account": {"alice"}, "client_id": {"docker"}, "offline_token": {"true"}, "service": {challenge[2]}}.Encode(), basic, nil)
	refresh, _ := login["refresh_token"].(string)
	if status != 200 || refresh == "" || login["token"] == "" {
		t.Fatalf("login: %d %v", status, login)
	}
	// docker pull: the identity token buys a scoped one by POST.
	status, _, pull := do("POST", challenge[1], "", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "service": {challenge[2]}, "client_id": {"docker"}, "scope": {"repository:team/app:pull"}})
	access, _ := pull["access_token"].(string)
	if status != 200 || access == "" {
		t.Fatalf("pull: %d %v", status, pull)
	}
	if status, _, _ := do("GET", s.PublicURL+"/v2/team/app/manifests/"+digest, "Bearer "+access, nil); status != 200 {
		t.Errorf("manifest: %d", status)
	}
	// containerd: POST with grant_type=password first.
	status, _, pull = do("POST", challenge[1], "", url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {s.token(alice, "assay-registry")}, "service": {challenge[2]}, "client_id": {"containerd-client"}, "scope": {"repository:team/app:pull"}})
	if access, _ := pull["access_token"].(string); status != 200 || access == "" {
		t.Errorf("containerd: %d %v", status, pull)
	}
}

// TestAuditTrail: real clients' pulls are each one record, HEAD by tag and GET
// by digest together, and the trail proves itself without the server.
func TestAuditTrail(t *testing.T) {
	s := up(t)
	env := s.home(alice)
	image := pushImage(t, s, env, "team/app", "one")
	reg := s.Services.Registry
	bobs := s.home(bob)
	must(t, bobs, "crane", "pull", reg+"/team/app:v1", filepath.Join(t.TempDir(), "image.tar"))
	must(t, bobs, "skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "docker://"+reg+"/team/app:v1", "oci:"+filepath.Join(t.TempDir(), "l")+":v1")
	must(t, bobs, "oras", "manifest", "fetch", "--plain-http", reg+"/team/app:v1")
	var page struct {
		Items []struct {
			Actor string
			Body  struct {
				Tag        string
				Credential string
				UserAgent  string `json:"user_agent"`
				Address    string
			}
		}
	}
	// A record is durable when the pull is answered, and shown once it is sealed, within 100 ms.
	for deadline := time.Now().Add(5 * time.Second); len(page.Items) < 3 && time.Now().Before(deadline); {
		page.Items = nil
		if err := json.Unmarshal([]byte(s.assay("audit", "query", "--kind", "artifact.pulled", "--identity", bob, "-o", "json")), &page); err != nil {
			t.Fatal(err)
		}
	}
	agents := map[string]int{}
	for _, e := range page.Items {
		if e.Body.Tag != "v1" || e.Body.Address != "127.0.0.1" || !strings.HasPrefix(e.Body.Credential, "jwt:") {
			t.Errorf("record %+v", e)
		}
		name, _, _ := strings.Cut(e.Body.UserAgent, "/")
		agents[name]++
	}
	if len(agents) != 3 {
		t.Errorf("records by client %v, want one of each of three", agents)
	}
	for name, n := range agents {
		if n != 1 {
			t.Errorf("%s: %d records of one pull", name, n)
		}
	}
	// Bob's login turns out to have been stolen before.
	s.assay("access", "revoke", "--issuer", s.Services.OIDC, "--identity", bob, "--since", "1h", "--reason", "phished")
	s.assayRefused(1, []string{"phished", "team/app"}, "audit", "unauthorized")
	refused(t, []string{"UNAUTHORIZED"}, bobs, "crane", "manifest", image)

	dir := t.TempDir()
	s.assay("audit", "verify")
	s.assay("trust", "export", "--out", filepath.Join(dir, "root.json"))
	s.assay("audit", "export", "--out", filepath.Join(dir, "trail.jsonl"))
	s.stop()
	must(t, cleanEnv(), assayBin(t), "audit", "verify", "--file", filepath.Join(dir, "trail.jsonl"), "--trusted-root", filepath.Join(dir, "root.json"))
	b, err := os.ReadFile(filepath.Join(dir, "trail.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "forged.jsonl"), bytes.ReplaceAll(b, []byte(bob), []byte("eve@example.com")), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, []string{"proof"}, cleanEnv(), assayBin(t), "audit", "verify", "--file", filepath.Join(dir, "forged.jsonl"), "--trusted-root", filepath.Join(dir, "root.json"))
}
