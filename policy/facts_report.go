package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Report is what one verified report says, normalised: of tests, coverage,
// scanners' findings, fuzzing, licences or a review. Exactly one of the pointers
// is set. It says what its signer says; a requirement names whose word counts.
type Report struct {
	Attestation string        `json:"attestation"`    // id of the attestation
	Name        string        `json:"name,omitempty"` // of the suite: a later report of one signer, kind and name takes the place of an earlier one
	Tests       *TestsFact    `json:"tests,omitempty"`
	Coverage    *CoverageFact `json:"coverage,omitempty"`
	SARIF       *SARIFFact    `json:"sarif,omitempty"`
	Fuzzing     *FuzzingFact  `json:"fuzzing,omitempty"`
	Licenses    *LicensesFact `json:"licenses,omitempty"`
	Review      *ReviewFact   `json:"review,omitempty"`
}

// TestsFact is a test run.
type TestsFact struct {
	Result  string `json:"result"`            // PASSED, WARNED or FAILED
	Passed  int    `json:"passed"`            // tests that ran and held
	Failed  int    `json:"failed"`            // tests that did not, and what broke besides
	Skipped *int   `json:"skipped,omitempty"` // absent: the report does not say
}

// CoverageFact is coverage in percent, rounded down to hundredths; what was not
// measured is absent.
type CoverageFact struct {
	Statements *float64 `json:"statements,omitempty"` // percent
	Lines      *float64 `json:"lines,omitempty"`      // percent
	Branches   *float64 `json:"branches,omitempty"`   // percent
	Functions  *float64 `json:"functions,omitempty"`  // percent
}

// SARIFFact is scanners' findings by level.
type SARIFFact struct {
	Tools      []string `json:"tools"`      // names, sorted
	Error      int      `json:"error"`      // findings of level error
	Warning    int      `json:"warning"`    // findings of level warning
	Note       int      `json:"note"`       // findings of level note
	Suppressed int      `json:"suppressed"` // findings of any level that were suppressed
	Complete   bool     `json:"complete"`   // every run was successful and gave its results
}

// FuzzingFact is fuzzing, all targets together.
type FuzzingFact struct {
	Targets    []string `json:"targets,omitempty"` // names, sorted
	Seconds    int      `json:"seconds"`           // of all targets together
	Executions int      `json:"executions"`        // of all targets together
	Crashes    int      `json:"crashes"`           // failures, hangs and leaks
}

// LicensesFact is under what the packages stand.
type LicensesFact struct {
	Packages int      `json:"packages"`           // how many were looked at
	Unknown  int      `json:"unknown"`            // packages whose licence is not known
	Licenses []string `json:"licenses,omitempty"` // the different expressions, sorted
}

// ReviewFact is a review of the change.
type ReviewFact struct {
	Commit    string   `json:"commit"`              // what was reviewed
	Approvals []string `json:"approvals,omitempty"` // distinct reviewers, without the author
	Rejected  []string `json:"rejected,omitempty"`  // who wants changes
}

// kind is the one part that a report has, by the word of its requirement.
func (r *Report) kind() string {
	switch {
	case r.Tests != nil:
		return "tests"
	case r.Coverage != nil:
		return "coverage"
	case r.SARIF != nil:
		return "sarif"
	case r.Fuzzing != nil:
		return "fuzzing"
	case r.Licenses != nil:
		return "licenses"
	case r.Review != nil:
		return "review"
	}
	return ""
}

// ReportRequirements are the wishes about reports. Of each signer, and each name
// where one was given, the latest report counts by trusted time, and all that
// count must hold; at least one must be there.
type ReportRequirements struct {
	Tests    *TestsRequirement    `yaml:"tests,omitempty" json:"tests,omitempty"`
	Coverage *CoverageRequirement `yaml:"coverage,omitempty" json:"coverage,omitempty"`
	SARIF    *SARIFRequirement    `yaml:"sarif,omitempty" json:"sarif,omitempty"`
	Fuzzing  *FuzzingRequirement  `yaml:"fuzzing,omitempty" json:"fuzzing,omitempty"`
	Licenses *LicensesRequirement `yaml:"licenses,omitempty" json:"licenses,omitempty"`
	Review   *ReviewRequirement   `yaml:"review,omitempty" json:"review,omitempty"`
}

// Reporter says whose reports count.
type Reporter struct {
	Identities []IdentityMatch `yaml:"identities,omitempty" json:"identities,omitempty"` // any one of them
	Signers    string          `yaml:"signers,omitempty" json:"signers,omitempty"`       // "delegated", in place of identities
	Names      []string        `yaml:"names,omitempty" json:"names,omitempty"`           // suites that must each be there; others of the same signers count as well
}

// TestsRequirement wants tests that ran and passed.
type TestsRequirement struct {
	Reporter   `yaml:",inline"`
	Passed     *bool `yaml:"passed,omitempty" json:"passed,omitempty"`         // true (the default): the result is PASSED and no test failed
	Min        *int  `yaml:"min,omitempty" json:"min,omitempty"`               // passed tests of each report; default 1
	MaxSkipped *int  `yaml:"maxSkipped,omitempty" json:"maxSkipped,omitempty"` // absent: any number
}

// CoverageRequirement wants code to be reached by tests.
type CoverageRequirement struct {
	Reporter `yaml:",inline"`
	Least    float64 `yaml:"least" json:"least"`               // percent, above 0 and up to 100
	Of       string  `yaml:"of,omitempty" json:"of,omitempty"` // statements, lines, branches or functions; absent: statements, or lines where there are none
}

// SARIFRequirement bounds what scanners may have found.
type SARIFRequirement struct {
	Reporter      `yaml:",inline"`
	MaxErrors     *int     `yaml:"maxErrors,omitempty" json:"maxErrors,omitempty"`         // default 0
	MaxWarnings   *int     `yaml:"maxWarnings,omitempty" json:"maxWarnings,omitempty"`     // absent: any number
	MaxNotes      *int     `yaml:"maxNotes,omitempty" json:"maxNotes,omitempty"`           // absent: any number
	MaxSuppressed *int     `yaml:"maxSuppressed,omitempty" json:"maxSuppressed,omitempty"` // absent: any number
	Tools         []string `yaml:"tools,omitempty" json:"tools,omitempty"`                 // scanners of which each must have run
}

// FuzzingRequirement wants fuzzing that found nothing.
type FuzzingRequirement struct {
	Reporter   `yaml:",inline"`
	MinSeconds int  `yaml:"minSeconds,omitempty" json:"minSeconds,omitzero"`  // of all targets of a report together; default 1
	MaxCrashes *int `yaml:"maxCrashes,omitempty" json:"maxCrashes,omitempty"` // default 0
}

// LicensesRequirement wants every package under a licence of the list.
type LicensesRequirement struct {
	Reporter   `yaml:",inline"`
	Allow      []string `yaml:"allow" json:"allow"`                               // SPDX identifiers, exactly as they are written
	MaxUnknown *int     `yaml:"maxUnknown,omitempty" json:"maxUnknown,omitempty"` // default 0
}

// ReviewRequirement wants the change reviewed.
type ReviewRequirement struct {
	Reporter `yaml:",inline"`
	Min      *int `yaml:"min,omitempty" json:"min,omitempty"` // approvals by distinct reviewers; default 1
}

// evaluate judges the latest reports of wanted signers.
func (r *reportRule) evaluate(ev *evaluation, q *quality) {
	var t tally
	latest := r.latest(ev, q, &t)
	c := Check{Name: "reports/" + r.kind, Status: Pass, Expected: r.text + ", by " + identitiesText(r.ids) + q.text()}
	var wrong []string
	for _, p := range latest {
		if why := r.holds(p.report); why != "" {
			wrong = append(wrong, p.title()+why)
		}
		if len(c.Evidence) < maxEvidence {
			c.Evidence = append(c.Evidence, p.evidence.ID)
		}
		if c.LogIndex == nil {
			c.LogIndex = p.evidence.LogIndex
		}
	}
	for _, n := range r.names {
		if !slices.ContainsFunc(latest, func(p reported) bool { return p.report.Name == n }) {
			wrong = append(wrong, "no report named "+clip(n, 100))
		}
	}
	if r.all != nil && len(latest) > 0 {
		var all []*Report
		for _, p := range latest {
			all = append(all, p.report)
		}
		if why := r.all(all); why != "" {
			wrong = append(wrong, why)
		}
	}
	switch {
	case len(latest) == 0:
		c.Status, c.Found = Fail, t.found(1, "report of "+r.kind)+ev.rejectedText(true)
	case len(wrong) > 0:
		c.Status, c.Found = Fail, clip(strings.Join(wrong, "; "), 600)
	default:
		c.Found = latest[0].title() + r.shows(latest[0].report)
		if n := len(latest) - 1; n > 0 {
			c.Found += fmt.Sprintf(", and %d more report%s", n, plural(n))
		}
		for _, p := range latest {
			if at, ok := p.evidence.At(); ok && q.maxAge > 0 {
				ev.expire(at.Add(q.maxAge))
			}
		}
	}
	if c.Status == Fail {
		c.Mend = "assay attest --type " + attestTypes[r.kind] + " --report FILE " + ev.target + "  # as " + identitiesText(r.ids)
	}
	ev.add(c)
}

var attestTypes = map[string]string{
	"tests": "junit", "coverage": "coverage", "sarif": "sarif", "fuzzing": "fuzz", "licenses": "license", "review": "review",
}

type reported struct {
	report   *Report
	evidence *Evidence
}

func (p reported) title() string {
	if p.report.Name == "" {
		return ""
	}
	return clip(p.report.Name, 80) + ": "
}

// latest gives, of each wanted signer and name, the report of the latest trusted
// time; one without trusted time stands beside the others, since its place among
// them is unknown.
func (r *reportRule) latest(ev *evaluation, q *quality, t *tally) []reported {
	type slot struct{ signer, name, untimed string }
	best := map[slot]reported{}
	var order []slot
	for i := range ev.facts.Reports {
		p := &ev.facts.Reports[i]
		a := ev.attestation(p.Attestation)
		if a == nil || p.kind() != r.kind {
			continue
		}
		if !matchAny(r.ids, &a.Evidence) {
			t.other(&a.Evidence)
			continue
		}
		if why := q.unusable(&a.Evidence, ev.now); why != "" {
			t.refuse(why)
			continue
		}
		at, timed := a.At()
		s := slot{signer: a.Signer(), name: p.Name}
		if r.kind == "sarif" {
			s.name += "\x00" + strings.Join(p.SARIF.Tools, "\x00") // another scanner's report replaces none
		}
		if !timed {
			s.untimed = a.ID
		}
		old, have := best[s]
		was := time.Time{}
		if have {
			was, _ = old.evidence.At()
		}
		switch {
		case !have:
			order = append(order, s)
		case at.Before(was):
			continue
		case at.Equal(was):
			// Signed within one second: which came last is unknown, so both count.
			s.untimed = a.ID
			order = append(order, s)
		}
		best[s] = reported{p, &a.Evidence}
	}
	out := make([]reported, 0, len(order))
	for _, s := range order {
		out = append(out, best[s])
	}
	slices.SortStableFunc(out, func(a, b reported) int { return strings.Compare(a.report.Name, b.report.Name) })
	return out
}
