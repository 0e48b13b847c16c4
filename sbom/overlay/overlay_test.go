package overlay

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"assay/internal/fault"

	"github.com/google/go-cmp/cmp"
)

const doc = `components:
  - purl: pkg:npm/left-pad
    owner: {value: team-a, source: "https://cmdb.example/left-pad"}
    endOfLife: {value: 2027-01-31, source: "the maintainer's word"}
  - purl: pkg:npm/left-pad@1.0.0
    license: {value: MIT OR WTFPL, source: "its LICENSE file"}
`

func TestApply(t *testing.T) {
	a, err := Parse([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := a.Predicate()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParsePredicate(raw)
	if err != nil || len(again.Components) != 2 {
		t.Fatalf("%v: %s", err, raw)
	}
	b, err := Parse([]byte("components: [{purl: \"pkg:npm/left-pad\", owner: {value: team-b, source: guess}}, {purl: \"pkg:npm/other\", owner: {value: x, source: y}}]"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range Apply([]string{"pkg:npm/left-pad@1.0.0", "pkg:npm/left-pad@2.0.0", "pkg:npm/right-pad@1.0.0"}, []Signed{{again, "ann", "att_1"}, {b, "bob", "att_2"}}) {
		got = append(got, fmt.Sprint(f.Component, " ", f.Field, "=", f.Value, " by ", f.Signer, " ", f.Disputed))
	}
	want := []string{
		"pkg:npm/left-pad@1.0.0 endOfLife=2027-01-31 by ann false",
		"pkg:npm/left-pad@1.0.0 license=MIT OR WTFPL by ann false",
		"pkg:npm/left-pad@1.0.0 owner=team-a by ann true",
		"pkg:npm/left-pad@1.0.0 owner=team-b by bob true",
		"pkg:npm/left-pad@2.0.0 endOfLife=2027-01-31 by ann false",
		"pkg:npm/left-pad@2.0.0 owner=team-a by ann true",
		"pkg:npm/left-pad@2.0.0 owner=team-b by bob true",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestRefused(t *testing.T) {
	for name, text := range map[string]string{
		"empty":          "components: []",
		"no purl":        "components: [{purl: left-pad, owner: {value: a, source: b}}]",
		"nothing said":   `components: [{purl: "pkg:npm/a"}]`,
		"no source":      `components: [{purl: "pkg:npm/a", owner: {value: a}}]`,
		"day":            `components: [{purl: "pkg:npm/a", endOfLife: {value: 2027-13-31, source: b}}]`,
		"licence":        `components: [{purl: "pkg:npm/a", license: {value: "<b>", source: b}}]`,
		"control":        "components: [{purl: \"pkg:npm/a\", owner: {value: \"a\\u001b[31m\", source: b}}]",
		"unknown member": `components: [{purl: "pkg:npm/a", severity: {value: a, source: b}}]`,
		"alias":          "components: [&a {purl: \"pkg:npm/a\", owner: {value: a, source: b}}, *a]",
	} {
		if _, err := Parse([]byte(text)); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Parse([]byte(strings.Repeat(" ", MaxBytes+1))); !errors.Is(err, fault.TooLarge) {
		t.Error(err)
	}
	if _, err := ParsePredicate([]byte(`{"components": [{"purl": "pkg:npm/a", "owner": {"value": "a", "source": "b"}}], "components": []}`)); !errors.Is(err, fault.Invalid) {
		t.Errorf("a member twice: %v", err)
	}
}

func FuzzParsePredicate(f *testing.F) {
	f.Add([]byte(`{"components": [{"purl": "pkg:npm/a", "owner": {"value": "a", "source": "b"}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := ParsePredicate(b)
		if err != nil {
			return
		}
		raw, err := o.Predicate()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParsePredicate(raw); err != nil {
			t.Fatalf("%v: %s", err, raw)
		}
	})
}
