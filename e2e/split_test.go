//go:build e2e

package e2e

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"assay/store"
	"assay/store/storetest"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	_ "modernc.org/sqlite"
)

// serveSite runs assay serve on a configuration.
func serveSite(t *testing.T, data, config, roles string) *site {
	t.Helper()
	file := filepath.Join(filepath.Dir(data), filepath.Base(data)+".yaml")
	if err := os.WriteFile(file, []byte("apiVersion: assay/v1\nkind: Config\ndata: "+data+"\n"+config), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, data: data, config: file, roles: roles}
	s.start("")
	return s
}

// TestSplit is a site of three processes on one PostgreSQL behind a proxy: an
// unmodified cosign signs and verifies, and the registry's folder holds neither
// the CA's key nor the log's.
func TestSplit(t *testing.T) {
	dir := shortTemp(t)
	dsn := storetest.DSN(t, store.PostgreSQL)
	at := map[string]string{"signer": freeAddress(t), "log": freeAddress(t), "front": freeAddress(t)}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := "front"
		switch p := r.URL.Path; {
		case strings.HasPrefix(p, "/fulcio/"), strings.HasPrefix(p, "/tsa"), strings.HasPrefix(p, "/oidc/"):
			to = "signer"
		case strings.HasPrefix(p, "/rekor/"), strings.HasPrefix(p, "/ct/"):
			to = "log"
		}
		rp := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: at[to]})
			p.Out.Host = p.In.Host
		}}
		rp.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("s", 44)), 0o600); err != nil {
		t.Fatal(err)
	}
	process := func(name, roles string) *site {
		return serveSite(t, filepath.Join(dir, name), fmt.Sprintf(`server:
  listen: %s
  public_url: %s
  peers: {signer: "http://%s", log: "http://%s", api: "http://%s", secret: "file:%s"}
store: {dsn: %q}
`, at[name], proxy.URL, at["signer"], at["log"], at["front"], secret, dsn), roles)
	}
	signer, _, front := process("signer", "signer"), process("log", "log"), process("front", "registry,api,ui")

	grants := filepath.Join(dir, "grants.yaml")
	if err := os.WriteFile(grants, fmt.Appendf(nil, "apiVersion: assay/v1\nkind: Grant\nmetadata: {name: alice}\nspec: {issuer: %q, subject: %s, role: publisher, scope: \"team/**\"}\n", front.Services.OIDC, alice), 0o600); err != nil {
		t.Fatal(err)
	}
	front.assay("apply", "-f", grants)
	env := signer.home(alice)
	path := func(name string) string { return filepath.Join(dir, name) }
	front.assay("trust", "root", "--out", path("root.json"))
	must(t, env, "cosign", "initialize", "--mirror", front.Services.TUF, "--root", path("root.json"))
	image := pushImage(t, front, env, "team/app", "one")
	who := []string{"--certificate-identity", alice, "--certificate-oidc-issuer", front.Services.OIDC}
	must(t, env, "cosign", "sign", "--yes", "--identity-token", signer.token(alice, "sigstore"), image)
	must(t, env, "cosign", append(append([]string{"verify"}, who...), image)...)
	refused(t, nil, env, "cosign", "verify", "--certificate-identity", bob, "--certificate-oidc-issuer", front.Services.OIDC, image)

	for _, secretKey := range []string{"ca-root.pem", "ca-intermediate.pem", "tsa.pem", "oidc.pem", "log.pem", "ct.pem", "audit.pem"} {
		if _, err := os.Stat(filepath.Join(front.data, "keys", secretKey)); !os.IsNotExist(err) {
			t.Errorf("the registry's folder has %s: %v", secretKey, err)
		}
	}
	refused(t, []string{"role signer"}, cleanEnv("ASSAY_DATA="+front.data), assayBin(t), "token", "--subject", alice)
	front.assayRefused(2, nil, "token", "--subject", alice)
}

// liteWitness is a real witness, litewitness of filippo.io/torchwood.
type liteWitness struct {
	t          *testing.T
	dir        string
	url, vkey  string
	listen     string
	finger, as string
	cmd        *exec.Cmd
}

// newLiteWitness starts one, with its key in an agent of this process.
func newLiteWitness(t *testing.T, name string) *liteWitness {
	t.Helper()
	w := &liteWitness{t: t, dir: shortTemp(t), listen: freeAddress(t), as: name}
	w.url = "http://" + w.listen
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		t.Fatal(err)
	}
	sock, err := net.Listen("unix", filepath.Join(w.dir, "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sock.Close() })
	go func() {
		for {
			c, err := sock.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(ring, c) }()
		}
	}()
	sp, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	w.finger = ssh.FingerprintSHA256(sp)
	typed := append([]byte{4}, pub...)
	h := sha256.Sum256(append([]byte(name+"\n"), typed...))
	w.vkey = fmt.Sprintf("%s+%08x+%s", name, binary.BigEndian.Uint32(h[:]), base64.StdEncoding.EncodeToString(typed))
	w.start()
	return w
}

func (w *liteWitness) start() {
	w.t.Helper()
	cmd := exec.Command("litewitness", "-name", w.as, "-db", filepath.Join(w.dir, "w.db"), "-ssh-agent", filepath.Join(w.dir, "agent.sock"), "-key", w.finger, "-listen", w.listen)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		w.t.Fatalf("litewitness: %v (is it on PATH? run these tests with make e2e)", err)
	}
	w.cmd = cmd
	w.t.Cleanup(w.stop)
	for deadline := time.Now().Add(20 * time.Second); ; {
		c, err := net.Dial("tcp", w.listen)
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("litewitness does not listen: %v\n%s", err, log)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (w *liteWitness) stop() {
	if w.cmd != nil {
		_ = w.cmd.Process.Kill()
		_ = w.cmd.Wait()
		w.cmd = nil
	}
}

// register is what its operator does with witnessctl.
func (w *liteWitness) register(origin, vkey string) {
	w.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.dir, "w.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	for _, q := range []struct {
		text string
		args []any
	}{
		{"INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)", []any{origin, "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}},
		{"INSERT INTO key (origin, key) VALUES (?, ?)", []any{origin, vkey}},
	} {
		if _, err := db.Exec(q.text, q.args...); err != nil {
			w.t.Fatal(err)
		}
	}
}

// TestWitness has checkpoints cosigned by two real witnesses: bundles verify
// with an unmodified cosign, and offline only where the witnesses signed.
func TestWitness(t *testing.T) {
	one, two := newLiteWitness(t, "one.test/witness"), newLiteWitness(t, "two.test/witness")
	dir := shortTemp(t)
	path := func(name string) string { return filepath.Join(dir, name) }
	config := func(outage string) string {
		return fmt.Sprintf(`server: {listen: "127.0.0.1:0"}
tlog:
  witness_quorum: 2
  witness_outage: %s
  witnesses:
    - {url: %q, vkey: %q}
    - {url: %q, vkey: %q}
`, outage, one.url, one.vkey, two.url, two.vkey)
	}
	listen := freeAddress(t)
	at := func(c string) string { return strings.Replace(c, "127.0.0.1:0", listen, 1) }
	s := serveSite(t, path("site"), at(config("degrade")), "")
	if err := os.WriteFile(path("blob"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.assay("sign", "--subject", alice, "--upload=false", "--bundle", path("early.bundle"), path("blob"))
	var keys []struct{ Use, VKey string }
	if err := json.Unmarshal([]byte(s.assay("log", "vkey", "-o", "json")), &keys); err != nil || len(keys) != 2 {
		t.Fatalf("vkeys: %v, %v", keys, err)
	}
	origin, _, _ := strings.Cut(keys[1].VKey, "+")
	one.register(origin, keys[1].VKey)
	two.register(origin, keys[1].VKey)
	s.stop()
	s.start("") // asks the witnesses anew at once
	s.assay("sign", "--subject", alice, "--upload=false", "--bundle", path("blob.bundle"), path("blob"))
	s.assay("trust", "export", "--out", path("trusted_root.json"))
	s.assay("trust", "root", "--out", path("root.json"))

	env := cleanEnv("HOME=" + dir)
	who := []string{"--certificate-identity", alice, "--certificate-oidc-issuer", s.Services.OIDC}
	must(t, env, "cosign", "initialize", "--mirror", s.Services.TUF, "--root", path("root.json"))
	must(t, env, "cosign", append(append([]string{"verify-blob"}, who...), "--bundle", path("blob.bundle"), path("blob"))...)
	must(t, env, "cosign", "sign-blob", "--yes", "--identity-token", s.token(alice, "sigstore"), "--bundle", path("cosign.bundle"), path("blob"))
	offline := func(bundle string, args ...string) []string {
		return append(append([]string{"verify", "--trusted-root", path("trusted_root.json"), "--bundle", path(bundle)}, who...), append(args, path("blob"))...)
	}
	both := []string{"--witness", one.vkey, "--witness", two.vkey, "--min-witness", "2"}
	must(t, env, assayBin(t), offline("blob.bundle", both...)...)
	must(t, env, assayBin(t), offline("cosign.bundle", both...)...)
	must(t, env, assayBin(t), offline("early.bundle")...)
	refused(t, []string{"tlog.witness"}, env, assayBin(t), offline("early.bundle", both...)...)
	stranger := newLiteWitness(t, "three.test/witness")
	refused(t, []string{"tlog.witness"}, env, assayBin(t), offline("blob.bundle", "--witness", one.vkey, "--witness", stranger.vkey, "--min-witness", "2")...)

	// An outage: told, and published all the same.
	two.stop()
	s.assay("sign", "--subject", alice, "--upload=false", "--bundle", path("late.bundle"), path("blob"))
	must(t, env, assayBin(t), offline("late.bundle", "--witness", one.vkey, "--witness", two.vkey, "--min-witness", "1")...)
	refused(t, []string{"tlog.witness"}, env, assayBin(t), offline("late.bundle", both...)...)
	// Where the site says so, an outage holds entries back, and the end of it
	// brings them.
	s.stop()
	if err := os.WriteFile(path("site.yaml"), []byte("apiVersion: assay/v1\nkind: Config\ndata: "+path("site")+"\n"+at(config("refuse"))), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start("")
	s.assayRefused(2, nil, "sign", "--subject", alice, "--upload=false", path("blob"))
	two.start()
	deadline := time.Now().Add(40 * time.Second)
	for run(t, cleanEnv("ASSAY_DATA="+s.data), assayBin(t), "sign", "--subject", alice, "--upload=false", "--bundle", path("again.bundle"), path("blob")).code != 0 {
		if time.Now().After(deadline) {
			t.Fatalf("the witness is back, and nothing is logged\n%s", s.log)
		}
		time.Sleep(time.Second)
	}
	must(t, env, assayBin(t), offline("again.bundle", both...)...)
}
