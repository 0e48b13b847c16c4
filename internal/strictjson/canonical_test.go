package strictjson

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"assay/internal/fault"
)

// The worked example of RFC 8785: sections 3.2.2 (input), 3.2.3 (text) and
// 3.2.4 (bytes).
func TestRFC8785Example(t *testing.T) {
	const in = `{
  "numbers": [333333333.33333329, 1E30, 4.50,
              2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}`
	const want = `
7b 22 6c 69 74 65 72 61 6c 73 22 3a 5b 6e 75 6c 6c 2c 74 72
75 65 2c 66 61 6c 73 65 5d 2c 22 6e 75 6d 62 65 72 73 22 3a
5b 33 33 33 33 33 33 33 33 33 2e 33 33 33 33 33 33 33 2c 31
65 2b 33 30 2c 34 2e 35 2c 30 2e 30 30 32 2c 31 65 2d 32 37
5d 2c 22 73 74 72 69 6e 67 22 3a 22 e2 82 ac 24 5c 75 30 30
30 66 5c 6e 41 27 42 5c 22 5c 5c 5c 5c 5c 22 2f 22 7d`
	got, err := CanonicalBytes([]byte(in))
	if expect := strings.Join(strings.Fields(want), ""); err != nil || hex.EncodeToString(got) != expect {
		t.Errorf("got  %s, %v\nwant %s", hex.EncodeToString(got), err, expect)
	}
}

// Section 3.2.3: members sort by UTF-16 code units, which puts the emoji (a
// surrogate pair) before U+FB33.
func TestRFC8785Sorting(t *testing.T) {
	const in = `{
  "\u20ac": "Euro Sign",
  "\r": "Carriage Return",
  "\ufb33": "Hebrew Letter Dalet With Dagesh",
  "1": "One",
  "\ud83d\ude00": "Emoji: Grinning Face",
  "\u0080": "Control",
  "\u00f6": "Latin Small Letter O With Diaeresis"
}`
	want := []string{"Carriage Return", "One", "Control", "Latin Small Letter O With Diaeresis",
		"Euro Sign", "Emoji: Grinning Face", "Hebrew Letter Dalet With Dagesh"}
	got, err := CanonicalBytes([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	at := -1
	for _, w := range want {
		i := strings.Index(string(got), w)
		if i <= at {
			t.Fatalf("%q is out of order in %s", w, got)
		}
		at = i
	}
}

// Appendix B: IEEE 754 bits and the ECMAScript text.
func TestRFC8785Numbers(t *testing.T) {
	for _, c := range []struct {
		bits uint64
		want string // "" is an error
	}{
		{0x0000000000000000, "0"},
		{0x8000000000000000, "0"},
		{0x0000000000000001, "5e-324"},
		{0x8000000000000001, "-5e-324"},
		{0x7fefffffffffffff, "1.7976931348623157e+308"},
		{0xffefffffffffffff, "-1.7976931348623157e+308"},
		{0x4340000000000000, "9007199254740992"},
		{0xc340000000000000, "-9007199254740992"},
		{0x4430000000000000, "295147905179352830000"},
		{0x7fffffffffffffff, ""},
		{0x7ff0000000000000, ""},
		{0x44b52d02c7e14af5, "9.999999999999997e+22"},
		{0x44b52d02c7e14af6, "1e+23"},
		{0x44b52d02c7e14af7, "1.0000000000000001e+23"},
		{0x444b1ae4d6e2ef4e, "999999999999999700000"},
		{0x444b1ae4d6e2ef4f, "999999999999999900000"},
		{0x444b1ae4d6e2ef50, "1e+21"},
		{0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"},
		{0x3eb0c6f7a0b5ed8d, "0.000001"},
		{0x41b3de4355555553, "333333333.3333332"},
		{0x41b3de4355555554, "333333333.33333325"},
		{0x41b3de4355555555, "333333333.3333333"},
		{0x41b3de4355555556, "333333333.3333334"},
		{0x41b3de4355555557, "333333333.33333343"},
		{0xbecbf647612f3696, "-0.0000033333333333333333"},
		{0x43143ff3c1cb0959, "1424953923781206.2"},
	} {
		got, err := Canonical(math.Float64frombits(c.bits))
		if c.want == "" {
			if !errors.Is(err, fault.Invalid) {
				t.Errorf("%016x: %s, %v, want invalid", c.bits, got, err)
			}
			continue
		}
		if err != nil || string(got) != c.want {
			t.Errorf("%016x: %s, %v, want %s", c.bits, got, err, c.want)
			continue
		}
		if again, err := CanonicalBytes(got); err != nil || string(again) != c.want {
			t.Errorf("%016x again: %s, %v, want %s", c.bits, again, err, c.want)
		}
	}
}

func TestCanonicalOfGoValues(t *testing.T) {
	type part struct {
		B int64             `json:"b"`
		A map[string]string `json:"a"`
		L []string          `json:"l"`
	}
	for _, c := range []struct {
		in   any
		want string // "" is an error
	}{
		{part{B: 1 << 53, A: map[string]string{"z": "<>&\u2028", "é": "\x7f"}}, "{\"a\":{\"z\":\"<>&\u2028\",\"é\":\"\x7f\"},\"b\":9007199254740992,\"l\":[]}"},
		{json.RawMessage(`{ "b" : 1.0, "a" : [ ] }`), `{"a":[],"b":1}`},
		{map[string]any{"n": int64(-3), "f": 0.1, "x": nil}, `{"f":0.1,"n":-3,"x":null}`},
		{int64(1)<<53 + 1, ""},
		{uint64(math.MaxUint64), ""},
		{"\xff", ""},
		{map[string]string{"\xff": ""}, ""},
		{json.RawMessage(`{"a":1,"a":2}`), ""},
		{json.RawMessage(`1e400`), ""},
	} {
		got, err := Canonical(c.in)
		if c.want == "" {
			if !errors.Is(err, fault.Invalid) {
				t.Errorf("%v: %s, %v, want invalid", c.in, got, err)
			}
		} else if err != nil || string(got) != c.want {
			t.Errorf("%v:\n got %s, %v\nwant %s", c.in, got, err, c.want)
		}
	}
}

// CanonicalBytes leaves its argument alone.
func TestCanonicalBytesCopies(t *testing.T) {
	in := `{"b":1,"a":2}`
	b := []byte(in)
	if _, err := CanonicalBytes(b); err != nil || string(b) != in {
		t.Errorf("argument became %s, %v", b, err)
	}
}
