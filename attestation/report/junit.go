package report

import (
	"encoding/xml"
	"strconv"

	"assay/internal/fault"
)

// readJUnit reads JUnit XML as Ant began it and everybody goes on: <testsuites>
// or <testsuite>, with <testcase> in it. Cases are counted; where a suite claims
// more failures than its cases show, the claim counts.
func readJUnit(doc []byte) (*testRun, error) {
	j := &junit{run: &testRun{}}
	if err := walkXML(doc, j.open, j.shut); err != nil {
		return nil, err
	}
	if claimed := max(j.root, j.claimed); claimed > j.run.failed {
		j.run.failedNames = append(j.run.failedNames, strconv.Itoa(claimed-j.run.failed)+" that the suites count and do not list")
		j.run.failed = claimed
	}
	return j.run, j.run.check()
}

type junit struct {
	run     *testRun
	cases   int      // depth of the case that is open; 0: none
	name    string   // of that case
	result  outcome  // of that case
	root    int      // failures that the root claims
	claimed int      // failures that the suites right below it claim
	suites  []string // names of the open suites
}

func (j *junit) open(depth int, e xml.StartElement) error {
	name := e.Name.Local
	if depth == 1 && name != "testsuites" && name != "testsuite" {
		return fault.Newf(fault.Invalid, "XML root <%.40s>: want <testsuites> or <testsuite> of JUnit", name)
	}
	switch {
	case name == "testsuites" && depth > 1:
		return fault.Newf(fault.Invalid, "<testsuites> below the root")
	case name == "testsuites":
		return claims(e, &j.root)
	case name == "testsuite":
		to := &j.root
		if depth > 1 {
			to = &j.claimed
		}
		if depth <= 2 {
			if err := claims(e, to); err != nil {
				return err
			}
		}
		j.suites = append(j.suites, attr(e, "name"))
	case name == "testcase":
		if j.cases != 0 {
			return fault.Newf(fault.Invalid, "a <testcase> within a <testcase>")
		}
		j.cases, j.result = depth, passed
		class := attr(e, "classname")
		if class == "" && len(j.suites) > 0 {
			class = j.suites[len(j.suites)-1]
		}
		j.name = attr(e, "name")
		if class != "" {
			j.name = class + "." + j.name
		}
		// Some writers state it by an attribute: GoogleTest's "notrun".
		if s := attr(e, "status"); s == "notrun" || s == "disabled" || s == "skipped" {
			j.result = skipped
		}
	case j.cases != 0 && depth == j.cases+1:
		switch name {
		case "failure", "error", "rerunFailure", "rerunError":
			j.result = failed
		case "skipped":
			if j.result == passed {
				j.result = skipped
			}
		}
	case name == "error" || name == "failure":
		// Of a suite itself: its set-up broke.
		return j.run.add(j.suite()+" (suite)", failed)
	}
	return nil
}

func (j *junit) suite() string {
	if len(j.suites) == 0 {
		return "testsuites"
	}
	return j.suites[len(j.suites)-1]
}

// claims adds up what a suite says of itself.
func claims(e xml.StartElement, to *int) error {
	for _, name := range []string{"failures", "errors"} {
		text := attr(e, name)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > maxTests {
			return fault.Newf(fault.Invalid, "%s=%.20q of <%s>: want a count", name, text, e.Name.Local)
		}
		*to = min(*to+n, maxTests)
	}
	return nil
}

func (j *junit) shut(depth int, name string) error {
	switch {
	case name == "testcase" && depth == j.cases:
		j.cases = 0
		return j.run.add(j.name, j.result)
	case name == "testsuite":
		j.suites = j.suites[:len(j.suites)-1]
	}
	return nil
}
