//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const gateDocs = `apiVersion: assay/v1
kind: Grant
metadata: {name: alice}
spec: {issuer: "%[1]s", subject: alice@example.com, role: publisher, scope: "**"}
---
apiVersion: assay/v1
kind: Grant
metadata: {name: bob}
spec: {issuer: "%[1]s", subject: bob@example.com, role: viewer, scope: "**"}
---
apiVersion: assay/v1
kind: Repository
metadata: {name: strict}
spec: {pattern: "strict/**", mode: strict}
---
apiVersion: assay/v1
kind: Repository
metadata: {name: staged}
spec: {pattern: "staged/**", mode: staged}
---
apiVersion: assay/v1
kind: Repository
metadata: {name: fixed}
spec: {pattern: "fixed/**", immutableTags: ["v*"]}
---
apiVersion: assay/v1
kind: Policy
metadata: {name: signed}
spec:
  requirements:
    signatures: [{name: alice, identities: [{issuer: "%[1]s", subject: alice@example.com}]}]
`

// serve starts a site on which nobody has a role but by what is applied.
func serve(t *testing.T, docs string) *site {
	t.Helper()
	dir := shortTemp(t)
	s := &site{t: t, data: filepath.Join(dir, "data"), config: filepath.Join(dir, "assay.yaml")}
	doc := fmt.Sprintf("apiVersion: assay/v1\nkind: Config\ndata: %s\nserver: {listen: \"127.0.0.1:0\"}\n", s.data)
	if err := os.WriteFile(s.config, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start("")
	path := filepath.Join(dir, "docs.yaml")
	if err := os.WriteFile(path, fmt.Appendf(nil, docs, s.Services.OIDC), 0o600); err != nil {
		t.Fatal(err)
	}
	s.assay("apply", "-f", path)
	return s
}

// TestGate drives unmodified clients through a strict and a staged repository:
// one who publishes and signs, and one who only pulls.
func TestGate(t *testing.T) {
	s := serve(t, gateDocs)
	env, bobs := s.home(alice), s.home(bob)
	reg := s.Services.Registry
	dir := t.TempDir()
	s.assay("trust", "root", "--out", filepath.Join(dir, "root.json"))
	must(t, env, "cosign", "initialize", "--mirror", s.Services.TUF, "--root", filepath.Join(dir, "root.json"))
	cosign := func(ref string) {
		t.Helper()
		must(t, env, "cosign", "sign", "--yes", "--identity-token", s.token(alice, "sigstore"), ref)
	}
	image := pushImage(t, s, env, "open/app", "a layer")
	_, digest, _ := strings.Cut(image, "@")

	t.Run("strict", func(t *testing.T) {
		repo := reg + "/strict/app"
		at := repo + "@" + digest
		words := []string{"strict", "push by digest"}
		refused(t, words, env, "crane", "copy", image, repo+":v1")
		refused(t, nil, env, "oras", "cp", "--from-plain-http", "--to-plain-http", image, repo+":v1")
		refused(t, []string{"denied"}, env, "skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+image, "docker://"+repo+":v1")
		must(t, env, "crane", "copy", image, at)
		refused(t, words, env, "crane", "tag", at, "v1")
		refused(t, []string{"is staged"}, bobs, "crane", "manifest", at)
		cosign(at)
		must(t, env, "crane", "tag", at, "v1")
		must(t, bobs, "crane", "pull", repo+":v1", filepath.Join(dir, "strict.tar"))
		must(t, bobs, "skopeo", "inspect", "--tls-verify=false", "docker://"+repo+":v1")
	})
	t.Run("strict by oras and skopeo", func(t *testing.T) {
		for name, c := range map[string]struct {
			toDigest, toTag func(ref string) []string
			pull            func(ref string) []string
		}{
			"oras": {
				func(to string) []string {
					return []string{"oras", "cp", "--from-plain-http", "--to-plain-http", "IMAGE", to}
				},
				func(to string) []string {
					at, tag := to[:strings.LastIndexByte(to, ':')], to[strings.LastIndexByte(to, ':')+1:]
					return []string{"oras", "tag", "--plain-http", at + "@DIGEST", tag}
				},
				func(ref string) []string { return []string{"oras", "manifest", "fetch", "--plain-http", ref} },
			},
			"skopeo": {
				func(to string) []string {
					return []string{"skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://IMAGE", "docker://" + to}
				},
				func(to string) []string {
					return []string{"skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://IMAGE", "docker://" + to}
				},
				func(ref string) []string {
					return []string{"skopeo", "inspect", "--tls-verify=false", "docker://" + ref}
				},
			},
		} {
			image := pushImage(t, s, env, "open/by-"+name, "of "+name)
			_, digest, _ := strings.Cut(image, "@")
			repo := reg + "/strict/by-" + name
			fill := func(args []string) []string {
				out := make([]string, len(args))
				for i, a := range args {
					out[i] = strings.NewReplacer("IMAGE", image, "DIGEST", digest).Replace(a)
				}
				return out
			}
			do := func(who []string, args []string) { t.Helper(); must(t, who, args[0], fill(args)[1:]...) }
			no := func(who []string, args []string) {
				t.Helper()
				r := run(t, who, args[0], fill(args)[1:]...)
				if said := strings.ToLower(r.stdout + r.stderr); r.code == 0 || !strings.Contains(said, "denied") {
					t.Errorf("%v: exit code %d, want a refusal\n%s", args, r.code, said)
				}
			}
			do(env, c.toDigest(repo+"@"+digest))
			no(env, c.toTag(repo+":v1"))
			no(bobs, c.pull(repo+"@"+digest))
			cosign(repo + "@" + digest)
			do(env, c.toTag(repo+":v1"))
			do(bobs, c.pull(repo+":v1"))
		}
	})
	t.Run("staged", func(t *testing.T) {
		repo := reg + "/staged/app"
		image := pushImage(t, s, env, "open/second", "another layer") // evidence about the first counts in every repository
		_, digest, _ = strings.Cut(image, "@")
		said := run(t, env, "crane", "copy", image, repo+":v1")
		if said.code != 0 || !strings.Contains(said.stderr, "is staged") || strings.Contains(said.stderr, "is not in repository") {
			t.Errorf("who pushes hears %d\n%s", said.code, said.stderr)
		}
		refused(t, []string{"DENIED"}, bobs, "crane", "pull", repo+":v1", filepath.Join(dir, "no.tar"))
		refused(t, nil, bobs, "crane", "pull", repo+"@"+digest, filepath.Join(dir, "no.tar"))
		s.assayRefused(1, []string{"STAGED", "signatures/alice", "mend", "tag v1"}, "registry", "status", "staged/app:v1")
		must(t, bobs, "cosign", "initialize", "--mirror", s.Services.TUF, "--root", filepath.Join(dir, "root.json"))
		refused(t, nil, bobs, "cosign", "verify", "--certificate-identity", alice, "--certificate-oidc-issuer", s.Services.OIDC, repo+":v1")
		if out := must(t, bobs, "crane", "ls", repo); strings.TrimSpace(out) != "" {
			t.Errorf("bob sees the tags %q", out)
		}
		cosign(repo + ":v1")
		must(t, bobs, "crane", "pull", repo+":v1", filepath.Join(dir, "yes.tar"))
		must(t, bobs, "oras", "discover", "--plain-http", repo+":v1")
		must(t, bobs, "cosign", "verify", "--certificate-identity", alice, "--certificate-oidc-issuer", s.Services.OIDC, repo+":v1")
		if out := s.assay("registry", "status", "staged/app:v1"); !strings.Contains(out, "ACTIVE") || !strings.Contains(out, "decision") {
			t.Errorf("status:\n%s", out)
		}
	})
	t.Run("staged by oras", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("notes"), 0o644); err != nil {
			t.Fatal(err)
		}
		ref := reg + "/staged/files:v1"
		runInDir(t, dir, env, "oras", "push", "--plain-http", ref, "notes.txt:text/plain")
		refused(t, nil, bobs, "oras", "pull", "--plain-http", "-o", t.TempDir(), ref)
		cosign(ref)
		must(t, bobs, "oras", "pull", "--plain-http", "-o", t.TempDir(), ref)
	})
	t.Run("staged by skopeo, and an index", func(t *testing.T) {
		repo := reg + "/staged/multi"
		image := pushImage(t, s, env, "open/third", "a third layer")
		must(t, env, "skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+image, "docker://"+repo+":one")
		must(t, env, "crane", "index", "append", "-m", repo+":one", "-t", repo+":all")
		refused(t, nil, bobs, "skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+repo+":all")
		cosign(repo + ":all")
		must(t, bobs, "skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+repo+":all")
		must(t, bobs, "skopeo", "--insecure-policy", "copy", "--all", "--src-tls-verify=false", "docker://"+repo+":all", "oci:"+filepath.Join(dir, "layout")+":all")
		// The child is a part of what was signed, and its own tag is public too.
		must(t, bobs, "crane", "pull", repo+":one", filepath.Join(dir, "one.tar"))
	})
	t.Run("immutable", func(t *testing.T) {
		one := pushImage(t, s, env, "fixed/app", "one")
		must(t, env, "crane", "tag", one, "v1")
		refused(t, []string{"DENIED", "is immutable"}, env, "crane", "copy", image, reg+"/fixed/app:v1")
		refused(t, []string{"denied", "is immutable"}, env, "oras", "cp", "--from-plain-http", "--to-plain-http", image, reg+"/fixed/app:v1")
		refused(t, []string{"is immutable"}, env, "skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+image, "docker://"+reg+"/fixed/app:v1")
		cosign(one)
		if got := strings.TrimSpace(must(t, bobs, "crane", "digest", reg+"/fixed/app:v1")); !strings.HasSuffix(one, got) {
			t.Errorf("the tag names %s", got)
		}
	})
	t.Run("quarantine", func(t *testing.T) {
		out := s.assay("registry", "quarantine", digest, "--reason", "INC-1: a test", "-o", "json")
		var q struct {
			Places []string
			Pulls  []struct{ Actor, Repository string }
		}
		if err := json.Unmarshal([]byte(out), &q); err != nil || len(q.Places) != 2 || len(q.Pulls) < 2 || !strings.Contains(out, "#bob@example.com") {
			t.Fatalf("quarantine: %v\n%s", err, out)
		}
		for _, repo := range []string{"open/second", "staged/app"} {
			refused(t, []string{"is quarantined", "INC-1"}, bobs, "crane", "manifest", reg+"/"+repo+"@"+digest)
			refused(t, []string{"is quarantined"}, env, "crane", "manifest", reg+"/"+repo+"@"+digest)
		}
		s.assayRefused(1, []string{"QUARANTINED", "INC-1"}, "registry", "status", "staged/app:v1")
		s.assay("registry", "release", digest, "--reason", "the test is over")
		must(t, bobs, "crane", "manifest", reg+"/staged/app:v1")
	})
	t.Run("history", func(t *testing.T) {
		// Heads of the event log are logged every ten seconds.
		for deadline := time.Now().Add(40 * time.Second); ; time.Sleep(time.Second) {
			out := s.assay("registry", "history", "staged/app:v1", "--proofs", "-o", "json")
			var page struct {
				Items []struct {
					To       string
					LogIndex *int64 `json:"log_index"`
					Proof    *struct{ Leaf string }
				}
			}
			if err := json.Unmarshal([]byte(out), &page); err != nil || len(page.Items) != 1 || page.Items[0].To != digest {
				t.Fatalf("history: %v\n%s", err, out)
			}
			if h := page.Items[0]; h.LogIndex != nil && h.Proof != nil {
				s.assay("log", "inspect", fmt.Sprint(*h.LogIndex))
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the move is not logged after 40 s:\n%s", out)
			}
		}
	})
}
