package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"assay/internal/fault"

	"github.com/google/go-cmp/cmp"
)

// The schema says of each Go type exactly its members, their kinds, and which
// are always there.
func TestFactsSchemaMatchesType(t *testing.T) {
	var doc map[string]any
	if err := json.Unmarshal(FactsJSONSchema(), &doc); err != nil {
		t.Fatal(err)
	}
	compareSchema(t, doc, doc, reflect.TypeFor[Facts](), "facts", "json")
}

func TestDocumentSchemaMatchesType(t *testing.T) {
	var doc map[string]any
	if err := json.Unmarshal(DocumentJSONSchema(), &doc); err != nil {
		t.Fatal(err)
	}
	compareSchema(t, doc, doc, reflect.TypeFor[Document](), "policy", "yaml")
}

func compareSchema(t *testing.T, root, s map[string]any, typ reflect.Type, at, tag string) {
	t.Helper()
	if ref, ok := s["$ref"].(string); ok {
		s = root["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
	}
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	if s["description"] == nil {
		t.Errorf("%s has no description", at)
	}
	kind := map[reflect.Kind]string{reflect.String: "string", reflect.Bool: "boolean", reflect.Int: "integer", reflect.Int64: "integer",
		reflect.Float64: "number", reflect.Struct: "object", reflect.Map: "object", reflect.Slice: "array"}[typ.Kind()]
	switch typ {
	case reflect.TypeFor[Value](), reflect.TypeFor[Modules]():
		return // any value; a text or a list
	case reflect.TypeFor[Duration]():
		kind = "string"
	}
	if s["type"] != kind {
		t.Errorf("%s: type %v, want %v", at, s["type"], kind)
		return
	}
	switch typ.Kind() {
	case reflect.Slice:
		items := s["items"].(map[string]any)
		if items["description"] == nil && items["$ref"] == nil {
			items["description"] = "" // a plain item needs no words of its own
		}
		compareSchema(t, root, items, typ.Elem(), at+"[]", tag)
	case reflect.Struct:
		var names, required []string
		props := s["properties"].(map[string]any)
		if s["additionalProperties"] != false {
			t.Errorf("%s: unknown members are not refused", at)
		}
		for _, f := range flatten(typ) {
			name, opts, _ := strings.Cut(f.Tag.Get(tag), ",")
			names = append(names, name)
			if opts == "" {
				required = append(required, name)
			}
			p, ok := props[name].(map[string]any)
			if !ok {
				t.Errorf("%s.%s is not in the schema", at, name)
				continue
			}
			compareSchema(t, root, p, f.Type, at+"."+name, tag)
		}
		var inSchema, req []string
		for k := range props {
			inSchema = append(inSchema, k)
		}
		for _, k := range s["required"].([]any) {
			req = append(req, k.(string))
		}
		slices.Sort(names)
		slices.Sort(inSchema)
		slices.Sort(required)
		slices.Sort(req)
		if d := cmp.Diff(names, inSchema); d != "" {
			t.Errorf("%s: members (-type +schema)\n%s", at, d)
		}
		if d := cmp.Diff(required, req); d != "" {
			t.Errorf("%s: required (-type +schema)\n%s", at, d)
		}
	}
}

func flatten(typ reflect.Type) (out []reflect.StructField) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Anonymous {
			out = append(out, flatten(f.Type)...)
		} else {
			out = append(out, f)
		}
	}
	return out
}

// Real facts are of the schema, values and patterns included.
func TestFactsAreOfTheSchema(t *testing.T) {
	var doc map[string]any
	if err := json.Unmarshal(FactsJSONSchema(), &doc); err != nil {
		t.Fatal(err)
	}
	f := goodFacts()
	f.Signatures[0].Identity, f.Signatures[0].Key = nil, "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	f.Rejected = []Rejected{{ID: attID(1), Source: "file", Code: "malformed", Reason: "x"}}
	b, err := f.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	validate(t, doc, doc, v, "facts")
}

// validate checks the part of JSON schema that facts.schema.json uses.
func validate(t *testing.T, root, s map[string]any, v any, at string) {
	if ref, ok := s["$ref"].(string); ok {
		s = root["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
	}
	if c, ok := s["const"]; ok && c != v {
		t.Errorf("%s is %v, want %v", at, v, c)
	}
	if e, ok := s["enum"].([]any); ok && !slices.Contains(e, v) {
		t.Errorf("%s is %v, want one of %v", at, v, e)
	}
	switch s["type"] {
	case "string":
		if p, ok := s["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(v.(string)) {
			t.Errorf("%s is %v, want %s", at, v, p)
		}
		_ = v.(string)
	case "integer":
		if n := v.(float64); n != float64(int64(n)) {
			t.Errorf("%s is %v", at, v)
		}
	case "boolean":
		_ = v.(bool)
	case "array":
		for i, e := range v.([]any) {
			validate(t, root, s["items"].(map[string]any), e, fmt.Sprintf("%s[%d]", at, i))
		}
	case "object":
		props, _ := s["properties"].(map[string]any)
		for k, e := range v.(map[string]any) {
			if p, ok := props[k].(map[string]any); ok {
				validate(t, root, p, e, at+"."+k)
			} else if s["additionalProperties"] == false {
				t.Errorf("%s.%s is unknown", at, k)
			}
		}
		req, _ := s["required"].([]any)
		for _, k := range req {
			if _, ok := v.(map[string]any)[k.(string)]; !ok {
				t.Errorf("%s.%s is absent", at, k)
			}
		}
	}
}

func TestFactsCanonical(t *testing.T) {
	f := goodFacts()
	f.Signatures = append(f.Signatures, signature(0, issuer, "zoe@example.org"))
	b, err := f.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	if f.Signatures[0].ID != attID(0) {
		t.Error("not sorted")
	}
	g, err := ParseFacts(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(f, g); d != "" {
		t.Error(d)
	}
	again, err := g.Canonical()
	if err != nil || string(again) != string(b) || FactsID(b) != FactsID(again) {
		t.Errorf("%s\n%s\n%v", b, again, err)
	}
	// What is absent is written the same as what is empty.
	h := goodFacts()
	h.Rejected, h.Subject.Tags = nil, []string{}
	if hb, err := h.Canonical(); err != nil || !strings.Contains(string(hb), `"rejected":[]`) || strings.Contains(string(hb), "tags") || strings.Contains(string(hb), "legacy") {
		t.Errorf("%s, %v", hb, err)
	}
	for name, s := range map[string]string{
		"unknown member": strings.Replace(string(b), `"truncated"`, `"trunkated"`, 1),
		"another schema": strings.Replace(string(b), "facts/v1", "facts/v9", 1),
		"no digest":      strings.Replace(string(b), string(testDigest), "", 1),
		"duplicate":      strings.Replace(string(b), `"truncated":false`, `"truncated":false,"truncated":true`, 1),
		"trailing":       string(b) + "{}",
	} {
		if _, err := ParseFacts([]byte(s)); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
	for i := range 400 {
		f.Signatures = append(f.Signatures, signature(i+100, issuer, strings.Repeat("x", 100)))
	}
	if _, err := f.Canonical(); !errors.Is(err, fault.TooLarge) {
		t.Errorf("%v, want too large", err)
	}
}

func FuzzParseFacts(f *testing.F) {
	b, err := goodFacts().Canonical()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"schema":"assay/facts/v1","subject":{"digest":"sha256:` + strings.Repeat("0", 64) + `"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		facts, err := ParseFacts(b)
		if err != nil {
			return
		}
		c, err := facts.Canonical()
		if err != nil {
			return
		}
		again, err := ParseFacts(c)
		if err != nil {
			t.Fatalf("%v reading %s", err, c)
		}
		if d, err := again.Canonical(); err != nil || string(d) != string(c) {
			t.Errorf("%s\n%s\n%v", c, d, err)
		}
	})
}

func TestPath(t *testing.T) {
	doc := map[string]any{
		"a":   map[string]any{"b": []any{map[string]any{"c": "x"}, nil}, "d.e": int64(1)},
		"nil": nil, "empty": "", "none": map[string]any{}, "zero": int64(0), "no": false,
	}
	for path, want := range map[string]any{
		"a.b[0].c": "x", `a["d.e"]`: int64(1), `["a"].b[0]["c"]`: "x", "zero": int64(0), "no": false,
		"a.b[1]": nil, "a.b[2]": nil, "a.c": nil, "nil": nil, "empty": nil, "none": nil, "a.b.c": nil, "a[0]": nil, "A.b[0].c": nil,
	} {
		p, err := ParsePath(path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		got, ok := p.Lookup(doc)
		if ok != (want != nil) || ok && got != want {
			t.Errorf("%s: %v, %v, want %v", path, got, ok, want)
		}
	}
	for _, bad := range []string{"", ".", "a.", ".a", "a..b", "a[", "a[]", "a[x]", "a[-1]", "a[+1]", "a[0", `a["b]`, `a["b"`, "a[0]b", "a.*", "a b", "[*]", strings.Repeat("a", 600)} {
		if _, err := ParsePath(bad); !errors.Is(err, fault.Invalid) {
			t.Errorf("%q: %v, want invalid", bad, err)
		}
	}
}
