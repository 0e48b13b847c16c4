package report

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"assay/internal/fault"
)

// CoverageView is how much of the code the tests reached.
type CoverageView struct{ Metrics []Metric }

// Metric is one measure of coverage.
type Metric struct {
	Kind    string `json:"kind"` // "statements", "lines", "branches" or "functions"
	Covered int    `json:"covered"`
	Total   int    `json:"total"` // above zero
}

// Percent is the share that is covered, rounded down to hundredths: what is
// rounded up would pass a bound that it does not reach.
func (m Metric) Percent() float64 {
	if m.Total <= 0 {
		return 0
	}
	return math.Floor(float64(m.Covered)/float64(m.Total)*10000) / 100
}

type coveragePredicate struct {
	head
	Metrics []Metric `json:"metrics"`
	Files   int      `json:"files"`
}

func (c *CoverageView) validate() error {
	if len(c.Metrics) == 0 || len(c.Metrics) > 4 {
		return fault.Newf(fault.Invalid, "%d metrics of coverage, want 1 to 4", len(c.Metrics))
	}
	seen := map[string]bool{}
	for _, m := range c.Metrics {
		if !slices.Contains([]string{"statements", "lines", "branches", "functions"}, m.Kind) || seen[m.Kind] {
			return fault.Newf(fault.Invalid, "coverage of %.40q: want statements, lines, branches or functions, each once", m.Kind)
		}
		seen[m.Kind] = true
		if m.Total <= 0 || m.Covered < 0 || m.Covered > m.Total {
			return fault.Newf(fault.Invalid, "%d of %d %s are covered, it says", m.Covered, m.Total, m.Kind)
		}
	}
	return nil
}

func readCoverage(doc []byte, h *head) (any, error) {
	p := &coveragePredicate{}
	var err error
	trimmed := bytes.TrimSpace(bytes.TrimPrefix(doc, []byte("\xef\xbb\xbf")))
	switch {
	case bytes.HasPrefix(trimmed, []byte("mode:")):
		h.Format, h.Report.MediaType = "go-cover", "text/plain"
		p.Metrics, p.Files, err = readCoverProfile(trimmed)
	case bytes.HasPrefix(trimmed, []byte("<")):
		h.Format, h.Report.MediaType = "cobertura", "application/xml"
		p.Metrics, p.Files, err = readCobertura(doc)
	case bytes.HasPrefix(trimmed, []byte("TN:")) || bytes.HasPrefix(trimmed, []byte("SF:")):
		h.Format, h.Report.MediaType = "lcov", "text/plain"
		p.Metrics, p.Files, err = readLCOV(trimmed)
	default:
		err = fault.Newf(fault.Invalid, "it begins with none of: mode: (a Go cover profile), < (Cobertura XML), TN: or SF: (LCOV)")
	}
	if err != nil {
		return nil, err
	}
	p.head = *h
	p.Metrics = slices.DeleteFunc(p.Metrics, func(m Metric) bool { return m.Total == 0 })
	if len(p.Metrics) == 0 {
		return nil, fault.Newf(fault.Invalid, "nothing was measured: coverage of no code is unknown, and is not attested")
	}
	return p, nil
}

// readCoverProfile reads what go test -coverprofile writes. A block that stands
// several times, as with -coverpkg, counts once, and is covered when one says so.
func readCoverProfile(doc []byte) ([]Metric, int, error) {
	type block struct {
		n       int
		covered bool
	}
	blocks, files := map[string]block{}, map[string]bool{}
	n := 0
	for raw := range bytes.Lines(doc) {
		n++
		line := strings.TrimSpace(string(raw))
		if line == "" || strings.HasPrefix(line, "mode:") { // profiles are joined by cat as well
			continue
		}
		// name.go:12.34,15.2 3 1
		fields := strings.Fields(line)
		colon := strings.LastIndexByte(line, ':')
		if len(fields) < 3 || colon <= 0 {
			return nil, 0, fault.Newf(fault.Invalid, "line %d: want FILE:LINE.COLUMN,LINE.COLUMN STATEMENTS COUNT", n)
		}
		statements, err := strconv.ParseUint(fields[len(fields)-2], 10, 24)
		count, err2 := strconv.ParseUint(fields[len(fields)-1], 10, 63)
		at := strings.Fields(line[colon+1:])
		var l0, c0, l1, c1 int
		if _, err3 := fmt.Sscanf(at[0], "%d.%d,%d.%d", &l0, &c0, &l1, &c1); err != nil || err2 != nil || err3 != nil || len(at) != 3 || l1 < l0 {
			return nil, 0, fault.Newf(fault.Invalid, "line %d: want FILE:LINE.COLUMN,LINE.COLUMN STATEMENTS COUNT", n)
		}
		key := line[:colon+1] + at[0]
		b, known := blocks[key]
		if known && b.n != int(statements) {
			return nil, 0, fault.Newf(fault.Invalid, "line %d: the block has %d statements, and had %d before: profiles of two versions of a file", n, statements, b.n)
		}
		blocks[key] = block{int(statements), b.covered || count > 0}
		files[line[:colon]] = true
		if len(blocks) > maxTests {
			return nil, 0, fault.Newf(fault.TooLarge, "more than %d blocks", maxTests)
		}
	}
	m := Metric{Kind: "statements"}
	for _, b := range blocks {
		m.Total += b.n
		if b.covered {
			m.Covered += b.n
		}
	}
	return []Metric{m}, len(files), nil
}

// readLCOV reads lcov's tracefiles. Lines are counted from DA where they are
// listed, else from LF and LH.
func readLCOV(doc []byte) ([]Metric, int, error) {
	var lines, branches, functions Metric
	files, n, open := 0, 0, false
	var da, sum Metric
	add := func(to *Metric, text string, covered bool, line int) error {
		v, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return fault.Newf(fault.Invalid, "line %d: %.40q is no count", line, text)
		}
		if covered {
			to.Covered += int(v)
		} else {
			to.Total += int(v)
		}
		return nil
	}
	for raw := range bytes.Lines(doc) {
		n++
		line := strings.TrimSpace(string(raw))
		key, value, _ := strings.Cut(line, ":")
		var err error
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case line == "end_of_record":
			if da.Total > 0 {
				sum = da
			}
			lines.Total, lines.Covered = lines.Total+sum.Total, lines.Covered+sum.Covered
			da, sum, open = Metric{}, Metric{}, false
		case key == "SF":
			if open {
				return nil, 0, fault.Newf(fault.Invalid, "line %d: a record begins before the one above it ends", n)
			}
			open = true
			files++
		case key == "DA":
			parts := strings.Split(value, ",")
			if len(parts) < 2 {
				return nil, 0, fault.Newf(fault.Invalid, "line %d: want DA:LINE,COUNT", n)
			}
			hits, herr := strconv.ParseInt(parts[1], 10, 64)
			if herr != nil {
				return nil, 0, fault.Newf(fault.Invalid, "line %d: %.40q is no count", n, parts[1])
			}
			da.Total++
			if hits > 0 {
				da.Covered++
			}
		case key == "LF":
			err = add(&sum, value, false, n)
		case key == "LH":
			err = add(&sum, value, true, n)
		case key == "BRF":
			err = add(&branches, value, false, n)
		case key == "BRH":
			err = add(&branches, value, true, n)
		case key == "FNF":
			err = add(&functions, value, false, n)
		case key == "FNH":
			err = add(&functions, value, true, n)
		case key == "TN" || key == "VER" || strings.HasPrefix(key, "FN") || key == "FL" || strings.HasPrefix(key, "BR") || strings.HasPrefix(key, "MC"):
		default:
			return nil, 0, fault.Newf(fault.Invalid, "line %d: %.40q is no line of LCOV", n, line)
		}
		if err != nil {
			return nil, 0, err
		}
	}
	if open {
		return nil, 0, fault.Newf(fault.Invalid, "the last record does not end: the file was cut short")
	}
	lines.Kind, branches.Kind, functions.Kind = "lines", "branches", "functions"
	return within([]Metric{lines, branches, functions}, files)
}

func within(in []Metric, files int) ([]Metric, int, error) {
	for _, m := range in {
		if m.Covered > m.Total {
			return nil, 0, fault.Newf(fault.Invalid, "%d of %d %s are covered, it says", m.Covered, m.Total, m.Kind)
		}
	}
	return in, files, nil
}

// readCobertura reads Cobertura XML: the lines of all classes, each once for a
// file, since methods repeat them.
func readCobertura(doc []byte) ([]Metric, int, error) {
	type place struct {
		file string
		line int
	}
	hit := map[place]bool{}
	files := map[string]bool{}
	branch := map[place][2]int{}
	file, class := "", 0
	err := walkXML(doc, func(depth int, e xml.StartElement) error {
		if depth == 1 && e.Name.Local != "coverage" {
			return fault.Newf(fault.Invalid, "XML root <%.40s>: want <coverage> of Cobertura", e.Name.Local)
		}
		switch e.Name.Local {
		case "class":
			file, class = attr(e, "filename"), depth
			if file == "" {
				return fault.Newf(fault.Invalid, "a <class> without filename")
			}
			files[file] = true
		case "line":
			if class == 0 {
				return fault.Newf(fault.Invalid, "a <line> outside of a <class>")
			}
			n, err := strconv.ParseUint(attr(e, "number"), 10, 31)
			hits, err2 := strconv.ParseUint(attr(e, "hits"), 10, 63)
			if err != nil || err2 != nil {
				return fault.Newf(fault.Invalid, "a <line> of %.80s: number and hits must be counts", file)
			}
			at := place{file, int(n)}
			hit[at] = hit[at] || hits > 0
			if len(hit) > maxTests {
				return fault.Newf(fault.TooLarge, "more than %d lines", maxTests)
			}
			return conditions(e, func(covered, total int) { branch[at] = [2]int{max(branch[at][0], covered), max(branch[at][1], total)} })
		}
		return nil
	}, func(depth int, _ string) error {
		if depth == class {
			class, file = 0, ""
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	lines, branches := Metric{Kind: "lines", Total: len(hit)}, Metric{Kind: "branches"}
	for _, h := range hit {
		if h {
			lines.Covered++
		}
	}
	for _, b := range branch {
		branches.Covered, branches.Total = branches.Covered+b[0], branches.Total+b[1]
	}
	return within([]Metric{lines, branches}, len(files))
}

// conditions reads condition-coverage="50% (1/2)".
func conditions(e xml.StartElement, add func(covered, total int)) error {
	text := attr(e, "condition-coverage")
	if text == "" || attr(e, "branch") != "true" {
		return nil
	}
	_, in, ok := strings.Cut(text, "(")
	in, _, ok2 := strings.Cut(in, ")")
	a, b, ok3 := strings.Cut(in, "/")
	covered, err := strconv.ParseUint(a, 10, 16)
	total, err2 := strconv.ParseUint(b, 10, 16)
	if !ok || !ok2 || !ok3 || err != nil || err2 != nil || covered > total {
		return fault.Newf(fault.Invalid, "condition-coverage=%.40q: want such as 50%% (1/2)", text)
	}
	add(int(covered), int(total))
	return nil
}
