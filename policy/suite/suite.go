// Package suite tests policies before they are in force: Rego modules by tests
// in the form of `opa test`, and policies of any form by recorded facts and the
// verdict that is wanted of them. It says what no test has touched.
package suite

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/internal/strictyaml"
	"assay/policy"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
)

// KindTest is the kind of a document of cases.
const KindTest = "PolicyTest"

// Document is a list of cases about one policy.
type Document struct {
	APIVersion string          `yaml:"apiVersion"`
	Kind       string          `yaml:"kind"`
	Metadata   policy.Metadata `yaml:"metadata"`
	Spec       Spec            `yaml:"spec"`
}

// Spec names the policy and its cases.
type Spec struct {
	Policy string `yaml:"policy"` // file, beside this one
	Now    string `yaml:"now"`    // the instant of the evaluations, RFC 3339; a case may have its own
	Cases  []Case `yaml:"cases"`
}

// Case wants one verdict of recorded facts.
type Case struct {
	Name   string   `yaml:"name"`
	Facts  string   `yaml:"facts"` // file, beside this one: assay policy facts writes it
	Now    string   `yaml:"now"`
	Expect string   `yaml:"expect"` // allow or deny
	Fails  []string `yaml:"fails"`  // checks that must fail, no other may; absent: any
}

// Status is the outcome of a test.
type Status string

// The statuses.
const (
	Passed  Status = "pass"
	Failed  Status = "fail"
	Errored Status = "error"
	Skipped Status = "skip"
)

// Result is one test.
type Result struct {
	File   string `json:"file"`
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail,omitempty"`
}

// Coverage is what of one policy the tests reached.
type Coverage struct {
	File      string   `json:"file"`
	Percent   float64  `json:"percent"`
	Untouched []string `json:"untouched"` // lines of a module; checks of requirements that never passed, or never failed
}

// Report is the outcome of all tests.
type Report struct {
	Results  []Result   `json:"results"`
	Coverage []Coverage `json:"coverage"`
	Passed   int        `json:"passed"`
	Failed   int        `json:"failed"` // with those that ended in an error
	Skipped  int        `json:"skipped"`
}

const (
	maxFile  = 4 << 20
	testTime = 10 * time.Second // of one Rego test
)

// Run carries out all tests among the files, by their slash-separated names.
// filter is a regular expression over test names; empty: all. Errors are
// fault.Invalid: a file that is none of a policy, its tests or their facts.
func Run(ctx context.Context, files map[string][]byte, filter string) (*Report, error) {
	r := &Report{Results: []Result{}, Coverage: []Coverage{}}
	s, err := sort(files)
	if err != nil {
		return nil, err
	}
	for _, t := range s.tests {
		if err := r.rego(ctx, s, t, filter); err != nil {
			return nil, err
		}
	}
	for _, c := range s.cases {
		if err := r.document(ctx, files, c, filter); err != nil {
			return nil, err
		}
	}
	for _, one := range r.Results {
		switch one.Status {
		case Passed:
			r.Passed++
		case Skipped:
			r.Skipped++
		default:
			r.Failed++
		}
	}
	return r, nil
}

// sorted is the files by what they are.
type sorted struct {
	modules map[string][]policy.Module // of Rego, by the file that holds them
	tests   []string                   // files of Rego tests
	cases   []string                   // files of PolicyTest documents
	text    map[string][]byte
	// What modules read beside the facts: libraries by their file, and data.
	libraries []policy.Module
	data      map[string]policy.Value
}

func sort(files map[string][]byte) (*sorted, error) {
	s := &sorted{modules: map[string][]policy.Module{}, text: files}
	if err := s.surroundings(); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(mapsKeys(files)) {
		b := files[name]
		if len(b) > maxFile {
			return nil, fault.Newf(fault.TooLarge, "%s: %d bytes, at most %d", name, len(b), maxFile)
		}
		switch {
		case strings.HasSuffix(name, "_test.rego"):
			s.tests = append(s.tests, name)
		case strings.HasSuffix(name, ".rego"):
			m := policy.Module{Name: path.Base(name), Text: string(b)}
			if pkg, err := policy.PackageOf(m); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			} else if pkg != "assay.policy" {
				continue
			}
			if err := s.tested(name, m); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			s.modules[name] = []policy.Module{{Name: path.Base(name), Text: string(b)}}
		case strings.HasSuffix(name, ".yaml"), strings.HasSuffix(name, ".yml"):
			if err := s.yaml(name, b); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if len(s.libraries) > 0 && len(s.modules) == 0 {
		pkg, _ := policy.PackageOf(s.libraries[0])
		return nil, fault.Newf(fault.Invalid, "%s: package %s, want package assay.policy: of libraries alone nothing is asked", s.libraries[0].Name, pkg)
	}
	return s, nil
}

func mapsKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func (s *sorted) yaml(name string, b []byte) error {
	docs, err := strictyaml.Split(b)
	if err != nil {
		return err
	}
	for _, d := range docs {
		var head struct {
			Kind string `yaml:"kind"`
		}
		if err := looseKind(d.Text(), &head.Kind); err != nil {
			return err
		}
		switch head.Kind {
		case KindTest:
			if len(docs) != 1 {
				return fault.Newf(fault.Invalid, "a %s stands in a file of its own", KindTest)
			}
			s.cases = append(s.cases, name)
		case policy.KindPolicy:
			doc, err := policy.ParseDocument(d.Text())
			if err != nil {
				return err
			}
			if _, err := policy.Compile(doc); err != nil {
				return err
			}
			s.modules[name] = append(s.modules[name], doc.Spec.Rego...)
		}
	}
	return nil
}

// subject finds whose tests a file holds: the module or policy of the same name,
// else the only one beside it.
func (s *sorted) subject(test string) (file string, m policy.Module, err error) {
	dir, base := path.Dir(test), strings.TrimSuffix(path.Base(test), "_test.rego")
	var beside []string
	for _, name := range slices.Sorted(mapsKeys(s.modules)) {
		if path.Dir(name) != dir || len(s.modules[name]) == 0 {
			continue
		}
		beside = append(beside, name)
		if strings.TrimSuffix(path.Base(name), path.Ext(name)) == base {
			beside = []string{name}
			break
		}
	}
	switch {
	case len(beside) == 0:
		return "", m, fault.Newf(fault.Invalid, "%s: beside it stands no Rego that it could test: want %s.rego, or a policy %s.yaml with rego in it", test, base, base)
	case len(beside) > 1:
		return "", m, fault.Newf(fault.Invalid, "%s: which of %s does it test? Name it after one of them", test, strings.Join(beside, ", "))
	case len(s.modules[beside[0]]) > 1:
		return "", m, fault.Newf(fault.Invalid, "%s: %s holds several modules, each judged by itself: put each into a file of its own to test it", test, beside[0])
	}
	return beside[0], s.modules[beside[0]][0], nil
}

func (r *Report) rego(ctx context.Context, s *sorted, test, filter string) error {
	file, m, err := s.subject(test)
	if err != nil {
		return err
	}
	caps := policy.TestCapabilities()
	parsed := map[string]*ast.Module{}
	for name, text := range map[string]string{file: m.Text, test: string(s.text[test])} {
		if parsed[name], err = ast.ParseModuleWithOpts(name, text, ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: caps}); err != nil {
			return fault.Newf(fault.Invalid, "%w", err)
		}
	}
	for _, l := range s.libraries {
		if parsed[l.Name], err = ast.ParseModuleWithOpts(l.Name, l.Text, ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: caps}); err != nil {
			return fault.Newf(fault.Invalid, "%w", err)
		}
	}
	data := map[string]any{}
	for k, v := range s.data {
		data[k] = v.JSON
	}
	compiler := ast.NewCompiler().WithCapabilities(caps).WithEnablePrintStatements(true).WithDefaultRegoVersion(ast.RegoV1)
	tracer := cover.New()
	results, err := tester.NewRunner().SetCompiler(compiler).SetModules(parsed).SetStore(inmem.NewFromObject(data)).SetCoverageQueryTracer(tracer).CapturePrintOutput(true).
		RaiseBuiltinErrors(true).SetTimeout(testTime).Filter(filter).SetParallel(1).RunTests(ctx, nil)
	if err != nil {
		return fault.Newf(fault.Invalid, "%s: %w", test, err)
	}
	any := false
	for one := range results {
		any = true
		out := Result{File: test, Name: one.Name, Status: Passed, Detail: strings.TrimSpace(string(one.Output))}
		switch {
		case one.Error != nil:
			out.Status, out.Detail = Errored, one.Error.Error()
		case one.Skip:
			out.Status = Skipped
		case one.Fail:
			out.Status = Failed
			if one.FailedAt != nil {
				out.Detail = strings.TrimSpace(fmt.Sprintf("line %d: %s is not so\n%s", one.FailedAt.Location.Row, one.FailedAt, out.Detail))
			}
		}
		r.Results = append(r.Results, out)
	}
	if !any && filter == "" {
		r.Results = append(r.Results, Result{File: test, Name: test, Status: Failed, Detail: "no rule in it begins with test_: it tests nothing"})
	}
	r.covered(tracer.Report(parsed), file)
	return nil
}

func (r *Report) covered(rep cover.Report, file string) {
	got := rep.Files[file]
	if got == nil {
		return
	}
	c := Coverage{File: file, Percent: got.Coverage, Untouched: []string{}}
	for _, n := range got.NotCovered {
		if n.Start.Row == n.End.Row {
			c.Untouched = append(c.Untouched, fmt.Sprintf("line %d", n.Start.Row))
			continue
		}
		c.Untouched = append(c.Untouched, fmt.Sprintf("lines %d to %d", n.Start.Row, n.End.Row))
	}
	r.Coverage = append(r.Coverage, c)
}

// document carries out the cases of one file.
func (r *Report) document(ctx context.Context, files map[string][]byte, name, filter string) error {
	var d Document
	if err := strictyaml.Unmarshal(files[name], &d); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if d.APIVersion != policy.APIVersion || d.Spec.Policy == "" || len(d.Spec.Cases) == 0 {
		return fault.Newf(fault.Invalid, "%s: want apiVersion %s, spec.policy and spec.cases", name, policy.APIVersion)
	}
	p, err := sibling(files, name, d.Spec.Policy, policy.ParseRequirements)
	if err != nil {
		return err
	}
	match, err := matcher(filter)
	if err != nil {
		return err
	}
	seen := map[string]*[2]bool{} // check -> did pass, did fail
	for _, c := range d.Spec.Cases {
		if !match(c.Name) {
			continue
		}
		res, err := c.run(ctx, files, name, p, d.Spec.Now)
		if err != nil {
			return fmt.Errorf("%s: case %q: %w", name, c.Name, err)
		}
		for _, k := range res.Checks {
			if seen[k.Name] == nil {
				seen[k.Name] = &[2]bool{}
			}
			seen[k.Name][0] = seen[k.Name][0] || k.Status == policy.Pass
			seen[k.Name][1] = seen[k.Name][1] || k.Status == policy.Fail
		}
		r.Results = append(r.Results, c.judge(name, res))
	}
	all, err := p.Explain(policy.Subject{}, policy.Scope{})
	if err != nil {
		return err
	}
	r.Coverage = append(r.Coverage, checksCovered(path.Join(path.Dir(name), d.Spec.Policy), all, seen))
	return nil
}

// checksCovered counts of each check of a policy whether it was seen to pass and
// seen to fail: a check that never failed in any test may never do so.
func checksCovered(file string, all []policy.Check, seen map[string]*[2]bool) Coverage {
	c := Coverage{File: file, Untouched: []string{}}
	reached, wanted := 0, 0
	for _, k := range all {
		if k.Name == "evidence/complete" || k.Name == "trust/fresh" {
			continue // every policy has them
		}
		wanted += 2
		got := seen[k.Name]
		if got == nil {
			got = &[2]bool{}
		}
		for i, word := range []string{"passed", "failed"} {
			if got[i] {
				reached++
				continue
			}
			c.Untouched = append(c.Untouched, k.Name+" never "+word)
		}
	}
	if wanted > 0 {
		c.Percent = float64(reached) * 100 / float64(wanted)
	}
	return c
}

func (c *Case) run(ctx context.Context, files map[string][]byte, name string, p *policy.Policy, now string) (policy.Result, error) {
	f, err := sibling(files, name, c.Facts, policy.ParseFacts)
	if err != nil {
		return policy.Result{}, err
	}
	at, err := time.Parse(time.RFC3339, cmp.Or(c.Now, now))
	if err != nil {
		return policy.Result{}, fault.Newf(fault.Invalid, "now %.40q: want RFC 3339, in the case or in spec", cmp.Or(c.Now, now))
	}
	if c.Expect != string(policy.Allow) && c.Expect != string(policy.Deny) {
		return policy.Result{}, fault.Newf(fault.Invalid, "expect %.40q: want allow or deny", c.Expect)
	}
	return p.WithRegoTime(testTime).Evaluate(ctx, f, at)
}

func (c *Case) judge(file string, res policy.Result) Result {
	out := Result{File: file, Name: c.Name, Status: Passed}
	var failed []string
	var why strings.Builder
	for _, k := range res.Checks {
		if k.Status == policy.Fail {
			failed = append(failed, k.Name)
			fmt.Fprintf(&why, "\n%s: expected %s, found %s", k.Name, k.Expected, k.Found)
		}
	}
	switch {
	case string(res.Verdict) != c.Expect:
		out.Status, out.Detail = Failed, fmt.Sprintf("the verdict is %s, want %s%s", res.Verdict, c.Expect, why.String())
	case c.Fails != nil && !slices.Equal(slices.Sorted(slices.Values(failed)), slices.Sorted(slices.Values(c.Fails))):
		out.Status, out.Detail = Failed, fmt.Sprintf("these checks fail: %s; want %s%s", strings.Join(failed, ", "), strings.Join(c.Fails, ", "), why.String())
	}
	return out
}
