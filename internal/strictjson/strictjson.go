// Package strictjson reads and writes the JSON of signed and security-relevant
// documents, where two readers that disagree about one document are a hole.
//
// Reading rejects what encoding/json silently accepts: members that occur
// twice, members whose name differs from a known one only by case (or by '_'
// and '-', which protobuf's JSON readers fold), invalid UTF-8 and lone
// surrogates (RFC 8259 section 8, RFC 7493 section 2.1), anything after the
// value, nesting deeper than a limit, and numbers that no double can hold.
// Limits are checked before anything is allocated for the document.
//
// Writing is the JSON Canonicalization Scheme, RFC 8785.
package strictjson

import (
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"assay/internal/fault"
)

// The limits that hold unless an option says otherwise.
const (
	DefaultMaxBytes = 16 << 20 // bytes of one document
	DefaultMaxDepth = 64       // arrays and objects inside one another
)

// Limits bound one document. A zero field means the default.
type Limits struct {
	MaxBytes int64 // length of the document in bytes
	MaxDepth int   // nesting of arrays and objects; [[]] has depth 2
}

// Option changes how one document is read.
type Option func(*config)

type config struct {
	Limits
	rejectUnknown bool
}

// WithLimits sets both limits; a zero field keeps its default.
func WithLimits(l Limits) Option {
	return func(c *config) {
		WithMaxBytes(l.MaxBytes)(c)
		WithMaxDepth(l.MaxDepth)(c)
	}
}

// WithMaxBytes sets the longest document, in bytes; 0 keeps the default.
func WithMaxBytes(n int64) Option {
	return func(c *config) {
		if n > 0 {
			c.MaxBytes = n
		}
	}
}

// WithMaxDepth sets the deepest nesting; 0 keeps the default.
func WithMaxDepth(n int) Option {
	return func(c *config) {
		if n > 0 {
			c.MaxDepth = n
		}
	}
}

// RejectUnknown makes a member that the Go type does not name an error. Without
// it such members are ignored, as in-toto and DSSE ask of their readers.
func RejectUnknown() Option { return func(c *config) { c.rejectUnknown = true } }

func newConfig(opts []Option) config {
	c := config{Limits: Limits{MaxBytes: DefaultMaxBytes, MaxDepth: DefaultMaxDepth}}
	for _, o := range opts {
		o(&c)
	}
	return c
}

// Unmarshal reads one document into v, a non-nil pointer. Fields are matched by
// their exact name. An integer field takes only an integer literal in its
// range (1.0 and 1e2 are refused); a field of type any receives what
// [UnmarshalAny] gives. null leaves a field at its zero value, so presence is
// the caller's check.
//
// Errors are [fault.TooLarge] for a document over its limits and
// [fault.Invalid] for all else; what v holds is then undefined.
func Unmarshal(b []byte, v any, opts ...Option) error {
	c := newConfig(opts)
	if err := c.scan(b, false); err != nil {
		return err
	}
	err := json.Unmarshal(b, v, decodeOptions, json.RejectUnknownMembers(true))
	if err == nil {
		return nil
	}
	if c.rejectUnknown || !errors.Is(err, json.ErrUnknownName) {
		return invalid(err)
	}
	// Only now, when a name is known to be foreign, is it worth asking whether
	// it merely misspells a known one.
	if err := checkFolded(b, v); err != nil {
		return err
	}
	return invalid(json.Unmarshal(b, v, decodeOptions))
}

// UnmarshalAny reads one document into nil, bool, string, int64, float64,
// []any and map[string]any. An integer literal gives int64 (one outside its
// range is an error, never a rounded number), a literal with a fraction or an
// exponent gives float64.
func UnmarshalAny(b []byte, opts ...Option) (any, error) {
	var v any
	if err := Unmarshal(b, &v, opts...); err != nil {
		return nil, err
	}
	return v, nil
}

// Check applies every rule of reading that needs no Go type: grammar, UTF-8,
// duplicate members, trailing data, size, depth and the range of numbers.
func Check(b []byte, opts ...Option) error {
	c := newConfig(opts)
	if err := c.scan(b, false); err != nil {
		return err
	}
	dec := jsontext.NewDecoder(newBuffer(b))
	if err := dec.SkipValue(); err != nil {
		return invalid(err)
	}
	return End(dec)
}

// Decoder gives a token reader over b after the limits were checked, for those
// who walk a document themselves. The reader rejects bad UTF-8 and duplicate
// members as it goes; call [End] after the last token.
func Decoder(b []byte, opts ...Option) (*jsontext.Decoder, error) {
	c := newConfig(opts)
	if err := c.scan(b, false); err != nil {
		return nil, err
	}
	return jsontext.NewDecoder(newBuffer(b)), nil
}

// scan checks size, depth and numbers in one pass that allocates nothing. It
// relies on the real decoder for grammar: on a well-formed document the bytes
// that it takes for strings, brackets and numbers are just these.
func (c config) scan(b []byte, exact bool) error {
	if int64(len(b)) > c.MaxBytes {
		return fault.Newf(fault.TooLarge, "JSON document of %d bytes: want at most %d", len(b), c.MaxBytes)
	}
	depth := 0
	for i := 0; i < len(b); {
		switch ch := b[i]; {
		case ch == '"':
			i = skipString(b, i+1)
			continue
		case ch == '{' || ch == '[':
			if depth++; depth > c.MaxDepth {
				return fault.Newf(fault.TooLarge, "JSON document nests deeper than %d at byte %d", c.MaxDepth, i)
			}
		case ch == '}' || ch == ']':
			depth--
		case ch == '-' || '0' <= ch && ch <= '9':
			end := i + 1
			for end < len(b) && isNumberByte(b[end]) {
				end++
			}
			if err := checkNumber(b[i:end], exact); err != nil {
				return fault.Newf(fault.Invalid, "JSON number at byte %d: %w", i, err)
			}
			i = end
			continue
		}
		i++
	}
	return nil
}

// skipString gives the index after the closing quote of the string whose first
// byte is b[i]. Both searches only move forward, so the pass stays linear.
func skipString(b []byte, i int) int {
	quote := -1
	for i < len(b) {
		if quote < i {
			n := indexByte(b[i:], '"')
			if n < 0 {
				return len(b)
			}
			quote = i + n
		}
		n := indexByte(b[i:quote], '\\')
		if n < 0 {
			return quote + 1
		}
		i += n + 2
	}
	return len(b)
}

func isNumberByte(c byte) bool {
	return '0' <= c && c <= '9' || c == '+' || c == '-' || c == '.' || c == 'e' || c == 'E'
}

// checkNumber refuses a literal that overflows a double: every reader makes
// something else of it. exact also refuses an integer that a double would
// round, since RFC 8785 would then sign another number than was written.
func checkNumber(lit []byte, exact bool) error {
	if len(lit) < 16 && indexByte(lit, 'e') < 0 && indexByte(lit, 'E') < 0 {
		return nil // at most 15 digits: every double holds it
	}
	f, err := strconv.ParseFloat(string(lit), 64)
	if errors.Is(err, strconv.ErrRange) {
		return fmt.Errorf("%.40s is out of the range of a double (RFC 7493 section 2.2)", lit)
	}
	if err != nil || !exact || strings.ContainsAny(string(lit), ".eE") {
		return nil //nolint:nilerr // not a number at all: the decoder says it better
	}
	// What RFC 8785 prints for a large double is its shortest form and need not
	// be its exact value (2^68 prints as 295147905179352830000); both are fine.
	n, ok := new(big.Int).SetString(string(lit), 10)
	if !ok {
		return nil
	}
	if v, _ := new(big.Float).SetFloat64(f).Int(nil); v.Cmp(n) != 0 && string(jsontext.AppendFloat(nil, f, 64)) != string(lit) {
		return fmt.Errorf("%.40s is not an exact double; write it as a string (RFC 8785 appendix D)", lit)
	}
	return nil
}

// End reports an error unless dec has only white space left.
func End(dec *jsontext.Decoder) error {
	if dec.PeekKind() == jsontext.KindInvalid {
		if _, err := dec.ReadToken(); isEOF(err) {
			return nil
		}
	}
	return fault.Newf(fault.Invalid, "JSON document: data after the value at byte %d", dec.InputOffset())
}

// parseError keeps the decoder's error for errors.Is and clips its text, which
// may quote a hostile document at any length.
type parseError struct {
	msg string
	err error
}

func (e *parseError) Error() string { return e.msg }
func (e *parseError) Unwrap() error { return e.err }

func invalid(err error) error {
	if err == nil {
		return nil
	}
	msg := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	const most = 300
	if len(msg) > most {
		msg = strings.ToValidUTF8(msg[:most], "") + "…"
	}
	return fault.Wrap(fault.Invalid, &parseError{"strict JSON: " + msg, err})
}
