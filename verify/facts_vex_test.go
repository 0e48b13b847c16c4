package verify

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/policy"
	"assay/store"
	"assay/store/storetest"
	"assay/vuln/finding"
	"assay/vuln/vex"
)

// knownFlaws is what a site knows of one artifact.
type knownFlaws struct {
	Flaws
	components []ComponentItem
}

type flawSource struct{ known *knownFlaws }

func (f flawSource) Flaws(context.Context, policy.Subject) (*Flaws, error) {
	out := f.known.Flaws
	out.Findings = slices.Clone(out.Findings)
	return &out, nil
}

func (f flawSource) ComponentVEX(context.Context, artifact.Digest, int) ([]ComponentItem, error) {
	return f.known.components, nil
}

func leftPad() *knownFlaws {
	return &knownFlaws{Flaws: Flaws{
		State: finding.State{SBOM: true, Scanned: true, Components: 1, KEV: true, EPSS: true},
		Findings: []finding.Finding{{
			Name: "CVE-2024-1", Names: []string{"CVE-2024-1", "GHSA-1"}, Component: "pkg:npm/left-pad@1.0.0", Version: "1.0.0",
			Status: "affected", Severity: "critical", Score: 9.8, Direct: "direct", Fixed: "1.1.0",
		}},
	}}
}

// openVEX is a document about one flaw.
func openVEX(flaw, product, component, status string, more map[string]any) map[string]any {
	p := map[string]any{"@id": product}
	if component != "" {
		p["subcomponents"] = []any{map[string]any{"@id": component}}
	}
	s := map[string]any{"vulnerability": map[string]any{"name": flaw}, "products": []any{p}, "status": status}
	if status == "not_affected" {
		s["justification"] = "vulnerable_code_not_present"
	}
	for k, v := range more {
		s[k] = v
	}
	return map[string]any{"@context": "https://openvex.dev/ns/v0.2.0", "@id": "urn:x", "author": "whoever", "timestamp": "2024-01-01T00:00:00Z", "version": 1, "statements": []any{s}}
}

const vexPolicy = policyHead + `  requirements:
    vulnerabilities:
      deny: [high]
      vex: {identities: [{issuer: "https://issuer.example", subject: alice@example.org}], maxAge: 30d}
`

// Statements about flaws count by who signed them, for what they are about, under
// any name of the flaw, and as long as they hold; whatever else is attested leaves
// the finding as it is.
func TestThreat_VEX_Attested(t *testing.T) {
	w := newWorld(t)
	of := "pkg:oci/app@" + strings.Replace(string(artifact.SHA256Of(content)), ":", "%3A", 1)
	other := "pkg:oci/app@sha256%3A" + strings.Repeat("0", 64)
	attest := func(who, predicateType string, doc map[string]any) Item {
		return w.attest(who, statement(t, content, predicateType, doc))
	}
	const openVEXType = "https://openvex.dev/ns"
	good := openVEX("GHSA-1", of, "pkg:npm/left-pad", "not_affected", nil)
	tarball := []byte("left-pad-1.0.0.tgz")
	for name, tt := range map[string]struct {
		items      Items
		components []Item
		want       policy.Verdict
		found      string
	}{
		"nothing is stated":                {nil, nil, policy.Deny, "critical"},
		"by whom the policy names":         {Items{attest(alice, openVEXType, good)}, nil, policy.Allow, "CVE-2024-1 not_affected by alice@example.org (issuer https://issuer.example): vulnerable_code_not_present"},
		"with the form's version":          {Items{attest(alice, vex.PredicateOpenVEX, good)}, nil, policy.Allow, ""},
		"of the component itself":          {Items{attest(alice, openVEXType, openVEX("CVE-2024-1", "pkg:npm/left-pad@1.0.0", "", "not_affected", nil))}, nil, policy.Allow, ""},
		"of our repository":                {Items{attest(alice, openVEXType, openVEX("CVE-2024-1", "pkg:oci/app?repository_url=assay.example/team-a/app", "", "fixed", nil))}, nil, policy.Allow, ""},
		"by a stranger":                    {Items{attest("mallory@example.org", openVEXType, good)}, nil, policy.Deny, "critical"},
		"about another product":            {Items{attest(alice, openVEXType, openVEX("CVE-2024-1", other, "", "not_affected", nil))}, nil, policy.Deny, "critical"},
		"about another component":          {Items{attest(alice, openVEXType, openVEX("CVE-2024-1", of, "pkg:npm/right-pad", "not_affected", nil))}, nil, policy.Deny, "critical"},
		"about another version":            {Items{attest(alice, openVEXType, openVEX("CVE-2024-1", of, "pkg:npm/left-pad@2.0.0", "not_affected", nil))}, nil, policy.Deny, "critical"},
		"versions out of range":            {Items{attest(alice, openVEXType, openVEX("CVE-2024-1", of, "pkg:npm/left-pad", "not_affected", map[string]any{"urn:assay:versions": "vers:npm/>=2.0.0"}))}, nil, policy.Deny, "critical"},
		"by a name of another":             {Items{attest(alice, openVEXType, openVEX("CVE-2024-2", of, "", "not_affected", nil))}, nil, policy.Deny, "critical"},
		"by the start of a name":           {Items{attest(alice, openVEXType, openVEX("CVE-2024", of, "", "not_affected", nil))}, nil, policy.Deny, "critical"},
		"over by its own word":             {Items{attest(alice, openVEXType, openVEX("CVE-2024-1", of, "", "not_affected", map[string]any{"urn:assay:until": "2020-01-01T00:00:00Z"}))}, nil, policy.Deny, "critical"},
		"under another type":               {Items{attest(alice, "https://example.org/vex", good)}, nil, policy.Deny, "critical"},
		"investigated":                     {Items{attest(alice, openVEXType, openVEX("CVE-2024-1", of, "", "under_investigation", nil))}, nil, policy.Deny, "critical"},
		"about another artifact":           {Items{w.attest(alice, statement(t, []byte("another"), openVEXType, good))}, nil, policy.Deny, "critical"},
		"no statement at all":              {Items{attest(alice, openVEXType, map[string]any{"@context": "https://openvex.dev/ns/v0.2.0"})}, nil, policy.Deny, "critical"},
		"of its tarball":                   {nil, []Item{w.attest(alice, statement(t, tarball, openVEXType, openVEX("CVE-2024-1", "pkg:npm/left-pad@1.0.0", "", "not_affected", nil)))}, policy.Allow, ""},
		"of its tarball, by a stranger":    {nil, []Item{w.attest("mallory@example.org", statement(t, tarball, openVEXType, openVEX("CVE-2024-1", "pkg:npm/left-pad@1.0.0", "", "not_affected", nil)))}, policy.Deny, "critical"},
		"of its tarball, about everything": {nil, []Item{w.attest(alice, statement(t, tarball, openVEXType, openVEX("CVE-2024-1", "urn:assay:repository:**", "", "not_affected", nil)))}, policy.Deny, "critical"},
		"of what is not in it":             {nil, []Item{w.attest(alice, statement(t, []byte("right-pad"), openVEXType, openVEX("CVE-2024-1", "pkg:npm/left-pad@1.0.0", "", "not_affected", nil)))}, policy.Deny, "critical"},
	} {
		known := leftPad()
		for _, it := range tt.components {
			known.components = append(known.components, ComponentItem{artifact.SHA256Of(tarball), it})
		}
		d := decideFlaws(t, w, tt.items, known, vexPolicy)
		c := check(t, d, "vulnerabilities")
		if d.Verdict != tt.want || !strings.Contains(c.Found, tt.found) {
			t.Errorf("%s: %s: %s, want %s: %s", name, d.Verdict, c.Found, tt.want, tt.found)
		}
	}
}

// Of several signers the most cautious counts, and before all what the site says;
// a malicious package is not stated away.
func TestThreat_VEX_Cautious(t *testing.T) {
	w := newWorld(t)
	const both = policyHead + `  requirements:
    vulnerabilities:
      deny: [high]
      vex: {identities: [{issuer: "https://issuer.example", subjectRegexp: ".*@example\\.org"}]}
`
	says := func(who, status string) Item {
		return w.attest(who, statement(t, content, "https://openvex.dev/ns", openVEX("CVE-2024-1", "pkg:npm/left-pad@1.0.0", "", status, nil)))
	}
	no, yes := says(alice, "not_affected"), says("bob@example.org", "affected")
	if d := decideFlaws(t, w, Items{no}, leftPad(), both); d.Verdict != policy.Allow {
		t.Errorf("alone: %s", d.Verdict)
	}
	if d := decideFlaws(t, w, Items{no, yes}, leftPad(), both); d.Verdict != policy.Deny {
		t.Errorf("another says that it is affected: %s", d.Verdict)
	}
	malicious := leftPad()
	malicious.Findings[0].Malicious = true
	if d := decideFlaws(t, w, Items{no}, malicious, both); d.Verdict != policy.Deny {
		t.Errorf("malicious: %s", d.Verdict)
	}
	own := leftPad()
	own.Findings[0].Stated = &vex.Stated{ID: "vex_1", Author: "me", Status: vex.Affected}
	if d := decideFlaws(t, w, Items{no}, own, both); d.Verdict != policy.Deny {
		t.Errorf("the site says that it is affected: %s", d.Verdict)
	}
}

// Of hundreds of findings those that are stated away are counted as such.
func TestAttestedVEXBeyondTheList(t *testing.T) {
	w := newWorld(t)
	known := leftPad()
	one := known.Findings[0]
	for i := range 400 {
		more := one
		more.Component = "pkg:npm/p" + strings.Repeat("x", i%40) + "@1.0." + string(rune('0'+i%10))
		known.Findings = append(known.Findings, more)
	}
	it := w.attest(alice, statement(t, content, "https://openvex.dev/ns", openVEX("CVE-2024-1", "urn:assay:repository:**", "", "not_affected", nil)))
	if d := decideFlaws(t, w, Items{it}, known, vexPolicy); d.Verdict != policy.Allow {
		t.Errorf("all stated away: %+v", check(t, d, "vulnerabilities"))
	}
	other := one
	other.Name, other.Names = "CVE-2024-9", []string{"CVE-2024-9"}
	known.Findings = append(known.Findings, other)
	d := decideFlaws(t, w, Items{it}, known, vexPolicy)
	if c := check(t, d, "vulnerabilities"); d.Verdict != policy.Deny || !strings.Contains(c.Found, "1: CVE-2024-9") {
		t.Errorf("all but one: %s %s", d.Verdict, c.Found)
	}
}

// A decision that rests on a statement ends when the statement grows too old.
func TestThreat_VEX_GrowsOld(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		r := newRig(t, db, func(o *Options) { o.Flaws, o.MaxValidity = flawSource{leftPad()}, 90*24*time.Hour })
		r.items = Items{r.w.attest(alice, statement(t, content, "https://openvex.dev/ns", openVEX("CVE-2024-1", "pkg:npm/left-pad@1.0.0", "", "not_affected", nil)))}
		p := parse(t, vexPolicy)
		d := decideOn(t, r, p)
		if d.Verdict != policy.Allow || d.ValidUntil.Sub(r.now) > 30*24*time.Hour {
			t.Fatalf("%s until %s", d.Verdict, d.ValidUntil)
		}
		r.advance(31 * 24 * time.Hour)
		if d = decideOn(t, r, p); d.Verdict != policy.Deny {
			t.Errorf("after 31 days: %s", d.Verdict)
		}
	})
}

func decideFlaws(t *testing.T, w *world, items Items, known *knownFlaws, text string) policy.Result {
	t.Helper()
	g := &gathering{target: target(content), verifier: w.verifier(), builders: &builders{}, policy: parse(t, text), flaws: flawSource{known}}
	if err := g.gather(t.Context(), items, policy.Scope{ID: "s"}, false, w.now()); err != nil {
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
	return res
}

func check(t *testing.T, d policy.Result, name string) policy.Check {
	t.Helper()
	for _, c := range d.Checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no check %s in %+v", name, d.Checks)
	return policy.Check{}
}
