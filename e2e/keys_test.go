//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// transit starts Vault's transit engine and gives the environment of its
// clients.
func transit(t *testing.T) (env []string, address string) {
	t.Helper()
	const token = "hvs.end-to-end-secret"
	cmd := exec.CommandContext(t.Context(), "transit")
	cmd.Env = cleanEnv("VAULT_TOKEN=" + token)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("transit: %v (is it on PATH? run these tests with make e2e)", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	address = strings.TrimSpace(strings.TrimPrefix(line, "transit "))
	return []string{"VAULT_ADDR=" + address, "VAULT_TOKEN=" + token}, address
}

// A key that never leaves Vault signs an image through sigstore's plugin, and
// an unmodified cosign verifies, by the public key and by the KMS itself.
func TestKeysVaultSigns(t *testing.T) {
	vault, _ := transit(t)
	s := up(t)
	home := append(s.home("dev@example.com"), vault...)
	dir := t.TempDir()
	ref := pushImage(t, s, home, "team/kms", "signed by a KMS")

	env := cleanEnv(vault[0], vault[1], "ASSAY_DATA="+s.data, "HOME="+dir)
	must(t, env, s.program(), "keys", "generate", "--kms", "hashivault://release", "--out", filepath.Join(dir, "release"))
	must(t, env, s.program(), "sign", "--subject", "dev@example.com", "--key", "hashivault://release", ref)
	root := filepath.Join(dir, "root.json")
	must(t, env, s.program(), "trust", "export", "--out", root)
	for _, key := range []string{filepath.Join(dir, "release.pub"), "hashivault://release"} {
		must(t, home, "cosign", "verify", "--key", key, "--trusted-root", root, ref)
	}
	// Another key of the same KMS does not verify it.
	must(t, env, s.program(), "keys", "generate", "--kms", "hashivault://other", "--out", filepath.Join(dir, "other"))
	refused(t, nil, home, "cosign", "verify", "--key", filepath.Join(dir, "other.pub"), "--trusted-root", root, ref)

	// Without the right token: refused, and the token is nowhere.
	wrong := cleanEnv(vault[0], "VAULT_TOKEN=hvs.a-wrong-secret", "ASSAY_DATA="+s.data)
	r := run(t, wrong, s.program(), "sign", "--subject", "dev@example.com", "--key", "hashivault://release", ref)
	if r.code == 0 || !strings.Contains(r.stderr, "permission denied") || strings.Contains(r.stdout+r.stderr, "a-wrong-secret") {
		t.Errorf("a wrong token: %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}

// serverRoles are those whose keys can lie in a KMS.
var serverRoles = []string{"ca", "ca-root", "tsa", "tsa-root", "oidc", "log", "ct", "audit", "decision", "delegation", "tuf-root", "tuf-online"}

// A whole site whose keys lie in Vault, and whose one file key is unlocked by
// Vault: it signs, unmodified cosign verifies, and a key that is exchanged
// behind its name stops the site rather than go into what it signs.
func TestKeysSiteInVault(t *testing.T) {
	vault, address := transit(t)
	dir := t.TempDir()
	env := cleanEnv(vault...)
	var places []string
	for _, role := range append(serverRoles, "unlock") {
		args := []string{"keys", "generate", "--kms", "hashivault://" + role, "--out", filepath.Join(dir, role)}
		if role == "oidc" || role == "unlock" {
			args = append(args, "--algorithm", "rsa-2048")
		}
		must(t, env, assayBin(t), args...)
		if role != "unlock" {
			places = append(places, role+"=hashivault://"+role)
		}
	}
	s := &site{t: t, data: filepath.Join(shortTemp(t), "data"), env: append(vault,
		"ASSAY_KEYS_PLACES="+strings.Join(places, " "), "ASSAY_KEYS_UNLOCK=hashivault://unlock")}
	listen := freeAddress(t)
	s.start(listen)
	files, err := filepath.Glob(filepath.Join(s.data, "keys", "*.pem"))
	if err != nil || len(files) != 1 || filepath.Base(files[0]) != "registry.pem" {
		t.Fatalf("key files %q, %v: want the registry's alone", files, err)
	}
	if b, err := os.ReadFile(files[0]); err != nil || !bytes.Contains(b, []byte("ASSAY SEALED PRIVATE KEY")) {
		t.Errorf("the registry's key is not sealed (%v)", err)
	}
	var keys []struct{ Role, Where string }
	if err := json.Unmarshal([]byte(s.assay("keys", "list", "-o", "json")), &keys); err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if want := "hashivault://" + k.Role; k.Where != want && k.Role != "registry" {
			t.Errorf("key of %s lies at %s, want %s", k.Role, k.Where, want)
		}
	}
	if len(keys) != len(serverRoles)+1 {
		t.Errorf("%d keys, want %d", len(keys), len(serverRoles)+1)
	}
	blob, root, bundle := filepath.Join(dir, "blob"), filepath.Join(dir, "root.json"), filepath.Join(dir, "b.json")
	if err := os.WriteFile(blob, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	sign := func() string { return s.assay("sign", "--subject", "dev@example.com", "--bundle", bundle, blob) }
	sign()
	s.assay("trust", "export", "--out", root)
	verify := func() {
		must(t, s.home("dev@example.com"), "cosign", "verify-blob", "--trusted-root", root, "--bundle", bundle,
			"--certificate-identity", "dev@example.com", "--certificate-oidc-issuer", s.Services.OIDC, blob)
	}
	verify()
	s.stop()
	s.start(listen)
	sign()
	verify()

	// Somebody rotates the log's key in Vault: its name now gives another one.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address+"/v1/transit/keys/log/rotate", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", strings.TrimPrefix(vault[1], "VAULT_TOKEN="))
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode/100 != 2 {
		t.Fatalf("rotate: %v, %v", resp, err)
	}
	resp.Body.Close()
	s.assayRefused(2, nil, "sign", "--subject", "dev@example.com", "--bundle", filepath.Join(dir, "c.json"), blob)
	log := s.log.String()
	s.kill()
	if err := s.tryStart(listen); err == nil || !strings.Contains(err.Error(), "rotate the key with assay keys rotate") {
		t.Errorf("a start with another log key: %v", err)
	}
	if log += s.log.String(); strings.Contains(log, "end-to-end-secret") {
		t.Error("Vault's token stands in the log")
	}
}

// TestKeysPKCS11: keys of a token, and a token that unlocks the files.
func TestKeysPKCS11(t *testing.T) {
	bin := os.Getenv("ASSAY_PKCS11_BIN")
	util, err := exec.LookPath("softhsm2-util")
	if bin == "" || err != nil {
		t.Skip("want ASSAY_PKCS11_BIN (make pkcs11) and softhsm2-util (tools/install.sh softhsm2): run with make e2e")
	}
	modules, _ := filepath.Glob(filepath.Join(filepath.Dir(util), "../lib/*/softhsm/libsofthsm2.so"))
	if len(modules) == 0 {
		modules = []string{"/usr/lib/softhsm/libsofthsm2.so"}
	}
	dir := t.TempDir()
	conf, pin := filepath.Join(dir, "softhsm2.conf"), filepath.Join(dir, "pin")
	for path, text := range map[string]string{conf: "directories.tokendir = " + dir + "\nlog.level = ERROR\n", pin: "48151623\n", filepath.Join(dir, "blob"): "hello"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hsm := cleanEnv("SOFTHSM2_CONF=" + conf)
	must(t, hsm, util, "--module", modules[0], "--init-token", "--free", "--label", "site", "--pin", "48151623", "--so-pin", "5678")
	for _, name := range []string{"log", "tsa", "unlock", "release"} {
		path := filepath.Join(dir, name+".pem")
		args := []string{"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path}
		if name == "unlock" {
			args = []string{"genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", path}
		}
		must(t, hsm, "openssl", args...)
		must(t, hsm, util, "--module", modules[0], "--import", path, "--token", "site", "--label", name, "--id", fmt.Sprintf("%x", name), "--pin", "48151623")
	}
	uri := func(name string) string {
		return fmt.Sprintf("pkcs11:token=site;object=%s?module-path=%s&pin-source=file:%s", name, modules[0], pin)
	}
	s := &site{t: t, bin: bin, data: filepath.Join(shortTemp(t), "data"), env: []string{"SOFTHSM2_CONF=" + conf,
		"ASSAY_KEYS_PLACES=log=" + uri("log") + " tsa=" + uri("tsa"), "ASSAY_KEYS_UNLOCK=" + uri("unlock")}}
	if v := must(t, hsm, bin, "version"); !strings.Contains(v, "PKCS #11") {
		t.Errorf("version %q", v)
	}
	listen := freeAddress(t)
	s.start(listen)
	blob, root, bundle := filepath.Join(dir, "blob"), filepath.Join(dir, "root.json"), filepath.Join(dir, "b.json")
	s.assay("trust", "export", "--out", root)
	s.stop()
	s.start(listen) // the token unlocks what it sealed
	s.assay("sign", "--subject", "dev@example.com", "--bundle", bundle, blob)
	must(t, s.home("dev@example.com"), "cosign", "verify-blob", "--trusted-root", root, "--bundle", bundle,
		"--certificate-identity", "dev@example.com", "--certificate-oidc-issuer", s.Services.OIDC, blob)
	// A key of the token signs on the command line too.
	must(t, hsm, "openssl", "pkey", "-in", filepath.Join(dir, "release.pem"), "-pubout", "-out", filepath.Join(dir, "release.pub"))
	s.assay("sign", "--key", uri("release"), "--upload=false", "--bundle", filepath.Join(dir, "k.json"), blob)
	must(t, s.home("dev@example.com"), "cosign", "verify-blob", "--trusted-root", root, "--key", filepath.Join(dir, "release.pub"), "--bundle", filepath.Join(dir, "k.json"), blob)
	log := s.log.String()
	s.stop()
	if err := os.WriteFile(pin, []byte("99999999"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.tryStart(listen); err == nil || strings.Contains(err.Error(), "99999999") {
		t.Errorf("a start with a wrong PIN: %v", err)
	}
	if strings.Contains(log, "48151623") {
		t.Error("the PIN stands in the log")
	}
}

// TestFIPS: the main flow with Go's FIPS 140-3 module in force, and with
// nothing but it allowed.
func TestFIPS(t *testing.T) {
	bin := os.Getenv("ASSAY_FIPS_BIN")
	if bin == "" {
		t.Skip("want ASSAY_FIPS_BIN (make fips): run with make e2e")
	}
	for _, mode := range []string{"on", "only"} {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			pass, blob, root, bundle := filepath.Join(dir, "pass"), filepath.Join(dir, "blob"), filepath.Join(dir, "root.json"), filepath.Join(dir, "b.json")
			for path, text := range map[string]string{pass: "a passphrase of some length\n", blob: "hello"} {
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			s := &site{t: t, bin: bin, data: filepath.Join(shortTemp(t), "data"), env: []string{"GODEBUG=fips140=" + mode, "ASSAY_KEYS_UNLOCK=file:" + pass}}
			var v struct {
				FIPS *struct {
					Module            string
					Enabled, Enforced bool
				} `json:"fips140"`
			}
			if err := json.Unmarshal([]byte(s.assay("version", "-o", "json")), &v); err != nil || v.FIPS == nil || !v.FIPS.Enabled || v.FIPS.Enforced != (mode == "only") || !strings.HasPrefix(v.FIPS.Module, "v1.") {
				t.Fatalf("version %+v, %v", v.FIPS, err)
			}
			listen := freeAddress(t)
			s.start(listen)
			s.stop()
			s.start(listen)
			b, err := os.ReadFile(filepath.Join(s.data, "keys", "envelope.json"))
			if err != nil || !bytes.Contains(b, []byte("pbkdf2-sha256")) {
				t.Errorf("the envelope is not of approved parts (%v): %s", err, b)
			}
			s.assay("trust", "export", "--out", root)
			s.assay("sign", "--subject", "dev@example.com", "--bundle", bundle, blob)
			verify := []string{"verify", "--certificate-identity", "dev@example.com", "--certificate-oidc-issuer", s.Services.OIDC, blob}
			s.assay(verify...)
			must(t, cleanEnv("GODEBUG=fips140="+mode, "HOME="+dir), bin, append(verify, "--bundle", bundle, "--trusted-root", root)...)
			must(t, s.home("dev@example.com"), "cosign", "verify-blob", "--trusted-root", root, "--bundle", bundle,
				"--certificate-identity", "dev@example.com", "--certificate-oidc-issuer", s.Services.OIDC, blob)
			s.assay("push", "--subject", "dev@example.com", "--product", blob, s.Services.Registry+"/team/app:v1")
			s.assay("sign", "--subject", "dev@example.com", s.Services.Registry+"/team/app:v1")
			s.assay("log", "verify")
			env := cleanEnv("GODEBUG=fips140="+mode, "HOME="+dir, "COSIGN_PASSWORD=a passphrase of some length")
			key := filepath.Join(dir, "release")
			must(t, env, bin, "keys", "generate", "--out", key)
			must(t, env, bin, "sign", "--key", key+".key", "--upload=false", "--bundle", filepath.Join(dir, "k.json"), blob)
			must(t, env, bin, "verify", "--key", key+".pub", "--insecure-ignore-tlog", "--bundle", filepath.Join(dir, "k.json"), blob)
			s.stop()
		})
	}
}
