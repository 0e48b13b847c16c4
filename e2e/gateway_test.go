//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGateway pulls with crane through one site's gate what lies at another: an
// open gateway serves it, a staged one waits for evidence that there is none of,
// nobody pushes to either, and what is kept outlives the upstream.
func TestGateway(t *testing.T) {
	up := serve(t, gateDocs)
	env := up.home(alice)
	image := pushImage(t, up, env, "open/app", "a layer")
	_, digest, _ := strings.Cut(image, "@")
	must(t, env, "crane", "tag", image, "v1")

	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("gateway:"+up.token(bob, "assay-registry")), 0o600); err != nil {
		t.Fatal(err)
	}
	own := serve(t, gateDocs)
	docs := filepath.Join(dir, "gateway.yaml")
	text := ""
	for name, mode := range map[string]string{"mirror": "open", "watched": "staged"} {
		text += fmt.Sprintf("---\napiVersion: assay/v1\nkind: Repository\nmetadata: {name: %s}\nspec:\n  pattern: \"%s/**\"\n  mode: %s\n  upstream: {url: \"http://%s\", credentials: \"file:%s\", allowPrivate: true}\n",
			name, name, mode, up.Services.Registry, secret)
	}
	if err := os.WriteFile(docs, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	own.assay("apply", "-f", docs)
	reg, bobs := own.Services.Registry, own.home(bob)
	listed := func() {
		t.Helper()
		for _, list := range [][]string{{"crane", "ls", reg + "/mirror/open/app"}, {"oras", "repo", "tags", "--plain-http", reg + "/mirror/open/app"}} {
			if got := must(t, bobs, list[0], list[1:]...); !strings.Contains("\n"+got, "\nv1\n") {
				t.Errorf("%v lists %q, want v1", list, got)
			}
		}
	}
	listed() // before anybody pulled
	if got := strings.TrimSpace(must(t, bobs, "crane", "digest", reg+"/mirror/open/app:v1")); got != digest {
		t.Errorf("through the gateway v1 is %s, want %s", got, digest)
	}
	must(t, bobs, "crane", "pull", reg+"/mirror/open/app:v1", filepath.Join(dir, "image.tar"))
	refused(t, []string{"staged"}, bobs, "crane", "manifest", reg+"/watched/open/app:v1")
	refused(t, []string{"gateway"}, own.home(alice), "crane", "tag", reg+"/mirror/open/app:v1", "v2")
	up.stop()
	listed()
	must(t, bobs, "crane", "pull", reg+"/mirror/open/app:v1", filepath.Join(dir, "again.tar"))
	refused(t, []string{"is not kept here"}, bobs, "crane", "manifest", reg+"/mirror/open/app:v9")
}
