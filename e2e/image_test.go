//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestServerImage builds Assay's image as a platform team does, by Assay: the same
// sources are the same digest, it carries its provenance and bill of materials, and
// what is in it is the program, accounts, certificates and /tmp: no shell. The
// program starts in it as a user that owns nothing but its data.
func TestServerImage(t *testing.T) {
	s := up(t)
	host := s.Services.Registry
	for _, tag := range []string{"v1", "v2"} {
		r := runIn(t, "..", slices.Concat(s.environ(), []string{"GOCACHE=" + goEnv(t, "GOCACHE"), "GOMODCACHE=" + goEnv(t, "GOMODCACHE")}),
			"make", "image", "ASSAY="+s.program(), "IMAGE="+host+"/assay/server:"+tag, "RUNFLAGS=--subject release@example.com")
		if r.code != 0 {
			t.Fatalf("make image: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
		}
	}
	env := s.home("me@example.com")
	first, again := strings.TrimSpace(must(t, env, "crane", "digest", host+"/assay/server:v1")), strings.TrimSpace(must(t, env, "crane", "digest", host+"/assay/server:v2"))
	if first != again {
		t.Errorf("built twice: %s and %s", first, again)
	}
	must(t, env, "crane", "validate", "--remote", host+"/assay/server:v1")
	var image struct {
		Config struct {
			User       string
			Entrypoint []string
		} `json:"config"`
	}
	if err := json.Unmarshal([]byte(must(t, env, "crane", "config", host+"/assay/server:v1")), &image); err != nil {
		t.Fatal(err)
	}
	if image.Config.User != "65532:65532" || !slices.Equal(image.Config.Entrypoint, []string{"/usr/local/bin/assay"}) {
		t.Errorf("%+v", image.Config)
	}

	// Built by Assay: provenance and a bill of materials by who built it.
	policy := fmt.Sprintf("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: own-image}\nspec:\n  requirements:\n    provenance: {builders: [{id: https://assay.dev/builders/local, level: 1, signer: {issuer: %q, subject: release@example.com}}]}\n    sbom: {signer: provenance}\n", s.Services.OIDC)
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	s.assay("apply", "-f", file)
	s.assay("verify", host+"/assay/server:v1")

	root := filepath.Join(shortTemp(t), "root")
	if err := os.MkdirAll(root, 0o755); err != nil { //nolint:gosec // it is a system's root
		t.Fatal(err)
	}
	must(t, env, "crane", "export", host+"/assay/server@"+first, root+".tar")
	must(t, cleanEnv(), "tar", "-xpf", root+".tar", "-C", root)
	var found []string
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			name, _ := filepath.Rel(root, path)
			found = append(found, name)
		}
		return err
	})
	if want := []string{"etc/group", "etc/passwd", "etc/ssl/certs/ca-certificates.crt", "usr/local/bin/assay"}; err != nil || !slices.Equal(found, want) {
		t.Errorf("in the image: %v, %v; want %v", found, err, want)
	}
	startIn(t, root)

	// A cold start finds the same image out of the house.
	archive := "oci-archive:" + filepath.Join(shortTemp(t), "assay-server.tar")
	must(t, env, "skopeo", "copy", "--all", "--src-tls-verify=false", "docker://"+host+"/assay/server@"+first, archive)
	s.stop()
	if got := strings.TrimSpace(must(t, env, "skopeo", "inspect", "--format", "{{.Digest}}", archive)); got != first {
		t.Errorf("the copy is %s, the image %s", got, first)
	}
}

// startIn starts the image's program with the image as its root, as the image's
// user: only its data folder is its own.
func startIn(t *testing.T, root string) {
	if os.Geteuid() != 0 {
		t.Log("not root: the program is not started in its image")
		return
	}
	data := filepath.Join(root, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(data, 65532, 65532); err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, data: "/data/d"}
	s.starts = func(cmd *exec.Cmd) {
		cmd.Path, cmd.Dir = "/usr/local/bin/assay", "/"
		cmd.Env = []string{"HOME=/tmp"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Chroot: root, Credential: &syscall.Credential{Uid: 65532, Gid: 65532, NoSetGroups: true}}
	}
	s.start("127.0.0.1:0")
	s.stop()
}

func goEnv(t *testing.T, name string) string {
	return strings.TrimSpace(must(t, os.Environ(), "go", "env", name))
}
