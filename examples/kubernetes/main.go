// Command kubernetes shows Assay on a real Kubernetes control plane on this
// machine: an image that is signed runs, pinned to its digest; what is not is
// refused by the API server, however it is brought in. It fails when anything ends
// otherwise than expected. The control plane's programs are those of
// tools/install.sh kubernetes.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"assay/internal/kubetest"
)

func main() {
	assay := flag.String("assay", "bin/assay", "the binary to show")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *assay); err != nil {
		fmt.Fprintln(os.Stderr, "demo-k8s:", err)
		os.Exit(1)
	}
}

type show struct {
	bin, dir, data string
	registry, oidc string
	cluster        *kubetest.Cluster
	failed         int
}

func run(ctx context.Context, assay string) error {
	bin, err := filepath.Abs(assay)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "assay-k8s-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := &show{bin: bin, dir: dir, data: filepath.Join(dir, "data")}
	door, err := free()
	if err != nil {
		return err
	}
	stop, err := s.up(ctx, door)
	if err != nil {
		return err
	}
	defer stop()
	static := filepath.Join(dir, "static")
	if err := s.assay(ctx, "admission", "manifests", "--url", "https://"+door, "--static", "--dir", static); err != nil {
		return err
	}
	if s.cluster, err = kubetest.Start(ctx, kubetest.Options{Dir: filepath.Join(dir, "cluster"), Nodes: 2, Manifests: static, Policies: filepath.Join(static, "policies")}); err != nil {
		return err
	}
	defer func() { _ = s.cluster.Stop() }()
	fmt.Printf("Kubernetes v1.37 is ready after %s; its API server asks https://%s\n", s.cluster.ReadyIn.Round(10*time.Millisecond), door)
	if err := s.images(ctx); err != nil {
		return err
	}
	s.story(ctx)
	if s.failed > 0 {
		return fmt.Errorf("%d steps ended otherwise than expected", s.failed)
	}
	return nil
}

func free() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// up starts assay up with a webhook.
func (s *show) up(ctx context.Context, door string) (stop func(), err error) {
	cmd := exec.CommandContext(ctx, s.bin, "up", "--data", s.data, "--listen", "127.0.0.1:0", "-o", "json")
	cmd.Env = append(os.Environ(), "ASSAY_ADMISSION_LISTEN="+door, "ASSAY_ADMISSION_CLUSTER=demo", "ASSAY_ADMISSION_ENVIRONMENT=production")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() }
	var ready struct {
		Services struct{ OIDC, Registry string } `json:"services"`
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &ready)
	}
	s.registry, s.oidc = ready.Services.Registry, ready.Services.OIDC
	return stop, err
}

func (s *show) assay(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, s.bin, args...)
	cmd.Env = append(os.Environ(), "ASSAY_DATA="+s.data)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("assay %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// images makes two images, and signs one.
func (s *show) images(ctx context.Context) error {
	site := filepath.Join(s.dir, "site.yaml")
	if err := os.WriteFile(site, []byte(fmt.Sprintf(`apiVersion: assay/v1
kind: Policy
metadata: {name: signed}
spec:
  requirements:
    signatures: [{name: release, identities: [{issuer: %q, subject: release@example.com}]}]
`, s.oidc)), 0o600); err != nil {
		return err
	}
	if err := s.assay(ctx, "apply", "-f", site); err != nil {
		return err
	}
	for _, name := range []string{"web", "unsigned"} {
		file := filepath.Join(s.dir, name)
		if err := os.WriteFile(file, []byte("program "+name), 0o600); err != nil {
			return err
		}
		if err := s.assay(ctx, "push", "--subject", "ci@example.com", "--product", file, s.image(name)); err != nil {
			return err
		}
	}
	return s.assay(ctx, "sign", "--subject", "release@example.com", s.image("web"))
}

func (s *show) image(name string) string { return s.registry + "/shop/" + name + ":v1" }

func (s *show) story(ctx context.Context) {
	s.kubectl(ctx, true, "create", "namespace", "shop")
	s.kubectl(ctx, true, "run", "-n", "shop", "web", "--image", s.image("web"))
	s.kubectl(ctx, true, "wait", "-n", "shop", "--for", "condition=Ready", "--timeout", "30s", "pod/web")
	s.kubectl(ctx, true, "get", "pod", "-n", "shop", "web", "-o", "jsonpath={.spec.containers[0].image}{\"\\n\"}")
	s.kubectl(ctx, false, "run", "-n", "shop", "bad", "--image", s.image("unsigned"))
	s.kubectl(ctx, false, "run", "-n", "shop", "elsewhere", "--image", "nginx:1.27")
	s.kubectl(ctx, false, "debug", "-n", "shop", "web", "--image", s.image("unsigned"), "-c", "debugger")
	s.kubectl(ctx, false, "set", "image", "-n", "shop", "pod/web", "web="+s.image("unsigned"))
	s.kubectl(ctx, true, "create", "deployment", "-n", "shop", "shop", "--image", s.image("web"), "--replicas", "10")
	s.kubectl(ctx, true, "rollout", "status", "-n", "shop", "deployment/shop", "--timeout", "60s")
	s.kubectl(ctx, true, "create", "deployment", "-n", "shop", "early", "--image", s.image("unsigned"))
	s.kubectl(ctx, true, "delete", "validatingwebhookconfigurations,mutatingwebhookconfigurations", "--all")
	s.kubectl(ctx, false, "run", "-n", "shop", "bad", "--image", s.image("unsigned"))
}

// kubectl runs one command and shows what came of it.
func (s *show) kubectl(ctx context.Context, want bool, args ...string) {
	fmt.Printf("\n$ kubectl %s\n", strings.Join(args, " "))
	out, errs, err := s.cluster.Kubectl(ctx, "", args...)
	for _, line := range strings.Split(strings.TrimSpace(out+errs), "\n") {
		fmt.Printf("  %s\n", line)
	}
	if (err == nil) != want || err != nil && !strings.Contains(errs, "assay: ") {
		s.failed++
		fmt.Printf("  EXPECTED otherwise: %v\n", err)
	}
}
