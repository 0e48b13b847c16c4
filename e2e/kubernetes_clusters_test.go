//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"assay/client"
	"assay/internal/kubetest"
)

// clusterDocs: who may do what, and what may run.
const clusterDocs = `apiVersion: assay/v1
kind: Grant
metadata: {name: push}
spec: {issuer: %[1]q, subject: push@example.com, role: publisher, scope: "**"}
---
apiVersion: assay/v1
kind: Grant
metadata: {name: sign}
spec: {issuer: %[1]q, subject: release@example.com, role: signer, scope: "**"}
---
apiVersion: assay/v1
kind: Policy
metadata: {name: signed}
spec:
  requirements:
    signatures: [{name: release, identities: [{issuer: %[1]q, subject: release@example.com}]}]
---
apiVersion: assay/v1
kind: Repository
metadata: {name: open}
spec: {pattern: "**", mode: open, anonymousPull: true}
`

// told waits for an event of a kind that holds all of some words.
func (k *kube) told(kind string, words ...string) {
	k.Helper()
	var last string
	defer func() {
		if k.Failed() {
			k.Log(last, run(k.T, k.s.environ(), k.s.program(), "cluster", "status").stdout, k.s.log)
		}
	}()
	k.await(kind+" "+strings.Join(words, " "), func() bool {
		var list struct{ Items []json.RawMessage }
		last = k.s.assay("audit", "query", "--kind", kind, "--limit", "1000", "-o", "json")
		if err := json.Unmarshal([]byte(last), &list); err != nil {
			k.Fatal(err)
		}
		for _, it := range list.Items {
			var line bytes.Buffer
			if err := json.Compact(&line, it); err != nil {
				k.Fatal(err)
			}
			found := true
			for _, w := range words {
				found = found && strings.Contains(line.String(), w)
			}
			if found {
				return true
			}
		}
		return false
	})
}

// TestClusters: one site knows what runs in two real control planes: one that it
// follows by a kubeconfig, and one whose agent dials out as the manifest of "assay
// cluster add" has it. Each kind of drift is seen there; what ran once is known; and
// the API server takes the manifests as they are written.
func TestClusters(t *testing.T) {
	if m := kubetest.Missing(); len(m) > 0 {
		t.Fatalf("not on PATH: %v (tools/install.sh kubernetes)", m)
	}
	plane := func() *kubetest.Cluster {
		c, err := kubetest.Start(t.Context(), kubetest.Options{Dir: shortTemp(t), Nodes: 2})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Stop() })
		return c
	}
	north, south := plane(), plane()
	dir := shortTemp(t)
	door := freeAddress(t)
	s := &site{t: t, data: filepath.Join(dir, "data"), config: filepath.Join(dir, "assay.yaml")}
	if err := os.WriteFile(s.config, []byte(fmt.Sprintf(`apiVersion: assay/v1
kind: Config
data: %s
server: {listen: "127.0.0.1:0"}
admission: {listen: %q, cluster: north, environment: production}
inventory: {clusters: [{name: north, kubeconfig: %q, environment: production}]}
`, s.data, door, north.Kubeconfig)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start("")
	s.apply(fmt.Sprintf(clusterDocs, s.Services.OIDC))
	n := &kube{T: t, s: s, c: north, door: door, home: s.home("push@example.com")}
	far := &kube{T: t, s: s, c: south, door: door, home: n.home}
	for _, k := range []*kube{n, far} {
		k.kubectl("", "create", "namespace", "shop")
	}
	// Nothing guards them: a first look says so.
	n.told("cluster.guard_changed", `"north"`, `"missing"`)
	far.dialsOut()
	n.told("cluster.guard_changed", `"south"`, `"missing"`)

	ref := n.image("shop/web:v1", release)
	unsigned := n.image("shop/unsigned:v1", "")
	unsigned += "@" + n.digest(unsigned) // the nodes here say what runs of what is pinned alone
	digest := n.digest(ref)
	pin := ref + "@" + digest
	for _, k := range []*kube{n, far} {
		k.kubectl(pod("web", pin, "", ""), "apply", "-f", "-")
	}
	n.await("it runs in both", func() bool {
		text := s.assay("inventory", "workloads", "--digest", digest, "-o", "json")
		return strings.Contains(text, `"north"`) && strings.Contains(text, `"south"`)
	})
	if text := s.assay("cluster", "list"); !strings.Contains(text, "heard  north") || !strings.Contains(text, "heard  south") {
		t.Errorf("clusters:\n%s", text)
	}
	past := time.Now().UTC()

	// No webhook stands there, so that anything comes to run: what is denied, what
	// nobody decided about, and something else than what was pinned.
	for _, k := range []*kube{n, far} {
		name := map[*kube]string{n: `"north"`, far: `"south"`}[k]
		k.kubectl(pod("unsigned", unsigned, "", ""), "apply", "-f", "-")
		k.told("workload.denied", name, `"unsigned"`, `"cause":"denied"`, "signatures/release")
		k.kubectl(pod("foreign", "registry.invalid/x/y@sha256:"+strings.Repeat("a", 64), "", ""), "apply", "-f", "-")
		k.told("workload.denied", name, `"foreign"`, `"cause":"undecided"`)
		k.kubectl(pod("swapped", pin, "", ""), "apply", "-f", "-")
		k.kubectl("", "wait", "-n", "shop", "--for", "condition=Ready", "--timeout", "30s", "pod/swapped")
		k.kubectl("", "patch", "pod", "-n", "shop", "swapped", "--subresource", "status", "--type", "merge", "-p",
			fmt.Sprintf(`{"status":{"containerStatuses":[{"name":"app","image":%q,"imageID":%q,"ready":true,"restartCount":0,"state":{"running":{}}}]}}`, pin, ref+"@"+k.digest(unsigned)))
		k.told("workload.drifted", name, `"swapped"`, `"cause":"digest"`)
		// Another one begins to run what is known to be denied.
		k.kubectl(pod("unsigned-too", unsigned, "", ""), "apply", "-f", "-")
		k.told("workload.denied", name, `"unsigned-too"`)
	}
	began := time.Now()
	s.assay("revoke", "--digest", digest, "--since", "always", "--reason", "a backdoor", "--yes")
	n.told("workload.denied", `"north"`, `"web"`, `"cause":"revoked"`, "a backdoor", `"since"`)
	n.told("workload.denied", `"south"`, `"web"`, `"cause":"revoked"`)
	t.Logf("a revocation reached both clusters after %s", time.Since(began).Round(10*time.Millisecond))
	s.assayRefused(1, []string{"revoked: ", "undecided: ", "denied: ", "digest: "}, "cluster", "status", "--cluster", "south")

	// What ran then, when it has ended.
	for _, k := range []*kube{n, far} {
		k.kubectl("", "delete", "pod", "-n", "shop", "--all", "--grace-period", "0", "--force")
	}
	n.await("nothing runs", func() bool {
		return !strings.Contains(s.assay("inventory", "workloads", "--namespace", "shop", "-o", "json"), `"instance"`)
	})
	var then client.List[client.Workload]
	if err := json.Unmarshal([]byte(s.assay("inventory", "workloads", "--namespace", "shop", "--at", past.Format(time.RFC3339Nano), "-o", "json")), &then); err != nil {
		t.Fatal(err)
	}
	if len(then.Items) != 2 || then.Items[0].Name != "web" || then.Items[0].Node == "" || then.Items[0].Ended == nil || string(then.Items[0].Digest) != digest {
		t.Errorf("what ran at %s: %+v", past, then.Items)
	}

	// The webhook is put there, changed behind its back, and deleted.
	n.kubectl(s.assay("admission", "manifests", "--url", "https://"+door), "apply", "-f", "-")
	n.told("cluster.guard_changed", `"north"`, `"back"`)
	n.kubectl("", "patch", "validatingwebhookconfiguration", "assay", "--type", "json", "-p", `[{"op":"replace","path":"/webhooks/0/failurePolicy","value":"Ignore"}]`)
	n.told("cluster.guard_changed", `"north"`, `"changed"`)
	n.kubectl("", "delete", "validatingwebhookconfiguration", "assay")
	n.await("the webhook is missed", func() bool {
		return strings.Count(s.assay("audit", "query", "--kind", "cluster.guard_changed", "--limit", "1000", "-o", "json"), `"missing"`) > 2
	})
	far.hostAgents()
}

// dialsOut runs the agent that "assay cluster add" has in its manifest, with the
// rights and the arguments that are written there and a token of its own.
func (k *kube) dialsOut() {
	k.Helper()
	k.kubectl(k.s.assay("cluster", "add", "south", "--image", k.s.Services.Registry+"/assay/assay:v1", "--url", "https://assay.example", "--environment", "staging"), "apply", "-f", "-")
	k.kubectl("", "rollout", "status", "-n", "assay-agent", "deployment/assay-agent", "--timeout", "60s")
	var args []string
	if err := json.Unmarshal([]byte(k.kubectl("", "get", "-n", "assay-agent", "deployment", "assay-agent", "-o", "jsonpath={.spec.template.spec.containers[0].args}")), &args); err != nil {
		k.Fatal(err)
	}
	for i, a := range args {
		if a == "https://assay.example" {
			args[i] = strings.TrimSuffix(k.s.PublicURL, "/")
		}
	}
	tokens := k.TempDir()
	token := k.s.assay("robot", "create", "agent-south", "--allow", "deployer=clusters/south", "--audience", "assay-api", "--expires", "1d")
	if err := os.WriteFile(filepath.Join(tokens, "assay-api"), []byte(token), 0o600); err != nil {
		k.Fatal(err)
	}
	agent := exec.Command(k.s.program(), append(args, "--kubeconfig", k.asServiceAccount("assay-agent", "assay-agent"))...)
	agent.Env, agent.Stderr = cleanEnv("ASSAY_TOKEN_DIR="+tokens, "HOME="+k.TempDir()), os.Stderr
	agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := agent.Start(); err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() { _ = agent.Process.Kill(); _ = agent.Wait() })
}

// asServiceAccount is a kubeconfig of a service account.
func (k *kube) asServiceAccount(namespace, name string) string {
	k.Helper()
	token := strings.TrimSpace(k.kubectl("", "create", "token", "-n", namespace, name, "--duration", "1h"))
	b, err := os.ReadFile(k.c.Kubeconfig)
	if err != nil {
		k.Fatal(err)
	}
	path := filepath.Join(k.TempDir(), "agent.kubeconfig")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		k.Fatal(err)
	}
	k.kubectl("", "--kubeconfig", path, "config", "set-credentials", "agent", "--token", token)
	k.kubectl("", "--kubeconfig", path, "config", "set-context", "--current", "--user", "agent")
	return path
}

// hostAgents: the DaemonSet is taken as it is written, for every runtime, and has a
// Pod on each node that the API server's own Pod Security lets in.
func (k *kube) hostAgents() {
	k.Helper()
	for _, runtime := range []string{"docker", "crio", "k3s", "containerd"} {
		k.kubectl(k.s.assay("agent", "manifest", "--cluster", "south", "--image", k.s.Services.Registry+"/assay/assay:v1", "--url", "https://assay.example", "--runtime", runtime, "--metrics-port", "9102"), "apply", "-f", "-")
	}
	k.kubectl("", "label", "nodes", "--all", "kubernetes.io/os=linux") // as every kubelet does
	k.await("an agent on each node", func() bool {
		return strings.TrimSpace(k.kubectl("", "get", "daemonset", "-n", "assay-agent", "assay-host-agent", "-o", "jsonpath={.status.currentNumberScheduled}/{.status.numberReady}")) == "2/2"
	})
	got := k.kubectl("", "get", "pod", "-n", "assay-agent", "-l", "app.kubernetes.io/name=assay-host-agent", "-o", "jsonpath={range .items[*]}{.spec.hostPID} {.spec.containers[0].securityContext.privileged} {.spec.containers[0].securityContext.capabilities.add}{\"\\n\"}{end}")
	if want := strings.Repeat("true false [\"SYS_ADMIN\",\"SYS_PTRACE\",\"DAC_READ_SEARCH\"]\n", 2); got != want {
		k.Errorf("agents:\n%s", got)
	}
}
