//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"assay/client"
)

// meshKinds are the kinds of meshes and of SPIRE that are read, as group, version,
// plural, kind and scope.
var meshKinds = [][5]string{
	{"security.istio.io", "v1", "peerauthentications", "PeerAuthentication", "Namespaced"},
	{"policy.linkerd.io", "v1beta3", "servers", "Server", "Namespaced"},
	{"policy.linkerd.io", "v1alpha1", "authorizationpolicies", "AuthorizationPolicy", "Namespaced"},
	{"policy.linkerd.io", "v1alpha1", "meshtlsauthentications", "MeshTLSAuthentication", "Namespaced"},
	{"spire.spiffe.io", "v1alpha1", "clusterspiffeids", "ClusterSPIFFEID", "Cluster"},
}

// install makes these kinds known to the API server, without what stands behind them.
func (k *kube) install() {
	k.Helper()
	for _, d := range meshKinds {
		k.kubectl(fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[3]s.%[1]s}
spec:
  group: %[1]s
  scope: %[5]s
  names: {plural: %[3]s, singular: %[6]s, kind: %[4]s}
  versions:
  - {name: %[2]s, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
`, d[0], d[1], d[2], d[3], d[4], strings.ToLower(d[3])), "apply", "-f", "-")
		k.kubectl("", "wait", "--for", "condition=Established", "--timeout", "30s", "crd/"+d[2]+"."+d[0])
	}
}

// asAgent is a kubeconfig of the service account that "assay cluster add" makes.
func (k *kube) asAgent() string {
	k.Helper()
	k.kubectl(k.s.assay("cluster", "add", "e2e", "--image", k.s.Services.Registry+"/assay/assay:v1", "--url", "https://assay.example"), "apply", "-f", "-")
	token := strings.TrimSpace(k.kubectl("", "create", "token", "-n", "assay-agent", "assay-agent", "--duration", "1h"))
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

// identity is what the site knows of a workload of namespace mesh.
func (k *kube) identity(name string) (out client.WorkloadIdentity) {
	k.Helper()
	var list client.List[client.WorkloadIdentity]
	if err := json.Unmarshal([]byte(k.s.assay("inventory", "identities", "--cluster", "e2e", "--namespace", "mesh", "-o", "json")), &list); err != nil {
		k.Fatal(err)
	}
	for _, i := range list.Items {
		if i.Name == name {
			return i
		}
	}
	return out
}

// testMesh: what a real API server says of SPIRE, Istio and Linkerd is known, a policy
// decides by it, and what becomes weaker or another is told of.
func testMesh(k *kube) {
	k.install()
	grant := filepath.Join(k.TempDir(), "agent.yaml")
	doc := fmt.Sprintf(`apiVersion: assay/v1
kind: Grant
metadata: {name: agent}
spec: {issuer: %q, subject: agent@example.com, role: deployer, scope: clusters/e2e}
---
apiVersion: assay/v1
kind: Policy
metadata: {name: meshed}
spec:
  scope: {clusters: [e2e], namespaces: [mesh]}
  requirements:
    mesh: {mtls: strict}
`, k.s.Services.OIDC)
	if err := os.WriteFile(grant, []byte(doc), 0o600); err != nil {
		k.Fatal(err)
	}
	k.s.assay("apply", "-f", grant)
	k.kubectl("", "create", "namespace", "mesh")
	k.kubectl("", "create", "namespace", "istio-system")
	k.kubectl(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"istio","namespace":"istio-system"},"data":{"mesh":"trustDomain: e2e.example\nrootNamespace: istio-system\n"}}`, "apply", "-f", "-")
	agent := exec.Command(k.s.program(), "cluster", "watch", "--cluster", "e2e", "--environment", "production", "--kubeconfig", k.asAgent(), "--subject", "agent@example.com")
	agent.Env, agent.Stderr = k.s.environ(), os.Stderr
	agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := agent.Start(); err != nil {
		k.Fatal(err)
	}
	defer func() { _ = agent.Process.Kill(); _ = agent.Wait() }()

	ref := k.image("shop/meshed:v1", release)
	meshed := func(name, proxy string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q,"namespace":"mesh","labels":{"app":%q},"annotations":{"config.linkerd.io/default-inbound-policy":"all-authenticated","spiffe.io/spiffe-id":"spiffe://e2e.example/admin"}},"spec":{"containers":[{"name":"app","image":%q},{"name":%q,"image":%q}]}}`, name, name, ref, proxy, ref)
	}
	peer := func(mode string) {
		k.kubectl(fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: mesh}\nspec: {mtls: {mode: %s}}\n", mode), "apply", "-f", "-")
	}
	// The namespace is in no mesh: what would run there is denied, whatever a Pod says.
	k.await("the namespace is known", func() bool { return k.identity("mesh").MTLS == "none" })
	k.denied([]string{"mesh/mtls", "none"}, meshed("web", "istio-proxy"), "apply", "-f", "-")
	k.kubectl("", "label", "namespace", "mesh", "istio-injection=enabled")
	peer("STRICT")
	k.await("the namespace is strict", func() bool { return k.identity("mesh").MTLS == "strict" })
	k.await("it may run", func() bool {
		_, _, err := k.c.Kubectl(k.Context(), meshed("web", "istio-proxy"), "apply", "-f", "-")
		return err == nil
	})
	k.await("it is strict, and has Istio's identity", func() bool {
		i := k.identity("web")
		return i.MTLS == "strict" && i.Mesh == "istio" && i.Source == "istio" && strings.Join(i.SPIFFEIDs, " ") == "spiffe://e2e.example/ns/mesh/sa/default"
	})
	// Another identity, and a mesh that was weakened: events, and what runs is denied.
	k.kubectl("apiVersion: spire.spiffe.io/v1alpha1\nkind: ClusterSPIFFEID\nmetadata: {name: web}\nspec: {spiffeIDTemplate: \"spiffe://e2e.example/{{ index .PodMeta.Labels \\\"app\\\" }}\", podSelector: {matchLabels: {app: web}}, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: mesh}}}\n", "apply", "-f", "-")
	k.await("SPIRE's identity is known", func() bool { return k.events("workload.identity_changed") > 0 })
	if i := k.identity("web"); i.Source != "spire" || strings.Join(i.SPIFFEIDs, " ") != "spiffe://e2e.example/web" {
		k.Errorf("%+v", i)
	}
	began := time.Now()
	peer("PERMISSIVE")
	k.await("the weaker mesh is told of", func() bool { return k.events("mesh.weakened") > 0 })
	k.Logf("a weaker mesh was told of after %s", time.Since(began).Round(10*time.Millisecond))
	k.await("what runs is denied by it", func() bool {
		return strings.Contains(k.s.assay("audit", "query", "--kind", "workload.denied", "--limit", "1000", "-o", "json"), `"mesh"`)
	})
	// Linkerd: a Server lets in whom mutual TLS shows, then anybody of a network.
	peer("STRICT")
	authorize := func(kind string) {
		k.kubectl(fmt.Sprintf("apiVersion: policy.linkerd.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: link, namespace: mesh}\nspec: {targetRef: {group: policy.linkerd.io, kind: Server, name: link}, requiredAuthenticationRefs: [{group: policy.linkerd.io, kind: %s, name: some}]}\n", kind), "apply", "-f", "-")
	}
	k.kubectl("apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {name: link, namespace: mesh}\nspec: {port: 80, accessPolicy: deny, podSelector: {matchLabels: {app: link}}}\n", "apply", "-f", "-")
	authorize("MeshTLSAuthentication")
	k.await("it may run again", func() bool {
		_, _, err := k.c.Kubectl(k.Context(), meshed("link", "linkerd-proxy"), "apply", "-f", "-")
		return err == nil
	})
	k.await("Linkerd is strict", func() bool {
		i := k.identity("link")
		return i.MTLS == "strict" && i.Mesh == "linkerd" && i.Source == "claimed"
	})
	authorize("NetworkAuthentication")
	k.await("Linkerd is not strict", func() bool { return k.identity("link").MTLS == "permissive" })
	k.kubectl("", "delete", "namespace", "mesh", "--wait=false")
}
