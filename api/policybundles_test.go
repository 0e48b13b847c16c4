package api_test

import (
	"assay/client"
	"assay/policy/bundle"
)

// holdBundle puts a bundle of policies in force.
func (s *site) holdBundle() {
	s.t.Helper()
	b, err := bundle.FromFiles(map[string][]byte{
		bundle.ManifestFile: []byte(`{"metadata": {"assay": {"name": "held", "version": 1, "scope": {"repositories": ["held/**"]}}}}`),
		"held.rego":         []byte("package assay.policy\n\nallow if count(input.signatures) > 0\n"),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	archive, err := b.Archive()
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := s.admin.ActivatePolicyBundle(s.t.Context(), client.PolicyBundleActivate{Archive: archive, Unsigned: true})
	if err != nil || !out.Activated {
		s.t.Fatalf("%+v, %v", out, err)
	}
	s.ids["/api/v1/policy-bundles/{name}"], s.ids["/api/v1/policy-bundles/{name}/history"] = "held", "held/history"
}
