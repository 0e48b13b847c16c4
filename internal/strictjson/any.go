package strictjson

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// decodeOptions makes every value of type any, at any depth of a Go type, pass
// through decodeAny: the decoder's own way turns each number into a double and
// so rounds large integers in silence.
var decodeOptions = json.WithUnmarshalers(json.UnmarshalFromFunc(func(dec *jsontext.Decoder, v *any) error {
	got, err := decodeAny(dec)
	*v = got
	return err
}))

func decodeAny(dec *jsontext.Decoder) (any, error) {
	tok, err := dec.ReadToken()
	if err != nil {
		return nil, err
	}
	switch tok.Kind() {
	case jsontext.KindNull:
		return nil, nil
	case jsontext.KindTrue, jsontext.KindFalse:
		return tok.Bool(), nil
	case jsontext.KindString:
		return tok.String(), nil
	case jsontext.KindNumber:
		return decodeNumber(tok.String())
	case jsontext.KindBeginArray:
		list := []any{}
		for dec.PeekKind() != jsontext.KindEndArray {
			v, err := decodeAny(dec)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := dec.ReadToken()
		return list, err
	case jsontext.KindBeginObject:
		object := map[string]any{}
		for dec.PeekKind() != jsontext.KindEndObject {
			name, err := dec.ReadToken()
			if err != nil {
				return nil, err
			}
			key := name.String() // before the next read, which reuses its bytes
			v, err := decodeAny(dec)
			if err != nil {
				return nil, err
			}
			object[key] = v
		}
		_, err := dec.ReadToken()
		return object, err
	}
	return nil, fmt.Errorf("unexpected token %v", tok.Kind())
}

func decodeNumber(lit string) (any, error) {
	if !strings.ContainsAny(lit, ".eE") {
		n, err := strconv.ParseInt(lit, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("integer %.40s is out of the range of 64 bits", lit)
		}
		return n, nil
	}
	return strconv.ParseFloat(lit, 64) // its range was checked by scan
}

// newBuffer hands b to a decoder, which for a *bytes.Buffer reads in place.
func newBuffer(b []byte) *bytes.Buffer { return bytes.NewBuffer(b) }

func indexByte(b []byte, c byte) int { return bytes.IndexByte(b, c) }

func isEOF(err error) bool { return errors.Is(err, io.EOF) }
