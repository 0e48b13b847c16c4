package api

import (
	"encoding/json"
	"net/http"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"assay/client"
	"assay/identity"

	"github.com/go-json-experiment/json/jsontext"
)

// Route is one line of the API's table.
type Route struct {
	Method, Path string
	Summary      string
	Action       identity.Action // what the caller must be allowed; "" is nothing
	Query        []Param
	In, Out      any // zero values of what is taken and given; RawBytes for bytes
	Status       int // of success
	handle       http.HandlerFunc
}

// Param is a query parameter.
type Param struct{ Name, About string }

// RawBytes marks a body that is not described as JSON, by its media types.
type RawBytes []string

var pathParam = regexp.MustCompile(`\{(\w+)\}`)

// OpenAPI describes routes in OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1).
func OpenAPI(routes []Route) []byte {
	schemas := map[string]any{}
	paths := map[string]map[string]any{}
	for _, r := range routes {
		op := map[string]any{
			"summary":     r.Summary,
			"operationId": operationID(r),
			"responses": map[string]any{
				strconv.Itoa(r.Status): map[string]any{"description": "Success", "content": content(r.Out, schemas)},
				"default":              map[string]any{"description": "A problem, RFC 9457", "content": problem(schemas)},
			},
		}
		if r.Action != "" {
			op["security"] = []any{map[string]any{"bearer": []string{}}}
			op["description"] = "Needs the action " + string(r.Action) + "."
		}
		var params []any
		for _, m := range pathParam.FindAllStringSubmatch(r.Path, -1) {
			params = append(params, map[string]any{"name": m[1], "in": "path", "required": true, "schema": map[string]any{"type": "string"}})
		}
		for _, q := range r.Query {
			params = append(params, map[string]any{"name": q.Name, "in": "query", "description": q.About, "schema": map[string]any{"type": "string"}})
		}
		if params != nil {
			op["parameters"] = params
		}
		if r.In != nil {
			op["requestBody"] = map[string]any{"required": true, "content": content(r.In, schemas)}
		}
		if paths[r.Path] == nil {
			paths[r.Path] = map[string]any{}
		}
		paths[r.Path][strings.ToLower(r.Method)] = op
	}
	doc := map[string]any{
		"openapi": "3.1.0",
		"info":    map[string]any{"title": "Assay", "version": "v1", "description": "May this artifact run here, and how do we know?", "license": map[string]any{"name": "Apache-2.0", "identifier": "Apache-2.0"}},
		"servers": []any{map[string]any{"url": "/"}},
		"paths":   paths,
		"components": map[string]any{
			"schemas":         schemas,
			"securitySchemes": map[string]any{"bearer": map[string]any{"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "An OIDC token of audience assay-api."}},
		},
	}
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		panic(err) // maps of strings
	}
	return append(b, '\n')
}

func operationID(r Route) string {
	var id strings.Builder
	id.WriteString(strings.ToLower(r.Method))
	for _, part := range strings.Split(strings.TrimPrefix(r.Path, "/api/v1/"), "/") {
		part = strings.Trim(part, "{}")
		for _, word := range strings.FieldsFunc(part, func(c rune) bool { return c == '-' || c == '.' || c == '_' }) {
			id.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return id.String()
}

func problem(schemas map[string]any) map[string]any {
	return map[string]any{"application/problem+json": map[string]any{"schema": schemaOf(reflect.TypeFor[client.Problem](), schemas)}}
}

func content(v any, schemas map[string]any) map[string]any {
	if v == nil {
		return map[string]any{}
	}
	if raw, ok := v.(RawBytes); ok {
		all := map[string]any{}
		for _, media := range raw {
			all[media] = map[string]any{}
		}
		return all
	}
	return map[string]any{"application/json": map[string]any{"schema": schemaOf(reflect.TypeOf(v), schemas)}}
}

// schemaOf gives a JSON Schema of a wire type; named structs go into schemas
// and are referred to.
func schemaOf(t reflect.Type, schemas map[string]any) map[string]any {
	switch t {
	case reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case reflect.TypeFor[json.RawMessage](), reflect.TypeFor[jsontext.Value]():
		return map[string]any{"description": "a JSON document"}
	case reflect.TypeFor[[]byte]():
		return map[string]any{"type": "string", "contentEncoding": "base64"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem(), schemas)
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return map[string]any{"type": "integer", "format": "int64"}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem(), schemas)}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem(), schemas)}
	case reflect.Struct:
		name := typeName(t)
		if _, done := schemas[name]; !done {
			schemas[name] = nil // against endless recursion
			schemas[name] = object(t, schemas)
		}
		return map[string]any{"$ref": "#/components/schemas/" + name}
	}
	return map[string]any{}
}

func object(t reflect.Type, schemas map[string]any) map[string]any {
	props, required := map[string]any{}, []string{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" || name == "" {
			continue
		}
		props[name] = schemaOf(f.Type, schemas)
		if !strings.Contains(opts, "omit") {
			required = append(required, name)
		}
	}
	return map[string]any{"type": "object", "properties": props, "required": required, "additionalProperties": false}
}

var generic = regexp.MustCompile(`^(\w+)\[.*\.(\w+)\]$`)

// typeName is List[client.Evidence] as EvidenceList.
func typeName(t reflect.Type) string {
	if m := generic.FindStringSubmatch(t.Name()); m != nil {
		return m[2] + m[1]
	}
	return t.Name()
}
