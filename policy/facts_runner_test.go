package policy

import (
	"strings"
	"testing"
	"time"

	"assay/artifact"
)

const builtByCI = `apiVersion: assay/v1
kind: Policy
metadata: {name: built}
spec:
  requirements:
`

// builtFacts are provenance and runner evidence by each of the subjects.
func builtFacts(subjects ...string) *Facts {
	f := &Facts{Schema: FactsSchema, Subject: Subject{Digest: artifact.SHA256Of([]byte("x")), Kind: File}, Scope: Scope{ID: "s"}}
	for i, s := range subjects {
		id := "att_" + string(rune('a'+i))
		who := Evidence{Identity: &Identity{Issuer: "https://ci.test", Subject: s}, Root: "r", Scheme: "dsse", TrustedTime: "2026-01-01T00:00:00Z"}
		p, r := who, who
		p.ID, r.ID = id+"p", id+"r"
		f.Attestations = append(f.Attestations, Attestation{Evidence: p, PredicateType: "https://slsa.dev/provenance/v1"}, Attestation{Evidence: r, PredicateType: "https://assay.dev/predicates/runner/v0.1"})
		f.Provenance = append(f.Provenance, Provenance{Attestation: p.ID, BuilderID: "b", Level: 1, InvocationID: "bld_" + id})
		f.Runners = append(f.Runners, Runner{Attestation: r.ID, Provenance: p.ID, InvocationID: "bld_" + id, Kind: "vm", Fresh: true, State: "compared", Age: 60})
	}
	return f
}

func judge(t *testing.T, requirements string, f *Facts) (Verdict, string) {
	t.Helper()
	p, err := ParseRequirements([]byte(builtByCI + requirements))
	if err != nil {
		t.Fatal(err)
	}
	res, err := p.Evaluate(t.Context(), f, time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range res.Checks {
		if c.Status == Fail {
			return res.Verdict, c.Name + ": " + c.Found
		}
	}
	return res.Verdict, ""
}

const clean = `    runner: {ephemeral: true, anomalies: none, identities: [{issuer: "https://ci.test", subject: ci}]}
`

func TestRunnerRequirement(t *testing.T) {
	off := int64(-90_000)
	for name, tc := range map[string]struct {
		requirements string
		change       func(f *Facts)
		want         string // "" is allow
	}{
		"clean":              {clean, func(*Facts) {}, ""},
		"none":               {clean, func(f *Facts) { f.Runners = nil }, "no runner evidence"},
		"another's word":     {clean, func(f *Facts) { f.Attestations[1].Identity.Subject = "evil" }, "signed by others"},
		"of no build":        {clean, func(f *Facts) { f.Runners[0].Provenance = "" }, "no provenance of the same signer"},
		"used":               {clean, func(f *Facts) { f.Runners[0].Fresh = false }, "used before"},
		"first":              {clean, func(f *Facts) { f.Runners[0].State = "first" }, "first build of its source"},
		"first, looked at":   {clean, func(f *Facts) { f.Runners[0].State = "accepted" }, ""},
		"not compared":       {clean, func(f *Facts) { f.Runners[0].State = "" }, "not compared"},
		"nothing to compare": {clean, func(f *Facts) { f.Runners[0].State = "none" }, "no earlier build"},
		"anomaly": {clean, func(f *Facts) {
			f.Runners[0].Open = 1
			f.Runners[0].Anomalies = []RunnerAnomaly{{Kind: "egress", Name: "tcp", After: "198.51.100.0/24 443"}}
		}, "1 new: egress tcp: 198.51.100.0/24 443"},
		"anomaly, unlisted":   {clean, func(f *Facts) { f.Runners[0].Open = 7 }, "7 new"},
		"no trace":            {strings.Replace(clean, "ephemeral: true", "traced: true", 1), func(*Facts) {}, "no trace"},
		"one bad among two":   {clean, func(f *Facts) { more := builtFacts("ci", "ci"); more.Runners[1].Fresh = false; *f = *more }, "used before"},
		"kind":                {strings.Replace(clean, "ephemeral: true", "kinds: [container]", 1), func(*Facts) {}, "a vm"},
		"old":                 {strings.Replace(clean, "ephemeral: true", "maxMachineAge: 59s", 1), func(*Facts) {}, "1m0s old"},
		"young enough":        {strings.Replace(clean, "ephemeral: true", "maxMachineAge: 60s", 1), func(*Facts) {}, ""},
		"clock not asked":     {strings.Replace(clean, "ephemeral: true", "maxClockSkew: 5s", 1), func(*Facts) {}, "nobody was asked"},
		"clock off":           {strings.Replace(clean, "ephemeral: true", "maxClockSkew: 5s", 1), func(f *Facts) { f.Runners[0].ClockOffset = &off }, "off by -1m30s"},
		"used, and it may be": {strings.Replace(clean, "ephemeral: true, ", "", 1), func(f *Facts) { f.Runners[0].Fresh = false }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := builtFacts("ci")
			tc.change(f)
			verdict, found := judge(t, tc.requirements, f)
			if (verdict == Allow) != (tc.want == "") || !strings.Contains(found, tc.want) {
				t.Errorf("%s, %q, want %q", verdict, found, tc.want)
			}
		})
	}
}

const two = `    builders: {atLeast: 2, identities: [{issuer: "https://ci.test", subjectRegexp: ".*"}, {issuer: "https://other.test", subjectRegexp: ".*"}]}
`

// TestThreat_Builders_CopiesCounted: builders are distinct identities, and one of
// them cannot be two by another branch, another bundle or a rebuild of its own.
func TestThreat_Builders_CopiesCounted(t *testing.T) {
	rebuilt := func(f *Facts, subject, issuer string, identical bool) {
		e := Evidence{ID: "att_z" + subject, Identity: &Identity{Issuer: issuer, Subject: subject}, Root: "r", Scheme: "dsse", TrustedTime: "2026-01-01T00:00:00Z"}
		f.Attestations = append(f.Attestations, Attestation{Evidence: e, PredicateType: "https://assay.dev/predicates/rebuild/v0.1"})
		f.Rebuilds = append(f.Rebuilds, Rebuild{Attestation: e.ID, Identical: identical})
	}
	ref := "https://git.test/app/build.yml@refs/heads/"
	for name, tc := range map[string]struct {
		requirements string
		facts        func() *Facts
		allow        bool
	}{
		"two":                    {two, func() *Facts { return builtFacts("a", "b") }, true},
		"one, twice":             {two, func() *Facts { return builtFacts("a", "a") }, false},
		"one workflow, branches": {two, func() *Facts { return builtFacts(ref+"main", ref+"other") }, false},
		"one workflow, commits": {two, func() *Facts {
			return builtFacts("https://git.test/app/build.yml@1111", "https://git.test/app/build.yml@v2")
		}, false},
		"two workflows":           {two, func() *Facts { return builtFacts("https://git.test/app/a.yml@v1", "https://git.test/app/b.yml@v1") }, true},
		"two people":              {two, func() *Facts { return builtFacts("alice@example.com", "bob@example.com") }, true},
		"rebuilt by itself":       {two, func() *Facts { f := builtFacts("a"); rebuilt(f, "a", "https://ci.test", true); return f }, false},
		"rebuilt by another":      {two, func() *Facts { f := builtFacts("a"); rebuilt(f, "b", "https://ci.test", true); return f }, true},
		"rebuilt, and it differs": {two, func() *Facts { f := builtFacts("a"); rebuilt(f, "b", "https://ci.test", false); return f }, false},
		"rebuilt by a stranger":   {two, func() *Facts { f := builtFacts("a"); rebuilt(f, "b", "https://evil.test", true); return f }, false},
		"one issuer of two":       {strings.Replace(two, "atLeast: 2", "atLeast: 2, issuers: 2", 1), func() *Facts { return builtFacts("a", "b") }, false},
		"two issuers":             {strings.Replace(two, "atLeast: 2", "atLeast: 2, issuers: 2", 1), func() *Facts { f := builtFacts("a"); rebuilt(f, "b", "https://other.test", true); return f }, true},
		"a view without evidence": {two, func() *Facts {
			f := builtFacts("a")
			f.Rebuilds = []Rebuild{{Attestation: "att_none", Identical: true}}
			return f
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if verdict, found := judge(t, tc.requirements, tc.facts()); (verdict == Allow) != tc.allow {
				t.Errorf("%s, %q", verdict, found)
			}
		})
	}
}

func TestRunnerRequirementRefused(t *testing.T) {
	for _, bad := range []string{
		"    runner: {ephemeral: true}\n", "    runner: {anomalies: few, identities: [{issuer: i, subject: s}]}\n",
		"    runner: {kinds: [toaster], identities: [{issuer: i, subject: s}]}\n", "    builders: {atLeast: 1, identities: [{issuer: i, subjectRegexp: s}]}\n",
		"    builders: {atLeast: 2}\n", "    builders: {atLeast: 2, identities: [{issuer: i, subject: s}]}\n", "    builders: {atLeast: 2, issuers: 3, identities: [{issuer: i, subjectRegexp: s}]}\n",
	} {
		if _, err := ParseRequirements([]byte(builtByCI + bad)); err == nil {
			t.Errorf("accepted: %s", bad)
		}
	}
}
