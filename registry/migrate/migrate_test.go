package migrate_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/artifact"
	"assay/config"
	"assay/identity"
	"assay/internal/glob"
	"assay/internal/oci"
	"assay/registry/migrate"
	"assay/registry/registrytest"
	"assay/store"
	"assay/store/storetest"
)

func start(t *testing.T) (*registrytest.Server, *registrytest.Client, *oci.Client) {
	t.Helper()
	s := registrytest.Start(t, storetest.Open(t, store.SQLite))
	s.Grant(t, "mover", identity.RolePublisher, "**")
	k, err := oci.HostKeychain(s.Host, []byte("token:"+s.Token(t, "mover", identity.AudienceRegistry)))
	if err != nil {
		t.Fatal(err)
	}
	return s, s.Client(t, "mover"), oci.New(oci.Options{Keychain: k})
}

func digestOf(c *registrytest.Client, repository, tag string) string {
	return c.Do("HEAD", "/v2/"+repository+"/manifests/"+tag, "").Header.Get("Docker-Content-Digest")
}

// A move brings all tags with their evidence, goes on where it broke off, copies
// again what has moved since, and says what failed.
func TestMove(t *testing.T) {
	from, src, fromClient := start(t)
	to, dst, toClient := start(t)
	d := src.PushImage("team/app", "v1", registrytest.Image{Layer: "one"})
	src.PushImage("team/app", "sha256-"+d.Hex()+".sig", registrytest.Image{Layer: "a signature"})
	src.PushImage("team/app", "", registrytest.Image{Layer: "a bundle", Subject: d, ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json"})
	src.PushImage("team/lib", "v1", registrytest.Image{Layer: "two"})
	src.PushImage("other/app", "v1", registrytest.Image{Layer: "three"})
	g, err := glob.Parse("team/**")
	if err != nil {
		t.Fatal(err)
	}
	items, err := migrate.Enumerate(t.Context(), fromClient, from.Host, []glob.Glob{g})
	if err != nil || len(items) != 3 {
		t.Fatalf("%d items, %v; want 3", len(items), err)
	}
	state := filepath.Join(t.TempDir(), "state")
	m := &migrate.Mover{From: fromClient, To: toClient, Source: from.Host, Target: to.Host + "/old", State: state}
	r := &migrate.Report{}
	if err := m.Move(t.Context(), items[:1], r); err != nil || r.Copied != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	// A crash cuts a line off.
	f, err := os.OpenFile(state, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteString(`{"source":"`)
	_ = f.Close()
	r = &migrate.Report{}
	if err := m.Move(t.Context(), items, r); err != nil || r.Done != 1 || r.Copied != 2 || len(r.Failed) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, tag := range []string{"v1", "sha256-" + d.Hex() + ".sig"} {
		if got := digestOf(dst, "old/team/app", tag); got == "" || got != digestOf(src, "team/app", tag) {
			t.Errorf("%s is %s there", tag, got)
		}
	}
	if b := dst.Do("GET", "/v2/old/team/app/referrers/"+string(d), "").Body; !strings.Contains(string(b), "bundle") {
		t.Errorf("referrers: %s", b)
	}
	if got := digestOf(dst, "old/other/app", "v1"); got != "" {
		t.Error("a repository that was not asked for was copied")
	}
	moved := src.PushImage("team/lib", "v1", registrytest.Image{Layer: "changed"})
	r = &migrate.Report{}
	if err := m.Move(t.Context(), append(items, migrate.Item{Repository: "team/gone", Tag: "v1"}), r); err != nil || r.Copied != 1 || r.Done != 2 || len(r.Failed) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	if got := digestOf(dst, "old/team/lib", "v1"); got != string(moved) {
		t.Errorf("the moved tag is %s there, want %s", got, moved)
	}
	if err := os.WriteFile(state, []byte("not a state file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Move(t.Context(), items, r); err == nil {
		t.Error("a file of another program was taken for the state")
	}
}

// TestHarbor asks a server with answers of the shape of Harbor's API v2 (its
// swagger.yaml): no Harbor runs here.
func TestHarbor(t *testing.T) {
	digest := artifact.SHA256Of([]byte("x"))
	answers := map[string]any{
		"/api/v2.0/projects": []any{map[string]any{"project_id": 1, "name": "team", "metadata": map[string]any{"public": "true", "retention_id": "7"}}},
		"/api/v2.0/projects/team/repositories": []any{
			map[string]any{"name": "team/app"}, map[string]any{"name": "team/deep/er"}},
		"/api/v2.0/projects/team/repositories/app/artifacts": []any{
			map[string]any{"digest": digest, "tags": []any{map[string]any{"name": "v1", "immutable": true}, map[string]any{"name": "latest"}}}},
		"/api/v2.0/projects/team/repositories/deep%252Fer/artifacts": []any{map[string]any{"digest": digest, "tags": nil}},
		"/api/v2.0/projects/team/immutabletagrules": []any{
			map[string]any{"action": "immutable", "template": "immutable_template",
				"scope_selectors": map[string]any{"repository": []any{map[string]any{"kind": "doublestar", "decoration": "repoMatches", "pattern": "{app,lib}"}}},
				"tag_selectors":   []any{map[string]any{"kind": "doublestar", "decoration": "matches", "pattern": "v*"}}},
			map[string]any{"action": "immutable",
				"scope_selectors": map[string]any{"repository": []any{map[string]any{"kind": "doublestar", "decoration": "repoExcludes", "pattern": "x"}}},
				"tag_selectors":   []any{map[string]any{"kind": "doublestar", "decoration": "matches", "pattern": "**"}}},
		},
		"/api/v2.0/retentions/7": map[string]any{"rules": []any{map[string]any{"action": "retain", "template": "latestPushedK", "params": map[string]any{"latestPushedK": 10},
			"tag_selectors": []any{map[string]any{"kind": "doublestar", "decoration": "matches", "pattern": "**"}}}}},
		"/api/v2.0/robots": []any{map[string]any{"name": "robot$ci", "level": "project"}},
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "admin" || p != "secret" {
			w.WriteHeader(401)
			return
		}
		a, ok := answers[r.URL.EscapedPath()]
		if !ok || r.URL.Query().Get("page") != "1" && !strings.Contains(r.URL.Path, "retentions") {
			w.WriteHeader(404)
			return
		}
		_ = json.NewEncoder(w).Encode(a)
	}))
	defer srv.Close()
	h := &migrate.Harbor{URL: srv.URL, User: "admin", Password: "secret"}
	inv, err := h.Inventory(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(inv.Items); got != fmt.Sprintf("[{team/app v1 %[1]s} {team/app latest %[1]s} {team/deep/er  %[1]s}]", digest) {
		t.Errorf("items: %s", got)
	}
	if len(inv.NotTaken) != 3 || !strings.Contains(strings.Join(inv.NotTaken, "\n"), "robot$ci") || !strings.Contains(strings.Join(inv.NotTaken, "\n"), "latestPushedK=10") {
		t.Errorf("not taken: %q", inv.NotTaken)
	}
	path := filepath.Join(t.TempDir(), "docs.yaml")
	if err := migrate.WriteDocuments(path, "harbor.example", inv.Rules, inv.Kept); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	docs, err := config.ParseDocuments(b)
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	desired, err := config.Compile(docs, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	for repository, fixed := range map[string]bool{"team/app": true, "team/lib": true, "team/web": false} {
		s := desired.Repositories.For(repository)
		if _, ok := s.ImmutableTag("v1"); ok != fixed || !s.AnonymousPull {
			t.Errorf("%s: v1 is fixed: %v, want %v; anonymous %v", repository, ok, fixed, s.AnonymousPull)
		}
	}
	h.Password = "wrong"
	if _, err := h.Inventory(t.Context(), nil); err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("with a wrong password: %v", err)
	}
}
