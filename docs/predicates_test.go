package docs_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/builder/rebuild"
	"assay/builder/runner"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the schemas of predicates anew")

// TestPredicateSchemas: the schemas of the project's own predicates are those of
// the types that read and write them.
func TestPredicateSchemas(t *testing.T) {
	for file, p := range map[string]struct {
		id  string
		typ reflect.Type
	}{
		"runner-v0.1.schema.json":  {runner.PredicateType, reflect.TypeFor[runner.Evidence]()},
		"rebuild-v0.1.schema.json": {rebuild.PredicateType, reflect.TypeFor[rebuild.Rebuild]()},
	} {
		s := schemaOf(p.typ)
		s["$schema"], s["$id"] = "https://json-schema.org/draft/2020-12/schema", p.id
		want, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, '\n')
		path := filepath.Join("predicates", file)
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil { //nolint:gosec // a public document
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(string(want), page(t, path)); diff != "" {
			t.Errorf("%s (go test ./docs -update writes it): %s", path, diff)
		}
	}
}

// schemaOf is the JSON schema of a Go type, whose unknown members are refused.
func schemaOf(typ reflect.Type) map[string]any {
	switch typ {
	case reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case reflect.TypeFor[artifact.Digest]():
		return map[string]any{"type": "string", "pattern": "^[a-z0-9]+:[0-9a-f]+$"}
	}
	switch typ.Kind() {
	case reflect.Pointer:
		return schemaOf(typ.Elem())
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(typ.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOf(typ.Elem())}
	case reflect.Struct:
		props, required := map[string]any{}, []string{}
		for i := range typ.NumField() {
			f := typ.Field(i)
			name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
			props[name] = schemaOf(f.Type)
			if opts == "" {
				required = append(required, name)
			}
		}
		return map[string]any{"type": "object", "properties": props, "required": required, "additionalProperties": false}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return map[string]any{"type": "integer"}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	}
	return map[string]any{"type": "string"}
}
