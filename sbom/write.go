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
	buf := bufio.NewWriterSize(w, 64<<10)
	out := &writer{e: jsontext.NewEncoder(buf, jsontext.WithIndent("  ")), d: d}
	var err error
	switch {
	case format == CycloneDXJSON && slices.Contains([]string{"", "1.6", "1.7"}, version):
		if version == "" {
			version = DefaultCycloneDX
		}
		err = out.cycloneDX(version)
	case format == SPDXJSON && (version == "" || version == DefaultSPDX):
		err = out.spdx()
	case format == SPDX3JSON && (version == "" || version == DefaultSPDX3):
		err = out.spdx3()
	default:
		return fault.Newf(fault.Invalid, "SBOM format %.40q version %.20q is not written: want %s 1.6 or 1.7, %s 2.3, or %s 3.0.1", format, version, CycloneDXJSON, SPDXJSON, SPDX3JSON)
	}
	if err != nil {
		return fmt.Errorf("write SBOM: %w", err)
	}
	return buf.Flush()
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
	d   *Document
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

// subject is the one component that CycloneDX puts into its metadata; the other
// roots stand among the components.
func (w *writer) subject() *Component {
	if len(w.d.Roots) == 0 {
		return nil
	}
	return w.d.Component(w.d.Roots[0])
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
