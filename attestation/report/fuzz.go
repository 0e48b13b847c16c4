package report

import (
	"bytes"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/internal/strictjson"
)

// Fuzzing is what fuzzing came to.
type Fuzzing struct {
	Targets    []FuzzTarget `json:"targets"`
	Seconds    int          `json:"seconds"` // of all targets together, whole
	Executions int64        `json:"executions"`
	Crashes    int          `json:"crashes"` // failures, hangs and leaks
}

// FuzzTarget is one function or binary that was fuzzed.
type FuzzTarget struct {
	Name       string `json:"name,omitempty"`
	Seconds    int    `json:"seconds"`
	Executions int64  `json:"executions"`
	Crashes    int    `json:"crashes"`
}

type fuzzPredicate struct {
	head
	Fuzzing
}

func (f *Fuzzing) validate() error {
	if len(f.Targets) == 0 || len(f.Targets) > maxListed {
		return fault.Newf(fault.Invalid, "%d targets, want 1 to %d", len(f.Targets), maxListed)
	}
	var sum FuzzTarget
	for _, t := range f.Targets {
		if t.Seconds < 0 || t.Executions < 0 || t.Crashes < 0 || t.Seconds > 1<<31 || len(t.Name) > maxName {
			return fault.Newf(fault.Invalid, "target %.60q: a count below zero, or too long a name", t.Name)
		}
		sum.Seconds, sum.Executions, sum.Crashes = sum.Seconds+t.Seconds, sum.Executions+t.Executions, sum.Crashes+t.Crashes
	}
	if sum.Seconds != f.Seconds || sum.Executions != f.Executions || sum.Crashes != f.Crashes {
		return fault.Newf(fault.Invalid, "the counts are not the sums of the targets'")
	}
	return nil
}

var (
	goFuzzProgress = regexp.MustCompile(`^fuzz: elapsed: ([0-9hms.µn]+), execs: ([0-9]+) \(`)
	goFuzzFail     = regexp.MustCompile(`^\s*--- FAIL: (Fuzz[\p{L}\p{N}_]*)(/\S*)? \(`)
	goFuzzEnd      = regexp.MustCompile(`^(PASS|FAIL|ok\s|FAIL\s|=== RUN\s|=== FUZZ\s)`)
	goFuzzName     = regexp.MustCompile(`^=== (?:RUN|FUZZ|NAME)\s+(Fuzz[\p{L}\p{N}_]*)`)
	libFuzzerDone  = regexp.MustCompile(`^Done ([0-9]+) runs in ([0-9]+) second\(s\)`)
	libFuzzerAt    = regexp.MustCompile(`^#([0-9]+)\s+(INITED|NEW|REDUCE|pulse|DONE|RELOAD|READ)\b`)
	libFuzzerCrash = regexp.MustCompile(`^==[0-9]+==\s*ERROR: |^SUMMARY: |deadly signal|^MS: .*base unit`)
	libFuzzerName  = regexp.MustCompile(`^INFO: Running with entropic|^INFO: Seed: `)
	libFuzzerStat  = regexp.MustCompile(`^stat::number_of_executed_units:\s+([0-9]+)`)
)

// readFuzz reads what go test -fuzz (also with -json) or a libFuzzer binary
// printed. Output in which no run can be seen is an error.
func readFuzz(doc []byte, h *head) (any, error) {
	h.Report.MediaType = "text/plain"
	r := &fuzzReader{}
	n := 0
	for raw := range bytes.Lines(doc) {
		n++
		line := string(bytes.TrimRight(raw, "\r\n"))
		if strings.HasPrefix(line, `{"`) {
			var e goEvent
			if err := strictjson.Unmarshal([]byte(line), &e, strictjson.WithMaxDepth(8), strictjson.WithMaxBytes(maxLine)); err != nil {
				return nil, fault.Newf(fault.Invalid, "line %d: want an event of go test -json: %w", n, err)
			}
			line = strings.TrimRight(e.Output, "\n")
		}
		if len(line) > maxLine {
			continue
		}
		if err := r.line(line); err != nil {
			return nil, fault.Newf(fault.Invalid, "line %d: %w", n, err)
		}
	}
	if t := r.open; t != nil && t.Crashes == 0 && !r.done {
		return nil, fault.Newf(fault.Invalid, "the last run does not end: the output was cut short, and what it would have found is unknown")
	}
	r.end()
	if len(r.targets) == 0 {
		return nil, fault.Newf(fault.Invalid, "no run of go test -fuzz or libFuzzer is in it: what did not run is not attested")
	}
	if len(r.targets) > maxListed {
		return nil, fault.Newf(fault.TooLarge, "%d fuzzed targets, at most %d", len(r.targets), maxListed)
	}
	h.Format = "go-fuzz"
	if r.lib {
		h.Format = "libfuzzer"
	}
	p := &fuzzPredicate{head: *h, Fuzzing: Fuzzing{Targets: r.targets}}
	for _, t := range r.targets {
		p.Seconds, p.Executions, p.Crashes = p.Seconds+t.Seconds, p.Executions+t.Executions, p.Crashes+t.Crashes
	}
	return p, nil
}

type fuzzReader struct {
	targets []FuzzTarget
	open    *FuzzTarget
	name    string // of the next Go target
	lib     bool
	done    bool // the open target's run came to its end
}

func (r *fuzzReader) at() *FuzzTarget {
	if r.open == nil {
		r.open = &FuzzTarget{Name: clean(r.name, maxName)}
	}
	return r.open
}

// end closes the target that is open. A Go target that is named only by its
// failure was found to fail by the run before it.
func (r *fuzzReader) end() {
	if r.open != nil && len(r.targets) <= maxListed {
		r.targets = append(r.targets, *r.open)
	}
	r.open, r.name, r.done = nil, "", false
}

func (r *fuzzReader) line(s string) error {
	if m := goFuzzName.FindStringSubmatch(s); m != nil {
		if r.open != nil && r.open.Name != m[1] {
			r.end()
		}
		r.name = m[1]
		return nil
	}
	if m := goFuzzProgress.FindStringSubmatch(s); m != nil {
		elapsed, err := time.ParseDuration(m[1])
		execs, err2 := strconv.ParseInt(m[2], 10, 64)
		if err != nil || err2 != nil {
			return fault.Newf(fault.Invalid, "%.80q is no progress of go test -fuzz", s)
		}
		t := r.at()
		if int(elapsed.Seconds()) < t.Seconds || execs < t.Executions {
			name := r.name // another run begins
			r.end()
			r.name = name
			t = r.at()
		}
		t.Seconds, t.Executions = int(elapsed.Seconds()), execs
		return nil
	}
	if m := goFuzzFail.FindStringSubmatch(s); m != nil {
		t := r.at()
		if m[2] == "" {
			t.Name = clean(m[1], maxName)
		}
		t.Crashes = 1
		return nil
	}
	if r.open != nil && !r.lib && goFuzzEnd.MatchString(s) {
		r.end()
		return nil
	}
	return r.libFuzzer(s)
}

func (r *fuzzReader) libFuzzer(s string) error {
	count := func(text string) (int64, error) {
		n, err := strconv.ParseInt(text, 10, 62)
		if err != nil {
			return 0, fault.Newf(fault.Invalid, "%.40q is no count", text)
		}
		return n, nil
	}
	switch {
	case libFuzzerName.MatchString(s):
		if r.lib && r.open != nil && strings.HasPrefix(s, "INFO: Running") {
			r.end()
		}
		r.lib = true
		r.at()
	case libFuzzerDone.MatchString(s):
		m := libFuzzerDone.FindStringSubmatch(s)
		runs, err := count(m[1])
		seconds, err2 := strconv.ParseInt(m[2], 10, 31)
		if err != nil || err2 != nil {
			return fault.Newf(fault.Invalid, "%.80q: want counts", s)
		}
		r.lib = true
		t := r.at()
		t.Executions, t.Seconds, r.done = runs, int(seconds), true
	case libFuzzerAt.MatchString(s):
		n, err := count(libFuzzerAt.FindStringSubmatch(s)[1])
		if err != nil {
			return err
		}
		r.lib = true
		r.at().Executions = max(r.at().Executions, n)
	case libFuzzerStat.MatchString(s) && r.lib:
		n, err := count(libFuzzerStat.FindStringSubmatch(s)[1])
		if err != nil {
			return err
		}
		r.at().Executions = max(r.at().Executions, n)
	case libFuzzerCrash.MatchString(s):
		// One report has several such lines; a libFuzzer stops at its first.
		r.lib = true
		r.at().Crashes = 1
	}
	return nil
}

// Names lists the targets.
func (f *Fuzzing) Names() []string {
	var out []string
	for _, t := range f.Targets {
		if t.Name != "" && !slices.Contains(out, t.Name) {
			out = append(out, t.Name)
		}
	}
	return out
}
