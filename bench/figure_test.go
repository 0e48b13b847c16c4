package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestQuantile(t *testing.T) {
	s := samples{5, 1, 4, 2, 3}
	for q, want := range map[float64]float64{0: 1, 0.2: 1, 0.5: 3, 0.99: 5, 1: 5} {
		if got := s.quantile(q); got != want {
			t.Errorf("quantile %v: want %v, found %v", q, want, got)
		}
	}
	if got := (samples{}).median(); got != 0 {
		t.Errorf("no samples: want 0, found %v", got)
	}
}

func TestFigureAgainstAim(t *testing.T) {
	for _, c := range []struct {
		name string
		s    samples
		aim  Aim
		want bool
	}{
		{"at the least", samples{3000}, Aim{">=", 3000}, true},
		{"below the least", samples{2999}, Aim{">=", 3000}, false},
		{"at the most", samples{150}, Aim{"<=", 150}, true},
		{"above the most", samples{151}, Aim{"<=", 150}, false},
		{"equal is not more", samples{1}, Aim{">", 1}, false},
		{"the median decides", samples{1, 4000, 5000}, Aim{">=", 3000}, true},
	} {
		if f := figure("x", "1/s", c.s, &c.aim); f.Met == nil || *f.Met != c.want {
			t.Errorf("%s: want %v, found %v", c.name, c.want, f.Met)
		}
	}
	if f := figure("x", "1/s", nil, &Aim{">=", 1}); f.Met != nil {
		t.Error("without samples an aim is neither met nor missed")
	}
}

// Rounds are compared with each other: a machine that slows down for both does
// not change the ratio.
func TestAgainstComparesRounds(t *testing.T) {
	own, theirs := samples{200, 20, 110}, samples{100, 10, 100}
	f := figure("x", "1/s", own, nil).against("peer", own, theirs, &Aim{">=", 1})
	want := Figure{Name: "x", Value: 110, Unit: "1/s", Min: 20, Max: 200, Rounds: 3, Aim: &Aim{">=", 1}, Met: new(bool),
		Peer: "peer", PeerValue: 100, Ratio: 2, RatioMin: 1.1, RatioMax: 2}
	*want.Met = true
	if diff := cmp.Diff(want, f); diff != "" {
		t.Errorf("-want +found:\n%s", diff)
	}
}

func TestOutput(t *testing.T) {
	figures := []Figure{
		figure("log", "1/s", samples{3456.78}, &Aim{">=", 3000}),
		figure("pull", "1/s", samples{10}, nil).against("peer", samples{10}, samples{20}, &Aim{">", 1}),
	}
	var lines, table bytes.Buffer
	if err := writeLines(&lines, figures); err != nil {
		t.Fatal(err)
	}
	var back []Figure
	for line := range strings.Lines(lines.String()) {
		var f Figure
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		back = append(back, f)
	}
	if diff := cmp.Diff(figures, back); diff != "" {
		t.Errorf("-written +read:\n%s", diff)
	}
	if err := writeTable(&table, figures); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"3457", "met", "0.5 (0.5..0.5)", "> 1 x", "MISSED"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table does not say %q:\n%s", want, table.String())
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"-only", "nothing"}, {"-nosuchflag"}, {"words"}, {"-assay", "/nonexistent/assay"}} {
		var out, errOut bytes.Buffer
		if code := command(t.Context(), args, &out, &errOut); code != 64 || errOut.Len() == 0 || out.Len() != 0 {
			t.Errorf("%q: code %d, stdout %q, stderr %q", args, code, &out, &errOut)
		}
	}
}
