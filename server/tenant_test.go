package server

import (
	"fmt"
	"strings"
	"testing"

	"assay/admission"
	"assay/artifact"
	"assay/client"
	"assay/config"
)

// tenantDocs are a policy that counts everybody's signatures, and two tenants.
func (s *testSite) tenantDocs() string {
	house := fmt.Sprintf("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: house}\nspec:\n  requirements:\n    tenant: listed\n    signatures:\n      - name: who\n        identities: [{issuer: %q, subjectRegexp: \"ci@[a-z]+\\\\.example\"}]\n", s.issuer.URL())
	for _, t := range []string{"payments", "shop"} {
		house += fmt.Sprintf("---\napiVersion: assay/v1\nkind: Policy\nmetadata: {name: tenant-%[1]s}\nspec:\n  scope: {namespaces: [%[1]s]}\n  tenant:\n    name: %[1]s\n    repositories: [\"%[1]s/**\"]\n    identities: [{issuer: %[2]q, subject: ci@%[1]s.example}]\n", t, s.issuer.URL())
	}
	return house
}

func (s *testSite) signedImage(repository, layer string, as ...string) string {
	s.t.Helper()
	manifest, d := s.image(repository, "v1", layer)
	for _, who := range as {
		if _, err := s.admin.Ingest(s.t.Context(), s.sign(who, manifest), repository); err != nil {
			s.t.Fatal(err)
		}
	}
	return s.host() + "/" + repository + "@" + string(d)
}

// TestThreat_Tenancy_AdmissionByTenant asks over TLS, as an API server does: what
// is one tenant's runs in its namespaces and in no other's, by repository and by
// signer; the namespace is the API server's word, whatever the Pod's labels say.
func TestThreat_Tenancy_AdmissionByTenant(t *testing.T) {
	s := newSite(t, true, func(c *config.Config) {
		c.Admission = config.Admission{Listen: "127.0.0.1:0", Cluster: "c1"}
	})
	s.apply(s.tenantDocs(), false)
	r := s.reviewer()
	payments := s.signedImage("payments/app", "of payments", "ci@payments.example")
	shop := s.signedImage("shop/app", "of shop", "ci@shop.example")
	// A copy has the signatures of what it is a copy of: they go with the digest.
	stolen := s.signedImage("shop/stolen", "of payments")
	if stolen[strings.Index(stolen, "@"):] != payments[strings.Index(payments, "@"):] {
		t.Fatal("the copy is another image")
	}
	vouched := s.signedImage("shop/vouched", "of both", "ci@payments.example", "ci@shop.example")
	for _, c := range []struct{ image, namespace, want string }{
		{payments, "payments", ""},
		{shop, "shop", ""},
		{vouched, "shop", ""},
		{payments, "shop", "tenant-shop/tenant/repository"},
		{shop, "payments", "tenant-payments/tenant/repository"},
		{stolen, "shop", "tenant-shop/tenant/signer"},
		{vouched, "payments", "tenant-payments/tenant/repository"},
		{payments, "elsewhere", "tenant"}, // no list holds there, and the house wants one
	} {
		a := r.ask(admission.PathMutate, c.namespace, c.image)
		if a.Allowed != (c.want == "") || a.Status != nil && !strings.Contains(a.Status.Message, c.want) {
			t.Errorf("%s in %s: %v %+v, want %q", c.image, c.namespace, a.Allowed, a.Status, c.want)
		}
	}
	// What a Pod says of itself moves it into no other tenant.
	forged := fmt.Sprintf(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","operation":"CREATE","namespace":"shop","kind":{"group":"","version":"v1","kind":"Pod"},"resource":{"group":"","version":"v1","resource":"pods"},"userInfo":{"username":"alice"},"object":{"metadata":{"name":"p","namespace":"payments","labels":{"kubernetes.io/metadata.name":"payments","tenant":"payments","team":"payments"},"annotations":{"assay.dev/tenant":"payments"}},"spec":{"containers":[{"name":"c","image":%q}]}}}}`, payments)
	if a := r.post(admission.PathMutate, forged); a.Allowed || !strings.Contains(a.Status.Message, "tenant-shop") {
		t.Errorf("forged: %+v", a.Status)
	}
	// The list changes, and what was decided by the old one counts no more.
	s.apply(strings.Replace(s.tenantDocs(), `["shop/**"]`, `["shop/**", "payments/app"]`, 1), false)
	if a := r.ask(admission.PathMutate, "shop", payments); a.Allowed || !strings.Contains(a.Status.Message, "tenant-shop/tenant/signer") {
		t.Errorf("%+v", a.Status)
	}
	manifest, _ := s.image("payments/app", "v1", "of payments")
	if _, err := s.admin.Ingest(t.Context(), s.sign("ci@shop.example", manifest), "payments/app"); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return r.ask(admission.PathMutate, "shop", payments).Allowed })
	// Taken away, it denies again.
	s.apply(s.tenantDocs(), false)
	if a := r.ask(admission.PathMutate, "shop", payments); a.Allowed {
		t.Error("allowed by a list that was replaced")
	}
	// At the gate and by API no tenant is asked for.
	var out struct {
		Verdict string `json:"verdict"`
	}
	if err := s.admin.Verify(t.Context(), client.VerifyRequest{Digest: artifact.Digest(shop[strings.Index(shop, "@")+1:]), Repository: "shop/app"}, &out); err != nil || out.Verdict != "allow" {
		t.Errorf("%+v %v", out, err)
	}
}
