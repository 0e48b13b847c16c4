// Package strictyaml decodes configuration so that a typing error is an error:
// unknown and duplicate keys, aliases, anchors, a second document where one is
// wanted, and endless input are all refused, with the line.
//
// A misspelt field that is silently ignored fails open (CVE-2025-29778), and
// an alias that multiplies itself ends in memory.
package strictyaml

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strings"

	"assay/internal/fault"

	"go.yaml.in/yaml/v3"
)

const (
	// MaxBytes is the most that a file may hold.
	MaxBytes = 4 << 20
	maxDepth = 64
)

// Unmarshal decodes exactly one document into v. All errors are
// [fault.Invalid] and name the line.
func Unmarshal(b []byte, v any) error {
	docs, err := Split(b)
	if err != nil {
		return err
	}
	if len(docs) != 1 {
		return fault.Newf(fault.Invalid, "want one YAML document, found %d", len(docs))
	}
	return docs[0].Decode(v)
}

// Document is one YAML document of a file, checked but not yet decoded.
type Document struct {
	Line int // of its first node, from 1
	text []byte
}

// Decode reads the document into v.
func (d Document) Decode(v any) error {
	dec := yaml.NewDecoder(bytes.NewReader(d.text))
	dec.KnownFields(true)
	if err := dec.Decode(v); err != nil {
		// "field x not found in type config.Config" names a type of Go, which
		// tells the reader nothing.
		return fault.Newf(fault.Invalid, "%s", goType.ReplaceAllString(strings.TrimPrefix(err.Error(), "yaml: "), "$1 is unknown here"))
	}
	return nil
}

var goType = regexp.MustCompile(`(field \S+) not found in type \S+`)

// Text is the document, written again in one canonical layout.
func (d Document) Text() []byte { return d.text }

// Split checks a file and parts it into its documents; empty ones are left out.
func Split(b []byte) ([]Document, error) {
	if len(b) > MaxBytes {
		return nil, fault.Newf(fault.TooLarge, "YAML of %d bytes: at most %d are read", len(b), MaxBytes)
	}
	var docs []Document
	dec := yaml.NewDecoder(bytes.NewReader(b))
	for {
		var n yaml.Node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "%w", err)
		}
		if len(n.Content) == 0 || n.Content[0].Tag == "!!null" {
			continue
		}
		if err := check(&n, 0); err != nil {
			return nil, err
		}
		text, err := yaml.Marshal(&n)
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "%w", err)
		}
		// Decoding is done from the node's own text, since KnownFields works on
		// a stream only; comments and order stay.
		docs = append(docs, Document{Line: n.Content[0].Line, text: text})
	}
}

func check(n *yaml.Node, depth int) error {
	if depth > maxDepth {
		return fault.Newf(fault.Invalid, "line %d: nested deeper than %d", n.Line, maxDepth)
	}
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return fault.Newf(fault.Invalid, "line %d: anchors and aliases are not read here; write the value out", n.Line)
	}
	if n.Kind == yaml.MappingNode {
		seen := map[string]int{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" {
				return fault.Newf(fault.Invalid, "line %d: want a plain key", k.Line)
			}
			if first, twice := seen[k.Value]; twice {
				return fault.Newf(fault.Invalid, "line %d: key %.60q stands at line %d already", k.Line, k.Value, first)
			}
			seen[k.Value] = k.Line
		}
	}
	for _, c := range n.Content {
		if err := check(c, depth+1); err != nil {
			return err
		}
	}
	return nil
}
