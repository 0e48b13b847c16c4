package report

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	"assay/internal/fault"
	"assay/internal/strictjson"
)

const maxLine = 4 << 20

// goEvent is one line of `go test -json` (cmd/test2json).
type goEvent struct {
	Action     string `json:"Action"`
	Package    string `json:"Package"`
	Test       string `json:"Test"`
	Output     string `json:"Output"`
	ImportPath string `json:"ImportPath"`
}

type goTestName struct{ pkg, test string }

// readGoTest reads `go test -json`. A package or a test that began and did not
// end failed: the output was cut short, or the process was killed.
func readGoTest(doc []byte) (*testRun, error) {
	ends := map[goTestName]string{} // "" while it runs
	failing := map[string]bool{}    // packages in which a test failed
	broken := map[string]bool{}     // import paths that did not build
	n := 0
	for line := range bytes.Lines(doc) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		if len(line) > maxLine {
			return nil, fault.Newf(fault.TooLarge, "line %d of %d bytes: at most %d are read", n, len(line), maxLine)
		}
		var e goEvent
		if err := strictjson.Unmarshal(line, &e, strictjson.WithMaxDepth(8), strictjson.WithMaxBytes(maxLine)); err != nil {
			return nil, fault.Newf(fault.Invalid, "line %d: want an event of go test -json: %w", n, err)
		}
		name := goTestName{e.Package, e.Test}
		switch e.Action {
		case "start", "run", "pause", "cont", "output", "bench", "attr":
			if _, known := ends[name]; !known && e.Package != "" {
				ends[name] = ""
			}
		case "pass", "fail", "skip":
			if e.Package == "" {
				return nil, fault.Newf(fault.Invalid, "line %d: %s of no package", n, e.Action)
			}
			// A test that is run again (-count) and fails once has failed.
			if ends[name] != "fail" {
				ends[name] = e.Action
			}
			if e.Action == "fail" && e.Test != "" {
				failing[e.Package] = true
			}
		case "build-fail":
			broken[e.ImportPath] = true
		case "build-output":
		default:
			return nil, fault.Newf(fault.Invalid, "line %d: action %.40q is none of go test -json's", n, e.Action)
		}
		if len(ends) > maxTests {
			return nil, fault.Newf(fault.TooLarge, "more than %d tests", maxTests)
		}
	}
	run := &testRun{}
	for _, name := range slices.SortedFunc(maps.Keys(ends), func(a, b goTestName) int {
		return cmp.Or(cmp.Compare(a.pkg, b.pkg), cmp.Compare(a.test, b.test))
	}) {
		if err := run.addGo(name, ends[name], failing[name.pkg]); err != nil {
			return nil, err
		}
	}
	if len(broken) > 0 && run.failed == 0 {
		run.failed, run.failedNames = len(broken), slices.Sorted(maps.Keys(broken))
	}
	return run, run.check()
}

func (r *testRun) addGo(name goTestName, end string, failing bool) error {
	if name.test == "" {
		// A package counts only where it broke and none of its tests says so: a
		// build that failed, a panic, a TestMain, an output that was cut short.
		switch {
		case end == "":
			return r.add(name.pkg+" (did not end)", failed)
		case end == "fail" && !failing:
			return r.add(name.pkg, failed)
		}
		return nil
	}
	full := name.pkg + "." + name.test
	switch end {
	case "pass":
		return r.add(full, passed)
	case "skip":
		return r.add(full, skipped)
	case "fail":
		return r.add(full, failed)
	}
	return r.add(full+" (did not end)", failed)
}
