package policy

import (
	"testing"
	"time"

	"assay/artifact"
)

func TestThreat_Policy_Exceptions(t *testing.T) {
	now := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	d := artifact.SHA256Of([]byte("x"))
	p, err := ParseRequirements([]byte("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: release}\nspec:\n  requirements:\n    signatures:\n    - name: who\n      identities: [{issuer: https://issuer.example, subject: me@example.com}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	at := func(d time.Duration) string { return now.Add(d).Format(time.RFC3339) }
	for _, c := range []struct {
		name   string
		e      *ExceptionFact
		facts  func(*Facts)
		want   Verdict
		marked bool // the failed check names the exception
		until  time.Time
	}{
		{name: "none", want: Deny},
		{name: "in force", e: &ExceptionFact{Kind: ExceptionOrdinary, Checks: []string{"signatures/who"}, Until: at(time.Hour)}, want: Allow, until: now.Add(time.Hour)},
		{name: "all below", e: &ExceptionFact{Kind: ExceptionOrdinary, Checks: []string{"signatures/*"}, Until: at(time.Hour)}, want: Allow, until: now.Add(time.Hour)},
		{name: "of a combined policy", e: &ExceptionFact{Kind: ExceptionOrdinary, Checks: []string{"release/signatures/who"}, Until: at(time.Hour)}, want: Deny},
		{name: "over", e: &ExceptionFact{Kind: ExceptionOrdinary, Checks: []string{"signatures/who"}, Until: at(0)}, want: Deny, marked: true},
		{name: "of another check", e: &ExceptionFact{Kind: ExceptionOrdinary, Checks: []string{"signatures/whoever"}, Until: at(time.Hour)}, want: Deny},
		{name: "of no check", e: &ExceptionFact{Kind: ExceptionOrdinary, Until: at(time.Hour)}, want: Deny},
		{name: "of no kind", e: &ExceptionFact{Kind: "other", Checks: []string{"signatures/who"}, Until: at(time.Hour)}, want: Deny},
		{name: "without an end", e: &ExceptionFact{Kind: ExceptionOrdinary, Checks: []string{"signatures/who"}, Until: ""}, want: Deny},
		{name: "break-glass", e: &ExceptionFact{Kind: ExceptionBreakGlass, Until: at(time.Hour)}, want: Allow, until: now.Add(time.Hour)},
		{name: "break-glass of a revoked artifact", e: &ExceptionFact{Kind: ExceptionBreakGlass, Until: at(time.Hour)}, facts: func(f *Facts) { f.Trust.Revoked = &Revoked{Since: "2026-01-01T00:00:00Z", Reason: "backdoor"} }, want: Deny},
		{name: "break-glass with stale trust", e: &ExceptionFact{Kind: ExceptionBreakGlass, Until: at(time.Hour)}, facts: func(f *Facts) { f.Trust.Stale = true }, want: Deny},
		{name: "break-glass of evidence that was not read whole", e: &ExceptionFact{Kind: ExceptionBreakGlass, Until: at(time.Hour)}, facts: func(f *Facts) { f.Truncated = true }, want: Deny},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &Facts{Schema: FactsSchema, Subject: Subject{Digest: d, Kind: Image}, Scope: Scope{ID: "a"}}
			if c.e != nil {
				c.e.ID = "exc_1"
				f.Exceptions = []ExceptionFact{*c.e}
			}
			if c.facts != nil {
				c.facts(f)
			}
			res, err := p.Evaluate(t.Context(), f, now)
			if err != nil {
				t.Fatal(err)
			}
			if res.Verdict != c.want || !res.ValidUntil.Equal(c.until) && c.want == Allow {
				t.Errorf("%s until %s, want %s until %s: %+v", res.Verdict, res.ValidUntil, c.want, c.until, res.Checks)
			}
			for _, k := range res.Checks {
				if (k.Status == Fail && k.Exception != "") != (c.marked && k.Name == "signatures/who") {
					t.Errorf("%+v", k)
				}
			}
		})
	}
}

func TestThreat_Policy_ExceptionsOfFlaws(t *testing.T) {
	now := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	p := vulnPolicy(t, "{deny: [high, kev]}")
	for _, c := range []struct {
		kind string
		v    Vulnerability
		want Status
	}{
		{ExceptionOrdinary, Vulnerability{ID: "CVE-1", Severity: "high"}, Warned},
		{ExceptionOrdinary, Vulnerability{ID: "CVE-1", Severity: "high", KEV: "2026-01-01"}, Fail},
		{ExceptionBreakGlass, Vulnerability{ID: "CVE-1", Severity: "high", KEV: "2026-01-01"}, Warned},
		{ExceptionOrdinary, Vulnerability{ID: "MAL-1", Malicious: true}, Fail},
		{ExceptionBreakGlass, Vulnerability{ID: "MAL-1", Malicious: true}, Fail},
	} {
		c.v.State = "affected"
		f := &Facts{Schema: FactsSchema, Subject: Subject{Digest: artifact.SHA256Of([]byte("x")), Kind: Image}, Scope: Scope{ID: "a"},
			Vulnerabilities: &Vulnerabilities{Scan: "done", SBOMs: []string{"att_1"}, Components: 1, KEV: true, EPSS: true, Findings: []Vulnerability{c.v}},
			Exceptions:      []ExceptionFact{{ID: "exc_1", Kind: c.kind, Checks: []string{"vulnerabilities"}, Until: now.Add(time.Hour).Format(time.RFC3339)}}}
		res, err := p.Evaluate(t.Context(), f, now)
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, k := range res.Checks {
			if k.Name == "vulnerabilities" {
				if found = true; k.Status != c.want {
					t.Errorf("%s of %+v: %s, want %s", c.kind, c.v, k.Status, c.want)
				}
			}
		}
		if !found {
			t.Errorf("no check of flaws: %+v", res.Checks)
		}
	}
}
