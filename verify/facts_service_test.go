package verify

import (
	"context"
	"testing"
	"time"

	"assay/attestation"
	"assay/evidence"
	"assay/policy"
	"assay/vuln/finding"
)

type serviceSource struct {
	s      Service
	within time.Duration
}

func (f serviceSource) Service(context.Context, policy.Subject) (*Service, time.Duration, error) {
	s := f.s
	return &s, f.within, nil
}

// TestThreat_Tier_OnlyTheGateLetsPass: what is not matched yet passes at the gate
// alone, of a tier that is matched in the background, for a time, and only where the
// bill of materials that is on its way is evidence that verified.
func TestThreat_Tier_OnlyTheGateLetsPass(t *testing.T) {
	w := newWorld(t)
	bom := w.attest(alice, statement(t, content, attestation.PredicateCycloneDX, map[string]any{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}))
	id := evidence.ID(bom.Bundle)
	const text = policyHead + "  requirements:\n    vulnerabilities: {deny: [high]}\n"
	for name, tt := range map[string]struct {
		scope   policy.Scope
		items   Items
		waiting []string
		within  time.Duration
		ago     time.Duration
		read    bool
		want    policy.Verdict
		scan    string
	}{
		"at the gate":                         {policy.Scope{ID: "gate@team-a/app"}, Items{bom}, []string{id}, time.Hour, time.Minute, false, policy.Allow, "pending"},
		"of an environment":                   {policy.Scope{ID: "gate/prod@team-a/app", Environment: "prod"}, Items{bom}, []string{id}, time.Hour, time.Minute, false, policy.Allow, "pending"},
		"read, and not looked up":             {policy.Scope{ID: "gate@team-a/app"}, Items{bom}, nil, time.Hour, time.Minute, true, policy.Allow, "pending"},
		"of a tier that is waited for":        {policy.Scope{ID: "gate@team-a/app"}, Items{bom}, []string{id}, 0, time.Minute, false, policy.Deny, "pending"},
		"too late":                            {policy.Scope{ID: "gate@team-a/app"}, Items{bom}, []string{id}, time.Hour, time.Hour, false, policy.Deny, "pending"},
		"for a cluster":                       {policy.Scope{ID: "gate@team-a/app", Cluster: "c"}, Items{bom}, []string{id}, time.Hour, time.Minute, false, policy.Deny, "pending"},
		"asked by a person":                   {policy.Scope{ID: "default"}, Items{bom}, []string{id}, time.Hour, time.Minute, false, policy.Deny, "pending"},
		"a scope that is called alike":        {policy.Scope{ID: "gateway@team-a/app"}, Items{bom}, []string{id}, time.Hour, time.Minute, false, policy.Deny, "pending"},
		"what waits is no evidence":           {policy.Scope{ID: "gate@team-a/app"}, nil, []string{id}, time.Hour, time.Minute, false, policy.Deny, "no_sbom"},
		"nothing waits, and nothing is there": {policy.Scope{ID: "gate@team-a/app"}, Items{bom}, nil, time.Hour, 0, false, policy.Deny, "no_sbom"},
	} {
		known := &knownFlaws{Flaws: Flaws{State: finding.State{SBOM: tt.read, KEV: true, EPSS: true}}}
		src := serviceSource{Service{Fact: policy.ServiceFact{Tier: 3, TierSource: "catalogue", Exposure: "internal", Match: "background"}, Waiting: tt.waiting}, tt.within}
		if tt.ago > 0 {
			src.s.Since = w.now().Add(-tt.ago)
		}
		g := &gathering{target: target(content), verifier: w.verifier(), builders: &builders{}, policy: parse(t, text), flaws: flawSource{known}, services: src}
		if err := g.gather(t.Context(), tt.items, tt.scope, false, w.now()); err != nil {
			t.Fatal(err)
		}
		b, err := canonical(g.facts)
		if err != nil {
			t.Fatal(err)
		}
		f, err := policy.ParseFacts(b)
		if err != nil {
			t.Fatal(err)
		}
		res, err := g.policy.Evaluate(t.Context(), f, w.now())
		if err != nil {
			t.Fatal(err)
		}
		if res.Verdict != tt.want || f.Vulnerabilities.Scan != tt.scan || f.Service.Names == nil {
			t.Errorf("%s: %s, scan %s, %+v", name, res.Verdict, f.Vulnerabilities.Scan, f.Service)
		}
		if tt.want == policy.Allow && !earliest(g.expires, res.ValidUntil).Equal(w.now().Add(tt.within-tt.ago).Truncate(time.Second)) {
			t.Errorf("%s: ends %s", name, res.ValidUntil)
		}
	}
	// Who does not look at flaws or services asks nobody.
	g := &gathering{target: target(content), verifier: w.verifier(), builders: &builders{}, policy: parse(t, policyHead+"  requirements:\n    contract: complete\n"), services: serviceSource{}}
	if err := g.gather(t.Context(), Items{}, policy.Scope{ID: "x"}, false, w.now()); err != nil || g.facts.Service != nil {
		t.Errorf("%+v %v", g.facts.Service, err)
	}
}
