package main

import (
	"encoding/json"
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

// print writes v as JSON or YAML when that was asked for, else by table.
func (a *app) print(v any, table func(w io.Writer)) error {
	switch a.output {
	case "json":
		enc := json.NewEncoder(a.stdout)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	case "yaml":
		// By way of JSON, so that both have the same member names.
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		var tree any
		if err := yaml.Unmarshal(b, &tree); err != nil {
			return err
		}
		enc := yaml.NewEncoder(a.stdout)
		enc.SetIndent(2)
		return enc.Encode(tree)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	table(w)
	return w.Flush()
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
	return clean(s)
}
