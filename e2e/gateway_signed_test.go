//go:build e2e

package e2e

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
	"sync/atomic"
	"testing"
	"time"
)

// guardedPeer puts a login in front of a registry, and has blobs fetched from
// another host, as the large ones do. leaked counts what that other host was
// sent of the login.
func guardedPeer(t *testing.T, backend string) (host string, leaked *atomic.Int64, down *atomic.Bool) {
	t.Helper()
	leaked, down = &atomic.Int64{}, &atomic.Bool{}
	p := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: backend}) }}
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Add(1)
		}
		p.ServeHTTP(w, r)
	}))
	t.Cleanup(store.Close)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			panic(http.ErrAbortHandler)
		}
		if user, secret, _ := r.BasicAuth(); user != "robot" || secret != "a password of the upstream" {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(w, r, store.URL+r.URL.RequestURI(), http.StatusTemporaryRedirect)
			return
		}
		p.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	return strings.TrimPrefix(front.URL, "http://"), leaked, down
}

// TestGatewaySigned puts a staged and a strict gateway in front of other
// registries: what is not signed there is pulled by nobody here; what cosign
// signed there is, with its signatures, also when the upstream is away.
func TestGatewaySigned(t *testing.T) {
	own := serve(t, gateDocs)
	env, bobs := own.home(alice), own.home(bob)
	who := initialized(t, own, env)
	_ = initialized(t, own, bobs)
	secrets := t.TempDir()
	for name, text := range map[string]string{"login": "robot:a password of the upstream", "notices": "what the upstream knows"} {
		if err := os.WriteFile(filepath.Join(secrets, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"distribution", "olareg"} {
		t.Run(name, func(t *testing.T) {
			// A distribution registry tells by itself; for olareg the test does.
			backend := peerThatTells(t, name, own.PublicURL+"/hooks/registry/distribution", "what the upstream knows")
			host, leaked, down := guardedPeer(t, backend)
			docs := ""
			for _, mode := range []string{"staged", "strict"} {
				docs += fmt.Sprintf("---\napiVersion: assay/v1\nkind: Repository\nmetadata: {name: %[1]s-%[2]s}\nspec:\n  pattern: \"%[1]s/%[2]s/**\"\n  mode: %[2]s\n"+
					"  upstream: {url: \"http://%[3]s/%[2]s\", credentials: \"file:%[4]s/login\", allowPrivate: true, revalidate: 10s, notices: {provider: distribution, secret: \"file:%[4]s/notices\"}}\n", name, mode, host, secrets)
			}
			own.apply(docs)
			for _, mode := range []string{"staged", "strict"} {
				t.Run(mode, func(t *testing.T) { gatewaySigned(t, own, env, bobs, who, backend, name, mode) })
			}
			down.Store(true)
			for _, mode := range []string{"staged", "strict"} {
				at := own.Services.Registry + "/" + name + "/" + mode + "/app"
				must(t, bobs, "crane", "pull", at+":v1", filepath.Join(t.TempDir(), "kept.tar"))
				must(t, bobs, "cosign", append(append([]string{"verify"}, who...), at+":v1")...)
				refused(t, []string{"is not kept here"}, bobs, "crane", "manifest", at+":v9")
			}
			if n := leaked.Load(); n > 0 {
				t.Errorf("the host that an upstream redirects to was sent credentials %d times", n)
			}
		})
	}
	resp, err := http.Get(own.PublicURL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	for _, m := range []string{`assay_gateway_lookups_total{outcome="fetched"} `, `assay_gateway_upstream_requests_total{outcome="ok"} `, "assay_gateway_upstream_bytes_total "} {
		if i := strings.Index(string(b), m); i < 0 || strings.HasPrefix(string(b[i+len(m):]), "0\n") {
			t.Errorf("/metrics has no %s, or 0", m)
		}
	}
}

func gatewaySigned(t *testing.T, own *site, env, bobs, who []string, backend, name, mode string) {
	there, at := backend+"/"+mode+"/app", own.Services.Registry+"/"+name+"/"+mode+"/app"
	remote := *own
	remote.Services.Registry = backend
	image := pushImage(t, &remote, env, mode+"/app", "of "+name+" "+mode)
	_, digest, _ := strings.Cut(image, "@")
	refused(t, []string{mode}, bobs, "crane", "manifest", at+":v1")
	refused(t, nil, bobs, "crane", "pull", at+"@"+digest, filepath.Join(t.TempDir(), "no.tar"))
	own.assayRefused(1, []string{"STAGED", "signatures/alice"}, "registry", "status", name+"/"+mode+"/app@"+digest)
	must(t, env, "cosign", "sign", "--yes", "--identity-token", own.token(alice, "sigstore"), there+"@"+digest)
	if name != "distribution" {
		noticed(t, own, mode, digest)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		r := run(t, bobs, "crane", "digest", at+":v1")
		if r.code == 0 && strings.TrimSpace(r.stdout) == digest {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("signed, noticed, and not let through: %s\n%s", r.stderr, run(t, own.environ(), own.program(), "registry", "status", name+"/"+mode+"/app@"+digest).stdout)
		}
	}
	must(t, bobs, "crane", "pull", at+":v1", filepath.Join(t.TempDir(), "yes.tar"))
	must(t, bobs, "cosign", append(append([]string{"verify"}, who...), at+":v1")...)
	must(t, bobs, "skopeo", "inspect", "--tls-verify=false", "docker://"+at+":v1")
}

// noticed sends the notice of a push, as a distribution registry would.
func noticed(t *testing.T, own *site, mode, digest string) {
	t.Helper()
	notice := fmt.Sprintf(`{"events":[{"id":"1","action":"push","target":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"repository":"%s/app","tag":"v1"}}]}`, digest, mode)
	req, err := http.NewRequest(http.MethodPost, own.PublicURL+"/hooks/registry/distribution", bytes.NewReader([]byte(notice)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer what the upstream knows")
	req.Header.Set("Content-Type", "application/vnd.docker.distribution.events.v2+json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		t.Fatalf("the notice: %s", resp.Status)
	}
}
