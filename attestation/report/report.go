// Package report reads what test runners, scanners, fuzzers and reviewers
// write, and makes of it statements that can be signed: test results as
// in-toto's test-result, the others as the predicate types below.
//
// A report is a stranger's document. It is read under caps of bytes, depth and
// entries; XML with a DOCTYPE is refused. What is counted is what the document
// lists, never a total that it claims for itself, except where the claim is
// worse. What is unknown is not clean: a report in which nothing ran, nothing
// was measured or no scan took place is an error and becomes no statement.
//
// The document itself is not part of the statement: its digest is. Names and
// findings are kept up to a bound, for people; counts are of the whole.
package report

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// The predicate types that are our own. docs/evidence.md describes them.
const (
	PredicateCoverage = "https://assay.dev/attestations/coverage/v1"
	PredicateSARIF    = "https://assay.dev/attestations/sarif/v1"
	PredicateFuzzing  = "https://assay.dev/attestations/fuzzing/v1"
	PredicateLicenses = "https://assay.dev/attestations/licenses/v1"
	PredicateReview   = "https://assay.dev/attestations/review/v1"
)

// Kind is a sort of report.
type Kind string

// The kinds, by the names that `assay attest --type` takes.
const (
	JUnit    Kind = "junit"    // JUnit XML, of any runner
	GoTest   Kind = "gotest"   // go test -json
	Coverage Kind = "coverage" // a Go cover profile, Cobertura XML or LCOV
	SARIF    Kind = "sarif"    // SARIF 2.1.0
	Fuzz     Kind = "fuzz"     // output of go test -fuzz or of libFuzzer
	License  Kind = "license"  // licences of packages: go-licenses CSV, or JSON
	Review   Kind = "review"   // reviews of a change, as docs/evidence.md describes
)

// Kinds lists the kinds.
func Kinds() []Kind { return []Kind{JUnit, GoTest, Coverage, SARIF, Fuzz, License, Review} }

// PredicateType is the type of the statement that a report of this kind
// becomes; "" for no kind.
func (k Kind) PredicateType() string {
	switch k {
	case JUnit, GoTest:
		return attestation.PredicateTestResult
	case Coverage:
		return PredicateCoverage
	case SARIF:
		return PredicateSARIF
	case Fuzz:
		return PredicateFuzzing
	case License:
		return PredicateLicenses
	case Review:
		return PredicateReview
	}
	return ""
}

// The caps.
const (
	// MaxDocument is the largest report that is read, in bytes.
	MaxDocument = 64 << 20

	maxNamed   = 1000 // tests, findings, packages that a statement lists by name
	maxName    = 240  // bytes of one name
	maxTests   = 1 << 20
	maxListed  = 256 // tools, targets, licences: what facts are made of
	maxMessage = 300
)

// Descriptor names a document by its content: in-toto's ResourceDescriptor.
type Descriptor struct {
	Name      string             `json:"name,omitempty"`
	Digest    artifact.DigestSet `json:"digest"`
	MediaType string             `json:"mediaType,omitempty"`
}

// Options say what the document does not.
type Options struct {
	Name          string       // of the suite or the step, so that several of one kind stand beside one another: "unit"
	File          string       // the document's file name, for people
	URL           string       // where the run can be seen
	Configuration []Descriptor // files that configured a test run
}

// Report is a report that was read: a predicate, ready to be signed.
type Report struct {
	PredicateType string
	Predicate     []byte // canonical JSON
	View          View
}

// View is what a report says, normalised: what facts are made of. Exactly one
// of the pointers is set.
type View struct {
	Name     string // of the suite; "" when none was given
	Format   string // "junit", "go-test-json", "go-cover", "cobertura", …
	Document artifact.Digest

	Tests    *Tests
	Coverage *CoverageView
	Findings *Findings
	Fuzzing  *Fuzzing
	Licenses *Licenses
	Review   *ReviewView
}

// head is what all our own predicates begin with.
type head struct {
	Name   string     `json:"name,omitempty"`
	Format string     `json:"format"`
	Report Descriptor `json:"report"`
	URL    string     `json:"url,omitempty"`
}

// Read reads a report of a kind. Errors are fault.Invalid and fault.TooLarge;
// they say what is wrong with the document, or what it lacks to say anything.
func Read(k Kind, doc []byte, o Options) (*Report, error) {
	if k.PredicateType() == "" {
		return nil, fault.Newf(fault.Invalid, "report of kind %.40q: want one of %v", string(k), Kinds())
	}
	if len(doc) > MaxDocument {
		return nil, fault.Newf(fault.TooLarge, "a report of %d bytes: at most %d are read", len(doc), MaxDocument)
	}
	if len(o.Name) > maxName || clean(o.Name, maxName) != o.Name {
		return nil, fault.Newf(fault.Invalid, "name %.60q: want at most %d printable bytes", o.Name, maxName)
	}
	h := head{
		Name: o.Name, URL: o.URL,
		Report: Descriptor{Name: clean(o.File, maxName), Digest: artifact.SHA256Of(doc).Set()},
	}
	p, err := read(k, doc, &h, &o)
	if err != nil {
		return nil, fault.Newf(fault.KindOf(err), "%s report: %w", k, err)
	}
	out := &Report{PredicateType: k.PredicateType()}
	if out.Predicate, err = strictjson.Canonical(p); err != nil {
		return nil, fault.Newf(fault.Internal, "write the %s predicate: %w", k, err)
	}
	// What we state must be what we would read.
	v, err := ParsePredicate(out.PredicateType, out.Predicate)
	if err != nil {
		return nil, err
	}
	out.View = *v
	return out, nil
}

func read(k Kind, doc []byte, h *head, o *Options) (any, error) {
	switch k {
	case JUnit:
		h.Format, h.Report.MediaType = "junit", "application/xml"
		run, err := readJUnit(doc)
		return run.predicate(h, o), err
	case GoTest:
		h.Format, h.Report.MediaType = "go-test-json", "application/x-ndjson"
		run, err := readGoTest(doc)
		return run.predicate(h, o), err
	case Coverage:
		return readCoverage(doc, h)
	case SARIF:
		return readSARIF(doc, h)
	case Fuzz:
		return readFuzz(doc, h)
	case License:
		return readLicenses(doc, h)
	}
	return readReview(doc, h)
}

// ReportTypes are the predicate types that [ParsePredicate] reads.
func ReportTypes() []string {
	return []string{attestation.PredicateTestResult, PredicateCoverage, PredicateSARIF, PredicateFuzzing, PredicateLicenses, PredicateReview}
}

// IsReport says whether [ParsePredicate] reads this predicate type.
func IsReport(predicateType string) bool { return slices.Contains(ReportTypes(), predicateType) }

// ParsePredicate reads what a statement of one of the [ReportTypes] says,
// whoever made it. A predicate that contradicts itself is fault.Invalid.
func ParsePredicate(predicateType string, predicate []byte) (*View, error) {
	switch predicateType {
	case attestation.PredicateTestResult:
		return parseTests(predicate)
	case PredicateCoverage:
		return parseOwn(predicate, func(v *View, p *coveragePredicate) error {
			v.Coverage = &CoverageView{p.Metrics}
			return v.Coverage.validate()
		})
	case PredicateSARIF:
		return parseOwn(predicate, func(v *View, p *sarifPredicate) error { v.Findings = &p.Findings; return v.Findings.validate() })
	case PredicateFuzzing:
		return parseOwn(predicate, func(v *View, p *fuzzPredicate) error { v.Fuzzing = &p.Fuzzing; return v.Fuzzing.validate() })
	case PredicateLicenses:
		return parseOwn(predicate, func(v *View, p *licensePredicate) error { v.Licenses = &p.Licenses; return v.Licenses.validate() })
	case PredicateReview:
		return parseOwn(predicate, func(v *View, p *reviewPredicate) error {
			if err := p.Review.validate(); err != nil {
				return err
			}
			v.Review = p.Review.view()
			return nil
		})
	}
	return nil, fault.Newf(fault.Invalid, "predicate type %.100q is no report", predicateType)
}

// headed is one of our own predicates.
type headed interface{ header() *head }

func (h *head) header() *head { return h }

func parseOwn[T any, P interface {
	*T
	headed
}](b []byte, fill func(*View, P) error,
) (*View, error) {
	p := P(new(T))
	if err := strictjson.Unmarshal(b, p, strictjson.RejectUnknown()); err != nil {
		return nil, fault.Newf(fault.Invalid, "predicate: %w", err)
	}
	h := p.header()
	v := &View{Name: h.Name, Format: h.Format}
	var err error
	if v.Document, err = h.Report.digest(); err != nil {
		return nil, err
	}
	if err := h.validate(); err != nil {
		return nil, err
	}
	if err := fill(v, p); err != nil {
		return nil, fault.Newf(fault.Invalid, "predicate: %w", err)
	}
	return v, nil
}

func (h *head) validate() error {
	if len(h.Name) > maxName || len(h.Format) > 64 || h.Format == "" {
		return fault.Newf(fault.Invalid, "predicate: want a format, and a name of at most %d bytes", maxName)
	}
	return nil
}

func (d *Descriptor) digest() (artifact.Digest, error) {
	strong := d.Digest.Strong()
	if len(strong) == 0 {
		return "", fault.Newf(fault.Invalid, "predicate: report has no sha256 or other strong digest")
	}
	return strong[0], nil
}

// clean makes one bounded line of text that others made.
func clean(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == utf8.RuneError || r >= 0x200b && r <= 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '?'
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most-len("…")], "") + "…"
	}
	return s
}

// unmarshal reads JSON of others: strict in what it may do, lenient in the
// members that it may have.
func unmarshal(b []byte, v any) error {
	if err := strictjson.Unmarshal(b, v, strictjson.WithMaxBytes(MaxDocument), strictjson.WithMaxDepth(64)); err != nil {
		// What it is read into is nothing that its writer knows.
		return fault.Newf(fault.Invalid, "%s", goType.ReplaceAllString(err.Error(), ""))
	}
	return nil
}

var goType = regexp.MustCompile(` into Go (struct \{[^}]*\}|map\[[^ ]*|[^ :]+)`)

// counted is a tally of words, in the order of their counts.
func counted(in map[string]int) []string {
	keys := make([]string, 0, len(in))
	for k := range in {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int { return cmp.Or(cmp.Compare(in[b], in[a]), cmp.Compare(a, b)) })
	return keys
}

// Describe names a document by its content.
func Describe(name, mediaType string, b []byte) Descriptor {
	return Descriptor{Name: clean(name, maxName), Digest: artifact.SHA256Of(b).Set(), MediaType: mediaType}
}
