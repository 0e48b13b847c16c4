package strictjson

import (
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"assay/internal/fault"
)

// Canonical writes v in the JSON Canonicalization Scheme (RFC 8785): no white
// space, members sorted by UTF-16 code units, numbers as ECMAScript prints
// them. Equal values give equal bytes, so the bytes can be hashed and signed.
//
// A number that a double cannot hold exactly as an integer (beyond ±2^53 in
// general), NaN, an infinity and invalid UTF-8 are [fault.Invalid]: rounding
// them would sign something other than v. Write such integers as strings.
// A nil slice is [], a nil map is {}.
func Canonical(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, invalid(err)
	}
	return canonical(b, config{Limits: Limits{MaxBytes: 1 << 40, MaxDepth: DefaultMaxDepth}})
}

// CanonicalBytes rewrites one document in the form of [Canonical], after
// reading it as strictly as [Check] does. It is idempotent.
func CanonicalBytes(b []byte, opts ...Option) ([]byte, error) {
	return canonical(append([]byte(nil), b...), newConfig(opts))
}

// canonical may reuse b.
func canonical(b []byte, c config) ([]byte, error) {
	if err := c.scan(b, true); err != nil {
		return nil, err
	}
	v := jsontext.Value(b)
	if err := v.Canonicalize(); err != nil {
		return nil, invalid(err)
	}
	return v, nil
}

// Marshal writes v as compact JSON with the members in the order of the Go
// type and map keys sorted. It is for documents whose bytes are kept as they
// are written; what is hashed on both sides wants [Canonical].
func Marshal(v any) ([]byte, error) {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "write JSON: %w", err)
	}
	return b, nil
}
