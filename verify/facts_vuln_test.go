package verify

import (
	"context"
	"testing"

	"assay/attestation"
	"assay/evidence"
	"assay/policy"
	"assay/vuln/finding"
)

// A score that is over a bound of two figures is over it in the facts, too.
func TestThreat_Vuln_ScoreRoundedBelowItsBound(t *testing.T) {
	for p, want := range map[float64]float64{0: 0, -1: 0, 0.5: 0.5, 0.5004: 0.51, 0.004: 0.004, 0.00412: 0.0042, 0.001: 0.001, 0.07: 0.07, 0.29: 0.29, 0.994: 1, 1: 1, 0.00001: 0.00001} {
		if got := twoFigures(p); got != want {
			t.Errorf("%v: %v, want %v", p, got, want)
		}
	}
}

// flawsOf gives flaws by the documents that it is asked about.
type flawsOf struct {
	flawSource
	by map[string]*knownFlaws // by attestation
}

func (f flawsOf) FlawsBy(_ context.Context, _ policy.Subject, attestations []string) (*Flaws, error) {
	out := &Flaws{State: finding.State{KEV: true, EPSS: true}}
	for _, id := range attestations {
		k := f.by[id]
		out.State.SBOM, out.State.Scanned, out.Documents = true, true, append(out.Documents, id)
		out.Findings = append(out.Findings, k.Findings...)
	}
	return out, nil
}

// Where the policy names whose bills of materials count, what a stranger attests about
// an artifact neither allows it nor denies it.
func TestThreat_Vuln_StrangersDocument(t *testing.T) {
	w := newWorld(t)
	bom := func(who string, version int) Item {
		return w.attest(who, statement(t, content, attestation.PredicateCycloneDX, map[string]any{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": version}))
	}
	mine, strangers := bom(alice, 1), bom("bob@example.org", 2)
	clean, flawed := &knownFlaws{}, leftPad()
	const named = policyHead + "  requirements:\n    vulnerabilities: {deny: [high], identities: [{issuer: \"https://issuer.example\", subject: alice@example.org}]}\n"
	const anybody = policyHead + "  requirements:\n    vulnerabilities: {deny: [high]}\n"
	for name, tt := range map[string]struct {
		policy string
		items  Items
		by     map[string]*knownFlaws
		want   policy.Verdict
	}{
		"a stranger's flaws":         {named, Items{mine, strangers}, map[string]*knownFlaws{evidence.ID(mine.Bundle): clean, evidence.ID(strangers.Bundle): flawed}, policy.Allow},
		"flaws by who is named":      {named, Items{mine, strangers}, map[string]*knownFlaws{evidence.ID(mine.Bundle): flawed, evidence.ID(strangers.Bundle): clean}, policy.Deny},
		"a stranger's alone":         {named, Items{strangers}, map[string]*knownFlaws{evidence.ID(strangers.Bundle): clean}, policy.Deny},
		"anybody's, where all count": {anybody, Items{mine, strangers}, nil, policy.Deny},
	} {
		g := &gathering{target: target(content), verifier: w.verifier(), builders: &builders{}, policy: parse(t, tt.policy), flaws: flawsOf{flawSource{leftPad()}, tt.by}}
		if err := g.gather(t.Context(), tt.items, policy.Scope{ID: "default"}, false, w.now()); err != nil {
			t.Fatal(err)
		}
		res, err := g.policy.Evaluate(t.Context(), g.facts, w.now())
		if err != nil {
			t.Fatal(err)
		}
		if res.Verdict != tt.want || (g.facts.Vulnerabilities.SBOMsBy != "") != (tt.policy == named) {
			t.Errorf("%s: %s, want %s: %+v", name, res.Verdict, tt.want, res.Checks)
		}
	}
}
