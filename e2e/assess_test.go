//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/internal/kubetest"
)

// TestAssess looks at a real control plane as a user who may list Pods and nothing
// else, and at a real registry; then a browser looks at the page.
func TestAssess(t *testing.T) {
	if m := kubetest.Missing(); len(m) > 0 {
		t.Fatalf("not on PATH: %v (tools/install.sh kubernetes)", m)
	}
	s := up(t)
	c, err := kubetest.Start(t.Context(), kubetest.Options{Dir: shortTemp(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop() })
	k := &kube{T: t, s: s, c: c, home: s.home("push@example.com")}
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	s.assay("apply", "-f", write("site.yaml", "apiVersion: assay/v1\nkind: Repository\nmetadata: {name: open}\nspec: {pattern: \"**\", mode: open, anonymousPull: true}\n"))
	good, bare, moved := k.image("shop/good:v1", release), k.image("shop/bare:v1", ""), k.image("shop/moved:v1", release)
	purl := func(name, purl string) string {
		return write(name, `{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"components":[{"type":"library","name":"`+name+`","version":"1.0.0","purl":"`+purl+`"}]}`)
	}
	s.assay("attest", "--subject", release, "--type", "cyclonedx", "--predicate", purl("fine", "pkg:npm/fine@1.0.0"), good)
	s.assay("attest", "--subject", release, "--type", "https://slsa.dev/provenance/v1", "--predicate", write("provenance.json", `{"buildDefinition":{"buildType":"https://type.example/v1","externalParameters":{},"resolvedDependencies":[]},"runDetails":{"builder":{"id":"https://builder.example"}}}`), good)
	s.assay("attest", "--subject", release, "--type", "cyclonedx", "--predicate", purl("evil", "pkg:npm/evil@1.0.0"), moved)
	write("feeds/MAL-1.json", `{"id":"MAL-2024-1","modified":"2024-01-01T00:00:00Z","affected":[{"package":{"ecosystem":"npm","name":"evil"},"versions":["1.0.0"]}]}`)
	write("feeds/known_exploited_vulnerabilities.json", `{"catalogVersion":"2024.01.01","dateReleased":"2024-01-01T00:00:00Z","vulnerabilities":[{"cveID":"CVE-2024-1001","dateAdded":"2024-01-01"}]}`)
	// A flaw of another package, so that the feed is one of flaws for npm.
	write("feeds/GHSA-1.json", `{"id":"GHSA-1","modified":"2024-01-01T00:00:00Z","affected":[{"package":{"ecosystem":"npm","name":"left-pad"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"1.1.0"}]}]}]}`)

	k.kubectl("", "create", "namespace", "shop")
	running := map[string]string{}
	for name, ref := range map[string]string{"good": good, "bare": bare, "moved": moved} {
		running[name] = k.digest(ref)
		k.kubectl(pod(name, ref, "", ""), "apply", "-f", "-")
		k.kubectl("", "wait", "-n", "shop", "--for", "condition=Ready", "--timeout", "30s", "pod/"+name)
		// kwok has no images: what a node would report of the image that it pulled.
		id := strings.TrimSuffix(ref, ":v1") + "@" + running[name]
		k.kubectl("", "patch", "-n", "shop", "pod/"+name, "--subresource=status", "--type=json", "-p", fmt.Sprintf(`[{"op":"replace","path":"/status/containerStatuses/0/imageID","value":%q}]`, id))
	}
	file := filepath.Join(dir, "moved")
	if err := os.WriteFile(file, []byte("moved"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.assay("push", "--subject", "push@example.com", "--product", file, moved)
	if k.digest(moved) == running["moved"] {
		t.Fatal("the tag did not move")
	}

	// Whoever may list Pods, and nothing else, may look.
	k.kubectl("", "create", "clusterrole", "looker", "--verb=list", "--resource=pods")
	k.kubectl("", "create", "clusterrolebinding", "looker", "--clusterrole=looker", "--user=looker")
	looker, err := c.User("looker")
	if err != nil {
		t.Fatal(err)
	}
	page, doc := filepath.Join(dir, "a.html"), filepath.Join(dir, "a.json")
	s.assayRefused(1, []string{"gate-enforced would allow 1, deny 2", "1 moved"}, "assess", "--subject", "push@example.com", "--kubeconfig", looker, "--kube", "test", "--namespace", "shop",
		"--issuer", s.Services.OIDC, "--ci", release, "--feeds", filepath.Join(dir, "feeds"), "--html", page, "--json", doc)
	var got struct {
		Incomplete string
		Summary    struct {
			Digests, Containers, Allowed, Denied, Undecided int
			Signed                                          struct{ Yes, No int }
			TagsMoved                                       int `json:"tags_moved"`
		}
		Signers []struct{ Identity string }
		Moved   []struct{ Image, Running, State string }
		Dangers []struct{ Component string }
	}
	b, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if m := got.Summary; m.Digests != 3 || m.Containers != 3 || m.Signed.Yes != 2 || m.Signed.No != 1 || m.Allowed != 1 || m.Denied != 2 || got.Incomplete != "" {
		t.Errorf("%+v\n%s", got, b)
	}
	if len(got.Signers) != 1 || got.Signers[0].Identity != release || len(got.Dangers) != 1 || !strings.Contains(got.Dangers[0].Component, "evil") {
		t.Errorf("%+v", got)
	}
	if len(got.Moved) != 1 || got.Moved[0].State != "moved" || got.Moved[0].Running != running["moved"] {
		t.Errorf("%+v", got.Moved)
	}
	// Without the right to list, nothing is known, and nothing is clean.
	nobody, err := c.User("nobody")
	if err != nil {
		t.Fatal(err)
	}
	s.assayRefused(2, []string{"not all was looked at", "403"}, "assess", "--kubeconfig", nobody, "--html", "none", "--json", "none")
	lookAtPage(t, page, "gate-enforced", release, "pkg:npm/evil@1.0.0")
}

// lookAtPage has Chromium look at a file in light, in dark and on paper.
func lookAtPage(t *testing.T, page string, words ...string) {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal("node is not on PATH: tools/install.sh playwright prints what to put there")
	}
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is not on PATH: tools/install.sh playwright prints what to put there")
	}
	modules := ""
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if _, err := os.Stat(filepath.Join(dir, "node_modules", "playwright-core")); err == nil {
			modules = filepath.Join(dir, "node_modules")
		}
	}
	ask, err := json.Marshal(map[string]string{"chromium": browser, "file": page})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "testdata/page.js")
	cmd.Env, cmd.Stdin = cleanEnv("NODE_PATH="+modules), bytes.NewReader(ask)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	seen := 0
	for line := range bytes.Lines(out) {
		var l looked
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		if l.Failed != "" {
			t.Fatal(l.Failed)
		}
		seen++
		if l.Scripts != 0 {
			t.Errorf("%s: %d scripts", l.Scheme, l.Scripts)
		}
		l.Scripts = 1 // as pages of the site have
		l.judge(t)
		for _, w := range words {
			if !strings.Contains(l.Text, w) {
				t.Errorf("%s does not say %q:\n%.2000s", l.Scheme, w, l.Text)
			}
		}
	}
	if seen != 3 {
		t.Errorf("it was looked at %d times", seen)
	}
}
