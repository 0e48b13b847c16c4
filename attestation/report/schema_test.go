package report

import (
	"testing"

	results "github.com/in-toto/attestation/go/predicates/test_result/v0"

	"assay/internal/intoto"
)

// TestResultsOfSchema reads test results by in-toto's own definition.
func TestResultsOfSchema(t *testing.T) {
	for kind, doc := range map[Kind]string{
		JUnit:  junitOf(`<testcase name="a"/><testcase name="b"><failure>x</failure></testcase><testcase name="c"><skipped/></testcase>`),
		GoTest: goLines("run p a", "pass p a", "run p b", "fail p b", "fail p"),
	} {
		r, err := Read(kind, []byte(doc), Options{Name: "unit", File: "report", URL: "https://ci.example/1"})
		if err != nil {
			t.Fatal(err)
		}
		// "assay" is ours, and older than this test: readers leave it alone.
		m, is := intoto.Predicate(t, r.PredicateType, r.Predicate, "assay").(*results.TestResult)
		if !is || m.GetResult() != "FAILED" || len(m.GetPassedTests()) != 1 || len(m.GetFailedTests()) != 1 || m.GetUrl() == "" || len(m.GetConfiguration()) == 0 {
			t.Errorf("%s: %v of %s", kind, m, r.Predicate)
		}
		for _, c := range m.GetConfiguration() {
			if err := c.Validate(); err != nil {
				t.Errorf("%s: configuration: %v", kind, err)
			}
		}
	}
}
