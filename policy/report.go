package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"assay/internal/fault"
)

// reportRule is one compiled wish about one kind of report.
type reportRule struct {
	kind  string
	text  string // what is wanted, in words
	ids   []*identity
	names []string
	holds func(r *Report) string // "" when it holds, else what is wrong
	shows func(r *Report) string // the report in words
	// all judges what no single report says; nil: nothing.
	all func(rs []*Report) string
}

func (r *ReportRequirements) compile() (out []*reportRule, err error) {
	add := func(kind string, who *Reporter, rule *reportRule, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		if rule.ids, _, err = compileSigners(who.Identities, who.Signers, nil); err != nil {
			return fmt.Errorf("%s: a report counts by who signed it: %w", kind, err)
		}
		for _, n := range who.Names {
			if n == "" || len(n) > 240 {
				return fault.Newf(fault.Invalid, "%s: names: want texts of at most 240 bytes", kind)
			}
		}
		rule.kind, rule.names = kind, who.Names
		out = append(out, rule)
		return nil
	}
	if t := r.Tests; t != nil && err == nil {
		rule, cerr := t.compile()
		err = add("tests", &t.Reporter, rule, cerr)
	}
	if c := r.Coverage; c != nil && err == nil {
		rule, cerr := c.compile()
		err = add("coverage", &c.Reporter, rule, cerr)
	}
	if s := r.SARIF; s != nil && err == nil {
		rule, cerr := s.compile()
		err = add("sarif", &s.Reporter, rule, cerr)
	}
	if f := r.Fuzzing; f != nil && err == nil {
		rule, cerr := f.compile()
		err = add("fuzzing", &f.Reporter, rule, cerr)
	}
	if l := r.Licenses; l != nil && err == nil {
		rule, cerr := l.compile()
		err = add("licenses", &l.Reporter, rule, cerr)
	}
	if v := r.Review; v != nil && err == nil {
		rule, cerr := v.compile()
		err = add("review", &v.Reporter, rule, cerr)
	}
	return out, err
}

// bound is a count's bound with its default; below least it is an error.
func bound(name string, v *int, def, least int) (int, error) {
	if v == nil {
		return def, nil
	}
	if *v < least || *v > 1<<30 {
		return 0, fault.Newf(fault.Invalid, "%s %d: want at least %d", name, *v, least)
	}
	return *v, nil
}

func (t *TestsRequirement) compile() (*reportRule, error) {
	if t.Passed != nil && !*t.Passed {
		return nil, fault.Newf(fault.Invalid, "passed: false is no wish; leave it out, or the whole requirement")
	}
	least, err := bound("min", t.Min, 1, 1)
	if err != nil {
		return nil, err
	}
	most, err := bound("maxSkipped", t.MaxSkipped, -1, 0)
	if err != nil {
		return nil, err
	}
	rule := &reportRule{text: fmt.Sprintf("tests passed, at least %d", least)}
	if most >= 0 {
		rule.text += fmt.Sprintf(", at most %d skipped", most)
	}
	rule.shows = func(r *Report) string {
		s := fmt.Sprintf("%s, %d passed, %d failed", clip(r.Tests.Result, 20), r.Tests.Passed, r.Tests.Failed)
		if r.Tests.Skipped != nil {
			s += fmt.Sprintf(", %d skipped", *r.Tests.Skipped)
		}
		return s
	}
	rule.holds = func(r *Report) string {
		switch f := r.Tests; {
		case f.Result != "PASSED" || f.Failed > 0:
			return "did not pass"
		case f.Passed < least:
			return fmt.Sprintf("%d tests passed, fewer than %d", f.Passed, least)
		case most >= 0 && f.Skipped == nil:
			return "does not say how many were skipped"
		case most >= 0 && *f.Skipped > most:
			return fmt.Sprintf("%d skipped, more than %d", *f.Skipped, most)
		}
		return ""
	}
	return rule, nil
}

func (c *CoverageRequirement) compile() (*reportRule, error) {
	if !(c.Least > 0 && c.Least <= 100) { // NaN is refused as well
		return nil, fault.Newf(fault.Invalid, "least %v: want a percentage above 0 and up to 100", c.Least)
	}
	of := func(f *CoverageFact) *float64 { return cmp.Or(f.Statements, f.Lines) }
	switch c.Of {
	case "":
	case "statements":
		of = func(f *CoverageFact) *float64 { return f.Statements }
	case "lines":
		of = func(f *CoverageFact) *float64 { return f.Lines }
	case "branches":
		of = func(f *CoverageFact) *float64 { return f.Branches }
	case "functions":
		of = func(f *CoverageFact) *float64 { return f.Functions }
	default:
		return nil, fault.Newf(fault.Invalid, "of %.40q: want statements, lines, branches or functions", c.Of)
	}
	what := cmp.Or(c.Of, "statements or lines")
	return &reportRule{
		text: fmt.Sprintf("at least %v %% of %s covered", c.Least, what),
		shows: func(r *Report) string {
			if v := of(r.Coverage); v != nil {
				return fmt.Sprintf("%.2f %%", *v)
			}
			return what + " not measured"
		},
		holds: func(r *Report) string {
			v := of(r.Coverage)
			switch {
			case v == nil:
				return "does not measure " + what
			case !(*v >= c.Least): // NaN does not hold
				return fmt.Sprintf("%.2f %%, less than %v", *v, c.Least)
			}
			return ""
		},
	}, nil
}

func (s *SARIFRequirement) compile() (*reportRule, error) {
	type limit struct {
		word string
		most int
		of   func(*SARIFFact) int
	}
	var limits []limit
	for _, l := range []struct {
		name, word string
		v          *int
		def        int
		of         func(*SARIFFact) int
	}{
		{"maxErrors", "errors", s.MaxErrors, 0, func(f *SARIFFact) int { return f.Error }},
		{"maxWarnings", "warnings", s.MaxWarnings, -1, func(f *SARIFFact) int { return f.Warning }},
		{"maxNotes", "notes", s.MaxNotes, -1, func(f *SARIFFact) int { return f.Note }},
		{"maxSuppressed", "suppressed", s.MaxSuppressed, -1, func(f *SARIFFact) int { return f.Suppressed }},
	} {
		most, err := bound(l.name, l.v, l.def, 0)
		if err != nil {
			return nil, err
		}
		if most >= 0 {
			limits = append(limits, limit{l.word, most, l.of})
		}
	}
	var words []string
	for _, l := range limits {
		words = append(words, fmt.Sprintf("at most %d %s", l.most, l.word))
	}
	rule := &reportRule{text: "a complete scan with " + strings.Join(words, ", ")}
	if len(s.Tools) > 0 {
		rule.text += ", by each of " + clip(strings.Join(s.Tools, ", "), 200)
		rule.all = func(rs []*Report) string {
			for _, t := range s.Tools {
				if !slices.ContainsFunc(rs, func(r *Report) bool { return slices.Contains(r.SARIF.Tools, t) }) {
					return "no report by " + clip(t, 100)
				}
			}
			return ""
		}
	}
	rule.shows = func(r *Report) string {
		return fmt.Sprintf("%s: %d errors, %d warnings, %d notes, %d suppressed", clip(strings.Join(r.SARIF.Tools, ", "), 100), r.SARIF.Error, r.SARIF.Warning, r.SARIF.Note, r.SARIF.Suppressed)
	}
	rule.holds = func(r *Report) string {
		if !r.SARIF.Complete {
			return "the scan is not complete"
		}
		for _, l := range limits {
			if n := l.of(r.SARIF); n > l.most {
				return fmt.Sprintf("%d %s, more than %d", n, l.word, l.most)
			}
		}
		return ""
	}
	return rule, nil
}

func (f *FuzzingRequirement) compile() (*reportRule, error) {
	if f.MinSeconds < 0 {
		return nil, fault.Newf(fault.Invalid, "minSeconds %d: want at least 1", f.MinSeconds)
	}
	least := max(f.MinSeconds, 1)
	most, err := bound("maxCrashes", f.MaxCrashes, 0, 0)
	return &reportRule{
		text:  fmt.Sprintf("fuzzed for at least %d s, at most %d crashes", least, most),
		shows: func(r *Report) string { return fmt.Sprintf("%d s, %d crashes", r.Fuzzing.Seconds, r.Fuzzing.Crashes) },
		holds: func(r *Report) string {
			switch {
			case r.Fuzzing.Crashes > most:
				return fmt.Sprintf("%d crashes, more than %d", r.Fuzzing.Crashes, most)
			case r.Fuzzing.Seconds < least:
				return fmt.Sprintf("%d s, less than %d", r.Fuzzing.Seconds, least)
			}
			return ""
		},
	}, err
}

func (l *LicensesRequirement) compile() (*reportRule, error) {
	if len(l.Allow) == 0 {
		return nil, fault.Newf(fault.Invalid, "allow: want the SPDX identifiers of the licences that are taken")
	}
	most, err := bound("maxUnknown", l.MaxUnknown, 0, 0)
	if err != nil {
		return nil, err
	}
	list, err := licenseLists(l.Allow, nil)
	if err != nil {
		return nil, err
	}
	return &reportRule{
		text: fmt.Sprintf("every package under one of %s, at most %d unknown", clip(strings.Join(l.Allow, ", "), 200), most),
		shows: func(r *Report) string {
			return fmt.Sprintf("%d packages, %d licences, %d unknown", r.Licenses.Packages, len(r.Licenses.Licenses), r.Licenses.Unknown)
		},
		holds: func(r *Report) string {
			if r.Licenses.Unknown > most {
				return fmt.Sprintf("%d packages of unknown licence, more than %d", r.Licenses.Unknown, most)
			}
			for _, text := range r.Licenses.Licenses {
				if !list.ok(text) {
					return "licence " + clip(text, 100) + " is not allowed"
				}
			}
			return ""
		},
	}, nil
}

func (v *ReviewRequirement) compile() (*reportRule, error) {
	least, err := bound("min", v.Min, 1, 1)
	return &reportRule{
		text: fmt.Sprintf("approved by at least %d reviewer%s beside the author, and nobody wants changes", least, plural(least)),
		shows: func(r *Report) string {
			return fmt.Sprintf("%d approved, %d want changes", len(r.Review.Approvals), len(r.Review.Rejected))
		},
		holds: func(r *Report) string {
			switch {
			case len(r.Review.Rejected) > 0:
				return clip(r.Review.Rejected[0], 100) + " wants changes"
			case len(r.Review.Approvals) < least:
				return fmt.Sprintf("%d approved, fewer than %d", len(r.Review.Approvals), least)
			}
			return ""
		},
	}, err
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}
