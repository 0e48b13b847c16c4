package event_test

import (
	"crypto/sha256"
	stdjson "encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/event"
	"assay/internal/fault"
)

func sampleHead() event.Head {
	h := event.Head{
		Batch: 2, FirstSeq: 6, LastSeq: 10, Count: 5,
		Root: sha256.Sum256([]byte("root")), Prev: sha256.Sum256([]byte("prev")),
		Time: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
	}
	h.Hash = h.Sum()
	return h
}

// TestHeadText pins the form that heads are published in: other programs
// recompute it.
func TestHeadText(t *testing.T) {
	const want = `assay event head v1
batch 2
events 6 10
root 4813494d137e1631bba301d5acab6e7bb7aa74ce1185d456565ef51d737677b2
prev f35f7a39be3cb7ae92895107ac51eb8da1ef06ab8f87279f25a4f3abb61ab0b3
time 2026-01-02T03:04:05.000006Z
`
	h := sampleHead()
	text := string(h.Text())
	h2 := event.Hash(sha256.Sum256([]byte(text)))
	if h.Hash != h2 {
		t.Errorf("hash is %s, SHA-256 of the text is %s", h.Hash, h2)
	}
	lines := strings.Split(text, "\n")
	wantLines := strings.Split(want, "\n")
	wantLines[4] = "prev " + h.Prev.String()
	wantLines[3] = "root " + h.Root.String()
	if d := cmp.Diff(wantLines, lines); d != "" {
		t.Errorf("text (-want +got):\n%s", d)
	}
	back, err := event.ParseHead(h.Text())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(h, back); d != "" {
		t.Errorf("parsed (-want +got):\n%s", d)
	}
	b, err := stdjson.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	var fromJSON event.Head
	if err := stdjson.Unmarshal(b, &fromJSON); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(h, fromJSON); d != "" {
		t.Errorf("JSON (-want +got):\n%s", d)
	}
	if err := fromJSON.UnmarshalJSON([]byte(strings.Replace(string(b), `"count":5`, `"count":6`, 1))); err == nil {
		t.Error("JSON with another count was read")
	}
	if err := fromJSON.UnmarshalJSON([]byte(strings.Replace(string(b), `"batch":2`, `"batch":3`, 1))); !errors.Is(err, fault.Tampered) {
		t.Errorf("JSON whose hash does not fit: got %v, want tampered", err)
	}
}

func TestParseHeadRefuses(t *testing.T) {
	good := string(sampleHead().Text())
	tests := map[string]string{
		"empty":           "",
		"no title":        strings.Replace(good, "assay event head v1", "assay event head v2", 1),
		"plus sign":       strings.Replace(good, "batch 2", "batch +2", 1),
		"leading zero":    strings.Replace(good, "batch 2", "batch 02", 1),
		"batch 0":         strings.Replace(good, "batch 2", "batch 0", 1),
		"order of events": strings.Replace(good, "events 6 10", "events 10 6", 1),
		"three events":    strings.Replace(good, "events 6 10", "events 6 10 11", 1),
		"upper case":      strings.Replace(good, "root ", "root A", 1),
		"time zone":       strings.Replace(good, "006Z", "006+00:00", 1),
		"short time":      strings.Replace(good, ".000006Z", "Z", 1),
		"no line break":   strings.TrimSuffix(good, "\n"),
		"carriage return": strings.ReplaceAll(good, "\n", "\r\n"),
		"more":            good + "more\n",
		"first with prev": strings.Replace(strings.Replace(good, "batch 2", "batch 1", 1), "events 6", "events 1", 1),
		"large":           good + strings.Repeat("x", 1000),
	}
	for name, text := range tests {
		if h, err := event.ParseHead([]byte(text)); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: got %+v, %v; want invalid", name, h, err)
		}
	}
}

func FuzzParseHead(f *testing.F) {
	f.Add(sampleHead().Text())
	f.Add([]byte("assay event head v1\nbatch 1\nevents 1 1\nroot \nprev \ntime \n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		h, err := event.ParseHead(text)
		if err != nil {
			return
		}
		if string(h.Text()) != string(text) {
			t.Fatalf("%q parses as a head with the text %q", text, h.Text())
		}
		if err := h.Validate(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestParseTraceparent(t *testing.T) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	tests := []struct {
		header, want string
	}{
		{good, "0af7651916cd43dd8448eb211c80319c"},
		{"01" + good[2:], "0af7651916cd43dd8448eb211c80319c"},
		{"01" + good[2:] + "-more", "0af7651916cd43dd8448eb211c80319c"},
		{"01" + good[2:] + "more", ""},
		{good + "-more", ""},
		{"ff" + good[2:], ""},
		{strings.ToUpper(good), ""},
		{"00-00000000000000000000000000000000-b7ad6b7169203331-01", ""},
		{"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", ""},
		{good[:54], ""},
		{"", ""},
		{strings.ReplaceAll(good, "-", "_"), ""},
	}
	for _, tt := range tests {
		if got, ok := event.ParseTraceparent(tt.header); got != tt.want || ok != (tt.want != "") {
			t.Errorf("%q: got %q, %v; want %q", tt.header, got, ok, tt.want)
		}
	}
}

func FuzzParseTraceparent(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add("cc-12345678901234567890123456789012-1234567890123456-01-what")
	f.Fuzz(func(t *testing.T, header string) {
		id, ok := event.ParseTraceparent(header)
		if ok != (id != "") || ok && event.TraceFrom(event.WithTrace(t.Context(), id)) != id {
			t.Fatalf("%q gives %q, %v", header, id, ok)
		}
	})
}
