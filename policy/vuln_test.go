package policy

import (
	"strings"
	"testing"
	"time"

	"assay/artifact"
)

func vulnPolicy(t *testing.T, spec string) *Policy {
	t.Helper()
	p, err := ParseRequirements([]byte("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  requirements:\n    vulnerabilities: " + spec + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Each state of knowledge denies by itself, unless its own name is accepted; and
// each finding by the first word that names it.
func TestVulnerabilities(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	clean := func(change func(*Vulnerabilities)) *Vulnerabilities {
		v := &Vulnerabilities{Scan: "done", SBOMs: []string{"att_1"}, Components: 3, KEV: true, EPSS: true, Findings: []Vulnerability{}}
		if change != nil {
			change(v)
		}
		return v
	}
	one := func(v Vulnerability) *Vulnerabilities {
		if v.State == "" {
			v.State = "affected"
		}
		v.ID, v.Component, v.Relation = "CVE-2026-0001", "pkg:npm/a@1", "direct"
		return clean(func(f *Vulnerabilities) { f.Findings = []Vulnerability{v} })
	}
	const gate = `{deny: [high, kev, "epss>0.5"]}`
	for name, tt := range map[string]struct {
		spec  string
		facts *Vulnerabilities
		want  Verdict
		found string
	}{
		"nothing known":            {gate, nil, Deny, "nothing is known"},
		"clean":                    {gate, clean(nil), Allow, ""},
		"no SBOM":                  {gate, clean(func(f *Vulnerabilities) { f.Scan = "no_sbom" }), Deny, "no bill of materials"},
		"pending":                  {gate, clean(func(f *Vulnerabilities) { f.Scan = "pending" }), Deny, "not looked up yet"},
		"incomplete":               {gate, clean(func(f *Vulnerabilities) { f.Incomplete = []string{"x"} }), Deny, "incomplete"},
		"incomplete, accepted":     {`{deny: [high], accept: [sbom-incomplete]}`, clean(func(f *Vulnerabilities) { f.Incomplete = []string{"x"} }), Allow, ""},
		"no SBOM is not accepted":  {`{deny: [high], accept: [sbom-incomplete, component, release, feed-missing, feed-stale, kev, epss, version, severity]}`, clean(func(f *Vulnerabilities) { f.Scan = "no_sbom" }), Deny, "no bill"},
		"feed missing":             {gate, clean(func(f *Vulnerabilities) { f.FeedsMissing = []string{"npm"} }), Deny, "no feed for npm"},
		"feed stale":               {gate, clean(func(f *Vulnerabilities) { f.FeedsStale = []string{"npm"} }), Deny, "not looked at lately"},
		"kev stale":                {gate, clean(func(f *Vulnerabilities) { f.KEV = false }), Deny, "catalog"},
		"kev stale, not asked":     {`{deny: [high]}`, clean(func(f *Vulnerabilities) { f.KEV, f.EPSS = false, false }), Allow, ""},
		"unknown kind":             {gate, clean(func(f *Vulnerabilities) { f.Unmatched = 1 }), Deny, "no feed knows"},
		"critical":                 {gate, one(Vulnerability{Severity: "critical", Fixed: "2"}), Deny, "mended in 2"},
		"medium":                   {gate, one(Vulnerability{Severity: "medium"}), Allow, ""},
		"unrated":                  {gate, one(Vulnerability{Severity: "unknown"}), Deny, "nobody rates"},
		"unrated, accepted":        {`{deny: [high], accept: [severity]}`, one(Vulnerability{Severity: "unknown"}), Allow, ""},
		"unknown version":          {gate, one(Vulnerability{Severity: "high", State: "unknown"}), Deny, "nobody knows"},
		"unknown version, low":     {gate, one(Vulnerability{Severity: "low", State: "unknown"}), Allow, ""},
		"epss":                     {gate, one(Vulnerability{Severity: "low", EPSS: 0.6}), Deny, "probability 0.6"},
		"kev":                      {gate, one(Vulnerability{Severity: "low", KEV: "2026-01-01"}), Deny, "known to be exploited"},
		"unfixed":                  {`{deny: [high], ignoreUnfixed: true}`, one(Vulnerability{Severity: "critical"}), Allow, ""},
		"unfixed, exploited":       {`{deny: [high, kev], ignoreUnfixed: true}`, one(Vulnerability{Severity: "critical", KEV: "2026-01-01"}), Deny, "exploited"},
		"malicious, stated away":   {`{deny: [high]}`, one(Vulnerability{Severity: "unknown", Malicious: true, State: "not_affected"}), Deny, "malicious"},
		"malicious, low":           {`{deny: [kev], ignoreUnfixed: true}`, one(Vulnerability{Severity: "unknown", Malicious: true}), Deny, "malicious"},
		"in grace":                 {`{deny: [high], grace: 7d}`, one(Vulnerability{Severity: "critical", FirstSeen: "2026-04-28T00:00:00Z"}), Allow, ""},
		"grace is over":            {`{deny: [high], grace: 7d}`, one(Vulnerability{Severity: "critical", FirstSeen: "2026-04-20T00:00:00Z"}), Deny, "critical"},
		"grace of one built again": {`{deny: [high], grace: 7d}`, one(Vulnerability{Severity: "critical", FirstSeen: "2026-04-30T00:00:00Z", Known: "2026-04-20T00:00:00Z"}), Deny, "critical"},
		"grace of what is new":     {`{deny: [high], grace: 7d}`, one(Vulnerability{Severity: "critical", FirstSeen: "2026-04-30T00:00:00Z", Known: "2026-04-29T00:00:00Z"}), Allow, ""},
		"no grace for exploited":   {`{deny: [high, kev], grace: 7d}`, one(Vulnerability{Severity: "critical", KEV: "2026-04-28", FirstSeen: "2026-04-28T00:00:00Z"}), Deny, "exploited"},
		"stated":                   {gate, one(Vulnerability{Severity: "critical", State: "not_affected", KEV: "2026-01-01"}), Allow, ""},
		"investigated":             {gate, one(Vulnerability{Severity: "critical", State: "under_investigation"}), Deny, "critical"},
		"beyond the list":          {gate, clean(func(f *Vulnerabilities) { f.More = []FindingGroup{{Severity: "high", State: "affected", Count: 7}} }), Deny, "7 more (high)"},
		"beyond, harmless":         {gate, clean(func(f *Vulnerabilities) { f.More = []FindingGroup{{Severity: "low", State: "affected", Count: 7}} }), Allow, ""},
		"beyond, urgent": {`{deny: [kev], ignoreUnfixed: true}`, clean(func(f *Vulnerabilities) {
			f.More = []FindingGroup{{Severity: "low", State: "affected", Count: 7, Urgent: true}}
		}), Deny, "malicious, or"},
	} {
		f := minimalFacts()
		f.Vulnerabilities = tt.facts
		res, err := vulnPolicy(t, tt.spec).Evaluate(t.Context(), f, now)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var text []string
		for _, c := range res.Checks {
			if c.Status == Fail {
				text = append(text, c.Found)
			}
		}
		if res.Verdict != tt.want || !strings.Contains(strings.Join(text, "; "), tt.found) {
			t.Errorf("%s: %s: %q, want %s: %q", name, res.Verdict, text, tt.want, tt.found)
		}
		if name == "in grace" && !res.ValidUntil.Equal(time.Date(2026, 5, 5, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("%s: valid until %v, want the end of the grace", name, res.ValidUntil)
		}
	}
}

func TestVulnerabilityWords(t *testing.T) {
	for spec, want := range map[string]string{
		`{deny: []}`:                         "deny names nothing",
		`{deny: [hihg]}`:                     "want critical",
		`{deny: [high, low]}`:                "two severities",
		`{deny: ["epss>2"]}`:                 "probability",
		`{deny: [high], accept: [anything]}`: "want sbom-incomplete",
		`{deny: [high], identities: []}`:     "bill of materials",
		`{deny: [high], ignoreUnfixd: true}`: "ignoreUnfixd",
		`{deny: [high], grace: "-1h"}`:       "duration",
	} {
		_, err := ParseRequirements([]byte("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  requirements:\n    vulnerabilities: " + spec + "\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
}

// The bill of materials counts by who signed it, where the policy says so.
func TestThreat_Vuln_StrangersSBOM(t *testing.T) {
	p := vulnPolicy(t, `{deny: [high], identities: [{issuer: "https://issuer.example", subject: ci@example.org}]}`)
	f := minimalFacts()
	f.Vulnerabilities = &Vulnerabilities{Scan: "done", SBOMs: []string{"att_1"}, Components: 1, Findings: []Vulnerability{}}
	f.Attestations = []Attestation{{Evidence: Evidence{ID: "att_1", Identity: &Identity{Issuer: "https://issuer.example", Subject: "stranger@example.org"}}, PredicateType: "https://cyclonedx.org/bom"}}
	for who, want := range map[string]Verdict{"stranger@example.org": Deny, "ci@example.org": Allow} {
		f.Attestations[0].Identity.Subject = who
		res, err := p.Evaluate(t.Context(), f, time.Now())
		if err != nil || res.Verdict != want {
			t.Errorf("%s: %s, want %s (%v): %+v", who, res.Verdict, want, err, res.Checks)
		}
	}
}

func minimalFacts() *Facts {
	return &Facts{Schema: FactsSchema, Subject: Subject{Digest: artifact.SHA256Of(nil), Kind: Image, Repository: "team/app"}, Scope: Scope{ID: "default"}}
}

// Facts of the documents of some signers tell a policy that names none too little.
func TestThreat_Vuln_FactsOfSomeSigners(t *testing.T) {
	mine := vulnPolicy(t, `{deny: [high], identities: [{issuer: "https://issuer.example", subject: ci@example.org}]}`)
	anybodys := vulnPolicy(t, `{deny: [high]}`)
	if mine.SBOMsBy() == "" || anybodys.SBOMsBy() != "" {
		t.Errorf("%q, %q", mine.SBOMsBy(), anybodys.SBOMsBy())
	}
	for who, want := range map[string]bool{"ci@example.org": true, "stranger@example.org": false} {
		if got := mine.CountsSBOM(&Evidence{Identity: &Identity{Issuer: "https://issuer.example", Subject: who}}); got != want {
			t.Errorf("%s: %v", who, got)
		}
	}
	f := minimalFacts()
	f.Vulnerabilities = &Vulnerabilities{Scan: "done", SBOMs: []string{"att_1"}, SBOMsBy: mine.SBOMsBy(), Components: 1, KEV: true, EPSS: true, Findings: []Vulnerability{}}
	if res, err := anybodys.Evaluate(t.Context(), f, time.Now()); err != nil || res.Verdict != Deny {
		t.Errorf("%v, %v", res.Verdict, err)
	}
}

// Words that would deny nothing are refused, a bound is compared with what the score
// is, and that somebody looks into a flaw settles nothing.
func TestThreat_Vuln_WordsThatDenyNothing(t *testing.T) {
	for _, spec := range []string{`{deny: ["epss>NaN"]}`, `{deny: ["epss>1"]}`, `{deny: ["epss>+Inf"]}`, `{deny: ["epss>0.1", "epss>0.9"]}`} {
		_, err := ParseRequirements([]byte("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  requirements:\n    vulnerabilities: " + spec + "\n"))
		if err == nil || !strings.Contains(err.Error(), "probabilit") {
			t.Errorf("%s: %v", spec, err)
		}
	}
	p := vulnPolicy(t, `{deny: [kev], vex: {identities: [{issuer: "https://issuer.example", subject: vendor@example.org}]}}`)
	for status, want := range map[string]Verdict{"under_investigation": Deny, "affected": Deny, "not_affected": Allow} {
		f := minimalFacts()
		vendor := Evidence{ID: attID(1), Identity: &Identity{Issuer: "https://issuer.example", Subject: "vendor@example.org"}}
		f.Vulnerabilities = &Vulnerabilities{
			Scan: "done", SBOMs: []string{attID(2)}, Components: 1, KEV: true, EPSS: true, Findings: []Vulnerability{}, VEX: []VEXFact{{Evidence: vendor}}, VEXOf: p.VEXOf(),
			More: []FindingGroup{{Severity: "low", State: "affected", Count: 1, Urgent: true, Attested: []AttestedVEX{{Attestation: attID(1), Status: status}}}},
		}
		res, err := p.Evaluate(t.Context(), f, time.Now())
		if err != nil || res.Verdict != want {
			t.Errorf("%s: %s, want %s (%v): %+v", status, res.Verdict, want, err, res.Checks)
		}
	}
}
