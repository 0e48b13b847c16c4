package server

import (
	"strings"
	"testing"
	"time"

	"assay/admission"
	"assay/artifact"
	"assay/client"
	"assay/config"
	"assay/verify/replay"
)

// TestAdmissionFollowsRollout asks over TLS, as an API server does: a rule that is
// rolled out warns, refuses in one namespace first, and then everywhere; the rule
// beside it refuses all the time, and nothing softens a revocation.
func TestAdmissionFollowsRollout(t *testing.T) {
	s := newSite(t, true, func(c *config.Config) {
		c.Admission = config.Admission{Listen: "127.0.0.1:0", Cluster: "c1"}
	})
	s.apply(strings.ReplaceAll(s.policyDoc("me@example.com"), "spec:\n  requirements:\n    signatures:\n",
		"spec:\n  rollout: [{rules: [signatures/tested], stages: [{mode: warn}]}]\n  requirements:\n    signatures:\n      - name: tested\n        identities: [{issuer: "+s.issuer.URL()+", subject: tester@example.com}]\n"), false)
	r, ctx := s.reviewer(), t.Context()
	signed := s.signedImage("shop/app", "one", "me@example.com")
	unsigned := s.signedImage("shop/other", "two")

	a := r.ask(admission.PathValidate, "dev", signed)
	if !a.Allowed || !strings.Contains(strings.Join(a.Warnings, " "), "signatures/tested") {
		t.Fatalf("the rule that is rolled out: allowed %v, warnings %q, %+v", a.Allowed, a.Warnings, a.Status)
	}
	if a := r.ask(admission.PathMutate, "dev", unsigned); a.Allowed || !strings.Contains(a.Status.Message, "signatures/who") || strings.Index(a.Status.Message, "signatures/who") > strings.Index(a.Status.Message+"signatures/tested", "signatures/tested") {
		t.Fatalf("the rule beside it: %+v", a)
	}
	enforce := func(accept ...string) (out struct {
		Changed bool
		Why     string
		Replay  replay.Comparison
	}) {
		t.Helper()
		q := client.PolicyModeRequest{Mode: "enforce", Rules: []string{"signatures/tested"}, Scope: map[string][]string{"namespaces": {"prod"}}, Reason: "tests are there", Accept: accept}
		if err := s.admin.PolicyMode(ctx, "signed", q, &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	// In prod it ran with the warning: that it would be refused must be accepted.
	if a := r.ask(admission.PathMutate, "prod", signed); !a.Allowed {
		t.Fatalf("%+v", a)
	}
	if out := enforce(); out.Changed || !strings.Contains(out.Why, "signatures/tested") {
		t.Fatalf("changed without a word about what would be refused: %+v", out)
	}
	if out := enforce("signed: signatures/tested"); !out.Changed {
		t.Fatalf("%+v", out)
	}
	await(t, func() bool { return !r.ask(admission.PathMutate, "prod", signed).Allowed })
	if a := r.ask(admission.PathValidate, "dev", signed); !a.Allowed || len(a.Warnings) == 0 {
		t.Fatalf("in dev: %+v", a)
	}
	d := signed[strings.Index(signed, "sha256:"):]
	if _, err := s.admin.Revoke(ctx, client.RevokeRequest{Entries: []client.Revocation{{Kind: "artifact", Digest: artifact.Digest(d), InvalidSince: time.Unix(0, 0), Reason: "backdoor"}}}); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return !r.ask(admission.PathMutate, "dev", signed).Allowed })
}
