package external

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"assay/admission"
	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/kube"
	"assay/internal/oci"
	"assay/store"
	"assay/store/storetest"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

const reader = "reader:secret-of-reader"

// private is a registry that one user may read; it keeps what it was shown.
type private struct {
	*httptest.Server
	next http.Handler

	mu    sync.Mutex
	shown []string
	moved string // manifests are said to lie there
	down  bool
}

func newPrivate(t *testing.T) *private {
	p := &private{next: registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0)))}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *private) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, password, ok := r.BasicAuth()
	p.mu.Lock()
	if ok {
		p.shown = append(p.shown, user+":"+password)
	}
	moved, down := p.moved, p.down
	p.mu.Unlock()
	switch {
	case user+":"+password != reader:
		w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
	case down:
		http.Error(w, "", http.StatusServiceUnavailable)
	case moved != "" && strings.Contains(r.URL.Path, "/manifests/"):
		http.Redirect(w, r, moved+r.URL.Path, http.StatusTemporaryRedirect)
	default:
		p.next.ServeHTTP(w, r)
	}
}

func (p *private) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *private) host() string { return strings.TrimPrefix(p.URL, "http://") }

func (p *private) push(t *testing.T, repository, tag string) artifact.Digest {
	img, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(p.host()+"/"+repository+":"+tag, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	user, password, _ := strings.Cut(reader, ":")
	if err := remote.Write(ref, img, remote.WithAuth(&authn.Basic{Username: user, Password: password})); err != nil {
		t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return artifact.Digest(d.String())
}

// cluster is an API server that has Secrets and service accounts.
func cluster(t *testing.T, objects map[string]any) func(string) (*kube.Client, error) {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o, ok := objects[strings.TrimPrefix(r.URL.Path, "/api/v1/namespaces/")]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"code":404,"reason":"NotFound","message":"not found"}`)
			return
		}
		_ = json.NewEncoder(w).Encode(o)
	}))
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	config := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: %q, certificate-authority-data: %s}}]\nusers: [{name: u, user: {token: t}}]\n",
		s.URL, base64.StdEncoding.EncodeToString(ca))
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(name string) (*kube.Client, error) {
		if name != "c1" {
			return nil, nil //nolint:nilnil // nobody reads it
		}
		return kube.FromFile(file, "")
	}
}

func dockerSecret(entries map[string]string) any {
	auths := map[string]any{}
	for host, login := range entries {
		auths[host] = map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(login))}
	}
	b, _ := json.Marshal(map[string]any{"auths": auths})
	return map[string]any{"type": "kubernetes.io/dockerconfigjson", "data": map[string]string{".dockerconfigjson": base64.StdEncoding.EncodeToString(b)}}
}

type nobody struct{}

func (nobody) Take(context.Context, *oci.Evidence) error {
	return fault.Newf(fault.Unverified, "nobody here signed it")
}

func registries(t *testing.T, db *store.DB, s Secrets, images ...string) *Registries {
	t.Helper()
	if err := db.Migrate(t.Context(), Migrations); err != nil {
		t.Fatal(err)
	}
	transport, err := oci.NewTransport(oci.Guard{AllowPrivate: true, Proxy: "none"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(Options{Images: images, Secrets: s, DB: db, Keeper: nobody{}, Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func reference(t *testing.T, text string) artifact.Reference {
	t.Helper()
	ref, err := artifact.ParseReference(text)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

var shop = admission.Place{Cluster: "c1", Namespace: "shop"}

// A private image is looked into with what its Pod has, be it by the Pod itself or
// by its service account, and not with what another namespace has.
func TestRegistries(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		p := newPrivate(t)
		d := p.push(t, "org/app", "v1")
		clients := cluster(t, map[string]any{
			"shop/secrets/pull":          dockerSecret(map[string]string{p.host(): reader}),
			"shop/secrets/other":         dockerSecret(map[string]string{"elsewhere.example": "x:y"}),
			"shop/secrets/wrong":         dockerSecret(map[string]string{p.host(): "reader:of-last-year"}),
			"shop/secrets/path":          dockerSecret(map[string]string{p.host() + "/org": reader, p.host() + "/else": "x:y"}),
			"shop/secrets/opaque":        map[string]any{"type": "Opaque", "data": map[string]string{".dockerconfigjson": "e30="}},
			"shop/serviceaccounts/build": map[string]any{"imagePullSecrets": []any{map[string]string{"name": "pull"}}},
		})
		r := registries(t, db, &Kubernetes{Client: clients}, p.host()+"/org/**")
		ref := reference(t, p.host()+"/org/app:v1")
		for name, c := range map[string]struct {
			place admission.Place
			pull  admission.Pull
			want  bool
		}{
			"its secret":             {shop, admission.Pull{Secrets: []string{"pull"}}, true},
			"its service account's":  {shop, admission.Pull{ServiceAccount: "build"}, true},
			"the second of two":      {shop, admission.Pull{Secrets: []string{"other", "pull"}}, true},
			"after a wrong one":      {shop, admission.Pull{Secrets: []string{"wrong", "pull"}}, true},
			"by path":                {shop, admission.Pull{Secrets: []string{"path"}}, true},
			"one that is not there":  {shop, admission.Pull{Secrets: []string{"gone", "pull"}}, true},
			"none":                   {shop, admission.Pull{}, false},
			"of another registry":    {shop, admission.Pull{Secrets: []string{"other"}}, false},
			"no secret for pulls":    {shop, admission.Pull{Secrets: []string{"opaque"}}, false},
			"another namespace":      {admission.Place{Cluster: "c1", Namespace: "dev"}, admission.Pull{Secrets: []string{"pull"}}, false},
			"a cluster nobody reads": {admission.Place{Cluster: "c2", Namespace: "shop"}, admission.Pull{Secrets: []string{"pull"}}, false},
			"no service account":     {shop, admission.Pull{ServiceAccount: "gone"}, false},
		} {
			got, err := r.Resolve(t.Context(), ref, c.place, c.pull)
			if c.want && (err != nil || got != d) || !c.want && err == nil {
				t.Errorf("%s: %s, %v", name, got, err)
			}
			if err != nil && (strings.Contains(err.Error(), "secret-of") || strings.Contains(err.Error(), "of-last-year")) {
				t.Errorf("%s: the error holds a secret: %v", name, err)
			}
		}

		pull := admission.Pull{Secrets: []string{"pull"}}
		if err := r.Bring(t.Context(), ref.WithDigest(d), shop, pull); err != nil {
			t.Fatal(err)
		}
		mediaType, parts, known, err := r.Known(t.Context(), d)
		if err != nil || !known || !strings.Contains(mediaType, "manifest") || len(parts) != 0 {
			t.Errorf("%q %v %v %v", mediaType, parts, known, err)
		}
		p.set(func() { p.down = true })
		if err := r.Bring(t.Context(), ref.WithDigest(d), shop, pull); err != nil {
			t.Errorf("what was just brought is asked for again: %v", err)
		}
		if _, err := r.Resolve(t.Context(), ref, shop, pull); err == nil {
			t.Error("a registry that is down resolved a tag")
		}
	})
}

// A credential goes to the host that it is for: not to another that the Pod names,
// not to where a redirect leads, not by a wildcard.
func TestThreat_Admission_CredentialsAreHostBound(t *testing.T) {
	home, thief := newPrivate(t), newPrivate(t)
	home.push(t, "org/app", "v1")
	thief.push(t, "org/app", "v1")
	clients := cluster(t, map[string]any{
		"shop/secrets/pull": dockerSecret(map[string]string{home.host(): reader}),
		"shop/secrets/wild": dockerSecret(map[string]string{"*": reader, "*.0.0.1": reader, "127.*.*.*": reader}),
	})
	r := registries(t, storetest.Open(t, store.SQLite), &Kubernetes{Client: clients}, home.host()+"/**", thief.host()+"/**")
	thief.set(func() { thief.shown = nil }) // by its own push
	for _, secrets := range [][]string{{"pull"}, {"wild"}, {"pull", "wild"}} {
		if _, err := r.Resolve(t.Context(), reference(t, thief.host()+"/org/app:v1"), shop, admission.Pull{Secrets: secrets}); err == nil {
			t.Errorf("%v: resolved at the thief", secrets)
		}
	}
	home.set(func() { home.moved = thief.URL })
	_, _ = r.Resolve(t.Context(), reference(t, home.host()+"/org/app:v1"), shop, admission.Pull{Secrets: []string{"pull"}})
	thief.set(func() {
		if len(thief.shown) > 0 {
			t.Errorf("shown to the thief: %v", thief.shown)
		}
	})
}

func TestCovers(t *testing.T) {
	r := registries(t, storetest.Open(t, store.SQLite), nil, "ghcr.io/org/**", "*.example.com/**")
	for text, want := range map[string]bool{
		"ghcr.io/org/app:v1": true, "ghcr.io/other/app:v1": false, "ghcr.io/organisation/app:v1": false,
		"a.example.com/x/y:v1": true, "example.com/x/y:v1": false, "ghcr.io.evil.example/org/app:v1": false,
	} {
		if r.Covers(reference(t, text)) != want {
			t.Errorf("%s: %v", text, !want)
		}
	}
	for _, wrong := range []string{"ghcr.io", "**/app", "ghcr.io/[", ""} {
		if _, err := New(Options{Images: []string{wrong}}); !errors.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

func FuzzReadAuths(f *testing.F) {
	f.Add("kubernetes.io/dockerconfigjson", []byte(`{"auths":{"https://ghcr.io/v1/":{"auth":"YTpi"}}}`))
	f.Add("kubernetes.io/dockercfg", []byte(`{"ghcr.io/org":{"username":"a","password":"b"}}`))
	f.Fuzz(func(t *testing.T, kind string, b []byte) {
		text := base64.StdEncoding.EncodeToString(b)
		all, err := readAuths(kind, map[string]string{".dockerconfigjson": text, ".dockercfg": text})
		if err != nil {
			return
		}
		for _, a := range matching(all, artifact.Reference{Host: "ghcr.io", Repository: "org/app"}) {
			if a.host != "ghcr.io" || a.path != "" && a.path != "org" && a.path != "org/app" {
				t.Errorf("%q %q is for ghcr.io/org/app", a.host, a.path)
			}
		}
		if !slices.IsSortedFunc(all, func(a, b auth) int { return len(b.path) - len(a.path) }) {
			t.Error("not the most specific first")
		}
	})
}
