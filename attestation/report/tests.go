package report

import (
	"fmt"
	"slices"

	"assay/internal/fault"
	"assay/internal/strictjson"
)

// Tests is what a test run came to. A test with sub-tests counts beside them.
type Tests struct {
	Result  string // "PASSED", "WARNED" or "FAILED", as in-toto's test-result says
	Passed  int    // tests that ran and held; of a foreign statement, those that it lists
	Failed  int    // and what broke besides: a package that did not build, a run that did not end
	Skipped int    // -1: the statement does not say
}

// testResult is in-toto's test-result v0.1; assay is our own member beside its
// members, which other readers ignore.
type testResult struct {
	Result        string       `json:"result"`
	Configuration []Descriptor `json:"configuration"`
	URL           string       `json:"url,omitempty"`
	PassedTests   []string     `json:"passedTests,omitempty"`
	WarnedTests   []string     `json:"warnedTests,omitempty"`
	FailedTests   []string     `json:"failedTests,omitempty"`
	Assay         *testCounts  `json:"assay,omitempty"`
}

// testCounts are the counts of the whole run; the lists of names are bounded.
type testCounts struct {
	Name    string     `json:"name,omitempty"`
	Format  string     `json:"format"`
	Report  Descriptor `json:"report"`
	Passed  int        `json:"passed"`
	Failed  int        `json:"failed"`
	Skipped int        `json:"skipped"`
}

// testRun collects a run while it is read.
type testRun struct {
	passed, failed, skipped int
	passedNames             []string
	failedNames             []string
}

func (r *testRun) add(name string, outcome outcome) error {
	if r.passed+r.failed+r.skipped >= maxTests {
		return fault.Newf(fault.TooLarge, "more than %d tests", maxTests)
	}
	switch outcome {
	case passed:
		r.passed++
		if len(r.passedNames) < maxNamed {
			r.passedNames = append(r.passedNames, clean(name, maxName))
		}
	case failed:
		r.failed++
		if len(r.failedNames) < maxNamed {
			r.failedNames = append(r.failedNames, clean(name, maxName))
		}
	case skipped:
		r.skipped++
	}
	return nil
}

type outcome int

const (
	passed outcome = iota
	failed
	skipped
)

// check refuses a run that says nothing: zero tests are no pass.
func (r *testRun) check() error {
	if r.passed+r.failed == 0 {
		return fault.Newf(fault.Invalid, "no test ran (%d skipped): a run of no tests proves nothing and is not attested", r.skipped)
	}
	return nil
}

func (r *testRun) predicate(h *head, o *Options) *testResult {
	if r == nil {
		return nil
	}
	p := &testResult{
		Result: "PASSED", URL: o.URL, PassedTests: r.passedNames, FailedTests: r.failedNames,
		Configuration: o.Configuration,
		Assay:         &testCounts{Name: h.Name, Format: h.Format, Report: h.Report, Passed: r.passed, Failed: r.failed, Skipped: r.skipped},
	}
	if r.failed > 0 {
		p.Result = "FAILED"
	}
	if len(p.Configuration) == 0 {
		// The specification wants one; what is known of the run is its report.
		p.Configuration = []Descriptor{h.Report}
	}
	return p
}

// parseTests reads a test-result of anybody. Members that it does not know are
// ignored, as the specification wants.
func parseTests(b []byte) (*View, error) {
	var p testResult
	if err := strictjson.Unmarshal(b, &p); err != nil {
		return nil, fault.Newf(fault.Invalid, "test-result: %w", err)
	}
	if !slices.Contains([]string{"PASSED", "WARNED", "FAILED"}, p.Result) {
		return nil, fault.Newf(fault.Invalid, "test-result: result %.40q, want PASSED, WARNED or FAILED", p.Result)
	}
	v := &View{Tests: &Tests{Result: p.Result, Passed: len(p.PassedTests) + len(p.WarnedTests), Failed: len(p.FailedTests), Skipped: -1}}
	if c := p.Assay; c != nil {
		var err error
		if v.Document, err = c.Report.digest(); err != nil {
			return nil, err
		}
		if c.Passed < v.Tests.Passed || c.Failed < v.Tests.Failed || c.Skipped < 0 {
			return nil, fault.Newf(fault.Invalid, "test-result: it counts fewer tests (%d passed, %d failed) than it lists", c.Passed, c.Failed)
		}
		if len(c.Name) > maxName || len(c.Format) > 64 {
			return nil, fault.Newf(fault.Invalid, "test-result: name or format is too long")
		}
		v.Name, v.Format = c.Name, c.Format
		v.Tests.Passed, v.Tests.Failed, v.Tests.Skipped = c.Passed, c.Failed, c.Skipped
	}
	if p.Result != "FAILED" && v.Tests.Failed > 0 {
		return nil, fault.Newf(fault.Invalid, "test-result: result %s with %d failed tests", p.Result, v.Tests.Failed)
	}
	return v, nil
}

// String is the run in words.
func (t *Tests) String() string {
	s := fmt.Sprintf("%s: %d passed, %d failed", t.Result, t.Passed, t.Failed)
	if t.Skipped >= 0 {
		s += fmt.Sprintf(", %d skipped", t.Skipped)
	}
	return s
}
