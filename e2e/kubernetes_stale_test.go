//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"assay/internal/kubetest"
)

// TestKubernetesStale: a real control plane while nothing is known of vulnerabilities
// any more: what runs starts again when its nodes are drained, with warnings; what is
// new, and what was revoked, does not.
func TestKubernetesStale(t *testing.T) {
	if m := kubetest.Missing(); len(m) > 0 {
		t.Fatalf("not on PATH: %v (tools/install.sh kubernetes)", m)
	}
	door := freeAddress(t)
	k := &kube{T: t, at: freeAddress(t), door: door}
	k.s = &site{t: t, data: filepath.Join(shortTemp(t), "data"), env: []string{"ASSAY_ADMISSION_LISTEN=" + door, "ASSAY_ADMISSION_CLUSTER=e2e", "ASSAY_ADMISSION_ENVIRONMENT=production"}}
	k.s.start(k.at)
	k.home = k.s.home("push@example.com")
	k.flawPolicy()
	c, err := kubetest.Start(t.Context(), kubetest.Options{Dir: shortTemp(t), Nodes: 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop() })
	k.c = c
	k.kubectl(k.s.assay("admission", "manifests", "--url", "https://"+door), "apply", "-f", "-")
	k.kubectl("", "create", "namespace", "shop")
	defer k.watch()()

	testKnownExploited(k)
	k.drainedWhileStale()
	k.backstop()
}

// flawPolicy has everything signed, with a bill of materials, and without what is
// critical or known to be exploited.
func (k *kube) flawPolicy() {
	k.Helper()
	dir := k.TempDir()
	path := func(name, content string) string {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			k.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			k.Fatal(err)
		}
		return file
	}
	record := path("advisories/GHSA-1.json", `{"id":"GHSA-1","modified":"2024-01-01T00:00:00Z","aliases":["CVE-2024-1"],"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
		"affected":[{"package":{"ecosystem":"npm","name":"left-pad"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"1.1.0"}]}]}]}`)
	k.s.assay("feed", "import", "--name", "internal", "--ecosystem", "npm", filepath.Dir(record))
	k.s.assay("feed", "import", path("kev.json", `{"catalogVersion":"2026.01.01","dateReleased":"2026-01-01T00:00:00Z","count":1,"vulnerabilities":[{"cveID":"CVE-2024-1","vendorProject":"a","product":"b","vulnerabilityName":"c","dateAdded":"2026-01-01","shortDescription":"d","requiredAction":"e","dueDate":"2026-02-01"}]}`))
	k.s.assay("apply", "-f", path("site.yaml", fmt.Sprintf(`apiVersion: assay/v1
kind: Policy
metadata: {name: flaws}
spec:
  requirements:
    signatures: [{name: release, identities: [{issuer: %q, subject: %q}]}]
    vulnerabilities: {deny: [critical, kev], accept: [sbom-incomplete]}
---
apiVersion: assay/v1
kind: Repository
metadata: {name: open}
spec: {pattern: "**", mode: open, anonymousPull: true}
---
apiVersion: assay/v1
kind: Grant
metadata: {name: agent}
spec: {issuer: %q, subject: agent@example.com, role: deployer, scope: clusters/e2e}
`, k.s.Services.OIDC, release, k.s.Services.OIDC)))
}

// listed is a signed image with a bill of materials that names left-pad in a version.
func (k *kube) listed(name, version string) string {
	k.Helper()
	ref, bom := k.image(name, release), filepath.Join(k.TempDir(), "bom.json")
	if err := os.WriteFile(bom, []byte(fmt.Sprintf(`{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"components":[{"type":"library","name":"left-pad","version":%q,"purl":"pkg:npm/left-pad@%s"}]}`, version, version)), 0o600); err != nil {
		k.Fatal(err)
	}
	k.s.assay("attest", "--subject", release, "--type", "cyclonedx", "--predicate", bom, ref)
	return ref
}

// watch has an agent tell what runs, until stop.
func (k *kube) watch() (stop func()) {
	agent := exec.Command(k.s.program(), "cluster", "watch", "--cluster", "e2e", "--environment", "production", "--kubeconfig", k.c.Kubeconfig, "--subject", "agent@example.com")
	agent.Env, agent.Stderr = k.s.environ(), &lockedBuffer{}
	agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := agent.Start(); err != nil {
		k.Fatal(err)
	}
	return func() { _ = agent.Process.Kill(); _ = agent.Wait() }
}

// testKnownExploited: a critical vulnerability that is known to be exploited is
// refused by its name, with the version that mends it.
func testKnownExploited(k *kube) {
	ref := k.listed("shop/exploited:v1", "1.0.0")
	k.await("it is scanned", func() bool {
		_, errs, err := k.c.Kubectl(k.Context(), pod("exploited", ref, "", ""), "apply", "-f", "-")
		return err != nil && strings.Contains(errs, "CVE-2024-1")
	})
	k.Logf("a developer reads: %s", k.denied([]string{"shop/exploited", "namespace shop", "vulnerabilities", "CVE-2024-1", "left-pad", "1.1.0"}, pod("exploited", ref, "", ""), "apply", "-f", "-"))
}

// drainedWhileStale: 200 Pods of two images that were allowed, and some of one that
// is revoked meanwhile.
func (k *kube) drainedWhileStale() {
	revoked := k.listed("shop/revoked:v1", "1.1.0")
	images := map[string]string{"one": k.listed("shop/one:v1", "1.1.0"), "two": k.listed("shop/two:v1", "1.2.0"), "revoked": revoked}
	late := k.listed("shop/late:v1", "1.3.0")
	digests := map[string]string{}
	for name, ref := range images {
		digests[name] = k.digest(ref)
		k.await(name+" is allowed", func() bool {
			_, _, err := k.c.Kubectl(k.Context(), pod("first-"+name, ref, "", ""), "apply", "--dry-run=server", "-f", "-")
			return err == nil
		})
	}
	for name, replicas := range map[string]string{"one": "100", "two": "100", "revoked": "5"} {
		k.kubectl("", "create", "deployment", "-n", "shop", name, "--image", images[name], "--replicas", replicas)
	}
	for name := range images {
		k.kubectl("", "rollout", "status", "-n", "shop", "deployment/"+name, "--timeout", "120s")
	}
	k.Logf("205 Pods run")
	known := func(name string) int {
		return strings.Count(k.s.assay("inventory", "workloads", "--digest", digests[name], "--limit", "1000", "-o", "json"), `"instance"`)
	}
	k.await("all of them are known to run", func() bool { return known("one") == 100 && known("two") == 100 && known("revoked") == 5 })

	// From here on every feed and list is older than it may be.
	k.s.kill()
	k.s.env = append(k.s.env, "ASSAY_VULN_MAX_AGE=1s")
	k.s.start(k.at)
	k.s.assay("revoke", "--digest", digests["revoked"], "--since", "always", "--reason", "a backdoor", "--yes")
	k.await("what is new is refused", func() bool {
		_, errs, err := k.c.Kubectl(k.Context(), pod("late", late, "", ""), "apply", "--dry-run=server", "-f", "-")
		return err != nil && strings.Contains(errs, "vulnerabilities/known")
	})
	old := map[string]bool{}
	for _, uid := range strings.Fields(k.get("pods", "{.items[*].metadata.uid}")) {
		old[uid] = true
	}
	warned, began := k.events("admission.warned"), time.Now()
	nodes := strings.Fields(k.kubectl("", "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"))
	if len(nodes) != 20 {
		k.Fatalf("nodes: %v", nodes)
	}
	for _, half := range [][]string{nodes[:10], nodes[10:]} { // of the cluster at a time
		k.kubectl("", append([]string{"cordon"}, half...)...)
		var wg sync.WaitGroup
		for _, node := range half { // one kubectl asks no more than 5 times a second
			wg.Go(func() {
				out, errs, err := k.c.Kubectl(k.Context(), "", "drain", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--disable-eviction", "--timeout", "120s", node)
				if err != nil {
					k.Errorf("drain %s: %v\n%s%s", node, err, out, errs)
				}
			})
		}
		wg.Wait()
		k.kubectl("", append([]string{"uncordon"}, half...)...)
		k.Logf("half of the nodes drained after %s", time.Since(began).Round(10*time.Millisecond))
	}
	for _, name := range []string{"one", "two"} {
		if _, errs, err := k.c.Kubectl(k.Context(), "", "rollout", "status", "-n", "shop", "deployment/"+name, "--timeout", "60s"); err != nil {
			k.Errorf("%s did not come back: %v %s\n%s", name, err, errs, k.kubectl("", "get", "events", "-n", "shop", "--field-selector", "type=Warning", "-o", `jsonpath={range .items[*]}{.count} {.involvedObject.name} {.reason} {.message}{"\n"}{end}`))
		}
	}
	again, bad := 0, 0
	for _, line := range strings.Split(k.get("pods", `{range .items[*]}{.metadata.uid} {.metadata.labels.app} {.status.phase}{"\n"}{end}`), "\n") {
		f := strings.Fields(line)
		switch {
		case len(f) == 3 && f[1] == "revoked":
			bad++
		case len(f) == 3 && !old[f[0]] && (f[1] == "one" || f[1] == "two") && f[2] == "Running":
			again++
		}
	}
	if again != 200 || bad != 0 {
		k.Errorf("after the drain %d of 200 Pods run again, and %d of the revoked image", again, bad)
	}
	k.await("each is told of", func() bool { return k.events("admission.warned")-warned >= 200 })
	if reason := k.s.assay("audit", "query", "--kind", "admission.warned", "--limit", "1", "-o", "json"); !strings.Contains(reason, `"restart"`) || !strings.Contains(reason, "vulnerabilities/known") {
		k.Errorf("a restart is told of by: %s", reason)
	}
	k.denied([]string{"a backdoor"}, pod("revoked", revoked, "", ""), "apply", "-f", "-")
	// Who starts one by hand reads the warning.
	out := k.kubectl(pod("by-hand", images["one"], "", ""), "apply", "-f", "-")
	if !strings.Contains(out, "Warning: assay: runs here already") {
		k.Errorf("no warning: %s", out)
	}
	k.Logf("200 Pods drained and rescheduled in %s with all feeds stale, %d warnings", time.Since(began).Round(10*time.Millisecond), k.events("admission.warned")-warned)
}

// backstop: with the webhooks gone and Assay down, the policy that is the API
// server's own lets digests alone run.
func (k *kube) backstop() {
	pin := k.s.Services.Registry + "/shop/one@" + k.digest(k.s.Services.Registry+"/shop/one:v1")
	k.kubectl("", "delete", "validatingwebhookconfigurations,mutatingwebhookconfigurations", "--all")
	k.s.kill()
	_, errs, err := k.c.Kubectl(k.Context(), pod("tagged", "docker.io/library/nginx:1.27", "", ""), "apply", "-f", "-")
	if err == nil || !strings.Contains(errs, "digest") {
		k.Errorf("a tag, without the webhooks: %v %s", err, errs)
	}
	k.kubectl(pod("pinned", pin, "", ""), "apply", "-f", "-")
}
