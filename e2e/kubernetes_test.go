//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"assay/client"
	"assay/internal/kubetest"
)

// kube is a real control plane whose API server asks a real site.
type kube struct {
	*testing.T
	s    *site
	c    *kubetest.Cluster
	home []string // of a publisher
	at   string   // the site's address
	door string   // the webhook's
}

const release = "release@example.com"

// TestKubernetes: what may run in a cluster and what may not, asked by a real API
// server. One cluster serves all of it, since it takes seconds to start.
func TestKubernetes(t *testing.T) {
	if m := kubetest.Missing(); len(m) > 0 {
		t.Fatalf("not on PATH: %v (tools/install.sh kubernetes)", m)
	}
	door := freeAddress(t)
	k := &kube{T: t, at: freeAddress(t), door: door}
	k.s = &site{t: t, data: filepath.Join(shortTemp(t), "data"), env: []string{"ASSAY_ADMISSION_LISTEN=" + door, "ASSAY_ADMISSION_CLUSTER=e2e", "ASSAY_ADMISSION_ENVIRONMENT=production"}}
	k.s.start(k.at)
	k.home = k.s.home("push@example.com")
	k.policies()

	static := filepath.Join(shortTemp(t), "static")
	k.s.assay("admission", "manifests", "--url", "https://"+door, "--static", "--dir", static)
	c, err := kubetest.Start(t.Context(), kubetest.Options{Dir: shortTemp(t), Manifests: static, Policies: filepath.Join(static, "policies")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop() })
	k.c = c
	t.Logf("control plane ready in %s", c.ReadyIn.Round(10*time.Millisecond))
	k.kubectl("", "create", "namespace", "shop")

	for _, sub := range []struct {
		name string
		run  func(k *kube)
	}{
		{"SignedRunsPinned", testSignedRunsPinned},
		{"Refused", testRefused},
		{"WorkloadsWarned", testWorkloadsWarned},
		{"Threat_Admission_EphemeralContainer", testEphemeral},
		{"Threat_Admission_ImageVolume", testImageVolume},
		{"Threat_Admission_SetImageOnALivePod", testSetImage},
		{"Threat_Admission_DeletionTimestamp", testDeletionTimestamp},
		{"Threat_Admission_ForgedOwnerAndAnnotation", testForged},
		{"Threat_Admission_NamespaceLabel", testNamespaceLabel},
		{"DryRun", testDryRun},
		{"Threat_Admission_SignedIndexUnsignedChild", testSignedIndex},
		{"FiftyTimes", testFiftyTimes},
		{"Threat_Admission_WebhookDeleted", testWebhookDeleted},
		{"Revoked", testRevokedInCluster},
		{"Inventory", testClusterInventory},
		{"Mesh", testMesh},
		{"Threat_Admission_BackEndDown", testBackEndDown},
	} {
		t.Run(sub.name, func(t *testing.T) {
			one := *k
			one.T = t
			one.s.t = t
			sub.run(&one)
		})
	}
	k.s.t = t
}

// policies: shop/** wants a signature, strict/** a bill of materials too.
func (k *kube) policies() {
	k.Helper()
	issuer := k.s.Services.OIDC
	doc := fmt.Sprintf(`apiVersion: assay/v1
kind: Policy
metadata: {name: signed}
spec:
  requirements:
    signatures: [{name: release, identities: [{issuer: %q, subject: %q}]}]
---
apiVersion: assay/v1
kind: Policy
metadata: {name: strict}
spec:
  scope: {repositories: ["strict/**"]}
  requirements:
    signatures: [{name: release, identities: [{issuer: %q, subject: %q}]}]
    attestations: [{name: sbom, predicateType: "https://cyclonedx.org/bom", identities: [{issuer: %q, subject: %q}]}]
---
apiVersion: assay/v1
kind: Repository
metadata: {name: open}
spec: {pattern: "**", mode: open, anonymousPull: true}
`, issuer, release, issuer, release, issuer, release)
	file := filepath.Join(k.TempDir(), "site.yaml")
	if err := os.WriteFile(file, []byte(doc), 0o600); err != nil {
		k.Fatal(err)
	}
	k.s.assay("apply", "-f", file)
}

// image pushes an image of its own content, signed by somebody unless by is "".
func (k *kube) image(name, by string) string {
	k.Helper()
	dir := k.TempDir()
	file := filepath.Join(dir, "app")
	if err := os.WriteFile(file, []byte("content of "+name), 0o600); err != nil {
		k.Fatal(err)
	}
	ref := k.s.Services.Registry + "/" + name
	k.s.assay("push", "--subject", "push@example.com", "--product", file, ref)
	if by != "" {
		k.s.assay("sign", "--subject", by, ref)
	}
	return ref
}

func (k *kube) digest(ref string) string {
	k.Helper()
	return strings.TrimSpace(must(k.T, k.home, "crane", "digest", ref))
}

func (k *kube) kubectl(stdin string, args ...string) string {
	k.Helper()
	out, errs, err := k.c.Kubectl(k.Context(), stdin, args...)
	if err != nil {
		k.Fatalf("kubectl %s: %v\n%s%s", strings.Join(args, " "), err, out, errs)
	}
	return out + errs
}

// denied wants kubectl to be refused by Assay, with these words.
func (k *kube) denied(words []string, stdin string, args ...string) string {
	k.Helper()
	out, errs, err := k.c.Kubectl(k.Context(), stdin, args...)
	if err == nil {
		k.Errorf("kubectl %s: done, want a refusal\n%s%s", strings.Join(args, " "), out, errs)
		return ""
	}
	for _, w := range append([]string{"assay"}, words...) {
		if !strings.Contains(errs, w) {
			k.Errorf("kubectl %s: no %q in\n%s", strings.Join(args, " "), w, errs)
		}
	}
	return errs
}

// pod is a Pod of one container, with more members of its specification and of
// its metadata, as JSON after a comma.
func pod(name, image, spec, meta string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q,"namespace":"shop"%s},"spec":{"containers":[{"name":"app","image":%q}]%s}}`, name, meta, image, spec)
}

func (k *kube) get(what, path string) string {
	k.Helper()
	return k.kubectl("", "get", "-n", "shop", what, "-o", "jsonpath="+path)
}

func testSignedRunsPinned(k *kube) {
	ref := k.image("shop/web:v1", release)
	k.kubectl(pod("web", ref, "", ""), "apply", "-f", "-")
	want := ref + "@" + k.digest(ref)
	if got := k.get("pod/web", "{.spec.containers[0].image}"); got != want {
		k.Errorf("image %s, want %s", got, want)
	}
	if got := k.get("pod/web", `{.spec.containers[0].env[?(@.name=="OTEL_RESOURCE_ATTRIBUTES")].value}`); !strings.Contains(got, "oci.manifest.digest=sha256%3A") || !strings.Contains(got, "artifact.attestation.id=dec_") {
		k.Errorf("telemetry %q", got)
	}
	k.kubectl("", "wait", "-n", "shop", "--for", "condition=Ready", "--timeout", "30s", "pod/web")
	if got := k.get("pod/web", "{.status.containerStatuses[0].imageID}"); got != want {
		k.Errorf("runs %s, want %s", got, want)
	}
}

func testRefused(k *kube) {
	unsigned, wrong, nosbom := k.image("shop/unsigned:v1", ""), k.image("shop/wrong:v1", "mallory@example.com"), k.image("strict/nosbom:v1", release)
	for image, words := range map[string][]string{
		unsigned:                                {"container app", "shop/unsigned:v1", "namespace shop", "signatures/release", "no signature", "to mend it: assay sign " + k.s.Services.Registry + "/shop/unsigned@sha256:"},
		wrong:                                   {"signatures/release", "mallory@example.com"},
		nosbom:                                  {"attestations/sbom"},
		"nginx:1.27":                            {"docker.io", "gateway"},
		k.s.Services.Registry + "/shop/none:v1": {"not in the registry"},
		unsigned + "@" + k.digest(unsigned):     {"signatures/release"},
	} {
		k.denied(words, pod("bad", image, "", ""), "apply", "-f", "-")
	}
	k.denied([]string{"init container init"}, pod("bad", k.image("shop/web:v1", ""), fmt.Sprintf(`,"initContainers":[{"name":"init","image":%q}]`, unsigned), ""), "apply", "-f", "-")
	// With its bill of materials it runs.
	bom := filepath.Join(k.TempDir(), "bom.json")
	if err := os.WriteFile(bom, []byte(`{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"components":[{"type":"library","name":"a","version":"1","purl":"pkg:generic/a@1"}]}`), 0o600); err != nil {
		k.Fatal(err)
	}
	k.s.assay("attest", "--subject", release, "--type", "cyclonedx", "--predicate", bom, nosbom)
	time.Sleep(1100 * time.Millisecond) // a refusal stands that long
	k.kubectl(pod("strict", nosbom, "", ""), "apply", "-f", "-")
}

func testWorkloadsWarned(k *kube) {
	unsigned := k.s.Services.Registry + "/shop/unsigned:v1"
	out := k.kubectl("", "create", "deployment", "-n", "shop", "early", "--image", unsigned)
	if !strings.Contains(out, "Warning: assay: ") || !strings.Contains(out, "signatures/release") {
		k.Errorf("no warning: %s", out)
	}
	k.await("the ReplicaSet hears of the refusal", func() bool {
		return strings.Contains(k.kubectl("", "get", "events", "-n", "shop", "-o", "jsonpath={.items[*].message}"), "may not run in namespace shop")
	})
	if got := k.get("pods", `{.items[?(@.metadata.labels.app=="early")].metadata.name}`); got != "" {
		k.Errorf("Pods of an unsigned image: %s", got)
	}
	k.kubectl("", "delete", "deployment", "-n", "shop", "early")
}

func (k *kube) await(what string, done func() bool) {
	k.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			k.Fatalf("%s: not within 30 s", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func testEphemeral(k *kube) {
	signed, unsigned := k.s.Services.Registry+"/shop/web:v1", k.s.Services.Registry+"/shop/unsigned:v1"
	k.denied([]string{"ephemeral container", "signatures/release"}, "", "debug", "-n", "shop", "web", "--image", unsigned, "-c", "bad")
	k.kubectl("", "debug", "-n", "shop", "web", "--image", signed, "-c", "good")
	if got := k.get("pod/web", "{.spec.ephemeralContainers[*].image}"); got != signed+"@"+k.digest(signed) {
		k.Errorf("ephemeral containers: %s", got)
	}
}

func testImageVolume(k *kube) {
	signed, unsigned := k.s.Services.Registry+"/shop/web:v1", k.s.Services.Registry+"/shop/unsigned:v1"
	volume := func(ref string) string {
		return fmt.Sprintf(`,"volumes":[{"name":"data","image":{"reference":%q}}]`, ref)
	}
	k.denied([]string{"image volume data", "signatures/release"}, pod("volume", signed, volume(unsigned), ""), "apply", "-f", "-")
	k.kubectl(pod("volume", signed, volume(signed), ""), "apply", "-f", "-")
	if got := k.get("pod/volume", "{.spec.volumes[0].image.reference}"); got != signed+"@"+k.digest(signed) {
		k.Errorf("volume: %s", got)
	}
}

func testSetImage(k *kube) {
	signed, unsigned := k.image("shop/web:v2", release), k.s.Services.Registry+"/shop/unsigned:v1"
	k.denied([]string{"signatures/release"}, "", "set", "image", "-n", "shop", "pod/web", "app="+unsigned)
	k.kubectl("", "set", "image", "-n", "shop", "pod/web", "app="+signed)
	want := signed + "@" + k.digest(signed)
	if got := k.get("pod/web", "{.spec.containers[0].image}"); got != want {
		k.Errorf("image %s, want %s", got, want)
	}
	k.await("the node runs the other image", func() bool { return k.get("pod/web", "{.status.containerStatuses[0].imageID}") == want })
}

func testDeletionTimestamp(k *kube) {
	signed, unsigned := k.s.Services.Registry+"/shop/web:v1", k.s.Services.Registry+"/shop/unsigned:v1"
	k.kubectl(pod("going", signed, "", `,"finalizers":["example.com/hold"]`), "apply", "-f", "-")
	k.kubectl("", "delete", "pod", "-n", "shop", "going", "--wait=false")
	k.denied([]string{"signatures/release"}, "", "set", "image", "-n", "shop", "pod/going", "app="+unsigned)
	k.kubectl("", "patch", "pod", "-n", "shop", "going", "--type", "merge", "-p", `{"metadata":{"finalizers":null}}`)
}

func testForged(k *kube) {
	unsigned := k.s.Services.Registry + "/shop/unsigned:v1"
	uid := k.get("serviceaccount/default", "{.metadata.uid}") // of something that is there
	for name, meta := range map[string]string{
		"owner":      fmt.Sprintf(`,"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"x","uid":%q,"controller":true}]`, uid),
		"annotation": `,"annotations":{"assay.dev/verified":"true","cosign.sigstore.dev/verified":"true"},"labels":{"assay.dev/break-glass":"true"}`,
	} {
		k.denied([]string{"signatures/release"}, pod("forged-"+name, unsigned, "", meta), "apply", "-f", "-")
	}
}

// The owner of a namespace cannot take it out of the webhook's reach: the label
// that selects is the API server's.
func testNamespaceLabel(k *kube) {
	unsigned := k.s.Services.Registry + "/shop/unsigned:v1"
	_, _, _ = k.c.Kubectl(k.Context(), "", "label", "namespace", "shop", "--overwrite", "kubernetes.io/metadata.name=kube-system", "assay.dev/exempt=true", "admission.assay.dev/ignore=true")
	k.denied([]string{"signatures/release"}, pod("labelled", unsigned, "", ""), "apply", "-f", "-")
	// kube-system itself is never refused, and warned of.
	out := k.kubectl(strings.ReplaceAll(pod("system", unsigned+"@"+k.digest(unsigned), "", ""), `"shop"`, `"kube-system"`), "apply", "-f", "-")
	if !strings.Contains(out, "Warning: assay: ") {
		k.Errorf("kube-system: %s", out)
	}
}

func testDryRun(k *kube) {
	before := k.events("admission.denied")
	k.denied([]string{"signatures/release"}, pod("dry", k.s.Services.Registry+"/shop/unsigned:v1", "", ""), "apply", "--dry-run=server", "-f", "-")
	time.Sleep(300 * time.Millisecond) // events are sealed within 100 ms
	if after := k.events("admission.denied"); after != before {
		k.Errorf("a dry run was recorded: %d events, then %d", before, after)
	}
}

// events counts those of a kind.
func (k *kube) events(kind string) int {
	k.Helper()
	return strings.Count(k.s.assay("audit", "query", "--kind", kind, "--limit", "1000", "-o", "json"), kind)
}

func testSignedIndex(k *kube) {
	child, lone := k.image("shop/multi:child", ""), k.image("shop/multi:lone", "")
	index := k.s.Services.Registry + "/shop/multi:v1"
	must(k.T, k.home, "crane", "index", "append", "-m", child, "-t", index)
	k.denied([]string{"signatures/release"}, pod("index", index, "", ""), "apply", "-f", "-")
	k.s.assay("sign", "--subject", release, index)
	time.Sleep(1100 * time.Millisecond) // a refusal stands that long
	k.kubectl(pod("index", index, "", ""), "apply", "-f", "-")
	if got := k.get("pod/index", "{.spec.containers[0].image}"); got != index+"@"+k.digest(index) {
		k.Errorf("image %s", got)
	}
	k.kubectl(pod("child", k.s.Services.Registry+"/shop/multi@"+k.digest(child), "", ""), "apply", "-f", "-")
	k.denied([]string{"signatures/release"}, pod("lone", k.s.Services.Registry+"/shop/multi@"+k.digest(lone), "", ""), "apply", "-f", "-")
}

var allowedInShop = regexp.MustCompile(`"scope":\s*"admission/e2e/shop/production@[^"]*",[^}]*"verdict":\s*"allow"`)

func testFiftyTimes(k *kube) {
	ref := k.image("shop/fifty:v1", release)
	digest := k.digest(ref)
	// Namespace shop is known: what is pushed is decided about before a Pod asks.
	decided := func() int {
		resp, err := client.Socket(filepath.Join(k.s.data, "run", "admin.sock")).HTTP.Get("http://admin/api/v1/events?kind=decision.made&limit=1000&digest=" + digest)
		if err != nil {
			k.Fatal(err)
		}
		defer resp.Body.Close()
		out, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			k.Fatalf("events: %s %v %s", resp.Status, err, out)
		}
		return len(allowedInShop.FindAll(out, -1))
	}
	k.await("it is decided about", func() bool { return decided() == 1 })
	began := time.Now()
	k.kubectl("", "create", "deployment", "-n", "shop", "fifty", "--image", ref, "--replicas", "50")
	k.kubectl("", "rollout", "status", "-n", "shop", "deployment/fifty", "--timeout", "60s")
	k.Logf("50 Pods run after %s", time.Since(began).Round(10*time.Millisecond))
	time.Sleep(300 * time.Millisecond) // events are sealed within 100 ms
	if n := decided(); n != 1 {
		k.Errorf("%d decisions for 50 Pods of one image, want 1", n)
	}
	want := ref + "@" + digest
	images := strings.Fields(k.kubectl("", "get", "pods", "-n", "shop", "-l", "app=fifty", "-o", "jsonpath={.items[*].spec.containers[0].image}"))
	for _, got := range images {
		if got != want {
			k.Errorf("image %s, want %s", got, want)
		}
	}
	if len(images) != 50 {
		k.Errorf("%d Pods", len(images))
	}
	k.kubectl("", "delete", "deployment", "-n", "shop", "fifty", "--wait=false")
}

// Who may write webhook configurations can delete them: the API server's own
// manifests stay.
func testWebhookDeleted(k *kube) {
	unsigned := k.s.Services.Registry + "/shop/unsigned:v1"
	text := k.s.assay("admission", "manifests", "--url", "https://127.0.0.1:1")
	text = strings.ReplaceAll(text, "failurePolicy: Fail", "failurePolicy: Ignore") // nobody listens there
	k.kubectl(text, "apply", "-f", "-")
	k.kubectl("", "delete", "validatingwebhookconfigurations,mutatingwebhookconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings", "--all")
	k.denied([]string{"signatures/release"}, pod("deleted", unsigned, "", ""), "apply", "-f", "-")
	_, errs, err := k.c.Kubectl(k.Context(), "", "delete", "validatingwebhookconfigurations", "assay.static.k8s.io")
	if err == nil {
		k.Errorf("the API server's own manifest was deleted: %s", errs)
	}
}

func testRevokedInCluster(k *kube) {
	ref := k.image("shop/leaked:v1", release)
	pin := ref + "@" + k.digest(ref)
	k.kubectl(pod("leaked", ref, "", ""), "apply", "-f", "-")
	k.s.assay("revoke", "--digest", k.digest(ref), "--since", "always", "--reason", "a backdoor", "--yes")
	began := time.Now()
	for i := 0; ; i++ {
		if _, errs, err := k.c.Kubectl(k.Context(), pod(fmt.Sprintf("leaked-%d", i), pin, "", ""), "create", "-f", "-"); err != nil {
			if !strings.Contains(errs, "a backdoor") {
				k.Errorf("refused without the reason: %s", errs)
			}
			break
		}
		if time.Since(began) > 10*time.Second {
			k.Fatal("a revoked image runs")
		}
	}
	if took := time.Since(began); took > 2*time.Second { // 1 s, and what kubectl takes on a busy machine
		k.Errorf("a revocation reached admission after %s", took)
	}
}

// testClusterInventory: an agent tells what runs; what may not run any more, what
// runs in place of something else, and a webhook that is gone are told of.
func testClusterInventory(k *kube) {
	grant := filepath.Join(k.TempDir(), "agent.yaml")
	if err := os.WriteFile(grant, []byte(fmt.Sprintf("apiVersion: assay/v1\nkind: Grant\nmetadata: {name: agent}\nspec: {issuer: %q, subject: agent@example.com, role: deployer, scope: clusters/e2e}\n", k.s.Services.OIDC)), 0o600); err != nil {
		k.Fatal(err)
	}
	k.s.assay("apply", "-f", grant)
	k.kubectl(k.s.assay("admission", "manifests", "--url", "https://"+k.door), "apply", "-f", "-")
	ref := k.image("shop/fleet:v1", release)
	digest := k.digest(ref)
	pin := ref + "@" + digest
	k.kubectl("", "create", "deployment", "-n", "shop", "fleet", "--image", ref, "--replicas", "200")
	k.kubectl("", "rollout", "status", "-n", "shop", "deployment/fleet", "--timeout", "120s")

	agent := exec.Command(k.s.program(), "cluster", "watch", "--cluster", "e2e", "--environment", "production", "--kubeconfig", k.c.Kubeconfig, "--subject", "agent@example.com")
	agent.Env, agent.Stderr = k.s.environ(), os.Stderr
	agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := agent.Start(); err != nil {
		k.Fatal(err)
	}
	defer func() { _ = agent.Process.Kill(); _ = agent.Wait() }()
	running := func() int {
		return strings.Count(k.s.assay("inventory", "workloads", "--digest", digest, "--limit", "1000", "-o", "json"), `"instance"`)
	}
	k.await("200 Pods are known to run", func() bool { return running() == 200 })

	// A node says that it runs something else.
	other := k.digest(k.s.Services.Registry + "/shop/unsigned:v1")
	k.kubectl(pod("drifting", pin, "", ""), "apply", "-f", "-")
	k.kubectl("", "wait", "-n", "shop", "--for", "condition=Ready", "--timeout", "30s", "pod/drifting")
	k.kubectl("", "patch", "pod", "-n", "shop", "drifting", "--subresource", "status", "--type", "merge", "-p",
		fmt.Sprintf(`{"status":{"containerStatuses":[{"name":"app","image":%q,"imageID":%q,"ready":true,"restartCount":0,"state":{"running":{}}}]}}`, pin, ref+"@"+other))
	k.await("the drift is told of", func() bool { return k.events("workload.drifted") > 0 })

	before := k.events("workload.denied")
	began := time.Now()
	k.s.assay("revoke", "--digest", digest, "--since", "always", "--reason", "a backdoor in the fleet", "--yes")
	k.await("what runs is told of", func() bool { return k.events("workload.denied") > before })
	if took := time.Since(began); took > 5*time.Second {
		k.Errorf("a revocation reached what runs after %s", took)
	} else {
		k.Logf("a revocation reached 200 Pods after %s", took.Round(10*time.Millisecond))
	}
	k.s.assayRefused(1, []string{"a backdoor in the fleet", "drifted"}, "cluster", "status", "--cluster", "e2e")

	// The nodes are drained: what is revoked does not come back.
	k.kubectl("", "delete", "pod", "-n", "shop", "-l", "app=fleet", "--wait=false")
	k.await("no Pod of the revoked image runs", func() bool { return running() == 0 })
	k.kubectl("", "delete", "deployment", "-n", "shop", "fleet", "--wait=false")

	k.kubectl("", "delete", "validatingwebhookconfiguration", "assay")
	k.await("the webhook is missed", func() bool { return k.events("cluster.guard_changed") > 0 })
}

func testBackEndDown(k *kube) {
	signed := k.s.Services.Registry + "/shop/web:v1"
	pin := signed + "@" + k.digest(signed)
	k.s.kill()
	began := time.Now()
	k.denied([]string{"failed calling webhook"}, pod("down", pin, "", ""), "apply", "-f", "-")
	if took := time.Since(began); took > 8*time.Second {
		k.Errorf("refused after %s", took)
	}
	// What a cluster is repaired from is not held up, and what runs can be changed
	// and deleted.
	k.kubectl(strings.ReplaceAll(pod("repair", pin, "", ""), `"shop"`, `"kube-system"`), "apply", "-f", "-")
	k.kubectl("", "delete", "pod", "-n", "shop", "web", "--wait=false")
	k.s.start(k.at)
	k.await("Pods run again", func() bool {
		_, _, err := k.c.Kubectl(k.Context(), pod("up", pin, "", ""), "apply", "-f", "-")
		return err == nil
	})
}
