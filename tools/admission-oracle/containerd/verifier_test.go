package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/imageverifier/bindir"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"assay/admission"
	"assay/admission/imageverifier"
	"assay/artifact"
	"assay/policy"
)

// TestMain is the verifier, when containerd calls it by its name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != imageverifier.Name {
		log.L.Logger.SetOutput(io.Discard) // containerd's own, about each refusal
		os.Exit(m.Run())
	}
	if os.Getenv("ORACLE_SLOW") != "" {
		time.Sleep(time.Minute)
	}
	c, err := imageverifier.Load(os.Getenv("ASSAY_IMAGE_VERIFIER_CONFIG"))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	call, err := imageverifier.ParseCall(os.Args[1:], os.Stdin)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	v, err := imageverifier.New(c, nil, nil)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	j := v.Verify(context.Background(), call)
	fmt.Println(j.Reason)
	if !j.OK {
		os.Exit(1)
	}
}

// TestContainerd has containerd's own verifier call our program.
func TestContainerd(t *testing.T) {
	good, bad := digest.FromString("good"), digest.FromString("bad")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/admission/node" {
			http.NotFound(w, r)
			return
		}
		var q struct{ Reference, Cluster, Node string }
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || q.Cluster != "c1" || q.Node != "n1" {
			t.Errorf("%+v %v", q, err)
		}
		a := &admission.Answer{Verdict: policy.Deny, Mode: policy.Enforce, Digest: artifact.Digest(bad), Policy: "p", Failed: []policy.Check{{Name: "signatures/release", Status: policy.Fail, Expected: "1", Found: "none"}}}
		if strings.HasSuffix(q.Reference, "@"+good.String()) {
			a = &admission.Answer{Verdict: policy.Allow, Mode: policy.Enforce, Digest: artifact.Digest(good), Policy: "p", Decision: "dec_1"}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(admission.ReplyOf(a, nil))
	}))
	defer srv.Close()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(bin, imageverifier.Name)); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("ASSAY_IMAGE_VERIFIER_CONFIG", write("node.yaml", fmt.Sprintf("apiVersion: assay/v1\nkind: ImageVerifier\nserver: %s\nauthority: %s\ncluster: c1\nnode: n1\nstate: %s\n",
		srv.URL, write("ca.pem", "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"), filepath.Join(dir, "state"))))
	v := bindir.NewImageVerifier(&bindir.Config{BinDir: bin, MaxVerifiers: -1, PerVerifierTimeout: 10_000_000_000})
	ask := func(name string, d digest.Digest) (bool, string, error) {
		j, err := v.VerifyImage(t.Context(), name, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: 500})
		if err != nil {
			return false, "", err
		}
		return j.OK, j.Reason, nil
	}
	for _, c := range []struct {
		name string
		d    digest.Digest
		ok   bool
		want string
	}{
		{"assay.example/shop/app:v1", good, true, "allowed: " + good.String()},
		{"assay.example/shop/app@" + good.String(), good, true, "decision dec_1"},
		{"assay.example/shop/app:v1", bad, false, "signatures/release: expected 1, found none"},
		{"assay.example/shop/app@" + bad.String(), good, false, "what came is"},
		{"assay.example/shop/app@" + good.String(), bad, false, "what came is"},
	} {
		if ok, reason, err := ask(c.name, c.d); err != nil || ok != c.ok || !strings.Contains(reason, c.want) {
			t.Errorf("%s %s: %t %q %v, want %q", c.name, c.d, ok, reason, err, c.want)
		}
	}
	srv.Close()
	if ok, reason, err := ask("assay.example/shop/app:v1", good); err != nil || ok || !strings.Contains(reason, "no bundle") {
		t.Errorf("without a server: %t %q %v", ok, reason, err)
	}
	// A verifier that does not answer in time is no judgement, and containerd refuses.
	t.Setenv("ORACLE_SLOW", "1")
	v = bindir.NewImageVerifier(&bindir.Config{BinDir: bin, MaxVerifiers: -1, PerVerifierTimeout: 300_000_000})
	if ok, _, err := ask("assay.example/shop/app:v1", good); err == nil || ok {
		t.Errorf("too slow: %t %v", ok, err)
	}
}
