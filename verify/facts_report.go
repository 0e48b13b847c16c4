package verify

import (
	"math"
	"slices"

	reports "assay/attestation/report"
	"assay/policy"
)

const maxReportWords = 64 // tools, targets, licences, reviewers that enter the facts of one report

// enterReport enters what a verified report says. The signer's word is all that
// it is: a requirement names whose counts.
func (g *gathering) enterReport(id, predicateType string, predicate []byte) error {
	if !reports.IsReport(predicateType) {
		return nil
	}
	v, err := reports.ParsePredicate(predicateType, predicate)
	if err != nil {
		return err
	}
	r := policy.Report{Attestation: id, Name: v.Name}
	switch {
	case v.Tests != nil:
		r.Tests = &policy.TestsFact{Result: v.Tests.Result, Passed: v.Tests.Passed, Failed: v.Tests.Failed}
		if v.Tests.Skipped >= 0 {
			r.Tests.Skipped = &v.Tests.Skipped
		}
	case v.Coverage != nil:
		r.Coverage = coverageFact(v.Coverage)
	case v.Findings != nil:
		f := v.Findings
		r.SARIF = &policy.SARIFFact{Error: f.Error, Warning: f.Warning, Note: f.Note, Suppressed: f.Suppressed, Complete: len(f.Incomplete) == 0}
		for _, t := range f.Tools {
			r.SARIF.Tools = append(r.SARIF.Tools, t.Name)
		}
		r.SARIF.Tools = words(r.SARIF.Tools)
	case v.Fuzzing != nil:
		f := v.Fuzzing
		r.Fuzzing = &policy.FuzzingFact{Targets: words(f.Names()), Seconds: f.Seconds, Executions: int(min(f.Executions, 1<<53)), Crashes: f.Crashes}
	case v.Licenses != nil:
		r.Licenses = licensesFact(v.Licenses)
	case v.Review != nil:
		r.Review = &policy.ReviewFact{Commit: v.Review.Commit, Approvals: words(v.Review.Approvals), Rejected: words(v.Review.Rejected)}
	}
	g.facts.Reports = append(g.facts.Reports, r)
	return nil
}

func coverageFact(c *reports.CoverageView) *policy.CoverageFact {
	out := &policy.CoverageFact{}
	for _, m := range c.Metrics {
		p := m.Percent()
		switch m.Kind {
		case "statements":
			out.Statements = &p
		case "lines":
			out.Lines = &p
		case "branches":
			out.Branches = &p
		case "functions":
			out.Functions = &p
		}
	}
	return out
}

// licensesFact keeps the different expressions. Packages under those that do not
// fit count as unknown, so that what is left out is not allowed in silence.
func licensesFact(l *reports.Licenses) *policy.LicensesFact {
	out := &policy.LicensesFact{Packages: l.Packages, Unknown: l.Unknown}
	for i, c := range l.Counts {
		if i >= maxReportWords {
			out.Unknown = min(out.Unknown+c.Packages, math.MaxInt32)
			continue
		}
		out.Licenses = append(out.Licenses, c.License)
	}
	slices.Sort(out.Licenses)
	return out
}

// words sorts names and keeps so many of them.
func words(in []string) []string {
	out := slices.Clone(in)
	slices.Sort(out)
	out = slices.Compact(out)
	return out[:min(len(out), maxReportWords)]
}
