package event_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"assay/event"
)

var update = flag.Bool("update", false, "write docs/events.md anew")

func TestKinds(t *testing.T) {
	form := regexp.MustCompile(`^[a-z]+(\.[a-z]+(_[a-z]+)*)+$`)
	field := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	seen := map[event.Kind]bool{}
	for _, k := range event.Kinds() {
		if seen[k.Kind] || !form.MatchString(string(k.Kind)) || k.Kind.Validate() != nil || k.Kind.Class() != k.Class {
			t.Errorf("%s: twice, not subject.verb, or unknown to itself", k.Kind)
		}
		seen[k.Kind] = true
		if k.Class != event.Audit && k.Class != event.Domain && k.Class != event.Alert && k.Class != event.Page {
			t.Errorf("%s: class %q", k.Kind, k.Class)
		}
		if !strings.HasSuffix(k.Meaning, ".") {
			t.Errorf("%s: its meaning is no sentence: %q", k.Kind, k.Meaning)
		}
		names := map[string]bool{}
		for _, f := range k.Fields {
			if names[f.Name] || !field.MatchString(f.Name) || f.Meaning == "" {
				t.Errorf("%s: field %q is doubled, not snake_case, or without meaning", k.Kind, f.Name)
			}
			names[f.Name] = true
		}
	}
}

// TestEveryKindConstantIsInTheTable reads kinds.go, since a constant that the
// table lacks could not be appended.
func TestEveryKindConstantIsInTheTable(t *testing.T) {
	src, err := os.ReadFile("kinds.go")
	if err != nil {
		t.Fatal(err)
	}
	constants := regexp.MustCompile(`(?m)^\t\w+\s+Kind = "([^"]+)"$`).FindAllSubmatch(src, -1)
	if len(constants) != len(event.Kinds()) {
		t.Errorf("%d constants, %d rows of the table", len(constants), len(event.Kinds()))
	}
	for _, c := range constants {
		if err := event.Kind(c[1]).Validate(); err != nil {
			t.Error(err)
		}
	}
}

// TestDocs keeps docs/events.md as the table has it; go test ./event -update
// writes it.
func TestDocs(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Events

Everything that happens in Assay leaves an event in the transaction that made
it happen. Events are numbered, sealed in batches, and chained (see the package
documentation of ` + "`event`" + `). This page is written from the table in
` + "`event/kinds.go`" + ` by ` + "`go test ./event -update`" + `.

An event is a JSON object with the members ` + "`seq, id, time, kind, digest, actor, team, service, env, cluster, trace_id`" + `
and ` + "`body`" + `, whose members depend on the kind; each may be absent.

Classes: **audit** (who did or tried what), **domain** (a change that other
parts act upon), **alert** (something that a person must look at).

`)
	b.WriteString("| kind | class | meaning | body |\n|---|---|---|---|\n")
	for _, k := range event.Kinds() {
		var fields []string
		for _, f := range k.Fields {
			fields = append(fields, fmt.Sprintf("`%s`: %s", f.Name, f.Meaning))
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", k.Kind, k.Class, k.Meaning, strings.Join(fields, "; "))
	}
	path := filepath.Join("..", "docs", "events.md")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(b.String(), string(got)); d != "" {
		t.Errorf("docs/events.md is behind the table; run go test ./event -update (-want +got):\n%s", d)
	}
}
