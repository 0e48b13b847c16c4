package oracle

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
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
)

// program is the binary under test: ASSAY_BIN, or what make build leaves.
func program(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("ASSAY_BIN")
	if bin == "" {
		bin = filepath.Join("..", "..", "bin", "assay")
	}
	bin, err := filepath.Abs(bin)
	if err == nil {
		_, err = os.Stat(bin)
	}
	if err != nil {
		if os.Getenv("ASSAY_REQUIRE_VECTORS") != "" {
			t.Fatal(err, ": make build first")
		}
		t.Skip(err, ": make build, or set ASSAY_BIN")
	}
	return bin
}

// site is a running assay up, with a door for cluster c1.
type site struct {
	t         *testing.T
	bin       string
	dir       string
	PublicURL string `json:"public_url"`
	Services  struct {
		OIDC     string `json:"oidc"`
		Registry string `json:"registry"`
	} `json:"services"`
}

func (s *site) env() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ASSAY_") {
			env = append(env, kv)
		}
	}
	return append(env, "ASSAY_DATA="+filepath.Join(s.dir, "data"), "HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir, "XDG_CACHE_HOME="+s.dir)
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, bin: program(t)}
	var err error
	if s.dir, err = os.MkdirTemp("", "assay-oracle-"); err != nil { //nolint:usetesting // a socket's path is short
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(s.dir) })
	cmd := exec.Command(s.bin, "up", "--data", filepath.Join(s.dir, "data"), "--listen", "127.0.0.1:0", "-o", "json")
	cmd.Env = append(s.env(), "ASSAY_ADMISSION_LISTEN=127.0.0.1:0", "ASSAY_ADMISSION_CLUSTER=c1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, _ := bufio.NewReader(out).ReadString('\n')
	if err := json.Unmarshal([]byte(line), s); err != nil {
		b, _ := os.ReadFile(log.Name())
		t.Fatalf("not ready: %q\n%s", line, b)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return s
}

// assay runs the command line, which must succeed.
func (s *site) assay(args ...string) string {
	s.t.Helper()
	return s.exits(0, args...)
}

// exits runs the command line, which must end with 0 or with code.
func (s *site) exits(code int, args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), s.bin, args...)
	cmd.Env = s.env()
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if have := cmd.ProcessState.ExitCode(); have != 0 && have != code {
		s.t.Fatalf("assay %s: %v\n%s%s", strings.Join(args, " "), err, out, errs.String())
	}
	return strings.TrimSpace(string(out))
}

func (s *site) write(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// push makes an image of one file and returns its digest.
func (s *site) push(ref string, sign bool) digest.Digest {
	s.t.Helper()
	s.assay("push", "--subject", "me@example.com", "--product", s.write("product", ref), s.Services.Registry+"/"+ref)
	if sign {
		s.assay("sign", "--subject", "me@example.com", s.Services.Registry+"/"+ref)
	}
	d, _ := s.status(ref)
	return d
}

func (s *site) status(ref string) (digest.Digest, string) {
	s.t.Helper()
	var st struct {
		Digest digest.Digest `json:"digest"`
		State  string        `json:"state"`
	}
	if err := json.Unmarshal([]byte(s.exits(1, "registry", "status", ref, "-o", "json")), &st); err != nil || st.Digest.Validate() != nil {
		s.t.Fatalf("%s: %+v %v", ref, st, err)
	}
	return st.Digest, st.State
}

// node is containerd's transfer service as the daemon puts it together, with its
// stores in a folder and our program as the only verifier.
type node struct {
	s       *site
	ctx     context.Context
	config  string // of the verifier
	state   string
	link    string
	ts      transfer.Transferrer
	images  images.Store
	content content.Store

	verifier verifiers.ImageVerifier
}

func newNode(t *testing.T, s *site) *node {
	t.Helper()
	n := &node{s: s, ctx: namespaces.WithNamespace(t.Context(), "k8s.io"), state: filepath.Join(s.dir, "state")}
	bin := filepath.Join(s.dir, "bin")
	n.link = filepath.Join(bin, imageverifier.Name)
	if err := errors.Join(os.Mkdir(bin, 0o700), os.Symlink(s.bin, n.link)); err != nil {
		t.Fatal(err)
	}
	blobs, err := contents.NewStore(filepath.Join(s.dir, "content"))
	if err != nil {
		t.Fatal(err)
	}
	file, err := bolt.Open(filepath.Join(s.dir, "meta.db"), 0o600, nil)
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
	n.s.t.Helper()
	s := n.s
	if n.config == "" {
		s.write("token", s.assay("robot", "create", "node-1", "--allow", "deployer=clusters/c1", "--audience", "assay-api", "--expires", "30d"))
	}
	n.config = s.write("node.yaml", fmt.Sprintf("apiVersion: assay/v1\nkind: ImageVerifier\nserver: %s\ntoken_file: %s/token\nauthority: %s/data/ca/admission.pem\ncluster: c1\nnode: node-1\nstate: %s\ntimeout: %s\n",
		server, s.dir, s.dir, n.state, timeout))
	s.t.Setenv("ASSAY_IMAGE_VERIFIER_CONFIG", n.config)
}

type login struct{ token string }

func (l login) GetCredentials(_ context.Context, _, host string) (registry.Credentials, error) {
	return registry.Credentials{Host: host, Username: "assay", Secret: l.token}, nil
}

// pull is what `ctr images pull` and the kubelet cause.
func (n *node) pull(ref string) error {
	n.s.t.Helper()
	ref = n.s.Services.Registry + "/" + ref
	from, err := registry.NewOCIRegistry(n.ctx, ref, registry.WithDefaultScheme("http"),
		registry.WithCredentials(login{n.s.assay("token", "--subject", "me@example.com", "--audience", "assay-registry")}))
	if err != nil {
		n.s.t.Fatal(err)
	}
	return n.ts.Transfer(n.ctx, from, image.NewStore(ref))
}

// expect pulls, and says what must be of it: there whole, or not at all.
func (n *node) expect(what, ref string, d digest.Digest, want string) {
	n.s.t.Helper()
	t := n.s.t
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
	n.s.t.Helper()
	j, err := n.verifier.VerifyImage(n.ctx, n.s.Services.Registry+"/shop/stolen:v1", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: 500})
	if err != nil || j.OK || !strings.Contains(j.Reason, "backdoor") || !strings.Contains(j.Reason, want) {
		n.s.t.Errorf("%s: %+v %v, want %q", what, j, err, want)
	}
}

// TestPull pulls with containerd's own transfer service from a running site, asked
// about by the binary that is released.
func TestPull(t *testing.T) {
	s := newSite(t)
	s.assay("apply", "-f", s.write("policy.yaml", fmt.Sprintf("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: shop}\nspec:\n  requirements:\n    signatures: [{name: who, identities: [{issuer: %q, subject: me@example.com}]}]\n", s.Services.OIDC)))
	good, bad := s.push("shop/app:v1", true), s.push("shop/bad:v1", false)
	n := newNode(t, s)
	n.expect("signed, by tag", "shop/app:v1", good, "")
	n.expect("signed, by digest", "shop/app@"+good.String(), good, "")
	n.expect("unsigned, by tag", "shop/bad:v1", bad, "signatures/who: expected")
	n.expect("unsigned, by digest", "shop/bad@"+bad.String(), bad, "signatures/who: expected")

	// Revoked: the registry refuses by itself, and so does the node, where a mirror
	// would still have it.
	stolen := s.push("shop/stolen:v1", true)
	n.expect("before it was revoked", "shop/stolen:v1", stolen, "")
	s.assay("revoke", "--digest", stolen.String(), "--since", "always", "--reason", "backdoor", "--yes")
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, state := s.status("shop/stolen@" + stolen.String()); state == "revoked" {
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
	first := s.assayNode("image-verifier", "refresh")
	later := s.push("shop/later:v1", true)
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
	for end := time.Now().Add(20 * time.Second); s.assayNode("image-verifier", "refresh") == first; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s still, after 20 s", first)
		}
	}
	n.asks(silent, "8s")
	n.refuses("revoked, without the server", stolen, "by the bundle of")
	n.expect("what came later, without the server", "shop/later:v1", later, "")

	// A node that is set up wrongly pulls nothing.
	t.Setenv("ASSAY_IMAGE_VERIFIER_CONFIG", filepath.Join(s.dir, "none.yaml"))
	n.expect("no configuration", "shop/app:v1", good, "none.yaml")
	if err := errors.Join(os.Remove(n.link), os.Symlink(filepath.Join(s.dir, "gone"), n.link)); err != nil {
		t.Fatal(err)
	}
	n.expect("no program", "shop/app:v1", good, "no such file")
}

// assayNode runs the command line as the node has it.
func (s *site) assayNode(args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), s.bin, args...)
	cmd.Env = append(s.env(), "ASSAY_IMAGE_VERIFIER_CONFIG="+os.Getenv("ASSAY_IMAGE_VERIFIER_CONFIG"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("assay %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
