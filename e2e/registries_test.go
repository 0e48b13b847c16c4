//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// peer starts another registry of the field on a fresh folder, and gives its
// host: "distribution", which knows no referrers API, or "olareg", which does.
func peer(t *testing.T, name string) string {
	t.Helper()
	return peerThatTells(t, name, "", "")
}

// peerThatTells is a distribution registry that sends its notifications to a URL,
// with a secret.
func peerThatTells(t *testing.T, name, notify, secret string) string {
	t.Helper()
	host := freeAddress(t)
	dir := t.TempDir()
	_, port, _ := strings.Cut(host, ":")
	program, args := "olareg", []string{"serve", "--addr", "127.0.0.1", "--port", port, "--dir", dir, "-v", "error"}
	if name == "distribution" {
		conf := filepath.Join(t.TempDir(), "distribution.yml")
		doc := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage:\n  filesystem: {rootdirectory: %q}\n  delete: {enabled: true}\nhttp: {addr: %q, secret: only for this test}\n", dir, host)
		if notify != "" {
			doc += fmt.Sprintf("notifications:\n  endpoints:\n  - {name: assay, url: %q, headers: {Authorization: [\"Bearer %s\"]}, timeout: 2s, threshold: 5, backoff: 1s}\n", notify, secret)
		}
		if err := os.WriteFile(conf, []byte(doc), 0o600); err != nil {
			t.Fatal(err)
		}
		program, args = "registry", []string{"serve", conf}
	}
	cmd := exec.Command(program, args...)
	cmd.Env = cleanEnv("OTEL_TRACES_EXPORTER=none")
	log := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v (is it on PATH? run these tests with make e2e)", program, err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + host + "/v2/")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return host
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not answer: %v\n%s", name, err, log)
		}
	}
}

// released is what a project publishes: an index of two images, signed with all
// in it, with an SBOM about a part and cosign's tags of old about the whole.
type releasedImage struct{ index, child, sig string }

func (s *site) releases(t *testing.T, env []string, repo string) releasedImage {
	t.Helper()
	var r releasedImage
	dir := shortTemp(t)
	var parts []string
	for _, n := range []string{"amd64", "arm64"} {
		if err := os.WriteFile(filepath.Join(dir, "layer.txt"), []byte("for "+n), 0o644); err != nil {
			t.Fatal(err)
		}
		must(t, env, "tar", "-C", dir, "-cf", filepath.Join(dir, "layer.tar"), "layer.txt")
		must(t, env, "crane", "append", "-f", filepath.Join(dir, "layer.tar"), "-t", repo+":"+n, "--oci-empty-base")
		parts = append(parts, "-m", repo+":"+n)
	}
	must(t, env, "crane", append([]string{"index", "append", "-t", repo + ":v1"}, parts...)...)
	digest := func(tag string) string { return strings.TrimSpace(must(t, env, "crane", "digest", repo+":"+tag)) }
	r.index, r.child = digest("v1"), digest("arm64")
	must(t, env, "cosign", "sign", "--yes", "--recursive", "--identity-token", s.token(alice, "sigstore"), repo+"@"+r.index)
	if err := os.WriteFile(filepath.Join(dir, "sbom.json"), []byte(`{"spdxVersion": "SPDX-2.3"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	runInDir(t, dir, env, "oras", "attach", "--plain-http", "--artifact-type", "application/spdx+json", repo+"@"+r.child, "sbom.json:application/spdx+json")
	for _, suffix := range []string{".sig", ".att"} {
		must(t, env, "crane", "append", "-f", filepath.Join(dir, "layer.tar"), "-t", repo+":"+strings.Replace(r.index, ":", "-", 1)+suffix, "--oci-empty-base", "--set-base-image-annotations=false")
	}
	r.sig = strings.Replace(r.index, ":", "-", 1) + ".sig"
	return r
}

// referrers are the digests that oras discovers about a digest, in order.
func referrers(t *testing.T, env []string, ref string) []string {
	t.Helper()
	out := must(t, env, "oras", "discover", "--plain-http", "--depth", "1", "--format", "json", ref)
	var doc struct {
		Referrers []struct{ Digest string }
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		t.Fatalf("oras discover: %v\n%s", err, out)
	}
	var all []string
	for _, r := range doc.Referrers {
		all = append(all, r.Digest)
	}
	slices.Sort(all)
	return all
}

// moved checks that all of a release is at another place, under its digests.
func (s *site) moved(t *testing.T, env []string, r releasedImage, from, to string, who []string) {
	t.Helper()
	for _, tag := range []string{"v1", r.sig, strings.TrimSuffix(r.sig, "sig") + "att"} {
		want := strings.TrimSpace(must(t, env, "crane", "digest", from+":"+tag))
		if got := strings.TrimSpace(must(t, env, "crane", "digest", to+":"+tag)); got != want {
			t.Errorf("%s:%s is %s, want %s", to, tag, got, want)
		}
	}
	for _, d := range []string{r.index, r.child} {
		want, got := referrers(t, env, from+"@"+d), referrers(t, env, to+"@"+d)
		if len(want) == 0 || !slices.Equal(got, want) {
			t.Errorf("referrers of %s@%s: %v, want %v", to, d, got, want)
		}
		must(t, env, "cosign", append(append([]string{"verify"}, who...), to+"@"+d)...)
	}
	must(t, env, "crane", "validate", "--remote", to+":v1")
}

func initialized(t *testing.T, s *site, env []string) []string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root.json")
	s.assay("trust", "root", "--out", root)
	must(t, env, "cosign", "initialize", "--mirror", s.Services.TUF, "--root", root)
	return []string{"--certificate-identity", alice, "--certificate-oidc-issuer", s.Services.OIDC}
}

// TestRegistryCopy copies a signed multi-arch release between Assay and two
// other registries, in all directions: one that has the referrers API, and one
// where evidence is found by fallback tags.
func TestRegistryCopy(t *testing.T) {
	s := up(t)
	env := s.home(alice)
	who := initialized(t, s, env)
	dist, olareg := peer(t, "distribution"), peer(t, "olareg")
	hosts := map[string]string{"assay": s.Services.Registry, "distribution": dist, "olareg": olareg}
	for _, way := range [][2]string{{"distribution", "assay"}, {"olareg", "assay"}, {"assay", "distribution"}, {"olareg", "distribution"}, {"distribution", "olareg"}} {
		t.Run(way[0]+" to "+way[1], func(t *testing.T) {
			from, to := hosts[way[0]]+"/from/"+way[1], hosts[way[1]]+"/to/"+way[0]
			r := s.releases(t, env, from)
			got := run(t, env, assayBin(t), "registry", "copy", from+":v1", to+":v1", "-o", "json")
			if got.code != 0 || got.stderr != "" {
				t.Fatalf("exit code %d\n%s", got.code, got.stderr)
			}
			s.moved(t, env, r, from, to, who)
			var again struct{ Digest, Manifests, Blobs any }
			out := must(t, env, assayBin(t), "registry", "copy", from+":v1", to+":v1", "-o", "json")
			if err := json.Unmarshal([]byte(out), &again); err != nil || again.Digest != r.index || again.Blobs != 0.0 || again.Manifests != 0.0 {
				t.Errorf("the second copy wrote again: %v\n%s", err, out)
			}
		})
	}
}

// stuck is a proxy for a registry that stops at the nth blob that is fetched,
// until it is let go: a copy through it can be killed in the middle.
type stuck struct {
	host    string
	at      int64
	fetched atomic.Int64
	reached chan struct{}
	release chan struct{}
}

func stall(t *testing.T, upstream string, at int64) *stuck {
	t.Helper()
	s := &stuck{at: at, reached: make(chan struct{}), release: make(chan struct{})}
	p := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: upstream})
		r.Out.Host = r.In.Host // so that Location leads back through here
	}}
	host := freeAddress(t)
	srv := &http.Server{Addr: host, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256:") && s.fetched.Add(1) == s.at {
			close(s.reached)
			select {
			case <-s.release:
			case <-r.Context().Done():
			}
		}
		p.ServeHTTP(w, r)
	})}
	go func() { _ = srv.ListenAndServe() }()
	t.Cleanup(func() { _ = srv.Close() })
	s.host = host
	return s
}

// killed runs a command until the proxy stands still, and kills it there.
func (s *stuck) killed(t *testing.T, env []string, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.reached:
	case <-time.After(30 * time.Second):
		t.Errorf("it did not come to blob %d", s.at)
	}
	_ = cmd.Process.Kill()
	if err := cmd.Wait(); err == nil {
		t.Errorf("it ended well before it was killed\n%s", &out)
	}
	close(s.release)
}

// TestRegistryCopyResumes kills a copy in the middle: the tag is not there, and
// what is there is not copied again by the next.
func TestRegistryCopyResumes(t *testing.T) {
	s := up(t)
	env := s.home(alice)
	dist := peer(t, "distribution")
	dir := shortTemp(t)
	args := []string{"append", "-t", dist + "/big/app:v1", "--oci-empty-base"}
	for i := range 8 {
		name := fmt.Sprintf("layer%d", i)
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte{byte(i)}, 100_000), 0o644); err != nil {
			t.Fatal(err)
		}
		must(t, env, "tar", "-C", dir, "-cf", filepath.Join(dir, name+".tar"), name)
		args = append(args, "-f", filepath.Join(dir, name+".tar"))
	}
	must(t, env, "crane", args...)
	proxy := stall(t, dist, 7)
	from, to := proxy.host+"/big/app:v1", s.Services.Registry+"/big/app:v1"
	proxy.killed(t, env, assayBin(t), "registry", "copy", from, to)
	refused(t, nil, env, "crane", "digest", to)
	out := must(t, env, assayBin(t), "registry", "copy", from, to, "-o", "json")
	var done struct{ Blobs, Skipped int }
	if err := json.Unmarshal([]byte(out), &done); err != nil || done.Skipped < 1 || done.Blobs+done.Skipped != 9 && done.Blobs+done.Skipped != 10 {
		t.Errorf("after it was killed: %v\n%s", err, out)
	}
	must(t, env, "crane", "validate", "--remote", to)
}

// TestImportRegistry moves a distribution registry with several repositories,
// killed on the way, and goes on from the state file.
func TestImportRegistry(t *testing.T) {
	s := up(t)
	env := s.home(alice)
	who := initialized(t, s, env)
	dist := peer(t, "distribution")
	one, two := s.releases(t, env, dist+"/team/one"), s.releases(t, env, dist+"/team/two")
	s.releases(t, env, dist+"/other/three")
	proxy := stall(t, dist, 10)
	to := s.Services.Registry + "/old"
	state := filepath.Join(t.TempDir(), "state")
	args := []string{"import", "registry", "http://" + proxy.host, "--to", to, "--repositories", "team/**", "--state", state, "-o", "json"}
	proxy.killed(t, env, assayBin(t), args...)
	got := run(t, env, assayBin(t), args...)
	var r struct {
		Repositories, Copied, Done int
		Failed                     []string
	}
	if err := json.Unmarshal([]byte(got.stdout), &r); err != nil || got.code != 0 || got.stderr != "" || r.Repositories != 2 || r.Copied == 0 || r.Done == 0 || len(r.Failed) > 0 {
		t.Fatalf("exit code %d, %v\n%s%s", got.code, err, got.stdout, got.stderr)
	}
	s.moved(t, env, one, dist+"/team/one", to+"/team/one", who)
	s.moved(t, env, two, dist+"/team/two", to+"/team/two", who)
	refused(t, nil, env, "crane", "digest", to+"/other/three:v1")
	// What has moved since comes along, and nothing else.
	must(t, env, "crane", "tag", dist+"/team/one:amd64", "v2")
	got = run(t, env, assayBin(t), args...)
	r.Copied, r.Done = 0, 0
	if err := json.Unmarshal([]byte(got.stdout), &r); err != nil || got.code != 0 || r.Copied != 1 {
		t.Errorf("the run before the switch: %d, %v\n%s%s", got.code, err, got.stdout, got.stderr)
	}
}
