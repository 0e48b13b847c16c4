//go:build e2e

package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"assay/internal/kubetest"
)

// TestRBACAudit: who could open the door, read from the RBAC of a real control
// plane with all that Kubernetes itself puts there.
func TestRBACAudit(t *testing.T) {
	if m := kubetest.Missing(); len(m) > 0 {
		t.Fatalf("not on PATH: %v (tools/install.sh kubernetes)", m)
	}
	c, err := kubetest.Start(t.Context(), kubetest.Options{Dir: shortTemp(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop() })
	s := &site{t: t, data: filepath.Join(shortTemp(t), "data"), env: []string{"ASSAY_ADMISSION_LISTEN=127.0.0.1:0"}}
	s.start(freeAddress(t))
	k := &kube{T: t, s: s, c: c}
	for _, ns := range []string{"assay-system", "shop", "gitops"} {
		k.kubectl("", "create", "namespace", ns)
	}
	k.kubectl(s.assay("admission", "manifests", "--url", "https://127.0.0.1:1", "--namespace", "assay-system", "--audit", "--no-pin"), "apply", "-f", "-")
	s.apply(`apiVersion: assay/v1
kind: Grant
metadata: {name: approves}
spec: {issuer: "` + s.Services.OIDC + `", subject: head@example.com, role: approver, scope: "**"}
`)
	audit := []string{"admission", "rbac-audit", "--kubeconfig", c.Kubeconfig, "--kube", "test", "--namespace", "assay-system"}
	exits := func(code int, args ...string) string {
		t.Helper()
		r := run(t, s.environ(), s.program(), append(slices.Clone(audit), args...)...)
		if r.code != code {
			t.Errorf("%v: exit %d, want %d\n%s%s", args, r.code, code, r.stdout, r.stderr)
		}
		return r.stdout
	}

	// A cluster as Kubernetes makes it, and Assay's own service account, which
	// only reads: what has powers is Kubernetes itself, and who may grant
	// exceptions at Assay's server.
	allowed := filepath.Join(k.TempDir(), "allowed.yaml")
	out := exits(1, "--write", allowed)
	for _, w := range []string{"Group system:masters", "(Kubernetes' own)", "ClusterRoleBinding cluster-admin -> ClusterRole cluster-admin", "subject head@example.com", "Grant approves -> role approver"} {
		if !strings.Contains(out, w) {
			t.Errorf("no %q in\n%s", w, out)
		}
	}
	for _, l := range strings.Split(out, "\n") {
		if !strings.Contains(l, "Kubernetes' own") && !strings.HasPrefix(l, "Grant ") && !strings.HasPrefix(l, "WHO") && !strings.Contains(l, "are not expected") && l != "" {
			t.Errorf("in a fresh cluster: %s", l)
		}
	}
	out = exits(0, "--expect", allowed)
	if !strings.Contains(out, "\n0 of ") {
		t.Errorf("with the list that was written:\n%s", out)
	}

	// Somebody beyond it: directly, by a ClusterRole that aggregates, and by whose
	// Pods he may run.
	k.kubectl(`apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: extra, labels: {rbac.authorization.k8s.io/aggregate-to-edit: "true"}}
rules: [{apiGroups: [admissionregistration.k8s.io], resources: [validatingwebhookconfigurations], verbs: [patch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: editors}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}
subjects: [{kind: ServiceAccount, namespace: gitops, name: sync}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: devs, namespace: gitops}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}
subjects: [{kind: User, name: ann}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: devs, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}
subjects: [{kind: User, name: bob}]
`, "apply", "-f", "-")
	out = exits(1, "--expect", allowed)
	for _, w := range []string{
		"ServiceAccount gitops/sync", "ClusterRoleBinding editors -> ClusterRole edit, by its part extra -> patch validatingwebhookconfigurations",
		"User ann", "RoleBinding gitops/devs -> ClusterRole edit", "acts as gitops/sync",
	} {
		if !strings.Contains(out, w) {
			t.Errorf("no %q in\n%s", w, out)
		}
	}
	if strings.Contains(out, "User bob") {
		t.Errorf("bob may nothing of it:\n%s", out)
	}
	// What is said of whom is true: the API server agrees.
	for who, want := range map[string]string{"system:serviceaccount:gitops:sync": "yes", "ann": "no", "bob": "no"} {
		got, _, _ := c.Kubectl(t.Context(), "", "auth", "can-i", "patch", "validatingwebhookconfigurations", "--as", who)
		if strings.TrimSpace(got) != want {
			t.Errorf("can-i %s: %q, want %s", who, got, want)
		}
	}
}
