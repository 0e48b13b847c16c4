//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/internal/kubetest"
)

// TestKubernetesTenants: a real control plane of two tenants, each of which runs its
// own images alone; and a feed that calls half of what runs malicious, which takes
// nothing down before a person answers and lets nothing new in.
func TestKubernetesTenants(t *testing.T) {
	if m := kubetest.Missing(); len(m) > 0 {
		t.Fatalf("not on PATH: %v (tools/install.sh kubernetes)", m)
	}
	door := freeAddress(t)
	k := &kube{T: t, at: freeAddress(t), door: door}
	k.s = &site{t: t, data: filepath.Join(shortTemp(t), "data"), env: []string{"ASSAY_ADMISSION_LISTEN=" + door, "ASSAY_ADMISSION_CLUSTER=e2e", "ASSAY_ADMISSION_ENVIRONMENT=production", "ASSAY_ACTION_LEAST=3"}}
	k.s.start(k.at)
	k.home = k.s.home("push@example.com")
	k.tenants()
	c, err := kubetest.Start(t.Context(), kubetest.Options{Dir: shortTemp(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop() })
	k.c = c
	k.kubectl(k.s.assay("admission", "manifests", "--url", "https://"+door), "apply", "-f", "-")
	for _, ns := range []string{"shop", "payments", "elsewhere"} {
		k.kubectl("", "create", "namespace", ns)
	}
	t.Run("Threat_Tenancy_EachRunsItsOwn", func(t *testing.T) { one := *k; one.T = t; testTenants(&one) })
	t.Run("Threat_Action_HeldQuarantine", func(t *testing.T) { one := *k; one.T = t; testHeldQuarantine(&one) })
}

const (
	ofShop     = "ci@shop.example"
	ofPayments = "ci@payments.example"
)

// tenants: everybody's signature counts for the house, and in each tenant's
// namespaces its own alone.
func (k *kube) tenants() {
	k.Helper()
	issuer := k.s.Services.OIDC
	doc := fmt.Sprintf(`apiVersion: assay/v1
kind: Policy
metadata: {name: house}
spec:
  requirements:
    tenant: listed
    signatures: [{name: house, identities: [{issuer: %q, subjectRegexp: "ci@[a-z]+\\.example"}]}]
---
apiVersion: assay/v1
kind: Repository
metadata: {name: open}
spec: {pattern: "**", mode: open, anonymousPull: true}
`, issuer)
	for _, tenant := range []string{"shop", "payments"} {
		doc += fmt.Sprintf(`---
apiVersion: assay/v1
kind: Policy
metadata: {name: tenant-%[1]s}
spec:
  scope: {namespaces: [%[1]s]}
  tenant: {name: %[1]s, repositories: ["%[1]s/**"], identities: [{issuer: %[2]q, subject: ci@%[1]s.example}]}
`, tenant, issuer)
	}
	file := filepath.Join(k.TempDir(), "site.yaml")
	if err := os.WriteFile(file, []byte(doc), 0o600); err != nil {
		k.Fatal(err)
	}
	k.s.assay("apply", "-f", file)
}

func podIn(namespace, name, image, meta string) string {
	return strings.Replace(pod(name, image, "", meta), `"namespace":"shop"`, fmt.Sprintf(`"namespace":%q`, namespace), 1)
}

func testTenants(k *kube) {
	shop, payments := k.image("shop/app:v1", ofShop), k.image("payments/app:v1", ofPayments)
	stolen := k.s.Services.Registry + "/shop/stolen:v1"
	must(k.T, k.home, "crane", "copy", payments, stolen)
	if k.digest(stolen) != k.digest(payments) {
		k.Fatal("the copy is another image")
	}
	k.kubectl(podIn("shop", "own", shop, ""), "apply", "-f", "-")
	k.kubectl(podIn("payments", "own", payments, ""), "apply", "-f", "-")
	k.denied([]string{"tenant-shop/tenant/repository"}, podIn("shop", "other", payments, ""), "apply", "-f", "-")
	k.denied([]string{"tenant-payments/tenant/repository"}, podIn("payments", "other", shop, ""), "apply", "-f", "-")
	k.denied([]string{"tenant-shop/tenant/signer", ofPayments}, podIn("shop", "stolen", stolen, ""), "apply", "-f", "-")
	k.denied([]string{"none in", "namespace elsewhere"}, podIn("elsewhere", "any", shop, ""), "apply", "-f", "-")
	// Whoever owns a namespace or a Pod can label it as another tenant's.
	k.kubectl("", "label", "namespace", "shop", "tenant=payments", "team=payments", "assay.dev/tenant=payments")
	k.denied([]string{"tenant-shop/tenant/repository"}, podIn("shop", "forged", payments, `,"labels":{"tenant":"payments","team":"payments"},"annotations":{"assay.dev/tenant":"payments"}`), "apply", "-f", "-")
	if out := k.s.assay("policy", "tenants", "--cluster", "e2e", "--namespace", "shop"); !strings.Contains(out, "shop/**") || strings.Contains(out, "payments") {
		k.Errorf("%s", out)
	}
}

// report tells the site what the cluster runs.
func (k *kube) report() int {
	k.Helper()
	var pods struct {
		Items []struct {
			Metadata struct{ Name, Namespace string }
			Status   struct {
				Phase             string
				ContainerStatuses []struct{ ImageID string }
			}
		}
	}
	if err := json.Unmarshal([]byte(k.kubectl("", "get", "pods", "-A", "-o", "json")), &pods); err != nil {
		k.Fatal(err)
	}
	var all []map[string]string
	for _, p := range pods.Items {
		if p.Status.Phase != "Running" || len(p.Status.ContainerStatuses) == 0 {
			continue
		}
		image, digest, _ := strings.Cut(p.Status.ContainerStatuses[0].ImageID, "@")
		all = append(all, map[string]string{"namespace": p.Metadata.Namespace, "name": p.Metadata.Name, "image": image, "digest": digest})
	}
	b, err := json.Marshal(all)
	if err != nil {
		k.Fatal(err)
	}
	file := filepath.Join(k.TempDir(), "running.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		k.Fatal(err)
	}
	k.s.assay("inventory", "report", "--cluster", "e2e", "--complete", file)
	return len(all)
}

func testHeldQuarantine(k *kube) {
	ref, dir := k.image("shop/common:v1", ofShop), k.TempDir()
	bom := filepath.Join(dir, "bom.json")
	if err := os.WriteFile(bom, []byte(`{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"components":[{"type":"library","name":"evil","version":"1.0.0","purl":"pkg:npm/evil@1.0.0"}]}`), 0o600); err != nil {
		k.Fatal(err)
	}
	k.s.assay("attest", "--subject", ofShop, "--type", "cyclonedx", "--predicate", bom, ref)
	for i := range 4 {
		k.kubectl(podIn("shop", fmt.Sprintf("common-%d", i), ref, ""), "apply", "-f", "-")
	}
	k.kubectl("", "wait", "-n", "shop", "--for", "condition=Ready", "--timeout", "30s", "pod", "--all")
	running := k.report()
	if running != 6 { // with the two of the test before
		k.Errorf("%d run, want 6", running)
	}
	if err := os.MkdirAll(filepath.Join(dir, "advisories"), 0o700); err != nil {
		k.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "advisories", "MAL-2026-1.json"), []byte(`{"id":"MAL-2026-1","modified":"2026-01-01T00:00:00Z","affected":[{"package":{"ecosystem":"npm","name":"evil"},"versions":["1.0.0"]}]}`), 0o600); err != nil {
		k.Fatal(err)
	}
	k.s.assay("feed", "import", "--name", "internal", "--ecosystem", "npm", filepath.Join(dir, "advisories"))
	k.await("the quarantine waits for a person", func() bool { return strings.Contains(k.s.assay("action", "list"), "4 of 6") })
	list := k.s.assay("action", "list", "-o", "json")
	if !strings.Contains(list, `"state": "held"`) || !strings.Contains(list, "MAL-2026-1") {
		k.Errorf("%s", list)
	}
	// Nothing new, in whatever way it is asked for; another image runs as before.
	k.denied([]string{"is held since", "MAL-2026-1"}, podIn("shop", "new", ref, ""), "apply", "-f", "-")
	k.denied([]string{"is held since"}, podIn("shop", "new", ref+"@"+k.digest(ref), ""), "apply", "-f", "-")
	k.kubectl(podIn("shop", "other", k.s.Services.Registry+"/shop/app:v1", ""), "apply", "-f", "-")
	// What runs goes on, and its image is served to nodes.
	if got := k.get("pods", `{.items[?(@.status.phase=="Running")].metadata.name}`); strings.Count(got, "common-") != 4 {
		k.Errorf("running: %s", got)
	}
	must(k.T, k.home, "crane", "manifest", ref)
	if n := k.events("action.held"); n == 0 {
		k.Error("it was not told")
	}
}
