package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
	"golang.org/x/term"
)

// clean makes text that others wrote safe for a terminal: control characters,
// escape sequences and direction overrides become visible marks.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case unicode.IsControl(r), r == '\u061c', r >= '\u200b' && r <= '\u200f', r >= '\u202a' && r <= '\u202e', r >= '\u2066' && r <= '\u2069', r == '\ufeff':
			return '\uFFFD'
		}
		return r
	}, s)
}

// line is clean text of one line: a value of others cannot make rows of its own.
func line(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return '\uFFFD'
		}
		return r
	}, clean(s))
}

// print writes v as JSON or YAML when that was asked for, else by table.
func (a *app) print(v any, table func(w io.Writer)) error { return a.printTo(a.stdout, v, table) }

// printTo is print to another place.
func (a *app) printTo(out io.Writer, v any, table func(w io.Writer)) error {
	switch a.output {
	case "json":
		b, err := plainJSON(v, "  ")
		if err != nil {
			return err
		}
		_, err = out.Write(b)
		return err
	case "yaml":
		return a.printYAML(out, v)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	table(w)
	return w.Flush()
}

// plainJSON is v as JSON in which what a terminal would obey is escaped. Such
// characters can stand in strings alone, where \uXXXX means the same.
func plainJSON(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", indent)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return escapeHostile(b.Bytes()), nil
}

func escapeHostile(b []byte) []byte {
	var out bytes.Buffer
	for _, r := range string(b) {
		if r != '\n' && r < 0x10000 && clean(string(r)) != string(r) {
			fmt.Fprintf(&out, `\u%04x`, r)
			continue
		}
		out.WriteRune(r)
	}
	return out.Bytes()
}

// printYAML writes v by way of JSON, so that both have the same member names.
func (a *app) printYAML(w io.Writer, v any) error {
	b, err := plainJSON(v, "")
	if err != nil {
		return err
	}
	var tree yaml.Node
	if err := yaml.Unmarshal(b, &tree); err != nil {
		return err
	}
	restyle(&tree)
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&tree); err != nil {
		return err
	}
	_, err = w.Write(escapeHostile(out.Bytes()))
	return err
}

// restyle takes JSON's braces and quotes off again, and leaves quotes where an
// escape needs them.
func restyle(n *yaml.Node) {
	n.Style = 0
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		if clean(n.Value) != n.Value || strings.ContainsAny(n.Value, "\n\t") {
			n.Style = yaml.DoubleQuotedStyle
		}
	}
	if (n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode) && len(n.Content) == 0 {
		n.Style = yaml.FlowStyle
	}
	for _, c := range n.Content {
		restyle(c)
	}
}

// terminal says whether w is one.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// paint colours a word on a terminal that wants colour (https://no-color.org).
// The word itself says the same, so that nothing depends on colour.
func (a *app) paint(word string, code string) string {
	if os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" || !terminal(a.stdout) {
		return word
	}
	return "\x1b[" + code + "m" + word + "\x1b[0m"
}

const (
	green = "32"
	red   = "31"
	dim   = "2"
)

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return line(s)
}
