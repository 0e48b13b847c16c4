package report

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/vectors"

	"github.com/google/go-cmp/cmp"
)

const hash = "0123456789012345678901234567890123456789"

func junitOf(cases string) string {
	return `<testsuites><testsuite name="s">` + cases + `</testsuite></testsuites>`
}

// What reports say, and what is refused because it says nothing.
func TestRead(t *testing.T) {
	for name, c := range map[string]struct {
		kind Kind
		doc  string
		want View // without name and document
		err  string
	}{
		"junit": {JUnit, junitOf(`<testcase name="a"/><testcase name="b"><failure>x</failure></testcase><testcase name="c"><skipped/></testcase><testcase name="d"><error/></testcase>`),
			View{Format: "junit", Tests: &Tests{"FAILED", 1, 2, 1}}, ""},
		"junit flaky that passed":       {JUnit, junitOf(`<testcase name="a"><flakyFailure/></testcase>`), View{Format: "junit", Tests: &Tests{"PASSED", 1, 0, 0}}, ""},
		"junit suite alone":             {JUnit, `<testsuite tests="1"><testcase name="a"/></testsuite>`, View{Format: "junit", Tests: &Tests{"PASSED", 1, 0, 0}}, ""},
		"junit claims more failures":    {JUnit, `<testsuites failures="2"><testsuite><testcase name="a"/></testsuite></testsuites>`, View{Format: "junit", Tests: &Tests{"FAILED", 1, 2, 0}}, ""},
		"junit suite claims more":       {JUnit, `<testsuites><testsuite errors="1"><testcase name="a"/></testsuite></testsuites>`, View{Format: "junit", Tests: &Tests{"FAILED", 1, 1, 0}}, ""},
		"junit claims fewer failures":   {JUnit, `<testsuites failures="0"><testsuite><testcase name="a"><failure/></testcase></testsuite></testsuites>`, View{Format: "junit", Tests: &Tests{"FAILED", 0, 1, 0}}, ""},
		"junit suite broke":             {JUnit, junitOf(`<testcase name="a"/><error/>`), View{Format: "junit", Tests: &Tests{"FAILED", 1, 1, 0}}, ""},
		"junit text in the output":      {JUnit, junitOf(`<testcase name="a"><system-out><![CDATA[<failure/>]]></system-out></testcase>`), View{Format: "junit", Tests: &Tests{"PASSED", 1, 0, 0}}, ""},
		"junit not run":                 {JUnit, junitOf(`<testcase name="a" status="notrun"/>`), View{}, "no test ran (1 skipped)"},
		"junit of nothing":              {JUnit, junitOf(``), View{}, "no test ran"},
		"junit claims tests":            {JUnit, `<testsuites tests="100"/>`, View{}, "no test ran"},
		"junit nested case":             {JUnit, junitOf(`<testcase><testcase/></testcase>`), View{}, "within a <testcase>"},
		"junit cut":                     {JUnit, `<testsuites><testsuite>`, View{}, "ends within"},
		"junit crossed":                 {JUnit, `<testsuites><testsuite></testsuites></testsuite>`, View{}, "closes what is not open"},
		"junit of another root":         {JUnit, `<html/>`, View{}, "want <testsuites>"},
		"junit two roots":               {JUnit, `<testsuite/><testsuite/>`, View{}, "two roots"},
		"junit attribute twice":         {JUnit, `<testsuite failures="0" failures="1"/>`, View{}, "twice"},
		"junit negative":                {JUnit, `<testsuite failures="-1"/>`, View{}, "want a count"},
		"junit of another encoding":     {JUnit, `<?xml version="1.0" encoding="UTF-16"?><testsuite/>`, View{}, ""},
		"junit deep":                    {JUnit, strings.Repeat("<testsuite>", 100), View{}, "deeper than 32"},
		"junit doctype":                 {JUnit, `<!DOCTYPE a><testsuite/>`, View{}, "DOCTYPE"},
		"gotest sub-tests and packages": {GoTest, goLines("start p", "run p T", "run p T/a", "pass p T/a", "pass p T", "pass p", "start q", "skip q", "run p S", "skip p S"), View{Format: "go-test-json", Tests: &Tests{"PASSED", 2, 0, 1}}, ""},
		"gotest fails":                  {GoTest, goLines("run p T", "fail p T", "run p U", "pass p U", "fail p"), View{Format: "go-test-json", Tests: &Tests{"FAILED", 1, 1, 0}}, ""},
		"gotest fails once of two":      {GoTest, goLines("run p T", "fail p T", "run p T", "pass p T", "pass p"), View{Format: "go-test-json", Tests: &Tests{"FAILED", 0, 1, 0}}, ""},
		"gotest package fails":          {GoTest, goLines("run p T", "pass p T", "fail p"), View{Format: "go-test-json", Tests: &Tests{"FAILED", 1, 1, 0}}, ""},
		"gotest cut within a test":      {GoTest, goLines("start p", "run p T"), View{Format: "go-test-json", Tests: &Tests{"FAILED", 0, 2, 0}}, ""},
		"gotest cut after a test":       {GoTest, goLines("start p", "run p T", "pass p T"), View{Format: "go-test-json", Tests: &Tests{"FAILED", 1, 1, 0}}, ""},
		"gotest build fails":            {GoTest, goLines("run p T", "pass p T", "pass p") + `{"Action":"build-fail","ImportPath":"q"}`, View{Format: "go-test-json", Tests: &Tests{"FAILED", 1, 1, 0}}, ""},
		"gotest without tests":          {GoTest, goLines("start p", "pass p"), View{}, "no test ran"},
		"gotest of nothing":             {GoTest, "\n", View{}, "no test ran"},
		"gotest duplicate member":       {GoTest, `{"Action":"pass","Action":"fail","Package":"p"}`, View{}, "line 1"},
		"gotest unknown action":         {GoTest, `{"Action":"won","Package":"p"}`, View{}, "none of go test"},
		"gotest text":                   {GoTest, "ok  p 1s", View{}, "line 1"},
		"cover":                         {Coverage, "mode: atomic\np/a.go:1.1,2.2 2 1\np/a.go:1.1,2.2 2 0\np/b.go:1.1,2.2 1 0\n", View{Format: "go-cover", Coverage: &CoverageView{[]Metric{{"statements", 2, 3}}}}, ""},
		"cover of two versions":         {Coverage, "mode: set\np/a.go:1.1,2.2 2 1\np/a.go:1.1,2.2 3 0\n", View{}, "two versions"},
		"cover of nothing":              {Coverage, "mode: set\n", View{}, "nothing was measured"},
		"cover negative":                {Coverage, "mode: set\np/a.go:1.1,2.2 -2 1\n", View{}, "line 2"},
		"cover garbled":                 {Coverage, "mode: set\np/a.go:x 2 1\n", View{}, "line 2"},
		"cobertura": {Coverage, `<coverage line-rate="1.0"><packages><package><classes><class filename="a.py"><methods><method><lines><line number="1" hits="0"/></lines></method></methods><lines><line number="1" hits="3"/><line number="2" hits="0" branch="true" condition-coverage="50% (1/2)"/></lines></class></classes></package></packages></coverage>`,
			View{Format: "cobertura", Coverage: &CoverageView{[]Metric{{"lines", 1, 2}, {"branches", 1, 2}}}}, ""},
		"cobertura claims a rate":   {Coverage, `<coverage line-rate="1.0"/>`, View{}, "nothing was measured"},
		"cobertura outside a class": {Coverage, `<coverage><line number="1" hits="1"/></coverage>`, View{}, "outside of a <class>"},
		"lcov":                      {Coverage, "TN:\nSF:a.c\nDA:1,1\nDA:2,0\nLF:9\nLH:9\nBRF:4\nBRH:1\nend_of_record\nSF:b.c\nLF:2\nLH:2\nend_of_record\n", View{Format: "lcov", Coverage: &CoverageView{[]Metric{{"lines", 3, 4}, {"branches", 1, 4}}}}, ""},
		"lcov cut":                  {Coverage, "SF:a.c\nDA:1,1\n", View{}, "cut short"},
		"lcov more than all":        {Coverage, "SF:a.c\nLF:1\nLH:2\nend_of_record\n", View{}, "2 of 1 lines"},
		"coverage of another form":  {Coverage, "{}", View{}, "begins with none"},
		"go fuzz":                   {Fuzz, "fuzz: elapsed: 0s, gathering baseline coverage: 0/1 completed\nfuzz: elapsed: 3s, execs: 10 (3/sec), new interesting: 0 (total: 1)\nfuzz: elapsed: 1m5s, execs: 200 (3/sec), new interesting: 0 (total: 1)\nPASS\nok  \tp\t65s\n", View{Format: "go-fuzz", Fuzzing: &Fuzzing{Targets: []FuzzTarget{{Seconds: 65, Executions: 200}}, Seconds: 65, Executions: 200}}, ""},
		"go fuzz of two":            {Fuzz, "=== RUN   FuzzA\nfuzz: elapsed: 3s, execs: 10 (3/sec)\nPASS\n=== RUN   FuzzB\nfuzz: elapsed: 4s, execs: 10 (3/sec)\n--- FAIL: FuzzB (4.00s)\n    --- FAIL: FuzzB (0.00s)\n        x\nFAIL\n", View{Format: "go-fuzz", Fuzzing: &Fuzzing{Targets: []FuzzTarget{{"FuzzA", 3, 10, 0}, {"FuzzB", 4, 10, 1}}, Seconds: 7, Executions: 20, Crashes: 1}}, ""},
		"go fuzz cut":               {Fuzz, "fuzz: elapsed: 3s, execs: 10 (3/sec)\n", View{}, "cut short"},
		"fuzz of nothing":           {Fuzz, "PASS\nok p 1s\n", View{}, "no run of"},
		"libfuzzer":                 {Fuzz, "INFO: Running with entropic power schedule (0xFF, 100).\nINFO: Seed: 1\n#2\tINITED cov: 2\n#1024\tpulse  cov: 2\nDone 5000 runs in 31 second(s)\n", View{Format: "libfuzzer", Fuzzing: &Fuzzing{Targets: []FuzzTarget{{"", 31, 5000, 0}}, Seconds: 31, Executions: 5000}}, ""},
		"libfuzzer crash":           {Fuzz, "INFO: Seed: 1\n#1024\tpulse  cov: 2\n==7==ERROR: AddressSanitizer: heap-buffer-overflow\nSUMMARY: AddressSanitizer: x\n", View{Format: "libfuzzer", Fuzzing: &Fuzzing{Targets: []FuzzTarget{{"", 0, 1024, 1}}, Executions: 1024, Crashes: 1}}, ""},
		"libfuzzer cut":             {Fuzz, "INFO: Seed: 1\n#1024\tpulse  cov: 2\n", View{}, "cut short"},
		"licences csv":              {License, "a,https://x,MIT\nb,https://x,MIT\nc,Unknown,Unknown\n", View{Format: "go-licenses", Licenses: &Licenses{3, 1, []LicenseCount{{"MIT", 2, "a"}}}}, ""},
		"licences npm":              {License, `{"a@1":{"licenses":"MIT"},"b@1":{"licenses":["MIT","Apache-2.0"]},"c@1":{"licenses":"MIT*"},"d@1":{}}`, View{Format: "license-checker", Licenses: &Licenses{4, 2, []LicenseCount{{"MIT", 1, "a@1"}, {"MIT OR Apache-2.0", 1, "b@1"}}}}, ""},
		"licences cyclonedx": {License, `{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{"type":"library","group":"g","name":"a","version":"1","licenses":[{"license":{"id":"MIT"}},{"expression":"Apache-2.0 OR Zlib"}],"components":[{"type":"library","name":"b","licenses":[{"license":{"name":"mine"}}]}]},{"type":"file","name":"f"},{"type":"library","name":"c"}]}`,
			View{Format: "cyclonedx", Licenses: &Licenses{3, 1, []LicenseCount{{"MIT AND (Apache-2.0 OR Zlib)", 1, "g/a@1"}, {"mine", 1, "b"}}}}, ""},
		"licences spdx": {License, `{"spdxVersion":"SPDX-2.3","packages":[{"name":"a","versionInfo":"1","licenseConcluded":"NOASSERTION","licenseDeclared":"MIT"},{"name":"b","licenseConcluded":"Zlib","licenseDeclared":"MIT"},{"name":"c"}]}`,
			View{Format: "spdx", Licenses: &Licenses{3, 1, []LicenseCount{{"MIT", 1, "a@1"}, {"Zlib", 1, "b"}}}}, ""},
		"licences of no package": {License, `{"bomFormat":"CycloneDX","components":[]}`, View{}, "no package is in it"},
		"licences of another":    {License, `{"name":"x"}`, View{}, "as license-checker writes it"},
		"licences pip":           {License, `[{"Name":"a","Version":"1","License":"MIT"},{"name":"b","license":null}]`, View{Format: "license-list", Licenses: &Licenses{2, 1, []LicenseCount{{"MIT", 1, "a"}}}}, ""},
		"licences of nothing":    {License, `[]`, View{}, "no package"},
		"licences short line":    {License, "a,b\n", View{}, "PACKAGE,URL,LICENSE"},
		"review":                 {Review, review(`{"reviewer":"bob","state":"approved"},{"reviewer":"ann","state":"approved"},{"reviewer":"cy","state":"changes_requested"},{"reviewer":"di","state":"approved","commit":"` + strings.Repeat("f", 40) + `"}`), View{Format: "assay-review", Review: &ReviewView{hash, []string{"bob"}, []string{"cy"}}}, ""},
		"review last word":       {Review, review(`{"reviewer":"bob","state":"approved","at":"2026-01-02T00:00:00Z"},{"reviewer":"bob","state":"changes_requested","at":"2026-01-01T00:00:00Z"},{"reviewer":"bob","state":"commented","at":"2026-01-03T00:00:00Z"}`), View{Format: "assay-review", Review: &ReviewView{hash, []string{"bob"}, nil}}, ""},
		"review of nobody":       {Review, review(``), View{}, "0 reviews"},
		"review unknown state":   {Review, review(`{"reviewer":"bob","state":"lgtm"}`), View{}, "lgtm"},
		"review unknown member":  {Review, review(`{"reviewer":"bob","state":"approved","who":"x"}`), View{}, ""},
		"no kind":                {"poem", "x", View{}, "want one of"},
	} {
		r, err := Read(c.kind, []byte(c.doc), Options{Name: "n"})
		if c.want.Format == "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || fault.HTTPStatus(err)/100 != 4 {
				t.Errorf("%s: %v, want %q", name, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if r.View.Name != "n" || r.View.Document == "" {
			t.Errorf("%s: named %q, of %s", name, r.View.Name, r.View.Document)
		}
		r.View.Name, r.View.Document = "", ""
		if d := cmp.Diff(c.want, r.View); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		if r.PredicateType != c.kind.PredicateType() || !IsReport(r.PredicateType) {
			t.Errorf("%s: type %s", name, r.PredicateType)
		}
	}
}

func goLines(events ...string) string {
	var b strings.Builder
	for _, e := range events {
		f := strings.Fields(e)
		b.WriteString(`{"Action":"` + f[0] + `","Package":"` + f[1] + `"`)
		if len(f) > 2 {
			b.WriteString(`,"Test":"` + f[2] + `"`)
		}
		b.WriteString("}\n")
	}
	return b.String()
}

func review(records string) string {
	return `{"commit":"` + hash + `","author":"ann","reviews":[` + records + `]}`
}

// SARIF's rules of what counts, section by section.
func TestSARIF(t *testing.T) {
	tool := `"tool":{"driver":{"name":"x","version":"1","rules":[{"id":"E","defaultConfiguration":{"level":"error"}},{"id":"N","defaultConfiguration":{"level":"note"}}]},"extensions":[{"name":"ext","rules":[{"id":"X","defaultConfiguration":{"level":"error"}}]}]}`
	for name, c := range map[string]struct {
		run  string
		want [5]int // error, warning, note, none, suppressed
		lack string
	}{
		"own level":               {`"results":[{"level":"error"},{"level":"note"},{"level":"none"}]`, [5]int{1, 0, 1, 1, 0}, ""},
		"default is warning":      {`"results":[{"ruleId":"unknown"}]`, [5]int{0, 1, 0, 0, 0}, ""},
		"rule by id":              {`"results":[{"ruleId":"E"},{"ruleId":"N"},{"ruleId":"X"}]`, [5]int{2, 0, 1, 0, 0}, ""},
		"rule by index":           {`"results":[{"ruleIndex":0},{"rule":{"index":1}},{"ruleIndex":99}]`, [5]int{1, 1, 1, 0, 0}, ""},
		"rule of an extension":    {`"results":[{"rule":{"index":0,"toolComponent":{"index":0}}}]`, [5]int{1, 0, 0, 0, 0}, ""},
		"kinds":                   {`"results":[{"kind":"pass","level":"error"},{"kind":"review"},{"kind":"open"}]`, [5]int{0, 2, 0, 1, 0}, ""},
		"suppressed":              {`"results":[{"level":"error","suppressions":[{"kind":"inSource"}]},{"level":"error","suppressions":[{"status":"accepted"}]}]`, [5]int{0, 0, 0, 0, 2}, ""},
		"suppression not agreed":  {`"results":[{"level":"error","suppressions":[{"status":"underReview"}]},{"level":"error","suppressions":[{"status":"accepted"},{"status":"rejected"}]},{"level":"error","suppressions":[]}]`, [5]int{3, 0, 0, 0, 0}, ""},
		"gone since the baseline": {`"results":[{"level":"error","baselineState":"absent"}]`, [5]int{}, ""},
		"none found":              {`"results":[]`, [5]int{}, ""},
		"null":                    {`"results":null`, [5]int{}, "no results"},
		"absent":                  {`"columnKind":"utf16CodeUnits"`, [5]int{}, "no results"},
		"failed":                  {`"results":[],"invocations":[{"executionSuccessful":false}]`, [5]int{}, "not successful"},
		"untold success":          {`"results":[],"invocations":[{}]`, [5]int{}, "not successful"},
		"reported an error":       {`"results":[],"invocations":[{"executionSuccessful":true,"toolExecutionNotifications":[{"level":"error","message":{"text":"no compiler"}}]}]`, [5]int{}, "no compiler"},
		"elsewhere":               {`"results":[],"externalPropertyFileReferences":{"results":[{"location":{"uri":"x"}}]}`, [5]int{}, "other files"},
	} {
		r, err := Read(SARIF, []byte(`{"version":"2.1.0","runs":[{`+tool+`,`+c.run+`}]}`), Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		f := r.View.Findings
		if got := [5]int{f.Error, f.Warning, f.Note, f.None, f.Suppressed}; got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if lack := strings.Join(f.Incomplete, "; "); (lack != "") != (c.lack != "") || !strings.Contains(lack, c.lack) {
			t.Errorf("%s: incomplete %q, want %q", name, lack, c.lack)
		}
	}
	for _, bad := range []string{
		`{}`, `{"version":"2.0.0","runs":[{}]}`, `{"version":"2.1.0","runs":[]}`, `{"version":"2.1.0","runs":[{"tool":{"driver":{}},"results":[]}]}`,
		`{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"x"}},"results":[{"level":"ERROR"}]}]}`,
		`{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"x"}},"results":[{"kind":"maybe"}]}]}`,
		`{"version":"2.1.0","version":"2.1.0","runs":[{"tool":{"driver":{"name":"x"}},"results":[]}]}`,
	} {
		if _, err := Read(SARIF, []byte(bad), Options{}); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// A statement of another's that contradicts itself is no report, and one that
// does not say counts as little as it says.
func TestParseForeignTestResult(t *testing.T) {
	for doc, want := range map[string]*Tests{
		`{"result":"PASSED","configuration":[]}`:               {"PASSED", 0, 0, -1},
		`{"result":"PASSED","passedTests":["a","b"],"more":1}`: {"PASSED", 2, 0, -1},
		`{"result":"WARNED","warnedTests":["a"]}`:              {"WARNED", 1, 0, -1},
		`{"result":"FAILED"}`:                                  {"FAILED", 0, 0, -1},
		`{"result":"PASSED","failedTests":["a"]}`:              nil,
		`{"result":"passed"}`:                                  nil,
		`{}`:                                                   nil,
		`{"result":"PASSED","passedTests":["a","b"],"assay":{"format":"junit","report":{"digest":{}}}}`:         nil,
		`{"result":"PASSED","passedTests":["a"],"assay":{"format":"junit","report":` + digestOf + `}}`:          nil, // counts fewer than it lists
		`{"result":"PASSED","assay":{"format":"junit","report":` + digestOf + `,"passed":5,"failed":1}}`:        nil,
		`{"result":"PASSED","assay":{"format":"junit","report":` + digestOf + `,"passed":5,"skipped":2}}`:       {"PASSED", 5, 0, 2},
		`{"result":"PASSED","assay":{"format":"junit","report":` + digestOf + `,"passed":5,"skipped":-1}}`:      nil,
		`{"result":"PASSED","assay":{"format":"junit","report":{"digest":{"md5":"00"}},"passed":5,"failed":0}}`: nil,
	} {
		v, err := ParsePredicate(attestation.PredicateTestResult, []byte(doc))
		if (err == nil) != (want != nil) {
			t.Errorf("%s: %v", doc, err)
			continue
		}
		if want != nil {
			if d := cmp.Diff(want, v.Tests); d != "" {
				t.Errorf("%s: %s", doc, d)
			}
		}
	}
}

const digestOf = `{"digest":{"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}`

// A share is rounded down: what is rounded up would pass a bound it misses.
func TestPercent(t *testing.T) {
	for _, c := range []struct {
		covered, total int
		want           float64
	}{{2, 3, 66.66}, {79999, 100000, 79.99}, {1, 1, 100}, {0, 5, 0}, {0, 0, 0}} {
		if got := (Metric{"lines", c.covered, c.total}).Percent(); got != c.want {
			t.Errorf("%d of %d: %v, want %v", c.covered, c.total, got, c.want)
		}
	}
}

// Entities, bombs, depth and duplicate members are refused in every kind.
func TestThreat_Report_HostileDocuments(t *testing.T) {
	dir := vectors.Dir(t, "hostile")
	for _, sub := range []string{"xml", "json", "yaml"} {
		files, err := filepath.Glob(filepath.Join(dir, sub, "*"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", sub, files, err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range Kinds() {
				if _, err := Read(k, b, Options{}); err == nil {
					t.Errorf("%s is read as %s", filepath.Base(f), k)
				} else if sub == "xml" && (k == JUnit || k == Coverage) && !strings.Contains(err.Error(), "DOCTYPE") {
					t.Errorf("%s as %s: %v, want a word on the DOCTYPE", filepath.Base(f), k, err)
				}
			}
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add("junit", []byte(junitOf(`<testcase name="a"><failure/></testcase>`)))
	f.Add("gotest", []byte(goLines("run p T", "pass p T", "pass p")))
	f.Add("coverage", []byte("mode: set\np/a.go:1.1,2.2 2 1\n"))
	f.Add("coverage", []byte("SF:a.c\nDA:1,1\nend_of_record\n"))
	f.Add("coverage", []byte(`<coverage><class filename="a"><line number="1" hits="1" branch="true" condition-coverage="5% (1/2)"/></class></coverage>`))
	f.Add("sarif", []byte(`{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"x"}},"results":[{"level":"error"}]}]}`))
	f.Add("fuzz", []byte("fuzz: elapsed: 3s, execs: 10 (3/sec)\nPASS\n"))
	f.Add("fuzz", []byte("INFO: Seed: 1\nDone 5 runs in 3 second(s)\n"))
	f.Add("license", []byte("a,b,MIT\n"))
	f.Add("license", []byte(`{"a":{"licenses":["MIT"]}}`))
	f.Add("review", []byte(review(`{"reviewer":"bob","state":"approved"}`)))
	f.Fuzz(func(t *testing.T, kind string, doc []byte) {
		r, err := Read(Kind(kind), doc, Options{})
		if err != nil {
			if fault.HTTPStatus(err)/100 != 4 {
				t.Fatalf("%v is no word on the document", err)
			}
			return
		}
		again, err := ParsePredicate(r.PredicateType, r.Predicate)
		if err != nil {
			t.Fatalf("%v reading what was written: %s", err, r.Predicate)
		}
		if d := cmp.Diff(&r.View, again); d != "" {
			t.Fatal(d)
		}
	})
}

func FuzzParsePredicate(f *testing.F) {
	for _, typ := range ReportTypes() {
		f.Add(typ, []byte(`{"result":"PASSED","format":"x","report":`+digestOf+`,"metrics":[{"kind":"lines","covered":1,"total":2}]}`))
	}
	f.Fuzz(func(t *testing.T, typ string, b []byte) {
		v, err := ParsePredicate(typ, b)
		if err == nil && v.Coverage != nil {
			for _, m := range v.Coverage.Metrics {
				if p := m.Percent(); !(p >= 0 && p <= 100) {
					t.Fatal(p)
				}
			}
		}
	})
}
