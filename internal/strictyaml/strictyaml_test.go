package strictyaml

import (
	"errors"
	"strings"
	"testing"

	"assay/internal/fault"
)

type doc struct {
	Name string            `yaml:"name"`
	Map  map[string]string `yaml:"map"`
	List []doc             `yaml:"list"`
}

func TestUnmarshal(t *testing.T) {
	var d doc
	if err := Unmarshal([]byte("# a comment\nname: x\nmap: {a: b}\nlist:\n- name: y\n"), &d); err != nil || d.List[0].Name != "y" {
		t.Fatalf("%+v, %v", d, err)
	}
}

func TestThreat_YAML_AliasBombDuplicateUnknownKey(t *testing.T) {
	for name, in := range map[string]string{
		"unknown key":    "name: x\nnmae: y\n",
		"nested unknown": "list:\n- nmae: y\n",
		"duplicate key":  "name: x\nname: y\n",
		"duplicate deep": "map: {a: b, a: c}\n",
		"alias":          "name: &a x\nmap: {b: *a}\n",
		"bomb":           "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b]\n",
		"merge":          "<<: {name: x}\n",
		"two documents":  "name: x\n---\nname: y\n",
		"none":           "",
		"deep":           "list: " + strings.Repeat("[", 1000) + strings.Repeat("]", 1000),
		"not yaml":       "\tname: x",
		"another type":   "- name: x\n",
		"complex key":    "? [a, b]\n: c\n",
		"too large":      "name: " + strings.Repeat("x", MaxBytes),
	} {
		var d doc
		err := Unmarshal([]byte(in), &d)
		if !errors.Is(err, fault.Invalid) && !errors.Is(err, fault.TooLarge) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
}

func TestSplit(t *testing.T) {
	docs, err := Split([]byte("---\nname: x\n---\n# nothing\n---\nname: y\n"))
	if err != nil || len(docs) != 2 {
		t.Fatalf("%d documents, %v; want 2", len(docs), err)
	}
	if docs[1].Line != 6 {
		t.Errorf("the second starts at line %d, want 6", docs[1].Line)
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte("name: x\nlist: [{name: y}]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var d doc
		_ = Unmarshal(b, &d)
	})
}
