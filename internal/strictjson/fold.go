package strictjson

import (
	"encoding"
	jsonv1 "encoding/json"
	"reflect"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"assay/internal/fault"
)

// checkFolded walks b beside v's type and rejects each member of a struct's
// object that is not a field of it yet folds to one: a reader that folds case
// (encoding/json) or underscores (protobuf's JSON) would take it for that
// field. Map keys are data and may differ as they like.
func checkFolded(b []byte, v any) error {
	dec := jsontext.NewDecoder(newBuffer(b))
	if err := walkFolded(dec, reflect.TypeOf(v)); err != nil {
		return err
	}
	return End(dec)
}

func walkFolded(dec *jsontext.Decoder, t reflect.Type) error {
	for t.Kind() == reflect.Pointer {
		if opaque(t) {
			return invalid(dec.SkipValue())
		}
		t = t.Elem()
	}
	kind := dec.PeekKind()
	switch {
	case opaque(t) || opaque(reflect.PointerTo(t)):
	case kind == jsontext.KindBeginObject && t.Kind() == reflect.Struct:
		fields, folded := map[string]reflect.Type{}, map[string]string{}
		collect(t, fields, folded)
		return walkObject(dec, func(name string) (reflect.Type, error) {
			if known, near := folded[fold(name)]; near && fields[name] == nil {
				return nil, fault.Newf(fault.Invalid,
					"strict JSON: member %.80q at %.80s is not %q: names are matched exactly", name, dec.StackPointer(), known)
			}
			return fields[name], nil // nil when unknown
		})
	case kind == jsontext.KindBeginObject && t.Kind() == reflect.Map:
		return walkObject(dec, func(string) (reflect.Type, error) { return t.Elem(), nil })
	case kind == jsontext.KindBeginArray && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array):
		return walkArray(dec, t.Elem())
	}
	return invalid(dec.SkipValue())
}

func walkObject(dec *jsontext.Decoder, typeOf func(name string) (reflect.Type, error)) error {
	if _, err := dec.ReadToken(); err != nil {
		return invalid(err)
	}
	for dec.PeekKind() != jsontext.KindEndObject {
		tok, err := dec.ReadToken()
		if err != nil {
			return invalid(err)
		}
		t, err := typeOf(tok.String())
		if err != nil {
			return err
		}
		if t == nil {
			err = invalid(dec.SkipValue())
		} else {
			err = walkFolded(dec, t)
		}
		if err != nil {
			return err
		}
	}
	_, err := dec.ReadToken()
	return invalid(err)
}

func walkArray(dec *jsontext.Decoder, elem reflect.Type) error {
	if _, err := dec.ReadToken(); err != nil {
		return invalid(err)
	}
	for dec.PeekKind() != jsontext.KindEndArray {
		if err := walkFolded(dec, elem); err != nil {
			return err
		}
	}
	_, err := dec.ReadToken()
	return invalid(err)
}

// opaque types read themselves; what their members mean is their affair.
func opaque(t reflect.Type) bool {
	return t.Implements(reflect.TypeFor[json.UnmarshalerFrom]()) ||
		t.Implements(reflect.TypeFor[jsonv1.Unmarshaler]()) ||
		t.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// collect gathers a struct's members, those of embedded structs included, by
// name (fields) and by what their names fold to (folded). Two fields may fold
// to one key: a type that reads two spellings of a member says so by naming both.
func collect(t reflect.Type, fields map[string]reflect.Type, folded map[string]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" && opts == "" {
			continue
		}
		ft := f.Type
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		if (f.Anonymous && name == "") || strings.Contains(","+opts+",", ",embed,") {
			if ft.Kind() == reflect.Struct {
				collect(ft, fields, folded)
			}
			continue
		}
		if !f.IsExported() {
			continue
		}
		if name == "" {
			name = f.Name
		}
		fields[name], folded[fold(name)] = f.Type, name
	}
}

// fold maps names that some reader confuses to one key: Unicode's simple case
// folding (the Kelvin sign is a k) without '_' and '-'.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '-' {
			return -1
		}
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		return least
	}, s)
}
