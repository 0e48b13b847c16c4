package strictjson

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/internal/fault"
	"assay/internal/vectors"
)

// ours says what we answer to the free (i_) cases of JSONTestSuite: what the
// standards leave open is rejected unless every reader agrees on its meaning.
var ours = map[string]bool{
	"i_number_double_huge_neg_exp.json": true, // underflows to 0 for everyone
	"i_number_real_underflow.json":      true,
	// Integers beyond 64 bits: fine as JSON, refused once somebody reads them
	// as a number (UnmarshalAny).
	"i_number_too_big_neg_int.json":       true,
	"i_number_too_big_pos_int.json":       true,
	"i_number_very_big_negative_int.json": true,
}

// All 318 cases of nst/JSONTestSuite, with the stricter rule for signed
// documents: duplicate members and invalid UTF-8 are rejected.
func TestJSONTestSuite(t *testing.T) {
	dir := vectors.Dir(t, "json-parsing/test_parsing")
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) != 318 {
		t.Fatalf("%d files, %v; want 318", len(files), err)
	}
	for _, f := range files {
		name := filepath.Base(f)
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var accept bool
		switch {
		case strings.HasPrefix(name, "y_object_duplicated_key"):
		case strings.HasPrefix(name, "y_"):
			accept = true
		case strings.HasPrefix(name, "i_"):
			accept = ours[name]
		}
		vectors.Within(t, 50*time.Millisecond, 16<<20, func() { err = Check(b) })
		if (err == nil) != accept {
			t.Errorf("%s: %v, want accepted=%v", name, err, accept)
		}
		if err != nil && fault.KindOf(err) != fault.Invalid && fault.KindOf(err) != fault.TooLarge {
			t.Errorf("%s: kind %v", name, fault.KindOf(err))
		}
		_, err = UnmarshalAny(b)
		if accept && strings.Contains(name, "_int.json") && strings.HasPrefix(name, "i_") {
			accept = false
		}
		if (err == nil) != accept {
			t.Errorf("%s into any: %v, want accepted=%v", name, err, accept)
		}
	}
}

type inner struct {
	Sum map[string]string `json:"sum"`
}

type doc struct {
	PayloadType string            `json:"payloadType"`
	LogIndex    int64             `json:"logIndex"`
	Size        uint16            `json:"size"`
	Inner       *inner            `json:"inner"`
	List        []inner           `json:"list"`
	Labels      map[string]string `json:"labels"`
	Any         any               `json:"any"`
	Raw         json.RawMessage   `json:"raw"`
	Skipped     string            `json:"-"`
}

func TestUnmarshal(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     *doc // nil: must be rejected
	}{
		{"plain", `{"payloadType":"t","logIndex":7}`, &doc{PayloadType: "t", LogIndex: 7}},
		{"unknown member", `{"payloadType":"t","more":{"a":[1]}}`, &doc{PayloadType: "t"}},
		{"largest", `{"logIndex":9223372036854775807,"size":65535}`, &doc{LogIndex: math.MaxInt64, Size: 65535}},
		{"any keeps integers", `{"any":[9007199254740993,1.5,1e2,"x",null,true,{"k":-1}]}`,
			&doc{Any: []any{int64(9007199254740993), 1.5, 100.0, "x", nil, true, map[string]any{"k": int64(-1)}}}},
		{"map keys are data", `{"labels":{"a":"1","A":"2","payload_type":"3"}}`, &doc{Labels: map[string]string{"a": "1", "A": "2", "payload_type": "3"}}},
		{"unknown inside raw", `{"raw":{"PayloadType":1}}`, &doc{Raw: json.RawMessage(`{"PayloadType":1}`)}},
		{"unknown beside raw", `{"raw":{"PayloadType":1},"x":1}`, &doc{Raw: json.RawMessage(`{"PayloadType":1}`)}},
		{"unknown inside unknown", `{"x":{"PayloadType":1}}`, &doc{}},
		{"null", `{"payloadType":null,"inner":null,"list":null}`, &doc{}},

		{"over int64", `{"logIndex":9223372036854775808}`, nil},
		{"over uint16", `{"size":65536}`, nil},
		{"negative unsigned", `{"size":-1}`, nil},
		{"fraction", `{"logIndex":1.5}`, nil},
		{"fraction of nought", `{"logIndex":1.0}`, nil},
		{"exponent", `{"logIndex":1e2}`, nil},
		{"number as string", `{"logIndex":"1"}`, nil},
		{"over double", `{"x":1e400}`, nil},
		{"over int64 in any", `{"any":9223372036854775808}`, nil},
		{"duplicate", `{"logIndex":1,"logIndex":1}`, nil},
		{"duplicate by escape", `{"logIndex":1,"\u006cogIndex":1}`, nil},
		{"duplicate in unknown", `{"x":{"a":1,"a":2}}`, nil},
		{"duplicate in map", `{"labels":{"a":"1","a":"2"}}`, nil},
		{"duplicate in raw", `{"raw":{"a":1,"a":2}}`, nil},
		{"duplicate in any", `{"any":{"a":1,"a":2}}`, nil},
		{"folded case", `{"PayloadType":"t"}`, nil},
		{"folded beside exact", `{"payloadType":"t","PAYLOADTYPE":"u"}`, nil},
		{"folded underscore", `{"payload_type":"t"}`, nil},
		{"folded Kelvin sign", `{"li\u017ft":[]}`, nil},
		{"folded in pointer", `{"inner":{"Sum":{}}}`, nil},
		{"folded in slice", `{"list":[{},{"SUM":{}}]}`, nil},
		{"trailing", `{} {}`, nil},
		{"trailing comma", `{},`, nil},
		{"byte order mark", "\ufeff{}", nil},
		{"bad UTF-8", "{\"payloadType\":\"\xff\"}", nil},
		{"lone surrogate", `{"payloadType":"\ud800"}`, nil},
		{"swapped surrogates", `{"payloadType":"\udc00\ud800"}`, nil},
		{"empty", ``, nil},
		{"deep", strings.Repeat("[", 65) + strings.Repeat("]", 65), nil},
		{"deep in a member", `{"any":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + "}", nil},
	} {
		var got doc
		err := Unmarshal([]byte(c.in), &got)
		if c.want == nil {
			if err == nil {
				t.Errorf("%s: accepted as %+v", c.name, got)
			} else if k := fault.KindOf(err); k != fault.Invalid && k != fault.TooLarge {
				t.Errorf("%s: %v is of kind %v", c.name, err, k)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if d := cmp.Diff(*c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}

func TestOptions(t *testing.T) {
	deep := []byte(strings.Repeat("[", 70) + strings.Repeat("]", 70))
	if _, err := UnmarshalAny(deep, WithMaxDepth(70)); err != nil {
		t.Errorf("depth 70 of 70: %v", err)
	}
	if _, err := UnmarshalAny(deep, WithLimits(Limits{MaxDepth: 69})); !errors.Is(err, fault.TooLarge) {
		t.Errorf("depth 70 of 69: %v, want too large", err)
	}
	if _, err := UnmarshalAny([]byte("[[[]]]"), WithMaxBytes(5)); !errors.Is(err, fault.TooLarge) {
		t.Errorf("6 bytes of 5: %v, want too large", err)
	}
	var d doc
	if err := Unmarshal([]byte(`{"x":1}`), &d, RejectUnknown()); !errors.Is(err, fault.Invalid) {
		t.Errorf("unknown member: %v, want invalid", err)
	}
	if err := Unmarshal([]byte(`{"size":1}`), &d, RejectUnknown()); err != nil || d.Size != 1 {
		t.Errorf("known member: %v", err)
	}
}

// Brackets and digits inside strings are text, and a string ends where it ends.
func TestScanKnowsStrings(t *testing.T) {
	open, closed := strings.Repeat("[", 65), strings.Repeat("]", 65)
	for _, in := range []string{`"` + open + `"`, `"\"` + open + `"`, `["\\\"` + open + `","1e999"]`, `"\\` + open + `"`, `{"\"[":"` + open + `\""}`} {
		if err := Check([]byte(in)); err != nil {
			t.Errorf("%s: %v", in, err)
		}
	}
	for _, in := range []string{`["\\",` + open + closed + `]`, `["\"",` + open + closed + `]`, `["",` + open + closed + `]`} {
		if err := Check([]byte(in)); !errors.Is(err, fault.TooLarge) {
			t.Errorf("%s: %v, want too large", in, err)
		}
	}
	for _, in := range []string{`["\\",1e999]`, `["\"",-1E999]`, `1e999`, `[1e999]`, `{"a":1e999}`} {
		if err := Check([]byte(in)); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", in, err)
		}
	}
}

// A type that names two spellings of one member reads both, and no third.
func TestTwoSpellings(t *testing.T) {
	type metadata struct {
		ID  string `json:"buildInvocationId"`
		ID2 string `json:"buildInvocationID"`
	}
	var m metadata
	if err := Unmarshal([]byte(`{"buildInvocationID":"a","buildInvocationId":"b","x":1}`), &m); err != nil || m != (metadata{"b", "a"}) {
		t.Errorf("%+v, %v", m, err)
	}
	if err := Unmarshal([]byte(`{"buildinvocationid":"a"}`), &m); !errors.Is(err, fault.Invalid) {
		t.Errorf("third spelling: %v, want invalid", err)
	}
}

// An error message quotes hostile input only so far.
func TestMessagesAreClipped(t *testing.T) {
	name := strings.Repeat("A", 1<<20)
	err := Check([]byte(`{"` + name + `":1,"` + name + `":2}`))
	if err == nil || len(err.Error()) > 400 {
		t.Errorf("message of %d bytes", len(err.Error()))
	}
}

// hostile/json of the shared vectors, each within its budget.
func TestHostile(t *testing.T) {
	dir := vectors.Dir(t, "hostile/json")
	for name, want := range map[string]*fault.Kind{
		"dup-key.json": fault.Invalid, "trailing.json": fault.Invalid, "bignum.json": fault.Invalid,
		"float-int.json": fault.Invalid, "deep-100k.json": fault.TooLarge,
	} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		vectors.Within(t, 50*time.Millisecond, 16<<20, func() { err = Unmarshal(b, &doc{}) })
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want.Name())
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(`{"payloadType":"t","logIndex":7,"any":[1,1.5,{"a":null}],"x":1}`))
	f.Add([]byte(`{"li\u017ft":[{}],"raw":"\ud83d\ude00"}`))
	f.Add([]byte(`"\"\\"`))
	f.Fuzz(func(t *testing.T, b []byte) {
		checked := Check(b)
		if checked == nil && !json.Valid(b) {
			t.Fatalf("accepted what encoding/json finds malformed: %q", b)
		}
		v, err := UnmarshalAny(b)
		if err == nil && checked != nil {
			t.Fatalf("read what does not check: %q: %v", b, checked)
		}
		var d doc
		if err := Unmarshal(b, &d); err == nil && checked != nil {
			t.Fatalf("read into a struct what does not check: %q: %v", b, checked)
		}
		if err != nil {
			return
		}
		// The pass over depth and the reader agree on depth.
		if got := depth(v); got > DefaultMaxDepth {
			t.Fatalf("depth %d of %q", got, b)
		}
		c, err := CanonicalBytes(b)
		if err != nil {
			return
		}
		again, err := CanonicalBytes(c)
		if err != nil || string(again) != string(c) {
			t.Fatalf("not idempotent: %q gives %q gives %q, %v", b, c, again, err)
		}
	})
}

func depth(v any) int {
	most := 0
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			most = max(most, depth(e))
		}
		return most + 1
	case map[string]any:
		for _, e := range v {
			most = max(most, depth(e))
		}
		return most + 1
	}
	return 0
}
