package sbom

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"assay/internal/fault"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Versions that are written where none is named.
const (
	DefaultCycloneDX = "1.6"
	DefaultSPDX      = "2.3"
	DefaultSPDX3     = "3.0.1"
)

// Write writes a document: CycloneDXJSON in version 1.6 or 1.7, SPDXJSON in 2.3,
// SPDX3JSON in 3.0.1; version "" is the default of the format. What [Read] makes
// of the result equals d, but for Format, SpecVersion and Problems, and for what
// a format has no place for (SPDX has no document version).
//
// Equal documents give equal bytes: nothing is dated or numbered here.
func Write(w io.Writer, d *Document, format Format, version string) error {
	version, err := settledVersion(format, version)
	if err != nil {
		return err
	}
	return write(w, newDocumentSource(d), format, version)
}

// settledVersion is the version that is written where this one is asked for.
func settledVersion(format Format, version string) (string, error) {
	for _, f := range []struct {
		format   Format
		versions []string
	}{{CycloneDXJSON, []string{DefaultCycloneDX, "1.7"}}, {SPDXJSON, []string{DefaultSPDX}}, {SPDX3JSON, []string{DefaultSPDX3}}} {
		if f.format == format && (version == "" || slices.Contains(f.versions, version)) {
			return or(version, f.versions[0]), nil
		}
	}
	return "", fault.Newf(fault.Invalid, "SBOM format %.40q version %.20q is not written: want %s 1.6 or 1.7, %s 2.3, or %s 3.0.1", format, version, CycloneDXJSON, SPDXJSON, SPDX3JSON)
}

func write(w io.Writer, src source, format Format, version string) error {
	buf := bufio.NewWriterSize(w, 64<<10)
	out := &writer{e: jsontext.NewEncoder(buf, jsontext.WithIndent("  ")), src: src, d: src.header()}
	var err error
	switch format {
	case CycloneDXJSON:
		err = out.cycloneDX(version)
	case SPDXJSON:
		err = out.spdx()
	default:
		err = out.spdx3()
	}
	if err != nil {
		return fmt.Errorf("write SBOM: %w", err)
	}
	return buf.Flush()
}

// source is what is written: a document in memory, or one that is read again for
// each walk. Walks are in one order; an error of a visitor ends them and is given
// back. What is handed to a visitor is its own only until it returns.
type source interface {
	header() *Header
	components(visit func(*Component) error) error
	// dependencies gives all that a component depends on at once.
	dependencies(visit func(from string, on []string) error) error
	// has says whether a component has this ref.
	has(ref string) bool
	// component gives one component; nil when there is none.
	component(ref string) (*Component, error)
}

// documentSource is a document in memory.
type documentSource struct {
	d    *Document
	refs map[string]int
}

func newDocumentSource(d *Document) *documentSource {
	s := &documentSource{d: d, refs: make(map[string]int, len(d.Components))}
	for i := range d.Components {
		if _, twice := s.refs[d.Components[i].Ref]; !twice {
			s.refs[d.Components[i].Ref] = i
		}
	}
	return s
}

func (s *documentSource) header() *Header { return &s.d.Header }

func (s *documentSource) components(visit func(*Component) error) error {
	for i := range s.d.Components {
		if err := visit(&s.d.Components[i]); err != nil {
			return err
		}
	}
	return nil
}

func (s *documentSource) dependencies(visit func(string, []string) error) error {
	for _, dep := range s.d.Dependencies {
		if err := visit(dep.Ref, dep.On); err != nil {
			return err
		}
	}
	return nil
}

func (s *documentSource) has(ref string) bool { _, is := s.refs[ref]; return is }

func (s *documentSource) component(ref string) (*Component, error) {
	if i, is := s.refs[ref]; is {
		return &s.d.Components[i], nil
	}
	return nil, nil
}

// ParseFormat reads a format with an optional version: "cyclonedx-json",
// "cyclonedx-json@1.7".
func ParseFormat(s string) (Format, string, error) {
	name, version, _ := strings.Cut(s, "@")
	switch f := Format(name); f {
	case CycloneDXJSON, SPDXJSON, SPDX3JSON:
		return f, version, nil
	}
	return "", "", fault.Newf(fault.Invalid, "SBOM format %.40q: want %s[@1.6|@1.7], %s or %s", s, CycloneDXJSON, SPDXJSON, SPDX3JSON)
}

// writer writes JSON member by member, so that a large document is never held
// as text.
type writer struct {
	e   *jsontext.Encoder
	src source
	d   *Header
	err error
}

func (w *writer) token(t jsontext.Token) {
	if w.err == nil {
		w.err = w.e.WriteToken(t)
	}
}

func (w *writer) begin(name string) {
	if name != "" {
		w.token(jsontext.String(name))
	}
	w.token(jsontext.BeginObject)
}
func (w *writer) end() { w.token(jsontext.EndObject) }

func (w *writer) list(name string, n int, each func(i int)) {
	if n == 0 {
		return
	}
	w.token(jsontext.String(name))
	w.token(jsontext.BeginArray)
	for i := range n {
		each(i)
	}
	w.token(jsontext.EndArray)
}

// text writes a member, unless it is empty.
func (w *writer) text(name, value string) {
	if value != "" {
		w.token(jsontext.String(name))
		w.token(jsontext.String(value))
	}
}

func (w *writer) value(name string, v any) {
	w.token(jsontext.String(name))
	if w.err == nil {
		w.err = json.MarshalEncode(w.e, v, json.Deterministic(true))
	}
}

func (w *writer) created() string {
	if w.d.Created.IsZero() {
		return ""
	}
	return w.d.Created.UTC().Format(time.RFC3339)
}

// many writes a list of unknown length: each calls item before every element.
// Nothing is written of an empty one.
func (w *writer) many(name string, each func(item func()) error) {
	open := false
	err := each(func() {
		if !open {
			open = true
			w.token(jsontext.String(name))
			w.token(jsontext.BeginArray)
		}
	})
	if w.err == nil {
		w.err = err
	}
	if open {
		w.token(jsontext.EndArray)
	}
}

// subject is the one component that CycloneDX puts into its metadata; the other
// roots stand among the components.
func (w *writer) subject() *Component {
	if len(w.d.Roots) == 0 || w.err != nil {
		return nil
	}
	c, err := w.src.component(w.d.Roots[0])
	w.err = err
	return c
}

type pair struct{ Name, Value string }

func (w *writer) pairs(name, key, value string, in []pair) {
	w.list(name, len(in), func(i int) {
		w.begin("")
		w.text(key, in[i].Name)
		w.text(value, in[i].Value)
		w.end()
	})
}

// digestPairs gives the digests in the spelling of a format.
func digestPairs(c *Component, spell func(string) string) []pair {
	var out []pair
	for _, alg := range sortedKeys(c.Digests) {
		if name := spell(alg); name != "" {
			out = append(out, pair{name, c.Digests[alg]})
		}
	}
	return out
}
