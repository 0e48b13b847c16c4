// Package kubetest runs a real Kubernetes control plane on this machine: etcd,
// kube-apiserver, kube-controller-manager, kube-scheduler and kwok, which plays
// the nodes. Its programs come from tools/install.sh kubernetes, by PATH.
//
// Nothing is stubbed but the nodes: kwok says of each Pod that is bound to one
// what a kubelet would say, by stages of this package, which set the imageID.
package kubetest

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"assay/internal/kube"
)

//go:embed stages.yaml
var stages []byte

// Programs are what has to be on PATH.
var Programs = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kwok"}

// Missing lists the programs that are not on PATH.
func Missing() (out []string) {
	for _, p := range Programs {
		if _, err := exec.LookPath(p); err != nil {
			out = append(out, p)
		}
	}
	return out
}

// Options of a cluster.
type Options struct {
	Dir string // a folder for all of its files, made when it is not there; short, and the caller's to remove
	// Nodes is how many nodes there are; default 1.
	Nodes int
	// Manifests is a folder of static webhook configurations (*.static.k8s.io) that
	// the API server reads; "": none.
	Manifests string
	// Policies is a folder of static ValidatingAdmissionPolicies; "": none.
	Policies string
}

// Cluster is a control plane that runs. Stop ends it.
type Cluster struct {
	Kubeconfig string // of an administrator
	Admin      *kube.Client
	Dir        string
	ReadyIn    time.Duration

	pki   *pki
	procs []*process
}

type process struct {
	name   string
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
	err    error
}

// Start runs a cluster and waits until Pods can be made and run. On an error all
// that was started is stopped.
func Start(ctx context.Context, o Options) (_ *Cluster, err error) {
	began := time.Now()
	if o.Nodes == 0 {
		o.Nodes = 1
	}
	c := &Cluster{Dir: o.Dir}
	if m := Missing(); len(m) > 0 {
		return nil, fmt.Errorf("%s: not on PATH; PATH=\"$(tools/install.sh kubernetes):$PATH\"", strings.Join(m, ", "))
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%w\n%s", err, c.Logs(4<<10)), c.Stop())
		}
	}()
	ports, err := freePorts(6)
	if err != nil {
		return nil, err
	}
	if c.pki, err = newPKI(o.Dir); err != nil {
		return nil, err
	}
	server := fmt.Sprintf("https://127.0.0.1:%d", ports[0])
	if err := c.startStore(ports[1], ports[2]); err != nil {
		return nil, err
	}
	if err := c.startServer(&o, ports[0], ports[1]); err != nil {
		return nil, err
	}
	for name, groups := range map[string][]string{"admin": {"system:masters"}, "system:kube-controller-manager": nil, "system:kube-scheduler": nil} {
		if err := c.kubeconfig(server, name, groups...); err != nil {
			return nil, err
		}
	}
	c.Kubeconfig = c.path("admin.kubeconfig")
	if c.Admin, err = kube.FromFile(c.Kubeconfig, ""); err != nil {
		return nil, err
	}
	if err := c.await(ctx, 60*time.Second, "the API server", func() error {
		return c.Admin.Do(ctx, http.MethodGet, "/readyz", nil, nil, nil)
	}); err != nil {
		return nil, err
	}
	if err := c.startRest(ports[3], ports[4], ports[5]); err != nil {
		return nil, err
	}
	return c, c.settle(ctx, &o, began)
}

// settle makes the nodes and waits until Pods can be made.
func (c *Cluster) settle(ctx context.Context, o *Options, began time.Time) error {
	for i := range o.Nodes {
		node := map[string]any{"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": fmt.Sprintf("node-%d", i), "labels": map[string]string{"kubernetes.io/hostname": fmt.Sprintf("node-%d", i)}}}
		if err := c.Admin.Do(ctx, http.MethodPost, "/api/v1/nodes", nil, node, nil); err != nil {
			return err
		}
	}
	// Pods want a service account, which the controller manager makes, and a node.
	err := c.await(ctx, 60*time.Second, "the controllers", func() error {
		return c.Admin.Do(ctx, http.MethodGet, "/api/v1/namespaces/default/serviceaccounts/default", nil, nil, nil)
	})
	if err == nil {
		err = c.await(ctx, 60*time.Second, "the nodes", func() error {
			var n struct {
				Status struct {
					Conditions []struct{ Type, Status string }
				}
				Spec struct{ Taints []any }
			}
			if err := c.Admin.Do(ctx, http.MethodGet, "/api/v1/nodes/node-0", nil, nil, &n); err != nil {
				return err
			}
			for _, cond := range n.Status.Conditions {
				if cond.Type == "Ready" && cond.Status == "True" && len(n.Spec.Taints) == 0 {
					return nil
				}
			}
			return fmt.Errorf("node-0 is not ready: %+v", n)
		})
	}
	c.ReadyIn = time.Since(began)
	return err
}

func (c *Cluster) path(name string) string { return filepath.Join(c.Dir, name) }

func (c *Cluster) startStore(port, peer int) error {
	url, peerURL := fmt.Sprintf("http://127.0.0.1:%d", port), fmt.Sprintf("http://127.0.0.1:%d", peer)
	return c.run("etcd", "--data-dir", c.path("etcd"), "--listen-client-urls", url, "--advertise-client-urls", url,
		"--listen-peer-urls", peerURL, "--initial-advertise-peer-urls", peerURL, "--initial-cluster", "default="+peerURL, "--unsafe-no-fsync", "--log-level", "warn")
}

func (c *Cluster) startServer(o *Options, port, store int) error {
	args := []string{
		"--etcd-servers", fmt.Sprintf("http://127.0.0.1:%d", store), "--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(port),
		"--cert-dir", c.path("apiserver"), "--tls-cert-file", c.path("server.pem"), "--tls-private-key-file", c.path("server.key"), "--client-ca-file", c.path("ca.pem"),
		"--service-account-key-file", c.path("sa.key"), "--service-account-signing-key-file", c.path("sa.key"), "--service-account-issuer", "https://kubernetes.default.svc",
		"--authorization-mode", "Node,RBAC", "--service-cluster-ip-range", "10.96.0.0/16", "--allow-privileged", "--endpoint-reconciler-type", "none", "--v", "1",
	}
	config, err := c.admissionConfig(o)
	if err != nil {
		return err
	}
	if config != "" {
		args = append(args, "--admission-control-config-file", config)
	}
	return c.run("kube-apiserver", args...)
}

// admissionConfig names the folders of static manifests to the API server.
func (c *Cluster) admissionConfig(o *Options) (string, error) {
	var b strings.Builder
	if o.Manifests != "" {
		for _, p := range []struct{ plugin, kind string }{{"ValidatingAdmissionWebhook", "WebhookAdmissionConfiguration"}, {"MutatingAdmissionWebhook", "WebhookAdmissionConfiguration"}} {
			dir := filepath.Join(o.Manifests, map[string]string{"ValidatingAdmissionWebhook": "validating", "MutatingAdmissionWebhook": "mutating"}[p.plugin])
			if _, err := os.Stat(dir); err != nil {
				continue
			}
			fmt.Fprintf(&b, "- name: %s\n  configuration:\n    apiVersion: apiserver.config.k8s.io/v1\n    kind: %s\n    staticManifestsDir: %s\n", p.plugin, p.kind, dir)
		}
	}
	if o.Policies != "" {
		fmt.Fprintf(&b, "- name: ValidatingAdmissionPolicy\n  configuration:\n    apiVersion: apiserver.config.k8s.io/v1\n    kind: ValidatingAdmissionPolicyConfiguration\n    staticManifestsDir: %s\n", o.Policies)
	}
	if b.Len() == 0 {
		return "", nil
	}
	path := c.path("admission.yaml")
	return path, os.WriteFile(path, []byte("apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n"+b.String()), 0o600)
}

func (c *Cluster) startRest(manager, scheduler, kwok int) error {
	if err := os.WriteFile(c.path("stages.yaml"), stages, 0o600); err != nil {
		return err
	}
	config := func(name string) string { return c.path(name + ".kubeconfig") }
	return errors.Join(
		c.run("kube-controller-manager", "--kubeconfig", config("system:kube-controller-manager"), "--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(manager), "--cert-dir", c.path("manager"),
			"--leader-elect=false", "--use-service-account-credentials", "--service-account-private-key-file", c.path("sa.key"), "--root-ca-file", c.path("ca.pem"), "--v", "1",
			"--kube-api-qps", "500", "--kube-api-burst", "1000", // a test should not wait for the client's own limit
			"--node-monitor-grace-period", "24h"), // nodes that are played report once
		c.run("kube-scheduler", "--kubeconfig", config("system:kube-scheduler"), "--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(scheduler), "--cert-dir", c.path("scheduler"), "--leader-elect=false", "--v", "1"),
		c.run("kwok", "--kubeconfig", config("admin"), "--manage-all-nodes", "--config", c.path("stages.yaml"), "--node-ip", "127.0.0.1", "--server-address", fmt.Sprintf("127.0.0.1:%d", kwok)),
	)
}

// run starts a program in the background; it is killed with this process.
func (c *Cluster) run(name string, args ...string) error {
	p := &process{name: name, log: c.path(name + ".log"), exited: make(chan struct{})}
	f, err := os.Create(p.log)
	if err != nil {
		return err
	}
	defer f.Close()
	p.cmd = exec.Command(name, args...)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = f, f, c.Dir
	p.cmd.Env = []string{"HOME=" + c.Dir, "PATH=" + os.Getenv("PATH"), "GOMAXPROCS=" + os.Getenv("GOMAXPROCS"), "KUBE_CACHE_MUTATION_DETECTOR=false"}
	p.cmd.SysProcAttr = dieWithParent()
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.exited) }()
	c.procs = append(c.procs, p)
	return nil
}

// await tries until it succeeds, and ends early when a program has ended.
func (c *Cluster) await(ctx context.Context, within time.Duration, what string, try func() error) error {
	deadline := time.Now().Add(within)
	for {
		err := try()
		if err == nil {
			return nil
		}
		for _, p := range c.procs {
			select {
			case <-p.exited:
				return fmt.Errorf("%s ended: %w", p.name, p.err)
			default:
			}
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("%s: not ready within %s: %w", what, within, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Stop ends all programs, the last one first.
func (c *Cluster) Stop() error {
	var wg sync.WaitGroup
	for i := len(c.procs) - 1; i >= 0; i-- {
		p := c.procs[i]
		wg.Go(func() {
			_ = p.cmd.Process.Kill()
			<-p.exited
		})
	}
	wg.Wait()
	c.procs = nil
	return nil
}

// Logs are the ends of what the programs wrote, each at most so many bytes.
func (c *Cluster) Logs(most int) string {
	var b strings.Builder
	for _, p := range c.procs {
		text, _ := os.ReadFile(p.log)
		fmt.Fprintf(&b, "--- %s\n%s\n", p.name, text[max(0, len(text)-most):])
	}
	return b.String()
}

// Kubectl runs kubectl as an administrator and gives what it wrote.
func (c *Cluster) Kubectl(ctx context.Context, stdin string, args ...string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, "kubectl", append([]string{"--kubeconfig", c.Kubeconfig}, args...)...)
	cmd.Env = []string{"HOME=" + c.Dir, "PATH=" + os.Getenv("PATH")}
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// freePorts finds ports below those that the system gives to outgoing connections
// (ip_local_port_range(7) begins at 32768): such a one could be taken before a
// program that starts seconds later listens on it.
func freePorts(n int) (ports []int, err error) {
	var open []net.Listener
	defer func() {
		for _, l := range open {
			_ = l.Close()
		}
	}()
	for tries := 0; len(ports) < n; tries++ {
		port := 20_000 + rand.IntN(12_000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			if tries > 100 {
				return nil, err
			}
			continue
		}
		open, ports = append(open, l), append(ports, port)
	}
	return ports, nil
}
