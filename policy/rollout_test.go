package policy

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/internal/fault"

	"github.com/google/go-cmp/cmp"
)

const (
	rolloutHead = "apiVersion: assay/v1\nkind: Policy\nmetadata: {name: release}\nspec:\n"
	rolloutBody = "  requirements:\n    signatures:\n    - {name: who, identities: [{issuer: https://issuer.example, subject: me@example.com}]}\n    - {name: also, identities: [{issuer: https://issuer.example, subject: you@example.com}]}\n"
)

func unsigned(repository string) *Facts {
	return &Facts{Schema: FactsSchema, Subject: Subject{Digest: artifact.SHA256Of([]byte("x")), Kind: Image, Repository: repository}, Scope: Scope{ID: "a", Environment: "prod"}}
}

func TestRollout(t *testing.T) {
	now := time.Date(2026, 6, 15, 0, 0, 0, 0, time.UTC)
	signed := func(f *Facts) {
		f.Signatures = []Signature{{Evidence{ID: "att_1", Identity: &Identity{Issuer: "https://issuer.example", Subject: "me@example.com"}}}}
	}
	for _, c := range []struct {
		name, spec string
		facts      func(*Facts)
		at         time.Time
		verdict    Verdict
		mode       Mode
		until      time.Time
		marked     string // checks with a mode of their own
	}{
		{name: "none", verdict: Deny, mode: Enforce},
		{name: "all in audit", spec: "rollout: [{rules: ['*'], stages: [{mode: audit}]}]", verdict: Deny, mode: Audit},
		{name: "one in audit", spec: "rollout: [{rules: [signatures/who], stages: [{mode: audit}]}]", verdict: Deny, mode: Enforce, marked: "signatures/who audit"},
		{name: "by the policy's name", spec: "rollout: [{rules: [release/signatures/who], stages: [{mode: audit}]}]", verdict: Deny, mode: Enforce},
		{name: "the other holds", spec: "rollout: [{rules: [signatures/also], stages: [{mode: warn}]}]", facts: signed, verdict: Deny, mode: Warn},
		{name: "all below", spec: "rollout: [{rules: [signatures/*], stages: [{mode: warn}]}]", verdict: Deny, mode: Warn},
		{name: "the first counts", spec: "rollout: [{rules: [signatures/who], stages: [{mode: audit}]}, {rules: ['*'], stages: [{mode: warn}]}]", verdict: Deny, mode: Warn, marked: "signatures/who audit"},
		{name: "stricter than its policy", spec: "mode: audit\n  rollout: [{rules: [signatures/who], stages: [{mode: enforce}]}]", verdict: Deny, mode: Enforce, marked: "signatures/also audit"},
		{name: "elsewhere", spec: "rollout: [{rules: ['*'], scope: {environments: [dev]}, stages: [{mode: audit}]}]", verdict: Deny, mode: Enforce},
		{name: "here", spec: "rollout: [{rules: ['*'], scope: {environments: [prod]}, stages: [{mode: audit}]}]", verdict: Deny, mode: Audit},
		{name: "before its time", spec: "rollout: [{rules: ['*'], stages: [{mode: audit}, {mode: warn, from: 2026-06-16}, {mode: enforce, from: 2026-06-17T12:00:00Z}]}]", verdict: Deny, mode: Audit, until: now.Add(24 * time.Hour)},
		{name: "at its time", spec: "rollout: [{rules: ['*'], stages: [{mode: audit}, {mode: warn, from: 2026-06-15}, {mode: enforce, from: 2026-06-17T12:00:00Z}]}]", verdict: Deny, mode: Warn, until: now.Add(60 * time.Hour)},
		{name: "at the end", spec: "rollout: [{rules: ['*'], stages: [{mode: audit}, {mode: warn, from: 2026-06-15}, {mode: enforce, from: 2026-06-17T12:00:00Z}]}]", at: now.Add(60 * time.Hour), verdict: Deny, mode: Enforce},
		{name: "stale trust counts with the strictest", spec: "mode: audit\n  rollout: [{rules: [signatures/who], stages: [{mode: enforce}]}]", facts: func(f *Facts) { signed(f); f.Trust.Stale = true }, verdict: Deny, mode: Enforce, marked: "signatures/also audit"},
		{name: "a revocation is not rolled out", spec: "rollout: [{rules: ['*'], stages: [{mode: audit}]}]", facts: func(f *Facts) { f.Trust.Revoked = &Revoked{Since: "2026-01-01T00:00:00Z"} }, verdict: Deny, mode: Enforce, marked: "signatures/who audit, signatures/also audit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := mustParse(t, rolloutHead+"  "+c.spec+"\n"+rolloutBody)
			f := unsigned("team/app")
			if c.facts != nil {
				c.facts(f)
			}
			if c.at.IsZero() {
				c.at = now
			}
			res, err := p.Evaluate(t.Context(), f, c.at)
			if err != nil {
				t.Fatal(err)
			}
			var marked []string
			for _, k := range res.Checks {
				if k.Mode != "" {
					marked = append(marked, k.Name+" "+string(k.Mode))
				}
			}
			if res.Verdict != c.verdict || res.Mode != c.mode || !res.ValidUntil.Equal(c.until) || strings.Join(marked, ", ") != c.marked {
				t.Errorf("%s in mode %s until %s, marked %v; want %s in %s until %s, %q", res.Verdict, res.Mode, res.ValidUntil, marked, c.verdict, c.mode, c.until, c.marked)
			}
			if then, err := p.At(c.at).Evaluate(t.Context(), f, now); err != nil || then.Mode != c.mode {
				t.Errorf("seen from now: mode %s, %v", then.Mode, err)
			}
		})
	}
}

// A malicious package is denied as hard as the policy says, whatever is rolled out.
func TestThreat_Policy_RolloutExcusesNoMalice(t *testing.T) {
	p := mustParse(t, rolloutHead+"  rollout: [{rules: ['*'], stages: [{mode: audit}]}]\n"+rolloutBody)
	ev := &evaluation{facts: unsigned("team/app"), checks: []Check{{Name: "vulnerabilities/malicious", Status: Fail, grave: unexcusable}}, spans: []span{{p.units[0], 0, 1}}}
	if m := ev.modes(p, 0); m != Enforce {
		t.Errorf("mode %s", m)
	}
}

// Equally specific policies keep their modes: one that is new and only looks does
// not refuse, and takes nothing from the other.
func TestRolloutOfCombinedPolicies(t *testing.T) {
	first := mustParse(t, "apiVersion: assay/v1\nkind: Policy\nmetadata: {name: first}\nspec:\n  requirements: {signatures: [{identities: [{issuer: https://issuer.example, subject: me@example.com}]}]}\n")
	second := mustParse(t, "apiVersion: assay/v1\nkind: Policy\nmetadata: {name: second}\nspec:\n  mode: audit\n  requirements: {signatures: [{identities: [{issuer: https://issuer.example, subject: you@example.com}]}]}\n")
	both := Combine(second, first)
	f := unsigned("team/app")
	res, err := both.Evaluate(t.Context(), f, time.Unix(0, 0))
	if err != nil || res.Verdict != Deny || res.Mode != Enforce {
		t.Fatalf("%s in %s, %v", res.Verdict, res.Mode, err)
	}
	f.Signatures = []Signature{{Evidence{ID: "att_1", Identity: &Identity{Issuer: "https://issuer.example", Subject: "me@example.com"}}}}
	res, err = both.Evaluate(t.Context(), f, time.Unix(0, 0))
	if err != nil || res.Verdict != Deny || res.Mode != Audit {
		t.Fatalf("%s in %s, %v", res.Verdict, res.Mode, err)
	}
	f.Trust.Stale = true
	if res, err = both.Evaluate(t.Context(), f, time.Unix(0, 0)); err != nil || res.Mode != Enforce {
		t.Fatalf("stale: %s in %s, %v", res.Verdict, res.Mode, err)
	}
	if got := Failed(res.Checks); got[0].Name != "trust/fresh" || got[len(got)-1].Mode != Audit {
		t.Errorf("what refuses comes first: %+v", got)
	}
}

// A rule that only warns does not refuse for whom a tenant counts.
func TestRolloutOfTenants(t *testing.T) {
	p := mustParse(t, rolloutHead+"  rollout: [{rules: [signatures/also], stages: [{mode: audit}]}]\n"+rolloutBody)
	list := mustParse(t, "apiVersion: assay/v1\nkind: Policy\nmetadata: {name: list}\nspec:\n  scope: {namespaces: [prod]}\n  tenant: {name: me, repositories: ['**'], identities: [{issuer: https://issuer.example, subject: me@example.com}]}\n")
	f := unsigned("team/app")
	f.Scope.Namespace = "prod"
	for _, who := range []string{"me@example.com", "you@example.com"} {
		f.Signatures = append(f.Signatures, Signature{Evidence{ID: "att_" + who, Identity: &Identity{Issuer: "https://issuer.example", Subject: who}}})
	}
	res, err := Combine(p, list).Evaluate(t.Context(), f, time.Unix(0, 0))
	if err != nil || res.Verdict != Deny || res.Mode != Audit {
		t.Errorf("%s in %s, %v: %+v", res.Verdict, res.Mode, err, Failed(res.Checks))
	}
}

// A share takes about so many, only ever more, and not the same ones for each policy.
func TestRolloutShare(t *testing.T) {
	now := time.Date(2026, 6, 15, 0, 0, 0, 0, time.UTC)
	spec := "  rollout: [{rules: ['*'], stages: [{mode: warn}, {mode: enforce, from: 2026-06-01, share: 10}, {mode: enforce, from: 2026-06-20, share: 50}, {mode: enforce, from: 2026-06-30}]}]\n"
	p := mustParse(t, rolloutHead+spec+rolloutBody)
	other := mustParse(t, strings.Replace(rolloutHead, "name: release", "name: other", 1)+spec+rolloutBody)
	const n = 2000
	first, later, both := 0, 0, 0
	for i := range n {
		f := unsigned(fmt.Sprintf("team/app-%d", i))
		mode := func(p *Policy, at time.Time) Mode {
			res, err := p.Evaluate(t.Context(), f, at)
			if err != nil {
				t.Fatal(err)
			}
			return res.Mode
		}
		a, b := mode(p, now), mode(p, now.AddDate(0, 0, 7))
		if a == Enforce {
			first++
			if b != Enforce {
				t.Fatalf("team/app-%d left the share", i)
			}
			if mode(other, now) == Enforce {
				both++
			}
		}
		if b == Enforce {
			later++
		}
		if mode(p, now.AddDate(0, 0, 20)) != Enforce {
			t.Fatalf("team/app-%d is left out at the end", i)
		}
	}
	if math.Abs(float64(first)/n-0.1) > 0.03 || math.Abs(float64(later)/n-0.5) > 0.05 || both > first/2 {
		t.Errorf("of %d: %d, then %d; %d with another policy too", n, first, later, both)
	}
}

func TestRolloutRefused(t *testing.T) {
	for spec, want := range map[string]string{
		"[{rules: [], stages: [{mode: audit}]}]":                                                   "rules: 0 names",
		"[{rules: ['a*'], stages: [{mode: audit}]}]":                                               `"a*"`,
		"[{rules: ['*']}]":                                                                         "stages: 0",
		"[{rules: ['*'], stages: [{mode: off}]}]":                                                  `mode "off"`,
		"[{rules: ['*'], stages: [{mode: audit, from: 2026-01-01}]}]":                              "the first stage",
		"[{rules: ['*'], stages: [{mode: audit}, {mode: warn}]}]":                                  "from: want an instant after",
		"[{rules: ['*'], stages: [{mode: audit}, {mode: warn, from: soon}]}]":                      `from "soon"`,
		"[{rules: ['*'], stages: [{mode: warn}, {mode: audit, from: 2026-01-01}]}]":                "stages grow stricter",
		"[{rules: ['*'], stages: [{mode: warn}, {mode: enforce, from: 2026-01-01, share: 0}]}]":    "share 0",
		"[{rules: ['*'], stages: [{mode: warn}, {mode: enforce, from: 2026-01-01, share: .nan}]}]": "share NaN",
		"[{rules: ['*'], stages: [{mode: warn}, {mode: enforce, from: 2026-01-01, share: 50}, {mode: enforce, from: 2026-01-02, share: 20}]}]": "greater share",
		"[{rules: ['*'], scope: {}, stages: [{mode: warn}]}]": "scope",
		"[{rules: ['*'], stage: [{mode: warn}]}]":             "stage",
	} {
		if _, err := ParseRequirements([]byte(rolloutHead + "  rollout: " + spec + "\n" + rolloutBody)); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
}

func TestSetRollout(t *testing.T) {
	text := []byte(rolloutHead + "  # Looked at by the board.\n  mode: audit\n" + rolloutBody)
	one, err := SetRollout(text, []string{"signatures/who"}, nil, Enforce)
	if err != nil {
		t.Fatal(err)
	}
	two, err := SetRollout(one, []string{"*"}, &Selector{Namespaces: []string{"prod"}}, Warn)
	if err != nil {
		t.Fatal(err)
	}
	three, err := SetRollout(two, []string{"*"}, &Selector{Namespaces: []string{"prod"}}, Enforce)
	if err != nil {
		t.Fatal(err)
	}
	d, err := ParseDocument(three)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"* in namespaces prod: enforce", "signatures/who: enforce"}
	if diff := cmp.Diff(want, RolloutTexts(d)); diff != "" || !strings.Contains(string(three), "# Looked at by the board.") {
		t.Errorf("%s\n%s", diff, three)
	}
	if _, err := SetRollout(text, []string{"a*"}, nil, Enforce); !errors.Is(err, fault.Invalid) {
		t.Errorf("%v", err)
	}
}

func TestLintRollout(t *testing.T) {
	d, err := ParseDocument([]byte(rolloutHead + "  rollout:\n  - {rules: [signatures/whom], stages: [{mode: warn}]}\n  - {rules: ['*'], stages: [{mode: audit}, {mode: enforce, from: 2026-01-01}]}\n  - {rules: [signatures/who], stages: [{mode: enforce}]}\n" + rolloutBody))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range Lint(d) {
		if strings.HasPrefix(f.Field, "spec.rollout") {
			got = append(got, f.Field+": "+f.Says)
		}
	}
	want := []string{
		"spec.rollout[0].rules: of an artifact without evidence no check is named signatures/whom",
		"spec.rollout[0].stages: the last stage is warn: these rules never refuse",
		"spec.rollout[2]: spec.rollout[1] covers all that this names, and the first counts",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
