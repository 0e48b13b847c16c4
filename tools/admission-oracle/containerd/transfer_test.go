package containerd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/core/transfer/image"
	"github.com/containerd/containerd/v2/core/transfer/local"
	"github.com/containerd/containerd/v2/core/transfer/registry"
	verifiers "github.com/containerd/containerd/v2/pkg/imageverifier"
	"github.com/containerd/containerd/v2/pkg/imageverifier/bindir"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	contents "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"assay/admission/imageverifier"
	"assay/tools/admission-oracle/site"
)

// node is containerd's transfer service as the daemon puts it together, with its
// stores in a folder and our program as the only verifier.
type node struct {
	t       *testing.T
	s       *site.Site
	ctx     context.Context
	config  string // of the verifier
	state   string
	link    string
	ts      transfer.Transferrer
	images  images.Store
	content content.Store

	verifier verifiers.ImageVerifier
}

func newNode(t *testing.T, s *site.Site) *node {
	t.Helper()
	n := &node{t: t, s: s, ctx: namespaces.WithNamespace(t.Context(), "k8s.io"), state: filepath.Join(s.Dir, "state")}
	bin := filepath.Join(s.Dir, "bin")
	n.link = filepath.Join(bin, imageverifier.Name)
	if err := errors.Join(os.Mkdir(bin, 0o700), os.Symlink(s.Bin, n.link)); err != nil {
		t.Fatal(err)
	}
	blobs, err := contents.NewStore(filepath.Join(s.Dir, "content"))
	if err != nil {
		t.Fatal(err)
	}
	file, err := bolt.Open(filepath.Join(s.Dir, "meta.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	db := metadata.NewDB(file, blobs, nil)
	if err := db.Init(n.ctx); err != nil {
		t.Fatal(err)
	}
	n.images, n.content = metadata.NewImageStore(db), db.ContentStore()
	var c local.TransferConfig
	c.Leases = metadata.NewLeaseManager(db)
	n.verifier = bindir.NewImageVerifier(&bindir.Config{BinDir: bin, MaxVerifiers: -1, PerVerifierTimeout: 10_000_000_000})
	c.Verifiers = map[string]verifiers.ImageVerifier{"bindir": n.verifier}
	n.ts = local.NewTransferService(n.content, n.images, c)
	n.asks(s.PublicURL, "8s")
	return n
}

// asks writes the verifier's configuration, which containerd's child finds by its
// environment, since the usual path is the machine's.
func (n *node) asks(server, timeout string) {
	n.t.Helper()
	s := n.s
	if n.config == "" {
		s.Write("token", s.Assay("robot", "create", "node-1", "--allow", "deployer=clusters/c1", "--audience", "assay-api", "--expires", "30d"))
	}
	n.config = s.Write("node.yaml", fmt.Sprintf("apiVersion: assay/v1\nkind: ImageVerifier\nserver: %s\ntoken_file: %s/token\nauthority: %s/data/ca/admission.pem\ncluster: c1\nnode: node-1\nstate: %s\ntimeout: %s\n",
		server, s.Dir, s.Dir, n.state, timeout))
	n.t.Setenv("ASSAY_IMAGE_VERIFIER_CONFIG", n.config)
}

type login struct{ token string }

func (l login) GetCredentials(_ context.Context, _, host string) (registry.Credentials, error) {
	return registry.Credentials{Host: host, Username: "assay", Secret: l.token}, nil
}

// pull is what `ctr images pull` and the kubelet cause.
func (n *node) pull(ref string) error {
	n.t.Helper()
	ref = n.s.Services.Registry + "/" + ref
	from, err := registry.NewOCIRegistry(n.ctx, ref, registry.WithDefaultScheme("http"),
		registry.WithCredentials(login{n.s.Assay("token", "--subject", "me@example.com", "--audience", "assay-registry")}))
	if err != nil {
		n.t.Fatal(err)
	}
	return n.ts.Transfer(n.ctx, from, image.NewStore(ref))
}

// expect pulls, and says what must be of it: there whole, or not at all.
func (n *node) expect(what, ref string, d digest.Digest, want string) {
	n.t.Helper()
	t := n.t
	err := n.pull(ref)
	_, here := n.content.Info(n.ctx, d)
	if want == "" {
		img, have := n.images.Get(n.ctx, n.s.Services.Registry+"/"+ref)
		if err != nil || have != nil || here != nil || img.Target.Digest != d {
			t.Errorf("%s: %v, image %v %v, content %v", what, err, img, have, here)
			return
		}
		// Away with it, so that the next pull brings it again.
		if err := errors.Join(n.images.Delete(n.ctx, img.Name), n.content.Delete(n.ctx, d)); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err == nil || !strings.Contains(err.Error(), "blocking pull") && !strings.Contains(err.Error(), "blocked pull") || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v, want %q", what, err, want)
	}
	if here == nil {
		t.Errorf("%s: the manifest was fetched", what)
	}
}

// refuses asks about a revoked image that another registry's mirror would give.
func (n *node) refuses(what string, d digest.Digest, want string) {
	n.t.Helper()
	j, err := n.verifier.VerifyImage(n.ctx, n.s.Services.Registry+"/shop/stolen:v1", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: 500})
	if err != nil || j.OK || !strings.Contains(j.Reason, "backdoor") || !strings.Contains(j.Reason, want) {
		n.t.Errorf("%s: %+v %v, want %q", what, j, err, want)
	}
}

// TestPull pulls with containerd's own transfer service from a running site, asked
// about by the binary that is released.
func TestPull(t *testing.T) {
	s := site.New(t)
	s.Assay("apply", "-f", s.Write("policy.yaml", fmt.Sprintf("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: shop}\nspec:\n  requirements:\n    signatures: [{name: who, identities: [{issuer: %q, subject: me@example.com}]}]\n", s.Services.OIDC)))
	good, bad := s.Push("shop/app:v1", true), s.Push("shop/bad:v1", false)
	n := newNode(t, s)
	n.expect("signed, by tag", "shop/app:v1", good, "")
	n.expect("signed, by digest", "shop/app@"+good.String(), good, "")
	n.expect("unsigned, by tag", "shop/bad:v1", bad, "signatures/who: expected")
	n.expect("unsigned, by digest", "shop/bad@"+bad.String(), bad, "signatures/who: expected")

	// Revoked: the registry refuses by itself, and so does the node, where a mirror
	// would still have it.
	stolen := s.Push("shop/stolen:v1", true)
	n.expect("before it was revoked", "shop/stolen:v1", stolen, "")
	s.Assay("revoke", "--digest", stolen.String(), "--since", "always", "--reason", "backdoor", "--yes")
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, state := s.Status("shop/stolen@" + stolen.String()); state == "revoked" {
			break
		} else if time.Now().After(end) {
			t.Fatalf("%s, 10 s after it was revoked", state)
		}
	}
	if err := n.pull("shop/stolen@" + stolen.String()); err == nil || !strings.Contains(err.Error(), "backdoor") {
		t.Errorf("revoked, at its own registry: %v", err)
	}
	n.refuses("revoked", stolen, "assay: refused: ")

	// The server goes, and the registry stays: what it signed counts.
	first := s.AssayNode("image-verifier", "refresh")
	later := s.Push("shop/later:v1", true)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	silent := "http://" + l.Addr().String() // it takes calls, and never answers
	n.asks(silent, "2s")
	began := time.Now()
	n.expect("signed, without the server", "shop/app:v1", good, "")
	if d := time.Since(began); d > 8*time.Second {
		t.Errorf("a server that is silent held a pull for %s", d)
	}
	l.Close()
	n.asks(silent, "8s")
	n.expect("signed, nobody listens", "shop/app@"+good.String(), good, "")
	n.expect("unsigned, without the server", "shop/bad:v1", bad, "by the bundle of")
	n.expect("unknown, without the server", "shop/later:v1", later, "no decision that still holds")
	seen, err := os.ReadFile(filepath.Join(n.state, "seen"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.state, "seen"), []byte("9999999999999999\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.expect("a bundle put back", "shop/app:v1", good, "and 9999999999999999 was seen")
	if err := os.WriteFile(filepath.Join(n.state, "seen"), seen, 0o600); err != nil {
		t.Fatal(err)
	}

	// It is back: what it learnt meanwhile counts at once.
	n.asks(s.PublicURL, "8s")
	n.expect("what came later", "shop/later:v1", later, "")

	// A site makes a cluster's bundle at most every 5 s; the next one names what is revoked.
	for end := time.Now().Add(20 * time.Second); s.AssayNode("image-verifier", "refresh") == first; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s still, after 20 s", first)
		}
	}
	n.asks(silent, "8s")
	n.refuses("revoked, without the server", stolen, "by the bundle of")
	n.expect("what came later, without the server", "shop/later:v1", later, "")

	// A node that is set up wrongly pulls nothing.
	t.Setenv("ASSAY_IMAGE_VERIFIER_CONFIG", filepath.Join(s.Dir, "none.yaml"))
	n.expect("no configuration", "shop/app:v1", good, "none.yaml")
	if err := errors.Join(os.Remove(n.link), os.Symlink(filepath.Join(s.Dir, "gone"), n.link)); err != nil {
		t.Fatal(err)
	}
	n.expect("no program", "shop/app:v1", good, "no such file")
}
