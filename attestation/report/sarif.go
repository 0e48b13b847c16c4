package report

import (
	"cmp"
	"fmt"
	"slices"

	"assay/internal/fault"
)

// Findings is what scanners found, by SARIF's levels. Results that were
// suppressed, by an accepted suppression, stand apart.
type Findings struct {
	Tools      []Tool `json:"tools"`
	Error      int    `json:"error"`
	Warning    int    `json:"warning"`
	Note       int    `json:"note"`
	None       int    `json:"none"` // results that are no problem: passed, informational
	Suppressed int    `json:"suppressed"`
	// Incomplete says why the scan may have missed something: it then counts as
	// none that passed.
	Incomplete []string `json:"incomplete,omitempty"`
}

// Tool is a scanner that ran.
type Tool struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
}

type sarifPredicate struct {
	head
	Findings
	Results []sarifFinding `json:"results,omitempty"` // the worst ones, at most maxNamed
}

type sarifFinding struct {
	Level    string `json:"level"`
	Rule     string `json:"rule,omitempty"`
	Location string `json:"location,omitempty"` // FILE:LINE
	Message  string `json:"message,omitempty"`
}

func (f *Findings) validate() error {
	if len(f.Tools) == 0 || len(f.Tools) > maxListed {
		return fault.Newf(fault.Invalid, "%d tools, want 1 to %d", len(f.Tools), maxListed)
	}
	for _, t := range f.Tools {
		if t.Name == "" || len(t.Name) > maxName || len(t.Version) > maxName {
			return fault.Newf(fault.Invalid, "a tool without name, or with too long a one")
		}
	}
	if min(f.Error, f.Warning, f.Note, f.None, f.Suppressed) < 0 || len(f.Incomplete) > maxListed {
		return fault.Newf(fault.Invalid, "a count of findings below zero")
	}
	return nil
}

// sarifLog is the part of SARIF 2.1.0 that is looked at.
type sarifLog struct {
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool struct {
		Driver     sarifComponent   `json:"driver"`
		Extensions []sarifComponent `json:"extensions"`
	} `json:"tool"`
	Invocations []struct {
		ExecutionSuccessful *bool `json:"executionSuccessful"`
		Notifications       []struct {
			Level   string  `json:"level"`
			Message message `json:"message"`
		} `json:"toolExecutionNotifications"`
	} `json:"invocations"`
	Results  *[]sarifResult `json:"results"`
	External struct {
		Results []struct{} `json:"results"`
	} `json:"externalPropertyFileReferences"`
}

type message struct {
	Text string `json:"text"`
}

type sarifComponent struct {
	Name            string      `json:"name"`
	Version         string      `json:"version"`
	SemanticVersion string      `json:"semanticVersion"`
	Rules           []sarifRule `json:"rules"`
}

type sarifRule struct {
	ID            string `json:"id"`
	Configuration struct {
		Level string `json:"level"`
	} `json:"defaultConfiguration"`
}

type sarifResult struct {
	RuleID    string `json:"ruleId"`
	RuleIndex *int   `json:"ruleIndex"`
	Rule      struct {
		ID    string `json:"id"`
		Index *int   `json:"index"`
		Tool  struct {
			Index *int `json:"index"`
		} `json:"toolComponent"`
	} `json:"rule"`
	Kind         string  `json:"kind"`
	Level        string  `json:"level"`
	Baseline     string  `json:"baselineState"`
	Message      message `json:"message"`
	Suppressions []struct {
		Status string `json:"status"`
	} `json:"suppressions"`
	Locations []struct {
		Physical struct {
			Artifact struct {
				URI string `json:"uri"`
			} `json:"artifactLocation"`
			Region struct {
				StartLine int `json:"startLine"`
			} `json:"region"`
		} `json:"physicalLocation"`
	} `json:"locations"`
}

func readSARIF(doc []byte, h *head) (any, error) {
	h.Format, h.Report.MediaType = "sarif-2.1.0", "application/sarif+json"
	var log sarifLog
	if err := unmarshal(doc, &log); err != nil {
		return nil, err
	}
	if log.Version != "2.1.0" {
		return nil, fault.Newf(fault.Invalid, "version %.40q: want SARIF 2.1.0", log.Version)
	}
	if len(log.Runs) == 0 || len(log.Runs) > maxListed {
		return nil, fault.Newf(fault.Invalid, "%d runs, want 1 to %d: a report of no run says nothing", len(log.Runs), maxListed)
	}
	p := &sarifPredicate{head: *h}
	for i := range log.Runs {
		if err := p.run(&log.Runs[i]); err != nil {
			return nil, fault.Newf(fault.KindOf(err), "runs[%d]: %w", i, err)
		}
	}
	slices.SortStableFunc(p.Results, func(a, b sarifFinding) int {
		return cmp.Compare(slices.Index(sarifLevels, a.Level), slices.Index(sarifLevels, b.Level))
	})
	if len(p.Results) > maxNamed {
		p.Results = p.Results[:maxNamed]
	}
	return p, nil
}

// sarifLevels are the levels, the worst first.
var sarifLevels = []string{"error", "warning", "note", "none"}

func (p *sarifPredicate) run(r *sarifRun) error {
	d := r.Tool.Driver
	if d.Name == "" {
		return fault.Newf(fault.Invalid, "tool.driver.name is wanted")
	}
	version := d.SemanticVersion
	if version == "" {
		version = d.Version
	}
	p.Tools = append(p.Tools, Tool{clean(d.Name, maxName), clean(version, maxName)})
	lacks := func(why string) {
		if len(p.Incomplete) < maxListed {
			p.Incomplete = append(p.Incomplete, clean(d.Name+": "+why, maxMessage))
		}
	}
	// SARIF 3.14.23: null results are those of a scan that did not begin.
	if r.Results == nil {
		lacks("it gives no results, not even an empty list")
		r.Results = &[]sarifResult{}
	}
	if len(r.External.Results) > 0 {
		lacks("results lie in other files")
	}
	for _, inv := range r.Invocations {
		if inv.ExecutionSuccessful == nil || !*inv.ExecutionSuccessful {
			lacks("the run was not successful")
		}
		for _, n := range inv.Notifications {
			if n.Level == "error" {
				lacks("the run reported an error: " + n.Message.Text)
			}
		}
	}
	rules := r.rules()
	for i := range *r.Results {
		if err := p.result(&(*r.Results)[i], r, rules); err != nil {
			return fault.Newf(fault.KindOf(err), "results[%d]: %w", i, err)
		}
	}
	return nil
}

// rules gives the default levels of the driver's rules by id.
func (r *sarifRun) rules() map[string]string {
	out := map[string]string{}
	for _, rule := range r.Tool.Driver.Rules {
		out[rule.ID] = rule.Configuration.Level
	}
	for _, x := range r.Tool.Extensions {
		for _, rule := range x.Rules {
			if _, known := out[rule.ID]; !known {
				out[rule.ID] = rule.Configuration.Level
			}
		}
	}
	return out
}

func (p *sarifPredicate) result(r *sarifResult, run *sarifRun, rules map[string]string) error {
	if r.Baseline == "absent" {
		return nil // it was found in an earlier scan, and is no more
	}
	level, err := r.level(run, rules)
	if err != nil {
		return err
	}
	if r.suppressed() {
		p.Suppressed++
		return nil
	}
	switch level {
	case "error":
		p.Error++
	case "warning":
		p.Warning++
	case "note":
		p.Note++
	default:
		p.None++
		return nil
	}
	f := sarifFinding{Level: level, Rule: clean(cmp.Or(r.RuleID, r.Rule.ID), maxName), Message: clean(r.Message.Text, maxMessage)}
	if len(r.Locations) > 0 {
		l := r.Locations[0].Physical
		if f.Location = l.Artifact.URI; l.Region.StartLine > 0 {
			f.Location = fmt.Sprintf("%s:%d", f.Location, l.Region.StartLine)
		}
		f.Location = clean(f.Location, maxName)
	}
	// Twice as many as are kept, so that late errors are not lost to early notes.
	if len(p.Results) < maxNamed || level == "error" && len(p.Results) < 2*maxNamed {
		p.Results = append(p.Results, f)
	}
	return nil
}

// level is the result's own, or that of its rule, or "warning" (SARIF 3.27.10).
func (r *sarifResult) level(run *sarifRun, rules map[string]string) (string, error) {
	if r.Kind != "" && r.Kind != "fail" {
		if !slices.Contains([]string{"pass", "open", "informational", "notApplicable", "review"}, r.Kind) {
			return "", fault.Newf(fault.Invalid, "kind %.40q is none of SARIF's", r.Kind)
		}
		if r.Kind == "open" || r.Kind == "review" {
			return "warning", nil // the tool could not tell: unknown is not clean
		}
		return "none", nil
	}
	level := r.Level
	if level == "" {
		level = r.ruleLevel(run, rules)
	}
	if level == "" {
		level = "warning"
	}
	if !slices.Contains(sarifLevels, level) {
		return "", fault.Newf(fault.Invalid, "level %.40q: want error, warning, note or none", level)
	}
	return level, nil
}

func (r *sarifResult) ruleLevel(run *sarifRun, rules map[string]string) string {
	index := r.RuleIndex
	if index == nil {
		index = r.Rule.Index
	}
	from := run.Tool.Driver.Rules
	if t := r.Rule.Tool.Index; t != nil && *t >= 0 && *t < len(run.Tool.Extensions) {
		from = run.Tool.Extensions[*t].Rules
	}
	if index != nil && *index >= 0 && *index < len(from) {
		return from[*index].Configuration.Level
	}
	return rules[cmp.Or(r.RuleID, r.Rule.ID)]
}

// suppressed says whether all suppressions of a result are in force (3.27.23).
func (r *sarifResult) suppressed() bool {
	for _, s := range r.Suppressions {
		if s.Status != "" && s.Status != "accepted" {
			return false
		}
	}
	return len(r.Suppressions) > 0
}
