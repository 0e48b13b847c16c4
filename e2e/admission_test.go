//go:build e2e

package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"assay/admission"
)

// TestAdmissionReplica: a webhook of its own asks the server, and goes on with
// what was decided when the server is killed, also over a start of its own.
func TestAdmissionReplica(t *testing.T) {
	s := &site{t: t, data: filepath.Join(shortTemp(t), "data"), env: []string{"ASSAY_ADMISSION_LISTEN=127.0.0.1:0"}}
	s.start(freeAddress(t))
	apply := filepath.Join(t.TempDir(), "site.yaml")
	if err := os.WriteFile(apply, []byte(fmt.Sprintf(`apiVersion: assay/v1
kind: Policy
metadata: {name: signed}
spec:
  requirements:
    signatures: [{name: release, identities: [{issuer: %q, subject: %q}]}]
---
apiVersion: assay/v1
kind: Grant
metadata: {name: webhook}
spec: {issuer: %q, subject: webhook@example.com, role: deployer, scope: clusters/edge}
`, s.Services.OIDC, release, s.Services.OIDC)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.assay("apply", "-f", apply)
	image := func(name string) string {
		file := filepath.Join(t.TempDir(), "app")
		if err := os.WriteFile(file, []byte("content of "+name), 0o600); err != nil {
			t.Fatal(err)
		}
		ref := s.Services.Registry + "/shop/" + name + ":v1"
		s.assay("push", "--subject", "push@example.com", "--product", file, ref)
		return ref
	}
	signed, unsigned, later := image("web"), image("unsigned"), image("later")
	for _, ref := range []string{signed, later} {
		s.assay("sign", "--subject", release, ref)
	}
	ca := filepath.Join(t.TempDir(), "server.pem")
	b, err := os.ReadFile(filepath.Join(s.data, "ca", "admission.pem"))
	if err == nil {
		err = os.WriteFile(ca, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir, door, token := filepath.Join(t.TempDir(), "webhook"), freeAddress(t), s.token("webhook@example.com", "assay-api")
	start := func() (stop func()) {
		cmd := exec.Command(s.program(), "admission", "serve", "--server", s.PublicURL, "--cluster", "edge", "--environment", "production", "--listen", door, "--dir", dir, "--authority", ca)
		cmd.Env, cmd.Stderr = cleanEnv("ASSAY_API_TOKEN="+token, "XDG_CONFIG_HOME="+t.TempDir()), &lockedBuffer{}
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stop = func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() }
		t.Cleanup(stop)
		return stop
	}
	stop := start()
	ask := func(path, image string) (*admission.Response, error) { return review(dir, door, path, image) }
	await := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not within 30 s", what)
			}
		}
	}
	await("the webhook answers", func() bool { _, err := ask(admission.PathMutate, signed); return err == nil })
	a, err := ask(admission.PathMutate, signed)
	if err != nil || !a.Allowed || !bytes.Contains(a.Patch, []byte(signed+"@sha256:")) {
		t.Fatalf("signed: %+v %v", a, err)
	}
	pin := signed + "@" + strings.TrimSpace(must(t, s.home("push@example.com"), "crane", "digest", signed))
	latePin := later + "@" + strings.TrimSpace(must(t, s.home("push@example.com"), "crane", "digest", later))
	badPin := unsigned + "@" + strings.TrimSpace(must(t, s.home("push@example.com"), "crane", "digest", unsigned))
	if a, err := ask(admission.PathMutate, unsigned); err != nil || a.Allowed || !strings.Contains(a.Status.Message, "signatures/release") {
		t.Errorf("unsigned: %+v %v", a, err)
	}
	if a, err := ask(admission.PathValidate, pin); err != nil || !a.Allowed {
		t.Errorf("pinned: %+v %v", a, err)
	}
	await("its events are in the trail", func() bool {
		return strings.Contains(s.assay("audit", "query", "--kind", "admission.denied", "-o", "json"), "k8s:developer")
	})
	// The bundle that has these decisions is fetched within 10 s and 5 s.
	time.Sleep(16 * time.Second)
	s.kill()
	down := func() {
		t.Helper()
		for image, want := range map[string]string{pin: "", badPin: "signatures/release", latePin: "nothing was decided", signed: "by its digest", "nginx:1@" + pin[strings.LastIndex(pin, "sha256:"):]: "of registry"} {
			began := time.Now()
			a, err := ask(admission.PathValidate, image)
			if err != nil || a.Allowed != (want == "") || want != "" && !strings.Contains(a.Status.Message, want) {
				t.Errorf("server down, %s: %+v %v", image, a, err)
			}
			if took := time.Since(began); took > 4500*time.Millisecond {
				t.Errorf("server down, %s: answered after %s", image, took)
			}
		}
	}
	down()
	stop()
	start()
	await("the webhook is back", func() bool { _, err := ask(admission.PathValidate, pin); return err == nil })
	down()
}

// review asks a webhook as an API server does, under the authority in its folder.
func review(dir, door, path, image string) (*admission.Response, error) {
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	body := fmt.Sprintf(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","operation":"CREATE","namespace":"shop","kind":{"group":"","version":"v1","kind":"Pod"},"resource":{"group":"","version":"v1","resource":"pods"},"userInfo":{"username":"developer"},"object":{"metadata":{"name":"p"},"spec":{"containers":[{"name":"app","image":%q}]}}}}`, image)
	resp, err := c.Post("https://"+door+path+"?timeout=5s", "application/json", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var out admission.Review
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || out.Response == nil {
		return nil, fmt.Errorf("%s: %v", resp.Status, err)
	}
	return out.Response, nil
}
