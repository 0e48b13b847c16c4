package policy

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func servicePolicy(t *testing.T, spec string) *Policy {
	t.Helper()
	p, err := ParseRequirements([]byte("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  requirements:\n    " + spec + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Each word is a check of its own; where nothing is known of the service none
// holds.
func TestServiceRequirement(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	known := ServiceFact{Tier: 2, TierSource: "catalogue", Catalogue: 2, Names: []string{"checkout"}, Team: "blue", Owned: true, Env: "production", Exposure: "internal"}
	nobody := ServiceFact{Tier: 1, TierSource: "unclassified", Names: []string{}, Exposure: "internet"}
	for name, tt := range map[string]struct {
		spec  string
		facts *ServiceFact
		fails []string
	}{
		"all of it":          {"service: {classified: true, owned: true, tiers: [2, 3], environments: [production], exposures: [internal]}", &known, nil},
		"of nobody":          {"service: {classified: true, owned: true}", &nobody, []string{"service/classified", "service/owned"}},
		"another tier":       {"service: {tiers: [3]}", &known, []string{"service/tier"}},
		"of nobody, tier 1":  {"service: {tiers: [1]}", &nobody, nil},
		"of nobody, tier 3":  {"service: {tiers: [3]}", &nobody, []string{"service/tier"}},
		"another place":      {"service: {environments: [staging], exposures: [isolated]}", &known, []string{"service/environment", "service/exposure"}},
		"an unsaid place":    {"service: {environments: [production]}", &nobody, []string{"service/environment"}},
		"nothing known":      {"service: {classified: true, owned: true, tiers: [1], environments: [x], exposures: [internet]}", nil, []string{"service/classified", "service/owned", "service/tier", "service/environment", "service/exposure"}},
		"nothing known of 0": {"service: {tiers: [1]}", nil, []string{"service/tier"}},
	} {
		f := goodFacts()
		f.Service = tt.facts
		p := servicePolicy(t, tt.spec)
		r, err := p.Evaluate(t.Context(), f, now)
		if err != nil {
			t.Fatal(err)
		}
		var fails []string
		for _, c := range r.Checks {
			if c.Status == Fail {
				fails = append(fails, c.Name)
				if c.Mend == "" || c.Found == "" {
					t.Errorf("%s: %+v", name, c)
				}
			}
		}
		if !slices.Equal(fails, tt.fails) || (r.Verdict == Allow) != (len(tt.fails) == 0) {
			t.Errorf("%s: %s, %q", name, r.Verdict, fails)
		}
		if lacks := p.Lacks(f); (len(lacks) > 0) != (tt.facts == nil) {
			t.Errorf("%s lacks %q", name, lacks)
		}
	}
	for _, spec := range []string{"service: {}", "service: {tiers: [0]}", "service: {tiers: [5]}", "service: {exposures: [world]}", "service: {environments: [\"\"]}", "service: {names: [a]}"} {
		if _, err := ParseRequirements([]byte("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: p}\nspec: {requirements: {" + spec + "}}\n")); err == nil {
			t.Errorf("%s was taken", spec)
		}
	}
}

// TestThreat_Tier_PendingIsNotClean: what is not matched yet passes until when the
// facts say so, and not longer; nothing else that is unknown passes with it, and
// what is found denies at once.
func TestThreat_Tier_PendingIsNotClean(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	later := func(until string) *ServiceFact {
		return &ServiceFact{Tier: 3, TierSource: "catalogue", Names: []string{"tools"}, Exposure: "internal", Match: "background", MatchUntil: until}
	}
	for name, tt := range map[string]struct {
		service *ServiceFact
		change  func(*Vulnerabilities)
		want    Verdict
	}{
		"in time":                   {later("2026-05-01T00:30:00Z"), nil, Allow},
		"too late":                  {later("2026-05-01T00:00:00Z"), nil, Deny},
		"no time":                   {later(""), nil, Deny},
		"no word that is none":      {later("soon"), nil, Deny},
		"nothing known of services": {nil, nil, Deny},
		"no bill of materials":      {later("2026-05-01T00:30:00Z"), func(v *Vulnerabilities) { v.Scan = "no_sbom" }, Deny},
		"a feed is missing":         {later("2026-05-01T00:30:00Z"), func(v *Vulnerabilities) { v.FeedsMissing = []string{"npm"} }, Deny},
		"one was found already": {later("2026-05-01T00:30:00Z"), func(v *Vulnerabilities) {
			v.Findings = []Vulnerability{{ID: "CVE-1", State: "affected", Severity: "high"}}
		}, Deny},
	} {
		f := goodFacts()
		f.Vulnerabilities = &Vulnerabilities{Scan: "pending", SBOMs: []string{attID(9)}, KEV: true, EPSS: true, Findings: []Vulnerability{}}
		f.Service = tt.service
		if tt.change != nil {
			tt.change(f.Vulnerabilities)
		}
		r, err := servicePolicy(t, "vulnerabilities: {deny: [high]}").Evaluate(t.Context(), f, now)
		if err != nil {
			t.Fatal(err)
		}
		if r.Verdict != tt.want {
			t.Errorf("%s: %s %+v", name, r.Verdict, r.Checks)
		}
		if r.Verdict == Allow && (!r.ValidUntil.Equal(now.Add(30*time.Minute)) || !slices.ContainsFunc(r.Checks, func(c Check) bool {
			return strings.Contains(c.Found, "tier 3: matched in the background, until 2026-05-01T00:30:00Z")
		})) {
			t.Errorf("%s: until %s, %+v", name, r.ValidUntil, r.Checks)
		}
	}
}

// TestByService: a set says whether its policies select by whose an artifact is.
func TestByService(t *testing.T) {
	parse := func(scope string) *Policy {
		t.Helper()
		p, err := ParseRequirements([]byte("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n" + scope + "  requirements:\n    contract: complete\n"))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for scope, want := range map[string]bool{
		"": false, "  scope: {repositories: [a]}\n": false, "  scope: {clusters: [a]}\n": false, "  scope: {kinds: [image]}\n": false, "  scope: {namespaces: [a]}\n": false,
		"  scope: {tiers: [\"1\"]}\n": true, "  scope: {teams: [a]}\n": true, "  scope: {services: [a]}\n": true,
	} {
		s, err := NewSet(parse(scope))
		if err != nil {
			t.Fatal(err)
		}
		if s.ByService() != want {
			t.Errorf("%q: %t", scope, s.ByService())
		}
	}
	if (*Set)(nil).ByService() {
		t.Error("no set")
	}
}
