package inventory_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"assay/inventory"

	"github.com/google/go-cmp/cmp"
)

// TestServicesSchemaMatchesType: the schema has exactly the members of the Go types
// that read the document, of their kinds, each with a description.
func TestServicesSchemaMatchesType(t *testing.T) {
	var doc map[string]any
	if err := json.Unmarshal(inventory.ServicesJSONSchema(), &doc); err != nil {
		t.Fatal(err)
	}
	defs := doc["$defs"].(map[string]any)
	seen := map[string]bool{}
	var walk func(at string, s map[string]any, typ reflect.Type)
	walk = func(at string, s map[string]any, typ reflect.Type) {
		if ref, is := s["$ref"].(string); is {
			name := strings.TrimPrefix(ref, "#/$defs/")
			if name != typ.Name() {
				t.Errorf("%s is %s, want %s", at, name, typ.Name())
			}
			s = defs[name].(map[string]any)
			seen[name] = true
		} else if s["description"] == nil && !strings.HasSuffix(at, "[]") {
			t.Errorf("%s has no description", at)
		}
		want := map[reflect.Kind]string{reflect.String: "string", reflect.Int: "integer", reflect.Bool: "boolean", reflect.Slice: "array", reflect.Map: "object", reflect.Struct: "object"}[typ.Kind()]
		if s["type"] != want {
			t.Errorf("%s: type %v, want %v", at, s["type"], want)
			return
		}
		switch typ.Kind() {
		case reflect.Slice:
			walk(at+"[]", s["items"].(map[string]any), typ.Elem())
		case reflect.Map:
			walk(at+"[]", s["additionalProperties"].(map[string]any), typ.Elem())
		case reflect.Struct:
			if s["additionalProperties"] != false {
				t.Errorf("%s: unknown members are not refused", at)
			}
			props := s["properties"].(map[string]any)
			var have, names []string
			for k := range props {
				have = append(have, k)
			}
			for f := range typ.Fields() {
				name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
				names = append(names, name)
				if p, is := props[name].(map[string]any); is {
					walk(at+"."+name, p, f.Type)
				}
			}
			slices.Sort(have)
			slices.Sort(names)
			if diff := cmp.Diff(names, have); diff != "" {
				t.Errorf("%s (-type +schema): %s", at, diff)
			}
		}
	}
	walk("spec", doc["properties"].(map[string]any)["spec"].(map[string]any), reflect.TypeFor[inventory.Spec]())
	if len(seen) != len(defs) {
		t.Errorf("%d definitions, of which %d are used", len(defs), len(seen))
	}
	exposures := defs["ServiceSpec"].(map[string]any)["properties"].(map[string]any)["exposure"].(map[string]any)["enum"]
	var list []any
	for _, e := range inventory.Exposures() {
		list = append(list, e)
	}
	if diff := cmp.Diff(list, exposures); diff != "" {
		t.Error(diff)
	}
}
