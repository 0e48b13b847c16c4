package server

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/admission"
	"assay/artifact"
	"assay/client"
	"assay/config"
	"assay/gate"
	"assay/identity"
	"assay/policy"
	"assay/verify"
)

// api is a client of somebody else than the administrator.
func (s *testSite) api(subject string) *client.Client {
	return &client.Client{Base: s.public, HTTP: http.DefaultClient, Token: func(context.Context) (string, error) { return s.token(subject, identity.AudienceAPI), nil }}
}

// TestThreat_Admission_ClaimedPlaceOpensNoNode: who asks a pipeline's question says
// himself for which cluster, namespace and environment. What is decided for a place
// that somebody only claims opens neither a node's door, online or by a bundle, nor
// is it a place that pushes are decided for ahead.
func TestThreat_Admission_ClaimedPlaceOpensNoNode(t *testing.T) {
	s := newSite(t, true, func(c *config.Config) {
		c.Admission = config.Admission{Listen: "127.0.0.1:0", Cluster: "c1", Environment: "prod"}
	})
	s.apply(s.policyDoc("me@example.com")+`---
apiVersion: assay/v1
kind: Policy
metadata: {name: play}
spec:
  mode: audit
  scope: {environments: [dev]}
  requirements: {signatures: [{name: who, identities: [{issuerRegexp: ".*", subject: nobody@example.com}]}]}
---
`+s.grantDoc("mallory", "mallory@example.com", "publisher", "shop/**"), false)
	_, unsigned := s.image("shop/unsigned", "v1", "layer two")
	ref := s.host() + "/shop/unsigned@" + string(unsigned)
	node := client.NodeQuestion{Reference: ref, Cluster: "c1", Namespace: "kube-system", Environment: "prod", Node: "n1"}
	refused := func(what string, q client.NodeQuestion) {
		t.Helper()
		var r admission.Reply
		if err := s.admin.JudgeNode(t.Context(), q, &r); err != nil {
			t.Fatal(err)
		}
		if a, err := r.Result(); err != nil || !a.Refuses() {
			t.Errorf("%s: %+v, %v", what, a, err)
		}
	}
	refused("before", node)
	mallory := s.api("mallory@example.com")
	for _, namespace := range []string{"", "shop", "kube-system", "made-up"} {
		got, err := mallory.Check(t.Context(), client.CheckQuestion{Images: []string{ref}, Cluster: "c1", Namespace: namespace, Environment: "dev"})
		if err != nil || got.Verdict != gate.Allow {
			t.Fatalf("a lenient place is asked about: %+v, %v", got, err)
		}
	}
	refused("after a pipeline asked for a lenient place", node)
	bundle := openBundle(t, s, &admissionSite{s: s.Server}, 0)
	r, err := admission.Normalize(ref)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := bundle.JudgeNode(r, s.clock()); err == nil && !a.Refuses() {
		t.Errorf("by the bundle: %+v", a)
	}
	spots, err := s.spots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range spots.For("shop/unsigned") {
		if at.Namespace != "kube-system" {
			t.Errorf("decided ahead for %+v", at)
		}
	}
	// A node that lies of its environment is taken at the site's word.
	node.Environment = "dev"
	refused("a node that says it is of dev", node)
}

// TestThreat_Tenancy_CanaryOfOthers: who may ask about his own images learns nothing
// of another team's service by naming it: neither its budget, nor what it has, nor
// what runs in its namespaces.
func TestThreat_Tenancy_CanaryOfOthers(t *testing.T) {
	s := newSite(t, false, nil)
	canarySiteOf(s, s.grantDoc("me", "me@example.com", "admin", "**")+s.grantDoc("shop", "shop@example.com", "publisher", "shop/**")+s.grantDoc("mallory", "mallory@example.com", "publisher", "mallory/**"))
	_, mine := s.image("mallory/app", "v1", "layer of mallory")
	s.describe(mine, "mallory/app", "left-pad@1.0.0")
	await(t, func() bool {
		_, st, err := s.vulnerabilities.OfSubject(t.Context(), mine, "mallory/app")
		return err == nil && st.Scanned
	})
	mallory := s.api("mallory@example.com")
	got, err := mallory.Canary(t.Context(), client.CanaryQuestion{Images: []string{s.host() + "/mallory/app:v1"}, Service: "checkout", Environment: "prod", Share: "50"})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range got.Reasons {
		if r.Check == gate.CheckBudget && r.Verdict == gate.Proceed || strings.Contains(r.Text, "beside what") || strings.Contains(r.Text, "objective") {
			t.Errorf("told of another's service: %+v", r)
		}
	}
	if got.Verdict == gate.Proceed {
		t.Errorf("by another's service: %+v", got)
	}
	// Who may publish the shop's images is told of the shop's service, and nothing less.
	own, err := s.api("shop@example.com").Canary(t.Context(), client.CanaryQuestion{Images: []string{s.host() + "/shop/app:v2"}, Service: "checkout", Environment: "prod"})
	if err != nil || says(own, gate.CheckBudget) != gate.Proceed || own.Instances != 1 {
		t.Errorf("the team's own: %+v, %v", own, err)
	}
	// What runs in a place of others, and what does not, has the same answer.
	words := map[string]bool{}
	for _, workload := range []string{"app", "nothing-there"} {
		_, err := mallory.Canary(t.Context(), client.CanaryQuestion{Service: "checkout", Namespace: "shop", Workload: workload})
		if err == nil {
			t.Fatalf("%s: answered", workload)
		}
		text, _, _ := strings.Cut(strings.ReplaceAll(err.Error(), workload, "W"), " under trace ")
		words[text] = true
	}
	if len(words) != 1 {
		t.Errorf("it shows which workloads there are: %v", words)
	}
}

// TestThreat_Action_ClaimedPlaceHoldsNoBundle: who may only ask questions cannot have
// a stricter policy wait for a person, by asking about what runs everywhere for places
// where nothing runs.
func TestThreat_Action_ClaimedPlaceHoldsNoBundle(t *testing.T) {
	dir := t.TempDir()
	s := newSite(t, true, func(c *config.Config) {
		c.Admission = config.Admission{Listen: "127.0.0.1:0", Cluster: "c1", Environment: "prod"}
		c.Trust.Policies.Unsigned = true
	})
	follow := func(version int64, docs string) {
		t.Helper()
		for name, text := range map[string]string{
			"release.yaml": strings.TrimSuffix(docs, "---\n"),
			".manifest":    fmt.Sprintf(`{"rego_version": 1, "roots": [""], "metadata": {"assay": {"name": "site", "version": %d}}}`, version),
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s.followBundle(t.Context(), config.PolicyBundle{Name: "site", From: dir, Unsigned: true})
		all, err := s.admin.PolicyBundles(t.Context())
		if err != nil || len(all.Items) != 1 || all.Items[0].Version != version {
			t.Fatalf("version %d is not in force: %+v, %v", version, all, err)
		}
	}
	follow(1, s.policyDoc("me@example.com"))
	r := s.reviewer()
	manifest, base := s.image("shop/base", "v1", "base")
	s.signImage("shop/base", manifest)
	image := s.host() + "/shop/base@" + string(base)
	await(t, func() bool { return r.ask(admission.PathValidate, "shop", image).Allowed })
	s.runs(s.host()+"/shop/base:v1", base, 12, 1)

	asks := s.api("mallory@example.com")
	if got, err := asks.Check(t.Context(), client.CheckQuestion{Images: []string{image}, Cluster: "c1", Namespace: "shop", Environment: "play"}); err != nil || got.Verdict != gate.Allow {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, scope := range []string{"", "gate", "claimed", "admission"} {
		var report verify.Report
		if err := asks.Verify(t.Context(), client.VerifyRequest{Reference: image, Scope: scope, Environment: "play"}, &report); err != nil || report.Verdict != policy.Allow {
			t.Fatalf("scope %q: %+v, %v", scope, report, err)
		}
	}
	follow(2, s.policyDoc("me@example.com")+strings.Replace(strings.Replace(s.policyDoc("other@example.com"), "name: signed", "name: play", 1), "spec:\n", "spec:\n  scope: {environments: [play]}\n", 1))
	if e := s.waits(); e != nil {
		t.Errorf("%+v", e)
	}
}

// TestThreat_Action_LongNameEscapesNothing: who names a malicious package at length is
// under quarantine like any other, and waits like any other.
func TestThreat_Action_LongNameEscapesNothing(t *testing.T) {
	s := newSite(t, true, nil)
	_, few := s.image("shop/few", "v1", "few")
	_, many := s.image("shop/many", "v1", "many")
	s.runs(s.host()+"/shop/few:v1", few, 1, 1)
	s.runs(s.host()+"/shop/many:v1", many, 12, 1)
	reason := "malicious package pkg:npm/evil@1.0.0?x=" + strings.Repeat("y", artifact.MaxPURL) + " (MAL-1)"
	if held, err := s.quarantine(t.Context(), few, "system:vuln", reason); err != nil || held != "" {
		t.Errorf("%q %v", held, err)
	}
	held, err := s.quarantine(t.Context(), many, "system:vuln", reason)
	if err != nil || held == "" {
		t.Fatalf("%q %v", held, err)
	}
	if again, err := s.quarantine(t.Context(), many, "system:vuln", reason); err != nil || again != held {
		t.Errorf("asked twice: %q %v", again, err)
	}
	for d, want := range map[artifact.Digest]string{few: "quarantined", many: "held"} {
		if why, err := s.admission.images.Blocked(t.Context(), d); err != nil || !strings.Contains(why, want) {
			t.Errorf("want %s: %q, %v", want, why, err)
		}
	}
}
