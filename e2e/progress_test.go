//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// onTerminal runs a command with its standard error on a terminal, and gives
// what was written there.
func onTerminal(t *testing.T, env []string, program string, args ...string) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	defer master.Close()
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Env, cmd.Stderr = env, slave
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = slave.Close()
	said, _ := io.ReadAll(master) // ends with EIO when the other side is closed
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	return string(said)
}

// TestProgressOnTerminal: a copy shows how far it is to a person, and to nobody
// else.
func TestProgressOnTerminal(t *testing.T) {
	s := up(t)
	env := s.home(alice)
	dist := peer(t, "distribution")
	from := dist + "/team/app"
	s2 := *s
	s2.Services.Registry = dist
	pushImage(t, &s2, env, "team/app", "a layer")
	said := onTerminal(t, env, assayBin(t), "registry", "copy", from+":v1", s.Services.Registry+"/team/app:v1")
	if !strings.Contains(said, "manifests and blobs") || !strings.Contains(said, "\r") {
		t.Errorf("on a terminal: %q", said)
	}
	if strings.TrimRight(said, "\r ") != "" && !strings.HasSuffix(said, "\r") {
		t.Errorf("the line of progress is left behind: %q", said)
	}
	if r := run(t, env, assayBin(t), "registry", "copy", from+":v1", s.Services.Registry+"/team/other:v1"); r.code != 0 || r.stderr != "" {
		t.Errorf("without a terminal: %d %q", r.code, r.stderr)
	}
}

// harbor is a registry with Harbor's API v2 in front of it: the content is that
// of a real distribution registry, which is what Harbor runs inside; the API's
// answers have the shapes of its swagger.yaml, pages and Link headers included.
// No Harbor can be had here.
func harbor(t *testing.T, backend string, api map[string]any) string {
	t.Helper()
	p := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: backend})
		r.Out.Host = r.In.Host
	}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v2/") {
			p.ServeHTTP(w, r)
			return
		}
		if u, secret, _ := r.BasicAuth(); u != "admin" || secret != "Harbor12345" {
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"unauthorized"}]}`)
			return
		}
		a, ok := api[r.URL.EscapedPath()]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"errors":[{"code":"NOT_FOUND","message":"not found"}]}`)
			return
		}
		if list, ok := a.([]any); ok { // pages of one, so that there are several
			page, _ := strconv.Atoi(r.URL.Query().Get("page"))
			page = max(page, 1)
			w.Header().Set("X-Total-Count", strconv.Itoa(len(list)))
			if page > len(list) {
				a = []any{}
			} else {
				a = list[page-1 : page]
				if page < len(list) {
					w.Header().Set("Link", fmt.Sprintf(`<%s?page=%d&page_size=1>; rel="next"`, r.URL.EscapedPath(), page+1))
				}
			}
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_ = json.NewEncoder(w).Encode(a)
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// TestImportHarbor moves projects with their evidence, and writes their rules as
// documents that apply.
func TestImportHarbor(t *testing.T) {
	s := up(t)
	env := s.home(alice)
	who := initialized(t, s, env)
	dist := peer(t, "distribution")
	r := s.releases(t, env, dist+"/library/app")
	untagged := s.releases(t, env, dist+"/library/deep/er")
	tag := func(name string) any {
		return map[string]any{"id": 1, "name": name, "push_time": "2026-01-02T03:04:05.678Z", "immutable": false}
	}
	artifact := func(digest string, tags ...any) any {
		return map[string]any{"id": 7, "type": "IMAGE", "media_type": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 1, "tags": tags,
			"references": nil, "addition_links": map[string]any{}, "push_time": "2026-01-02T03:04:05.678Z"}
	}
	selector := func(decoration, pattern string) []any {
		return []any{map[string]any{"kind": "doublestar", "decoration": decoration, "pattern": pattern, "extras": ""}}
	}
	base := "/api/v2.0/projects/library"
	host := harbor(t, dist, map[string]any{
		"/api/v2.0/projects": []any{map[string]any{"project_id": 1, "name": "library", "owner_name": "admin", "repo_count": 2,
			"metadata": map[string]any{"public": "true", "retention_id": "3", "auto_scan": "true"}}},
		base + "/repositories": []any{
			map[string]any{"id": 1, "name": "library/app", "artifact_count": 1, "pull_count": 3}, map[string]any{"id": 2, "name": "library/deep/er", "artifact_count": 1}},
		base + "/repositories/app/artifacts": []any{
			artifact(r.index, tag("v1")), artifact(strings.TrimSpace(must(t, env, "crane", "digest", dist+"/library/app:amd64")), tag("amd64"))},
		base + "/repositories/deep%252Fer/artifacts": []any{artifact(untagged.index)},
		base + "/immutabletagrules": []any{map[string]any{"id": 1, "disabled": false, "action": "immutable", "template": "immutable_template",
			"scope_selectors": map[string]any{"repository": selector("repoMatches", "app")}, "tag_selectors": selector("matches", "v*")}},
		"/api/v2.0/retentions/3": map[string]any{"id": 3, "algorithm": "or", "rules": []any{map[string]any{"action": "retain", "template": "latestPushedK",
			"params": map[string]any{"latestPushedK": 10}, "tag_selectors": selector("matches", "**"), "scope_selectors": map[string]any{"repository": selector("repoMatches", "**")}}}},
		"/api/v2.0/robots": []any{map[string]any{"id": 1, "name": "robot$ci", "level": "system", "disable": false}},
	})
	login := func(password string) {
		must(t, env, "crane", "auth", "login", host, "-u", "admin", "-p", password)
	}
	to := s.Services.Registry + "/harbor"
	docs := filepath.Join(t.TempDir(), "docs.yaml")
	args := []string{"import", "harbor", "http://" + host, "--to", to, "--out", docs, "-o", "json"}
	login("wrong")
	refused(t, []string{"401"}, env, assayBin(t), args...)
	login("Harbor12345")
	out := must(t, env, assayBin(t), args...)
	var report struct {
		Repositories, Copied int
		Failed               []string
		NotTaken             []string `json:"not_taken_over"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.Repositories != 2 || report.Copied != 3 || len(report.Failed) > 0 || !strings.Contains(strings.Join(report.NotTaken, "\n"), "robot$ci") {
		t.Fatalf("%v\n%s", err, out)
	}
	s.moved(t, env, r, dist+"/library/app", to+"/library/app", who)
	must(t, env, "cosign", append(append([]string{"verify"}, who...), to+"/library/deep/er@"+untagged.index)...)
	b, err := os.ReadFile(docs)
	if err != nil || !strings.Contains(string(b), "immutableTags") || !strings.Contains(string(b), "anonymousPull: true") {
		t.Fatalf("documents: %v\n%s", err, b)
	}
	if out := s.assay("apply", "-f", docs); !strings.Contains(out, "repository/harbor-library-app") {
		t.Errorf("applied:\n%s", out)
	}
	// In force for where the images are now: the tag stays, and whoever it is may pull.
	refused(t, []string{"is immutable"}, env, "crane", "tag", to+"/library/app:amd64", "v1")
	must(t, cleanEnv("HOME="+t.TempDir(), "DOCKER_CONFIG="+t.TempDir()), "crane", "digest", to+"/library/app:v1")
}
