package kube

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"assay/internal/fault"
)

func TestKubeconfig(t *testing.T) {
	config := func(cluster, user string) string {
		return "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{name: a, context: {cluster: c, user: u, namespace: x}}]\nclusters: [{name: c, cluster: {" + cluster + "}}]\nusers: [{name: u, user: {" + user + "}}]\npreferences: {}\n"
	}
	for name, tt := range map[string]struct{ text, context, want string }{
		"a token":      {config("server: https://k.example", "token: abc"), "", ""},
		"http":         {config("server: http://k.example", "token: abc"), "", "want https"},
		"unchecked":    {config("server: https://k.example, insecure-skip-tls-verify: true", "token: abc"), "", "certificate-authority instead"},
		"a program":    {config("server: https://k.example", "exec: {command: evil}"), "", "by a program"},
		"a password":   {config("server: https://k.example", "username: a, password: b"), "", "by a program"},
		"no context":   {config("server: https://k.example", "token: abc"), "b", "no context"},
		"no authority": {config("server: https://k.example, certificate-authority-data: eA==", "token: abc"), "", "no certificate"},
		"no YAML":      {"\t", "", "kubeconfig"},
	} {
		path := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := FromFile(path, tt.context)
		if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// seen notes what a watcher is told.
type seen struct {
	log  []string
	stop func()
	left int
}

func name(object json.RawMessage) string {
	var o struct{ Metadata struct{ Name string } }
	_ = json.Unmarshal(object, &o)
	return o.Metadata.Name
}

func (s *seen) add(what string) {
	s.log = append(s.log, what)
	if s.left--; s.left == 0 {
		s.stop()
	}
}
func (s *seen) Reset()                               { s.add("reset") }
func (s *seen) Set(object json.RawMessage) error     { s.add("set " + name(object)); return nil }
func (s *seen) Synced() error                        { s.add("synced"); return nil }
func (s *seen) Deleted(object json.RawMessage) error { s.add("deleted " + name(object)); return nil }

// TestFollow: lists come in pages, a watch that ends goes on from where it was,
// and one whose version is too old begins with a list again.
func TestFollow(t *testing.T) {
	pod := func(n, v string) string { return fmt.Sprintf(`{"metadata":{"name":%q,"resourceVersion":%q}}`, n, v) }
	var asked []string
	watches := 0
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if r.Header.Get("Authorization") != "Bearer secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		asked = append(asked, q.Get("watch")+q.Get("continue")+"@"+q.Get("resourceVersion"))
		switch {
		case q.Get("watch") == "" && q.Get("continue") == "":
			fmt.Fprintf(w, `{"metadata":{"resourceVersion":"10","continue":"more"},"items":[%s]}`, pod("a", "1"))
		case q.Get("continue") == "more":
			fmt.Fprintf(w, `{"metadata":{"resourceVersion":"10"},"items":[%s]}`, pod("b", "2"))
		default:
			watches++
			switch watches {
			case 1:
				fmt.Fprintf(w, `{"type":"ADDED","object":%s}{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"15"}}}`, pod("c", "11"))
			case 2:
				fmt.Fprintf(w, `{"type":"DELETED","object":%s}{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}`, pod("a", "16"))
			}
		}
	}))
	defer srv.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	path := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf("current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: %q, certificate-authority-data: %s}}]\nusers: [{name: u, user: {tokenFile: token}}]\n", srv.URL, base64.StdEncoding.EncodeToString(ca))
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.WriteFile(filepath.Join(filepath.Dir(path), "token"), []byte("secret\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	c, err := FromFile(path, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := contextWithStop(t)
	s := &seen{stop: stop, left: 10}
	if err := c.Follow(ctx, "/api/v1/pods", s); err != nil {
		t.Fatal(err)
	}
	want := []string{"reset", "set a", "set b", "synced", "set c", "deleted a", "reset", "set a", "set b", "synced"}
	if !slices.Equal(s.log, want) {
		t.Errorf("told %q, want %q", s.log, want)
	}
	if got := asked[:6]; !slices.Equal(got, []string{"@", "more@", "true@10", "true@15", "@", "more@"}) {
		t.Errorf("asked %q", got)
	}
	// What is refused says why, and of which kind it is.
	other, err := New(Options{Server: srv.URL, CA: ca})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Follow(t.Context(), "/api/v1/pods", s); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("without a token: %v", err)
	}
}

func contextWithStop(t *testing.T) (context.Context, func()) {
	ctx, stop := context.WithCancel(t.Context())
	return ctx, stop
}
