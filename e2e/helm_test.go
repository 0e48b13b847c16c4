//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"assay/internal/kubetest"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

type object = map[string]any

func objects(t *testing.T, text string) map[string]object {
	t.Helper()
	out := map[string]object{}
	d := yaml.NewDecoder(strings.NewReader(text))
	for {
		var o object
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if o == nil {
			continue
		}
		meta, _ := o["metadata"].(object)
		kind, _ := o["kind"].(string)
		name, _ := meta["name"].(string)
		if _, twice := out[kind+"/"+name]; twice || kind == "" || name == "" {
			t.Errorf("object %q %q: twice, or without a name", kind, name)
		}
		out[kind+"/"+name] = o
	}
}

// TestHelmChart: what the chart installs in an API server is what "assay admission
// manifests" writes, for each of its switches; a real API server takes all of it,
// and the Pods of it are made with the security that they are to have.
func TestHelmChart(t *testing.T) {
	if _, err := exec.LookPath("helm"); err != nil {
		t.Fatal("not on PATH: helm (tools/install.sh helm)")
	}
	if m := kubetest.Missing(); len(m) > 0 {
		t.Fatalf("not on PATH: %v (tools/install.sh kubernetes)", m)
	}
	s := &site{t: t, data: filepath.Join(shortTemp(t), "data")}
	dir := filepath.Join(shortTemp(t), "authority")
	s.assay("admission", "authority", "--dir", dir)
	ca := filepath.Join(dir, "ca.pem")
	chart := filepath.Join("..", "deploy", "helm", "assay")
	digest := "sha256:" + strings.Repeat("ab", 32)
	helm := func(args ...string) result {
		return run(t, cleanEnv("HOME="+t.TempDir()), "helm", append([]string{
			"template", "assay", chart, "--namespace", "assay-system", "--set", "image.repository=assay.example/assay/server", "--set", "server.publicURL=https://assay.example",
			"--set-file", "webhook.ca=" + ca, "--set-file", "admission.serverAuthority=" + ca,
		}, args...)...)
	}
	if out := must(t, cleanEnv("HOME="+t.TempDir()), "helm", "lint", chart, "--set", "image.digest="+digest, "--set", "image.repository=a.example/b", "--set", "server.publicURL=https://a.example", "--set", "webhook.ca=x", "--set", "admission.serverAuthority=x"); !strings.Contains(out, "0 chart(s) failed") {
		t.Errorf("helm lint: %s", out)
	}
	for _, wrong := range [][]string{{"--set", "image.digest=latest"}, {"--set", "image.digest=" + digest, "--set-file", "webhook.ca=" + os.DevNull}, {"--set", "image.digest=" + digest, "--set", "server.publicURL="}} {
		if r := helm(wrong...); r.code == 0 || !strings.Contains(r.stderr, "want") {
			t.Errorf("%v: exit %d: %s", wrong, r.code, r.stderr)
		}
	}

	for name, tt := range map[string]struct{ values, flags []string }{
		"by default":  {},
		"never":       {[]string{"admission.never={break-glass,flux-system}"}, []string{"--never", "break-glass,flux-system"}},
		"workloads":   {[]string{"webhook.workloads={rollouts.argoproj.io,widgets.example.com}"}, []string{"--workload", "rollouts.argoproj.io", "--workload", "widgets.example.com"}},
		"audit":       {[]string{"admission.audit=true"}, []string{"--audit"}},
		"no pin":      {[]string{"admission.noPin=true"}, []string{"--no-pin"}},
		"own service": {[]string{"admission.service=guard"}, []string{"--service", "guard"}},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"--set", "image.digest=" + digest}
			for _, v := range tt.values {
				args = append(args, "--set", v)
			}
			r := helm(args...)
			if r.code != 0 {
				t.Fatal(r.stderr)
			}
			got := objects(t, r.stdout)
			want := objects(t, s.assay(append([]string{"admission", "manifests", "--ca", ca, "--namespace", "assay-system", "--service", "assay"}, tt.flags...)...))
			if len(want) < 5 {
				t.Fatalf("only %d objects to compare", len(want))
			}
			for name, w := range want {
				if d := cmp.Diff(w, got[name]); d != "" {
					t.Errorf("%s (-manifests +chart):\n%s", name, d)
				}
			}
			for name := range got {
				kind, _, _ := strings.Cut(name, "/")
				if strings.HasSuffix(kind, "WebhookConfiguration") || strings.HasPrefix(kind, "ValidatingAdmission") || strings.Contains(kind, "Role") {
					if want[name] == nil {
						t.Errorf("%s is in the chart alone", name)
					}
				}
			}
		})
	}
	applyChart(t, s, dir, helm("--set", "image.digest="+digest))
}

// applyChart has a real API server take what the chart renders.
func applyChart(t *testing.T, s *site, authority string, r result) {
	if r.code != 0 {
		t.Fatal(r.stderr)
	}
	c, err := kubetest.Start(t.Context(), kubetest.Options{Dir: shortTemp(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop() })
	k := &kube{T: t, s: s, c: c}
	k.kubectl("", "create", "namespace", "assay-system")
	// The strictest of Kubernetes' own profiles lets these Pods run.
	k.kubectl("", "label", "namespace", "assay-system", "pod-security.kubernetes.io/enforce=restricted")
	k.kubectl("", "create", "secret", "generic", "assay-admission", "-n", "assay-system", "--from-file", authority)
	if out := k.kubectl(r.stdout, "apply", "--server-side", "-f", "-"); strings.Contains(out, "Warning") {
		t.Errorf("the API server warns:\n%s", out)
	}
	// Cold start: the webhook answers nobody yet, and its own Pods are made.
	k.kubectl("", "rollout", "status", "-n", "assay-system", "deployment/assay-admission", "--timeout", "60s")
	k.await("the webhook's Pods run", func() bool {
		return strings.Count(k.kubectl("", "get", "pods", "-n", "assay-system", "-l", "app.kubernetes.io/name=assay", "-o", "jsonpath={.items[*].status.phase}"), "Running") == 2
	})
	// The disruption budget holds the last one.
	k.await("the budget allows one", func() bool {
		return k.kubectl("", "get", "pdb", "assay", "-n", "assay-system", "-o", "jsonpath={.status.disruptionsAllowed}") == "1"
	})
	// Meanwhile nothing else is let in, but what a cluster is repaired from.
	k.kubectl("", "create", "namespace", "shop")
	k.kubectl("", "create", "serviceaccount", "sync", "-n", "shop")
	pinned := "assay.example/shop/web@sha256:" + strings.Repeat("cd", 32)
	if _, errs, err := c.Kubectl(t.Context(), pod("early", pinned, "", ""), "apply", "-f", "-"); err == nil || !strings.Contains(errs, "failed calling webhook") {
		t.Errorf("a Pod without an answer: %v %s", err, errs)
	}
	k.kubectl(strings.ReplaceAll(pod("dns", "registry.example/coredns:1", "", ""), `"shop"`, `"kube-system"`), "apply", "-f", "-")

	// What the server is given is a configuration that it takes.
	got := objects(t, r.stdout)
	data, _ := got["ConfigMap/assay-server"]["data"].(object)
	text, _ := data["config.yaml"].(string)
	serverStarts(t, s, text)
}

// serverStarts runs "assay serve" with the chart's configuration: its paths are
// those of the Pod's volumes, put below a folder here.
func serverStarts(t *testing.T, s *site, text string) {
	dir := shortTemp(t)
	for _, args := range [][]string{{"req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-keyout", dir + "/tls.key", "-out", dir + "/tls.crt", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"}} {
		must(t, cleanEnv(), "openssl", args...)
	}
	if err := os.WriteFile(filepath.Join(dir, "passphrase"), []byte("correct horse battery staple"), 0o440); err != nil {
		t.Fatal(err)
	}
	at, operations := freeAddress(t), freeAddress(t)
	text = strings.NewReplacer("/var/lib/assay/data", dir+"/data", "/etc/assay/tls", dir, "/etc/assay/unlock", dir, "0.0.0.0:8443", at, "0.0.0.0:9090", operations, "127.0.0.1:8444", freeAddress(t), "https://assay.example", "https://"+at).Replace(text)
	file := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), s.program(), "serve", "--config", file)
	var log bytes.Buffer
	cmd.Stderr, cmd.Env = &log, cleanEnv("HOME="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill(); <-ended }()
	k := &kube{T: t, s: s}
	k.await("the server is ready", func() bool {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the server ended: %v\n%s\n%s", err, text, log.String())
		default:
		}
		r := run(t, cleanEnv(), "curl", "-fs", "http://"+operations+"/readyz")
		return r.code == 0
	})
}
