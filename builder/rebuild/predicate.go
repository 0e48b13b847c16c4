// Package rebuild builds an artifact again from what its provenance says, in a
// clean folder, and compares what comes out: the same bytes made twice by
// different people are worth more than either's word.
package rebuild

import (
	"regexp"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/internal/secret"
	"assay/internal/strictjson"
)

// PredicateType is the type of statements that their subjects were built again.
// in-toto has none for it (rebuilderd writes a link, which cannot say that
// something else came out). docs/rebuild.md describes it and holds its schema.
const PredicateType = "https://assay.dev/predicates/rebuild/v0.1"

// Bounds of one document.
const (
	maxDocument    = 256 << 10
	maxProducts    = 64
	maxDifferences = 100 // of one product
	maxTools       = 128
	maxText        = 500 // bytes of one string
)

// Rebuild is the predicate. The statement's subjects are the products as the
// provenance has them, whether the same came out or not.
type Rebuild struct {
	InvocationID string    `json:"invocationId"` // of this run, rbd_…
	Of           Of        `json:"of"`
	BuildType    string    `json:"buildType"`
	Source       Source    `json:"source"`
	Command      []string  `json:"command"`
	Dir          string    `json:"dir"`              // below the source's root
	Env          []string  `json:"env,omitempty"`    // names of variables that were set as recorded
	Passed       []string  `json:"passed,omitempty"` // names of variables that came from the machine
	Tools        []Tool    `json:"tools,omitempty"`
	OS           string    `json:"os"`
	Arch         string    `json:"arch"`
	StartedOn    time.Time `json:"startedOn"`
	FinishedOn   time.Time `json:"finishedOn"`
	Products     []Product `json:"products"`
}

// Of is the provenance that was followed.
type Of struct {
	Attestation  string `json:"attestation"` // att_ and the digest of its bundle
	InvocationID string `json:"invocationId,omitempty"`
	BuilderID    string `json:"builderId"`
	Signer       string `json:"signer"` // identity, or key
}

// Source is what was checked out.
type Source struct {
	URI    string `json:"uri,omitempty"`
	Ref    string `json:"ref,omitempty"`
	Commit string `json:"commit"` // hex, verified after the checkout
}

// Tool is a program by name, as the provenance has it and as it is here.
type Tool struct {
	Name     string          `json:"name"`
	Expected artifact.Digest `json:"expected,omitempty"`
	Got      artifact.Digest `json:"got,omitempty"` // absent: not here
}

// Product is one file, or the image made of the files.
type Product struct {
	Name        string          `json:"name"`
	Expected    artifact.Digest `json:"expected"`
	Got         artifact.Digest `json:"got,omitempty"` // absent: the build did not make it
	Differences []Difference    `json:"differences,omitempty"`
	More        bool            `json:"more,omitempty"` // there are more than are listed
}

// Identical says whether the same bytes came out.
func (p *Product) Identical() bool { return p.Got != "" && p.Got == p.Expected }

// Difference is one thing in which two files differ.
type Difference struct {
	What     string `json:"what"` // size, bytes, gobuild, elf.section, elf.note, tar.member, …
	Name     string `json:"name,omitempty"`
	Expected string `json:"expected,omitempty"`
	Got      string `json:"got,omitempty"`
}

// Identical says whether every product came out the same.
func (r *Rebuild) Identical() bool {
	for i := range r.Products {
		if !r.Products[i].Identical() {
			return false
		}
	}
	return len(r.Products) > 0
}

// Parse reads a predicate strictly.
func Parse(b []byte) (*Rebuild, error) {
	if len(b) > maxDocument {
		return nil, fault.Newf(fault.TooLarge, "rebuild of %d bytes, want at most %d", len(b), maxDocument)
	}
	var r Rebuild
	if err := strictjson.Unmarshal(b, &r, strictjson.RejectUnknown(), strictjson.WithMaxDepth(8)); err != nil {
		return nil, fault.Newf(fault.Invalid, "rebuild: %w", err)
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return &r, nil
}

// JSON writes the predicate. What makes it too long is cut from the differences.
func (r *Rebuild) JSON() ([]byte, error) {
	for {
		if err := r.Validate(); err != nil {
			return nil, err
		}
		b, err := strictjson.Marshal(r)
		if err != nil || len(b) <= maxDocument {
			return b, err
		}
		cut := false
		for i := range r.Products {
			p := &r.Products[i]
			if n := len(p.Differences); n > 0 {
				p.Differences, p.More, cut = p.Differences[:n/2], true, true
			}
		}
		if !cut {
			return nil, fault.Newf(fault.TooLarge, "rebuild of %d bytes, want at most %d", len(b), maxDocument)
		}
	}
}

var (
	commitHex = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	runID     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@+=?&%#-]{0,255}$`)
)

// Validate checks the bounds.
func (r *Rebuild) Validate() error {
	bad := func(format string, a ...any) error { return fault.Newf(fault.Invalid, "rebuild: "+format, a...) }
	switch {
	case !runID.MatchString(r.InvocationID):
		return bad("invocationId %.80q", r.InvocationID)
	case !commitHex.MatchString(r.Source.Commit):
		return bad("source.commit %.80q: want the commit in hex", r.Source.Commit)
	case len(r.Command) == 0 || len(r.Command) > 1024 || len(r.Tools) > maxTools || len(r.Env) > 256 || len(r.Passed) > 256:
		return bad("want a command, and lists within their bounds")
	case len(r.Products) == 0 || len(r.Products) > maxProducts:
		return bad("%d products, want 1 to %d", len(r.Products), maxProducts)
	}
	texts := []string{r.Of.Attestation, r.Of.InvocationID, r.Of.BuilderID, r.Of.Signer, r.BuildType, r.Source.URI, r.Source.Ref, r.Dir, r.OS, r.Arch}
	texts = append(append(texts, r.Env...), r.Passed...)
	for _, t := range r.Tools {
		for _, d := range []artifact.Digest{t.Expected, t.Got} {
			if d != "" && d.Validate() != nil {
				return bad("tool %.80q: want digests", t.Name)
			}
		}
		texts = append(texts, t.Name)
	}
	for i := range r.Products {
		p := &r.Products[i]
		if p.Expected.Validate() != nil || p.Got != "" && p.Got.Validate() != nil || len(p.Differences) > maxDifferences {
			return bad("product %.80q: want digests, and at most %d differences", p.Name, maxDifferences)
		}
		if p.Identical() && len(p.Differences) > 0 {
			return bad("product %.80q is the same and differs", p.Name)
		}
		texts = append(texts, p.Name)
		for _, d := range p.Differences {
			texts = append(texts, d.What, d.Name, d.Expected, d.Got)
		}
	}
	for _, s := range texts {
		if len(s) > maxText || strings.ContainsFunc(s, unprintable) {
			return bad("a text of over %d bytes, or with control characters", maxText)
		}
	}
	for _, s := range append(texts, r.Command...) {
		if secret.Looking(s) {
			return bad("a text looks like a secret")
		}
	}
	return nil
}

func unprintable(r rune) bool { return r < 0x20 || r == 0x7f || r == 0xfffd || r >= 0x80 && r < 0xa0 }

// clip makes any text one that may stand in the document.
func clip(s string) string {
	s = excerpt.Line(s, maxText, ' ')
	if secret.Looking(s) {
		return "(left out: it looks like a secret)"
	}
	return s
}
