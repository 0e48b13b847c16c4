package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"assay/internal/fault"
	"assay/policy/suite"

	"github.com/spf13/cobra"
)

const (
	maxSuiteFiles = 10_000
	maxSuiteBytes = 64 << 20
)

func (a *app) policyTestCommand() *cobra.Command {
	var run string
	var coverage bool
	var least float64
	cmd := &cobra.Command{
		Use:   "test PATH...",
		Short: "Test policies by Rego tests and by recorded facts",
		Long: `Test runs the rules test_* of files NAME_test.rego against the Rego beside them
(NAME.rego, or the rego of NAME.yaml), in the form of opa test; and the cases of
PolicyTest documents, which name a policy, recorded facts, and the verdict that
is wanted. Modules and tests have the built-ins that policies have: no network,
no clock.

Exit code 1 when a test fails, or when less is covered than --coverage-at-least.`,
		Example: `  assay policy test policies/
  assay policy test policies/ --run release --coverage
  assay policy facts dec_3f… > policies/facts/signed.json   # facts for a case`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := suiteFiles(args)
			if err != nil {
				return err
			}
			r, err := suite.Run(cmd.Context(), files, run)
			if err != nil {
				return err
			}
			if err := a.print(r, func(w io.Writer) { printSuite(w, r, coverage || least > 0) }); err != nil {
				return err
			}
			if len(r.Results) == 0 {
				return usagef("there is no test in %s: want NAME_test.rego beside NAME.rego, or a document of kind %s", strings.Join(args, ", "), suite.KindTest)
			}
			if r.Failed > 0 {
				return &exitError{1}
			}
			for _, c := range r.Coverage {
				if c.Percent < least {
					fmt.Fprintf(a.stderr, "assay: %s: %.1f %% covered, want %.1f %%\n", line(c.File), c.Percent, least)
					return &exitError{1}
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&run, "run", "", "only tests whose name matches this expression")
	cmd.Flags().BoolVar(&coverage, "coverage", false, "show what no test has reached")
	cmd.Flags().Float64Var(&least, "coverage-at-least", 0, "per cent of each policy that tests must reach")
	return cmd
}

func printSuite(w io.Writer, r *suite.Report, coverage bool) {
	for _, t := range r.Results {
		fmt.Fprintf(w, "%s\t%s\t%s\n", t.Status, line(t.File), line(t.Name))
		for _, l := range strings.Split(strings.TrimSpace(t.Detail), "\n") {
			if l != "" {
				fmt.Fprintf(w, "\t\t  %s\n", line(l))
			}
		}
	}
	if coverage {
		for _, c := range r.Coverage {
			fmt.Fprintf(w, "coverage\t%s\t%.1f %%\n", line(c.File), c.Percent)
			for _, u := range c.Untouched {
				fmt.Fprintf(w, "\t\t  %s\n", line(u))
			}
		}
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", r.Passed, r.Failed, r.Skipped)
}

// suiteFiles reads policies, tests and facts below the paths.
func suiteFiles(paths []string) (map[string][]byte, error) {
	files := map[string][]byte{}
	total := 0
	add := func(p string) error {
		switch filepath.Ext(p) {
		case ".rego", ".yaml", ".yml", ".json":
		default:
			return nil
		}
		if st, err := os.Stat(p); err != nil || st.Size() > maxSuiteBytes {
			return fault.Newf(fault.Invalid, "%s: cannot be read, or holds more than %d bytes", p, maxSuiteBytes)
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return fault.Wrap(fault.Invalid, err)
		}
		if total += len(b); total > maxSuiteBytes || len(files) >= maxSuiteFiles {
			return fault.Newf(fault.TooLarge, "more than %d files or %d bytes: name the folder of the policies", maxSuiteFiles, maxSuiteBytes)
		}
		files[filepath.ToSlash(p)] = b
		return nil
	}
	for _, root := range paths {
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			return add(filepath.Clean(p))
		})
		if err != nil {
			return nil, usagef("%w", err)
		}
	}
	return files, nil
}
