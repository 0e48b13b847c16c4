package admission

import (
	"errors"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"assay/internal/fault"
)

var testCA = []byte("-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n")

// TestManifests: what is written reads as YAML, covers what must be covered, and
// can never lock a cluster out. That an API server takes it is tested end to end.
func TestManifests(t *testing.T) {
	for name, tt := range map[string]struct {
		o     ManifestOptions
		files string
	}{
		"url":     {ManifestOptions{CA: testCA, URL: "https://10.0.0.1:8443"}, "mutating/assay.yaml validating/assay.yaml policies/assay.yaml rbac.yaml"},
		"service": {ManifestOptions{CA: testCA, Service: "assay", Namespace: "assay-system", Workloads: []string{"rollouts.argoproj.io"}}, "mutating/assay.yaml validating/assay.yaml policies/assay.yaml rbac.yaml disruption.yaml"},
		"static":  {ManifestOptions{CA: testCA, URL: "https://10.0.0.1:8443", Static: true, Never: []string{"monitoring"}}, "mutating/assay.yaml validating/assay.yaml policies/assay.yaml admission.yaml"},
		"audit":   {ManifestOptions{CA: testCA, URL: "https://10.0.0.1:8443", Audit: true}, "mutating/assay.yaml validating/assay.yaml rbac.yaml"},
		"no pin":  {ManifestOptions{CA: testCA, URL: "https://10.0.0.1:8443", NoPin: true}, "validating/assay.yaml rbac.yaml"},
	} {
		all, err := Manifests(tt.o)
		if err != nil {
			t.Fatal(name, err)
		}
		var files []string
		for _, m := range all {
			files = append(files, m.Name)
			dec := yaml.NewDecoder(strings.NewReader(string(m.YAML)))
			for {
				var doc struct {
					Kind     string
					Metadata struct{ Name string }
					Webhooks []struct {
						Name          string
						FailurePolicy string `yaml:"failurePolicy"`
						Selector      struct {
							Expressions []struct {
								Operator string
								Values   []string
							} `yaml:"matchExpressions"`
						} `yaml:"namespaceSelector"`
					}
				}
				if dec.Decode(&doc) != nil {
					break
				}
				if doc.Kind == "" {
					t.Errorf("%s: %s: a document without a kind", name, m.Name)
				}
				if tt.o.Static && m.Name != "admission.yaml" && !strings.HasSuffix(doc.Metadata.Name, ".static.k8s.io") {
					t.Errorf("%s: %s", name, doc.Metadata.Name)
				}
				for _, w := range doc.Webhooks {
					e := w.Selector.Expressions[0]
					if w.FailurePolicy == "Fail" && (tt.o.Audit || e.Operator != "NotIn" || e.Values[0] != "kube-system" || tt.o.Namespace != "" && e.Values[1] != tt.o.Namespace) {
						t.Errorf("%s: %s can lock the cluster out: %+v", name, w.Name, e)
					}
				}
			}
		}
		if got := strings.Join(files, " "); got != tt.files {
			t.Errorf("%s: %s, want %s", name, got, tt.files)
		}
	}
	for name, o := range map[string]ManifestOptions{
		"no authority": {URL: "https://a"}, "no address": {CA: testCA}, "two addresses": {CA: testCA, URL: "https://a", Service: "a", Namespace: "b"}, "no namespace": {CA: testCA, Service: "a"},
		"http": {CA: testCA, URL: "http://a"}, "a path": {CA: testCA, URL: "https://a/b"}, "static by service": {CA: testCA, Service: "a", Namespace: "b", Static: true},
		"YAML in a namespace": {CA: testCA, URL: "https://a", Never: []string{"a]}"}}, "YAML in a workload": {CA: testCA, URL: "https://a", Workloads: []string{"a.b\n- c"}},
	} {
		if _, err := Manifests(o); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
