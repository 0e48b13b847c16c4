// Package overlay adds to what bills of materials say of components: who owns and
// who supplies them, under which licence they are, when they were published and
// until when they are cared for. An overlay is a signed statement of its own and
// never changes a document; each value stands with its source and its signer, and
// where two differ, both are shown.
package overlay

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/internal/strictyaml"
)

// Limits of an overlay.
const (
	MaxBytes      = 8 << 20
	maxComponents = 50_000
	maxText       = 1000
)

// Overlay is what one statement adds: the predicate, and the file that a person
// writes.
type Overlay struct {
	Components []Entry `json:"components" yaml:"components"`
}

// Entry is about a package, by its package URL; without a version, about all of
// its versions.
type Entry struct {
	PURL      string `json:"purl" yaml:"purl"`
	Owner     *Value `json:"owner,omitempty" yaml:"owner,omitempty"`
	Supplier  *Value `json:"supplier,omitempty" yaml:"supplier,omitempty"`
	License   *Value `json:"license,omitempty" yaml:"license,omitempty"`     // SPDX licence expression
	EndOfLife *Value `json:"endOfLife,omitempty" yaml:"endOfLife,omitempty"` // day, 2006-01-02
	Published *Value `json:"published,omitempty" yaml:"published,omitempty"` // day

	purl artifact.PURL
}

// Value is a word and where it was taken from: an address, or words.
type Value struct {
	Value  string `json:"value" yaml:"value"`
	Source string `json:"source" yaml:"source"`
}

// Parse reads a file, YAML or JSON, strictly.
func Parse(b []byte) (*Overlay, error) {
	if len(b) > MaxBytes {
		return nil, fault.Newf(fault.TooLarge, "overlay of %d bytes: at most %d", len(b), MaxBytes)
	}
	var o Overlay
	if err := strictyaml.Unmarshal(b, &o); err != nil {
		return nil, fault.Newf(fault.Invalid, "overlay: %w", err)
	}
	return &o, o.check()
}

// ParsePredicate reads the predicate of a statement.
func ParsePredicate(b []byte) (*Overlay, error) {
	if len(b) > MaxBytes {
		return nil, fault.Newf(fault.TooLarge, "overlay of %d bytes: at most %d", len(b), MaxBytes)
	}
	var o Overlay
	if err := strictjson.Unmarshal(b, &o, strictjson.RejectUnknown()); err != nil {
		return nil, fault.Newf(fault.Invalid, "overlay: %w", err)
	}
	return &o, o.check()
}

// Predicate is the overlay as canonical JSON (RFC 8785).
func (o *Overlay) Predicate() ([]byte, error) { return strictjson.Canonical(o) }

var (
	day        = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}$`)
	expression = regexp.MustCompile(`^[A-Za-z0-9.+:() -]+$`)
)

func (o *Overlay) check() error {
	if len(o.Components) == 0 || len(o.Components) > maxComponents {
		return fault.Newf(fault.Invalid, "overlay: %d components; want 1 to %d", len(o.Components), maxComponents)
	}
	for i := range o.Components {
		e := &o.Components[i]
		var err error
		if e.purl, err = artifact.ParsePURL(e.PURL); err != nil {
			return fault.Newf(fault.Invalid, "overlay: components[%d]: %w", i, err)
		}
		fields := e.fields()
		if len(fields) == 0 {
			return fault.Newf(fault.Invalid, "overlay: components[%d] (%.200s) says nothing: want owner, supplier, license, endOfLife or published", i, e.PURL)
		}
		for name, v := range fields {
			switch {
			case v.Value == "" || v.Source == "":
				return fault.Newf(fault.Invalid, "overlay: components[%d].%s: want a value and its source", i, name)
			case len(v.Value) > maxText || len(v.Source) > maxText || strings.ContainsFunc(v.Value+v.Source, func(r rune) bool { return r < ' ' || r == 0x7f }):
				return fault.Newf(fault.Invalid, "overlay: components[%d].%s: a line of at most %d bytes", i, name, maxText)
			case name == "license" && !expression.MatchString(v.Value):
				return fault.Newf(fault.Invalid, "overlay: components[%d].license %.100q: want an SPDX licence expression", i, v.Value)
			case (name == "endOfLife" || name == "published") && !isDay(v.Value):
				return fault.Newf(fault.Invalid, "overlay: components[%d].%s %.100q: want a day as 2006-01-02", i, name, v.Value)
			}
		}
	}
	return nil
}

func isDay(s string) bool {
	_, err := time.Parse(time.DateOnly, s)
	return err == nil && day.MatchString(s)
}

func (e *Entry) fields() map[string]*Value {
	all := map[string]*Value{"owner": e.Owner, "supplier": e.Supplier, "license": e.License, "endOfLife": e.EndOfLife, "published": e.Published}
	for name, v := range all {
		if v == nil {
			delete(all, name)
		}
	}
	return all
}

// Signed is an overlay and who signed it.
type Signed struct {
	*Overlay
	Signer      string
	Attestation string
}

// Fact is a value about a component, with where it comes from.
type Fact struct {
	Component   string `json:"component"`
	Field       string `json:"field"`
	Value       string `json:"value"`
	Source      string `json:"source"`
	Signer      string `json:"signer"`
	Attestation string `json:"attestation"`
	Disputed    bool   `json:"disputed,omitempty"` // another overlay says something else
}

// Apply says what overlays add to components, given by their package URLs, sorted
// by component and field. Nothing wins: what differs is all there, and disputed.
func Apply(purls []string, all []Signed) (facts []Fact) {
	byPackage := map[string][]int{}
	type at struct {
		of    Signed
		entry *Entry
	}
	var entries []at
	for _, s := range all {
		for i := range s.Components {
			e := &s.Components[i]
			key := e.purl.Package().String()
			byPackage[key] = append(byPackage[key], len(entries))
			entries = append(entries, at{s, e})
		}
	}
	for _, text := range purls {
		p, err := artifact.ParsePURL(text)
		if err != nil {
			continue
		}
		for _, i := range byPackage[p.Package().String()] {
			e := entries[i]
			if e.entry.purl.Version != "" && e.entry.purl.Version != p.Version {
				continue
			}
			for field, v := range e.entry.fields() {
				facts = append(facts, Fact{Component: text, Field: field, Value: v.Value, Source: v.Source, Signer: e.of.Signer, Attestation: e.of.Attestation})
			}
		}
	}
	Compare(facts)
	return facts
}

// Each gives every value with the package that it is about.
func (o *Overlay) Each(fn func(p artifact.PURL, field string, v Value)) {
	for i := range o.Components {
		e := &o.Components[i]
		fields := e.fields()
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			fn(e.purl, name, *fields[name])
		}
	}
}

// Compare sorts facts by component and field, and marks what differs as disputed.
func Compare(facts []Fact) {
	slices.SortFunc(facts, func(a, b Fact) int {
		return strings.Compare(a.Component+"\x00"+a.Field+"\x00"+a.Value+"\x00"+a.Attestation, b.Component+"\x00"+b.Field+"\x00"+b.Value+"\x00"+b.Attestation)
	})
	for i := 1; i < len(facts); i++ { // sorted: what differs stands side by side
		a, b := &facts[i-1], &facts[i]
		if a.Component == b.Component && a.Field == b.Field && (a.Value != b.Value || a.Disputed) {
			a.Disputed, b.Disputed = true, true
		}
	}
	for i := len(facts) - 1; i > 0; i-- {
		a, b := &facts[i-1], &facts[i]
		a.Disputed = a.Disputed || b.Disputed && a.Component == b.Component && a.Field == b.Field
	}
}
