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
		fields := map[string]field{}
		collect(t, fields)
		return walkObject(dec, func(name string) (reflect.Type, error) {
			f, near := fields[fold(name)]
			if near && f.name != name {
				return nil, fault.Newf(fault.Invalid,
					"strict JSON: member %.80q at %.80s is not %q: names are matched exactly", name, dec.StackPointer(), f.name)
			}
			return f.typ, nil // nil when unknown
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

type field struct {
	name string
	typ  reflect.Type
}

// collect gathers a struct's members by folded name, those of embedded structs
// included.
func collect(t reflect.Type, into map[string]field) {
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
		embedded := (f.Anonymous && name == "") || strings.Contains(","+opts+",", ",embed,")
		if embedded {
			if ft.Kind() == reflect.Struct {
				collect(ft, into)
			}
			continue
		}
		if !f.IsExported() {
			continue
		}
		if name == "" {
			name = f.Name
		}
		into[fold(name)] = field{name, f.Type}
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
