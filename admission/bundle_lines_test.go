package admission

import (
	"bytes"
	"compress/gzip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func gzipped(text string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte(text))
	_ = z.Close()
	return b.Bytes()
}

const bundleHead = `h{"version":7,"cluster":"c1","issued":"2026-03-01T00:00:00Z","expires":"2026-03-01T01:00:00Z","hosts":["r.example"]}` + "\n"

func TestBundleLines(t *testing.T) {
	key, cert := authority(t)
	want := bundleOf(time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), 7)
	raw, err := want.Seal(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenBundle(raw, cert, "c1", 0)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	// Packed, an entry is what it was, whatever it is called.
	other := want.Entries[1]
	other.Decision, other.Scope, other.Policy = "dec_"+good.Hex(), shop.ScopeID("shop/other"), "release"
	want.Entries = append(want.Entries, other)
	o := newOffline(want)
	for _, e := range want.Entries {
		if d := cmp.Diff(&e, o.entry(e.Digest, e.Scope)); d != "" {
			t.Errorf("packed: -want +got:\n%s", d)
		}
	}
	if e := o.entry(bad, "elsewhere"); e != nil || len(o.packed) != 1 {
		t.Errorf("%+v, %d packed", e, len(o.packed))
	}
	for name, tt := range map[string]struct {
		payload []byte
		want    string
	}{
		"nothing":           {nil, "EOF"},
		"no gzip":           {[]byte("e{}"), "EOF"},
		"no head":           {gzipped(`b{"d":"sha256:aa","r":"x"}` + "\n"), "without a head"},
		"an open line":      {gzipped(bundleHead[:20]), "ends within a line"},
		"behind the head":   {gzipped(bundleHead + bundleHead), "behind its head"},
		"an unknown letter": {gzipped("x{}\n" + bundleHead), `begins with 'x'`},
		"an unknown member": {gzipped(`b{"d":"x","r":"y","z":1}` + "\n" + bundleHead), "z"},
		"an empty line":     {gzipped("\n" + bundleHead), `begins with '\n'`},
		"a long line":       {gzipped("e" + strings.Repeat(" ", maxLine) + "\n" + bundleHead), "longer than"},
		"a bomb":            {gzipped(strings.Repeat(`b{"d":"x","r":"`+strings.Repeat("y", 60_000)+"\"}\n", 2*MaxBundle/60_000+1) + bundleHead), "more than"},
	} {
		if b, err := readBundle(tt.payload, func(*Entry) {}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %+v, %v, want %q", name, b, err, tt.want)
		}
	}
	long := NewBundleWriter()
	if err := long.Blocked(&Blocked{good, strings.Repeat("x", maxLine)}); err == nil {
		t.Error("a line that nobody could read was written")
	}
}

func FuzzBundleLines(f *testing.F) {
	f.Add([]byte(`b{"d":"sha256:aa","r":"x"}` + "\n" + bundleHead))
	f.Add([]byte(`e{"d":"sha256:aa","s":"admission/c1/shop@a","id":"dec_1","u":1}` + "\n" + bundleHead))
	f.Fuzz(func(t *testing.T, text []byte) {
		n := 0
		b, err := readBundle(gzipped(string(text)), func(*Entry) { n++ })
		if err == nil && n+len(b.Blocked)+1 != bytes.Count(text, []byte("\n")) {
			t.Errorf("%d entries and %d blocked of %q", n, len(b.Blocked), text)
		}
	})
}
