//go:build e2e

package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestBundle carries an image that cosign signed to a site of another name, as
// one file, out of which skopeo reads the image too. The other site is killed
// while it imports, and shows nothing until the same file was imported whole.
func TestBundle(t *testing.T) {
	a := up(t)
	env := a.home(alice)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	a.assay("trust", "root", "--out", path("root.json"))
	must(t, env, "cosign", "initialize", "--mirror", a.Services.TUF, "--root", path("root.json"))
	image := pushImage(t, a, env, "team/app", strings.Repeat("one ", 1<<20))
	must(t, env, "cosign", "sign", "--yes", "--identity-token", a.token(alice, "sigstore"), image)
	a.assay("bundle", "export", "--to", "plant-7", "--repository", "team/**", path("one.tar"))
	if out := a.assay("bundle", "inspect", path("one.tar"), "--root", path("root.json")); !strings.Contains(out, "VERIFIED") {
		t.Fatal(out)
	}
	must(t, env, "skopeo", "--insecure-policy", "copy", "oci-archive:"+path("one.tar")+":team/app:v1", "oci:"+path("layout")+":v1")

	listen := freeAddress(t)
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		t.Fatal(err)
	}
	b := &site{t: t, data: filepath.Join(shortTemp(t), "data"), env: []string{"ASSAY_SERVER_PUBLIC_URL=http://localhost:" + port}}
	b.start(listen)
	file, err := os.ReadFile(path("one.tar"))
	if err != nil {
		t.Fatal(err)
	}
	half := exec.Command(assayBin(t), "bundle", "import", "-", "--root", path("root.json"), "--data", b.data)
	in, err := half.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := half.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(file[:len(file)-len(file)/3]); err != nil {
		t.Fatal(err)
	}
	b.kill() // SIGKILL
	_ = in.Close()
	if err := half.Wait(); err == nil {
		t.Fatal("an import by a server that was killed is told as done")
	}
	b.start(listen)
	digest := image[strings.Index(image, "@"):]
	there := "localhost:" + port + "/team/app" + digest
	verify := []string{"verify", "--subject", alice, "--certificate-identity", alice, "--certificate-oidc-issuer", a.Services.OIDC, there}
	if r := run(t, b.environ(), assayBin(t), verify...); r.code == 0 {
		t.Fatalf("an image of half an import is there: %+v", r)
	}
	if out := b.assay("bundle", "import", path("one.tar"), "--root", path("root.json")); !strings.Contains(out, "imported") {
		t.Fatal(out)
	}
	if out := b.assay(verify...); !strings.Contains(out, "ALLOWED") {
		t.Fatal(out)
	}
}
